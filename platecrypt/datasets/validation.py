"""Looks at a stored dataset as training will, and refuses what would poison it.

Problems refuse; warnings say what makes a figure less than it seems. Every finding names images.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from platecrypt.datasets import splits
from platecrypt.datasets.importing import Progress, inspect_image, parallel
from platecrypt.datasets.labels import (
    UNKNOWN_CAMERA,
    LabelError,
    plate_from_box,
    plate_from_quad,
)
from platecrypt.datasets.manifest import SPLITS, ImageRecord, Manifest
from platecrypt.datasets.sources import Objects
from platecrypt.datasets.validation_report import Finding, Thumbnail, ValidationReport, statistics
from platecrypt.storage.objects import MissingObjectError

# A difference hash of 16 x 16 comparisons. Measured on plates-ro: the same frame re-encoded
# (quality 60) or halved differs in at most 9 of the 256 bits, frames of different rides in at
# least 56; synthetic streets differ in 47 or more.
HASH_SIDE = 16
NEAR_BITS = 16
NEAR_BLOCK = 512
# YOLO's finest grid cell is 8 pixels wide: what is narrower is learned by luck.
TINY_PX = 8.0
FEW_PLATES = 50
THUMBNAIL_PX = 240
SAMPLES_PER_SPLIT = 8
FINDING_THUMBNAILS = 24


@dataclass(frozen=True)
class _Seen:
    """One image as it was found in the store: what is wrong with it, or what it looks like."""

    record: ImageRecord
    faults: tuple[tuple[str, str], ...]
    pixels: str = ""
    bits: NDArray[np.uint64] | None = None


def validate(
    store: Objects, manifest: Manifest, *, progress: Progress | None = None
) -> ValidationReport:
    """Check every image and the dataset as a whole.

    Args:
        store: where the images lie.
        manifest: the dataset.
        progress: called with (done, total) images.

    Raises:
        UnavailableError: the store does not answer (a missing image is a problem, no error).
    """
    total = len(manifest.images)
    seen: list[_Seen] = []
    for done, item in enumerate(parallel(functools.partial(_look, store), manifest.images), 1):
        seen.append(item)
        if progress:
            progress(done, total)
    problems = [
        Finding(check, (item.record.name,), text) for item in seen for check, text in item.faults
    ]
    warnings: list[Finding] = []
    problems += _empty_splits(manifest)
    problems += _divided_groups(manifest)
    (problems if _separable(manifest) else warnings).extend(_divided_cameras(manifest))
    twins = _same_pictures(seen)
    problems += twins
    known = {frozenset(finding.images) for finding in twins}
    warnings += [f for f in _near_pictures(seen) if frozenset(f.images) not in known]
    warnings += _tiny_plates(manifest)
    warnings += _figures(manifest)
    return ValidationReport(
        digest=manifest.digest,
        form=manifest.form,
        grouping=manifest.grouping,
        problems=tuple(problems),
        warnings=tuple(warnings),
        statistics=statistics(manifest),
        thumbnails=_thumbnails(store, manifest, [*problems, *warnings]),
    )


def _look(store: Objects, record: ImageRecord) -> _Seen:
    """Fetch, verify and decode one image; check its labels against its pixels."""
    try:
        data = store.get(record.key)
    except MissingObjectError:
        return _Seen(record, (("missing", f"{record.key} is not in the store"),))
    if hashlib.sha256(data).hexdigest() != record.image_id:
        text = "the stored bytes do not have the digest of the manifest"
        return _Seen(record, (("digest", text),))
    try:
        facts = inspect_image(data)
    except LabelError as error:
        return _Seen(record, (("unreadable", str(error)),))
    faults = list(_label_faults(record))
    if (facts.width, facts.height) != (record.width, record.height):
        size = f"{facts.width}x{facts.height}"
        faults.append(("size", f"is {size}, the manifest says {record.width}x{record.height}"))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return _Seen(record, (*faults, ("unreadable", "OpenCV, which training uses, rejects it")))
    pixels = hashlib.sha256(picture.tobytes()).hexdigest()
    return _Seen(record, tuple(faults), pixels, difference_hash(picture))


def difference_hash(picture: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """What a picture looks like in 256 bits: which of 16 x 16 cells is darker than the next.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (4,) uint64; pictures that look alike differ in few bits.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64))


def _label_faults(record: ImageRecord) -> Iterable[tuple[str, str]]:
    for plate in record.plates:
        try:
            plate_from_box(*plate.box, record.width, record.height)
            if plate.quad is not None:
                plate_from_quad(plate.quad, record.width, record.height)
        except LabelError as error:
            yield "label", str(error)


def _empty_splits(manifest: Manifest) -> Iterable[Finding]:
    for name in SPLITS:
        images = manifest.split(name)
        if not images:
            yield Finding("empty split", (), f"the {name} split has no image")
        elif not any(image.plates for image in images):
            yield Finding("empty split", (), f"none of the {len(images)} images of the {name} "
                          "split shows a plate")  # fmt: skip


def _divided_groups(manifest: Manifest) -> Iterable[Finding]:
    return _divided(manifest.images, "group", lambda image: image.group)


def _divided_cameras(manifest: Manifest) -> Iterable[Finding]:
    known = [image for image in manifest.images if image.camera != UNKNOWN_CAMERA]
    return _divided(known, "camera", lambda image: image.camera)


def _divided(
    images: Sequence[ImageRecord], what: str, key: Callable[[ImageRecord], str]
) -> Iterable[Finding]:
    sides: dict[str, dict[str, str]] = {}
    for image in images:
        sides.setdefault(key(image), {}).setdefault(image.split, image.name)
    for name, found in sorted(sides.items()):
        if len(found) > 1:
            where = " and ".join(sorted(found))
            yield Finding(
                f"divided {what}", tuple(found.values()), f"{what} {name!r} is in {where}"
            )


def _separable(manifest: Manifest) -> bool:
    """Whether there are enough independent cameras and groups to keep them apart at all."""
    parts = splits.join((image.group, image.camera) for image in manifest.images)
    return len(set(parts.values())) >= splits.ENOUGH_GROUPS


def _same_pictures(seen: Sequence[_Seen]) -> Iterable[Finding]:
    """The same pixels on two sides, whatever the files' other bytes."""
    by_pixels: dict[str, list[ImageRecord]] = {}
    for item in seen:
        if item.pixels:
            by_pixels.setdefault(item.pixels, []).append(item.record)
    found: list[Finding] = []
    for records in by_pixels.values():
        sides = sorted({record.split for record in records})
        if len(sides) > 1:
            names = tuple(record.name for record in records)
            found.append(
                Finding("duplicate", names, f"the same picture is in {' and '.join(sides)}")
            )
    return found


def _near_pictures(seen: Sequence[_Seen]) -> Iterable[Finding]:
    """Pictures of one side that look like one of another; a block of rows at a time."""
    shown = [item for item in seen if item.bits is not None]
    train = [item for item in shown if item.record.split == "train"]
    held = [item for item in shown if item.record.split != "train"]
    yield from _near(train, held)
    yield from _near(
        [item for item in held if item.record.split == "val"],
        [item for item in held if item.record.split == "test"],
    )


def _near(left: Sequence[_Seen], right: Sequence[_Seen]) -> Iterable[Finding]:
    if not left or not right:
        return
    others = np.stack([item.bits for item in right if item.bits is not None])
    for start in range(0, len(left), NEAR_BLOCK):
        block = left[start : start + NEAR_BLOCK]
        rows = np.stack([item.bits for item in block if item.bits is not None])
        distance = np.zeros((len(rows), len(others)), np.uint16)
        for word in range(rows.shape[1]):
            distance += np.bitwise_count(rows[:, word, None] ^ others[None, :, word])
        for i, j in np.argwhere(distance <= NEAR_BITS):
            a, b = block[i].record, right[j].record
            alike = f"look alike ({distance[i, j]} of {HASH_SIDE**2} bits differ)"
            text = f"{alike} and are in {a.split} and {b.split}"
            yield Finding("near duplicate", (a.name, b.name), text)


def _tiny_plates(manifest: Manifest) -> Iterable[Finding]:
    tiny = [
        image.name
        for image in manifest.images
        if any(plate.box[2] - plate.box[0] < TINY_PX for plate in image.plates)
    ]
    if tiny:
        text = f"plates narrower than {TINY_PX:g} pixels (images: {len(tiny)})"
        yield Finding("tiny plates", tuple(tiny), text)


def _figures(manifest: Manifest) -> Iterable[Finding]:
    plates = sum(len(image.plates) for image in manifest.split("train"))
    if plates < FEW_PLATES:
        text = f"{plates} plates in train are few to learn from; {FEW_PLATES} is a beginning"
        yield Finding("few plates", (), text)
    if manifest.grouping == "burst":
        yield Finding("optimistic split", (), "fewer than three rides: the split divides rides "
                      "between bursts of frames, so held-out figures are optimistic")  # fmt: skip
    if manifest.grouping == "image":
        text = (
            "no names of rides tell which images belong together: the split divides image by "
            "image, so where neighbouring frames are among them held-out figures are optimistic"
        )
        yield Finding("optimistic split", (), text)


def _thumbnails(
    store: Objects, manifest: Manifest, findings: Sequence[Finding]
) -> tuple[Thumbnail, ...]:
    """Small pictures of what the findings name, and a few of every split."""
    named = [name for finding in findings for name in finding.images]
    wanted = set(list(dict.fromkeys(named))[:FINDING_THUMBNAILS])
    for side in SPLITS:
        images = sorted(manifest.split(side), key=lambda image: image.name)
        step = max(1, len(images) // SAMPLES_PER_SPLIT)
        wanted |= {image.name for image in images[::step][:SAMPLES_PER_SPLIT]}
    chosen = sorted((i for i in manifest.images if i.name in wanted), key=lambda i: i.name)
    drawn = (_thumbnail(store, image) for image in chosen)
    return tuple(thumbnail for thumbnail in drawn if thumbnail is not None)


def _thumbnail(store: Objects, record: ImageRecord) -> Thumbnail | None:
    """A small JPEG with the boxes drawn; None where the image cannot be shown."""
    try:
        data = store.get(record.key)
    except MissingObjectError:
        return None
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        return None
    scale = THUMBNAIL_PX / picture.shape[1]
    size = (THUMBNAIL_PX, max(1, round(picture.shape[0] * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for plate in record.plates:
        corners = np.array(plate.box) * scale
        if np.isfinite(corners).all():
            x1, y1, x2, y2 = np.clip(corners, -1e4, 1e4).round().astype(int).tolist()
            cv2.rectangle(small, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), (0, 220, 0), 1)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 75])
    return Thumbnail(record.name, record.split, len(record.plates), bytes(jpeg.tobytes()))
