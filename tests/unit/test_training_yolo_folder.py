"""A dataset on disk: digests verified, weights repeated, labels turned upright, damage repaired."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate
from platecrypt.datasets.training_set import Selected, TrainingSet
from platecrypt.errors import BadInputError, RefusedError
from platecrypt.training.evaluate import read_upright
from platecrypt.training.yolo_folder import materialise, upright


class Memory(dict[str, bytes]):
    """Objects by key, counting the reads."""

    reads = 0

    def get(self, key: str) -> bytes:  # type: ignore[override]
        self.reads += 1
        return self[key]


def jpeg(seed: int, width: int = 64, height: int = 32, orientation: int = 1) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width, 3), dtype=np.uint8)
    pixels[4:12, 8:24] = 255  # the plate: x 8..24, y 4..12
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


def dataset(store: Memory, *, orientation: int = 1) -> Manifest:
    images = []
    for index, split in enumerate(("train", "train", "val", "test")):
        data = jpeg(index, orientation=orientation)
        digest = hashlib.sha256(data).hexdigest()
        key = f"images/{digest[:2]}/{digest}.jpg"
        store[key] = data
        plates = (Plate((8.0, 4.0, 24.0, 12.0)),) if index != 1 else ()
        images.append(
            ImageRecord(
                digest,
                key,
                f"{index}.jpg",
                len(data),
                64,
                32,
                plates,
                "c",
                "g",
                None,
                split,  # type: ignore[arg-type]
            )
        )
    return Manifest(tuple(images), "test", "image")


def selection(manifest: Manifest, *weights: int) -> TrainingSet:
    rows = zip(manifest.split("train"), weights, strict=True)
    return TrainingSet(
        manifest.digest, "s", tuple(Selected(image.image_id, w, "why") for image, w in rows)
    )


def test_ultralytics_gets_what_the_manifest_says(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    folder = materialise(store, manifest, selection(manifest, 3, 1), tmp_path)
    document = yaml.safe_load(folder.data_yaml.read_text())
    listed = Path(document["train"]).read_text().splitlines()
    first, second = (str(folder.image_path(image)) for image in manifest.split("train"))
    assert sorted(listed) == sorted([first] * 3 + [second])
    assert folder.train_images == 4
    assert document["names"] == {0: "plate"}
    label = Path(first.replace("/images/", "/labels/")).with_suffix(".txt").read_text()
    assert label == "0 0.25000000 0.25000000 0.25000000 0.25000000\n"
    empty = Path(second.replace("/images/", "/labels/")).with_suffix(".txt")
    assert empty.read_text() == ""  # known to show no plate: ultralytics wants the empty file


def test_a_second_use_reads_nothing_from_the_store(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    materialise(store, manifest, selection(manifest, 1, 1), tmp_path)
    before = store.reads
    materialise(store, manifest, selection(manifest, 2, 1), tmp_path)
    assert store.reads == before == 4


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    folder = materialise(store, manifest, selection(manifest, 1, 1), tmp_path)
    path = folder.image_path(manifest.images[0])
    path.write_bytes(b"damaged")
    path.with_name("stray.txt").write_text("left alone")
    materialise(store, manifest, selection(manifest, 1, 1), tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.images[0].image_id


def test_an_object_that_was_changed_is_refused(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    store[manifest.images[0].key] += b"x"
    with pytest.raises(RefusedError, match=r"digest.*import the dataset again"):
        materialise(store, manifest, selection(manifest, 1, 1), tmp_path)
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_training_set_of_another_dataset_is_refused(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    other = TrainingSet("0" * 64, "s", selection(manifest, 1, 1).selected)
    with pytest.raises(RefusedError, match="select it again"):
        materialise(store, manifest, other, tmp_path)


def test_a_held_out_image_cannot_be_trained_on(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    leak = TrainingSet(
        manifest.digest, "s", (Selected(manifest.split("test")[0].image_id, 1, "leak"),)
    )
    with pytest.raises(RefusedError, match="not in the train split"):
        materialise(store, manifest, leak, tmp_path)


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    store = Memory()
    manifest = dataset(store)
    with pytest.raises(BadInputError, match="no image"):
        materialise(store, manifest, selection(manifest, 0, 0), tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_follows_the_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The bright plate of the decoded picture lies where the turned box says."""
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg(1, orientation=orientation))
    (x1, y1, x2, y2), width, height = upright((8, 4, 24, 12), 64, 32, orientation)
    pixels = read_upright(path)
    assert pixels.shape == (height, width, 3)
    rows, columns = np.nonzero(pixels.min(axis=2) > 160)
    assert (columns.min(), rows.min()) == (x1, y1)
    assert (columns.max() + 1, rows.max() + 1) == (x2, y2)
