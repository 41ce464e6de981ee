"""A dataset on disk in the layout that ultralytics reads, made from the object store.

Images and labels depend on the manifest alone and are shared by every training set selected from
it; a training set is one list of files, in which an image of weight n stands n times. Bytes are
compared with their digest whenever the folder is used, so a damaged cache repairs itself.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml
from PIL import Image

from platecrypt.datasets.manifest import SPLITS, Box, ImageRecord, Manifest
from platecrypt.datasets.training_set import TrainingSet
from platecrypt.errors import BadInputError, RefusedError

DOWNLOADS = 8
EXIF_ORIENTATION = 0x0112


class Readable(Protocol):
    """What is needed of an object store."""

    def get(self, key: str) -> bytes:
        """The bytes of an object."""


@dataclass(frozen=True)
class YoloFolder:
    """A materialised dataset.

    Attributes:
        root: the folder; `images/<split>/<image id>.<ext>` and `labels/<split>/<image id>.txt`.
        data_yaml: what ultralytics is given.
        train_images: length of an epoch: training images, each counted by its weight.
    """

    root: Path
    data_yaml: Path
    train_images: int

    def image_path(self, image: ImageRecord) -> Path:
        """Where the bytes of an image of this dataset lie."""
        return _image_path(self.root, image)


def materialise(
    store: Readable,
    manifest: Manifest,
    training_set: TrainingSet,
    cache_dir: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> YoloFolder:
    """Write the dataset below `cache_dir`, or use what is there.

    Args:
        store: holds the images.
        manifest: the dataset.
        training_set: which images of its train split count, and how often.
        cache_dir: shared by runs; `<digest>` folders appear in it.
        progress: called with (images done, images in all).

    Raises:
        RefusedError: the training set belongs to another manifest, or an image in the store does
            not have the digest that the manifest names.
        BadInputError: no image is trained on, or the manifest has no image to validate with.
    """
    digest = manifest.digest
    weights = _weights(manifest, training_set, digest)
    root = (cache_dir / digest[:32]).absolute()
    for split in SPLITS:
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        jobs = pool.map(lambda image: _provide(store, image, root), manifest.images)
        for done, _ in enumerate(jobs, start=1):
            if progress:
                progress(done, len(manifest.images))
    listed = [
        str(_image_path(root, image))
        for image in manifest.split("train")
        for _ in range(weights.get(image.image_id, 0))
    ]
    name = training_set.digest[:32]
    train_list = root / f"train-{name}.txt"
    _write(train_list, "\n".join(listed).encode())
    data_yaml = root / f"data-{name}.yaml"
    document = {
        "path": str(root),
        "train": str(train_list),
        "val": "images/val",
        "test": "images/test",
        "names": {0: "plate"},
    }
    _write(data_yaml, yaml.safe_dump(document, sort_keys=False).encode())
    return YoloFolder(root, data_yaml, len(listed))


def upright(box: Box, width: int, height: int, orientation: int) -> tuple[Box, int, int]:
    """Turn a box of the stored pixels into the picture as it is looked at.

    Decoders apply the EXIF orientation, labels are in stored pixels.

    Args:
        box: x1, y1, x2, y2 in stored pixels.
        width: of the stored picture, pixels.
        height: likewise.
        orientation: EXIF tag 0x0112, 1..8 (anything else counts as 1; EXIF 2.32, 4.6.5).

    Returns:
        The box, the width and the height of the upright picture.
    """
    x1, y1, x2, y2 = box
    if orientation in (2, 3):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4):
        y1, y2 = height - y2, height - y1
    if orientation in (5, 8, 6, 7):
        x1, y1, x2, y2 = y1, x1, y2, x2
        width, height = height, width
        if orientation in (6, 7):
            x1, x2 = width - x2, width - x1
        if orientation in (7, 8):
            y1, y2 = height - y2, height - y1
    return (x1, y1, x2, y2), width, height


def orientation_of(path: Path) -> int:
    """The EXIF orientation of an image file, 1 where it has none."""
    with Image.open(path) as image:
        return int(image.getexif().get(EXIF_ORIENTATION, 1) or 1)


def _weights(manifest: Manifest, training_set: TrainingSet, digest: str) -> dict[str, int]:
    if training_set.manifest_digest != digest:
        raise RefusedError(
            f"the training set was selected from manifest {training_set.manifest_digest}, not from "
            f"{digest}; select it again"
        )
    weights = training_set.weights
    strangers = weights.keys() - {image.image_id for image in manifest.split("train")}
    if strangers:
        raise RefusedError(
            f"the training set names {len(strangers)} images that are not in the train split, "
            f"{min(strangers)} among them; select it again"
        )
    if not weights:
        raise BadInputError("the training set trains on no image; relax the selection")
    if not manifest.split("val"):
        raise BadInputError("the dataset has no val split; import more rides")
    return weights


def _image_path(root: Path, image: ImageRecord) -> Path:
    return root / "images" / image.split / f"{image.image_id}{Path(image.key).suffix}"


def _provide(store: Readable, image: ImageRecord, root: Path) -> None:
    path = _image_path(root, image)
    if not _has_digest(path, image.image_id):
        data = store.get(image.key)
        found = hashlib.sha256(data).hexdigest()
        if found != image.image_id:
            raise RefusedError(
                f"{image.key} has digest {found}: the object was changed or damaged; import the "
                "dataset again"
            )
        _write(path, data)
    label = root / "labels" / image.split / f"{image.image_id}.txt"
    text = "".join(_label_lines(image, path)).encode()
    if not label.is_file() or label.read_bytes() != text:
        _write(label, text)


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except FileNotFoundError:
        return False


def _label_lines(image: ImageRecord, path: Path) -> Iterable[str]:
    if not image.plates:
        return
    orientation = orientation_of(path)
    for plate in image.plates:
        (x1, y1, x2, y2), width, height = upright(plate.box, image.width, image.height, orientation)
        x, y = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
        yield f"0 {x:.8f} {y:.8f} {(x2 - x1) / width:.8f} {(y2 - y1) / height:.8f}\n"


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
