"""What every label form is read into: samples whose plates are checked before use."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from platecrypt.datasets.manifest import Plate, Point, Split

UNKNOWN_CAMERA = "unknown"
OVERHANG_PX = 1.0
# Less than half a pixel is a slip of the mouse or of arithmetic.
MIN_AREA_PX = 0.5
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

# Folders that say what a file is, or to which split it belongs, and nothing about the ride.
ROLE_FOLDERS = frozenset({"images", "jpegimages", "labels", "annotations", "xml", "xmls"})
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

# Compared in lower case without spaces and punctuation.
PLATE_CLASSES = frozenset(
    {
        "licenseplate", "licenceplate", "licenseplates", "licenceplates", "plate", "plates",
        "numberplate", "numberplates", "platenumber", "registrationplate", "carplate",
        "vehicleregistrationplate", "vehicleplate", "carlicenseplate", "carlicenceplate",
        "licenseplatenumber", "licence", "license", "lp", "kennzeichen",
    }
)  # fmt: skip
# Pascal VOC declares no classes: beside plates only these are passed over, all else is refused,
# because a misspelt plate that is dropped would teach the model that it is background.
BYSTANDER_CLASSES = frozenset(
    {
        "car", "vehicle", "truck", "lorry", "bus", "van", "motorcycle", "motorbike", "bike",
        "bicycle", "person", "pedestrian", "rider", "driver", "trafficlight", "trafficsign",
    }
)  # fmt: skip


class LabelError(ValueError):
    """A label cannot be believed; the text says why."""


@dataclass(frozen=True)
class Problem:
    """Why one file of a source cannot be used."""

    name: str
    reason: str

    def __str__(self) -> str:
        shown = self.name if self.name.isprintable() else ascii(self.name)
        return f"{shown}: {self.reason}"


@dataclass(frozen=True)
class Sample:
    """One image of a source, not yet read.

    Attributes:
        name: path inside the source, with forward slashes.
        read: gives the image file's bytes; may be called more than once.
        plates: gives the labelled plates for an image of (width, height) pixels; raises
            LabelError where a label cannot be believed.
        ride: the ride where the source names it, else None (the file name tells).
        camera: who took it, or "unknown".
        time: RFC 3339 UTC, or None.
        given: the split that the source puts it in, or None.
    """

    name: str
    read: Callable[[], bytes]
    plates: Callable[[int, int], tuple[Plate, ...]]
    ride: str | None = None
    camera: str = UNKNOWN_CAMERA
    time: str | None = None
    given: Split | None = None


def is_image(name: str) -> bool:
    """Whether a file name is that of an image that can be read."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def pairing_key(name: str) -> tuple[str, ...]:
    """What an image and its label file have in common: the folders but for roles, and the stem."""
    path = PurePosixPath(name)
    return (*(part for part in path.parts[:-1] if part.lower() not in ROLE_FOLDERS), path.stem)


def given_split(name: str) -> Split | None:
    """The split that a folder on the path names, if one does."""
    for part in PurePosixPath(name).parts[:-1]:
        found = SPLIT_FOLDERS.get(part.lower())
        if found:
            return found
    return None


def is_plate_class(name: str) -> bool:
    """Whether a class name means licence plates."""
    return _plain(name) in PLATE_CLASSES


def is_bystander_class(name: str) -> bool:
    """Whether a class name means something else that one expects on a street."""
    return _plain(name) in BYSTANDER_CLASSES


def choose_classes(names: Sequence[str]) -> frozenset[str]:
    """Which of the declared classes are plates: the only one there is, or those named so.

    Raises:
        LabelError: there are several and none is named like a plate.
    """
    if len(set(names)) == 1:
        return frozenset(names)
    chosen = frozenset(name for name in names if is_plate_class(name))
    if not chosen:
        raise LabelError(
            f"none of the classes ({', '.join(names[:8])}) is a licence plate; name it "
            "'license-plate'"
        )
    return chosen


def plate_from_box(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> Plate:
    """A plate from its box in pixels, clipped where it overhangs by at most one pixel.

    Raises:
        LabelError: a coordinate is not finite, or the box lies outside or has no area.
    """
    box = (x1, y1, x2, y2)
    _refuse_outside(box, ((x1, y1), (x2, y2)), width, height)
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (x1, x2))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (y1, y2))
    if x2 <= x1 or y2 <= y1 or (x2 - x1) * (y2 - y1) < MIN_AREA_PX:
        raise LabelError(f"box {_shown(box)} has no area")
    return Plate((x1, y1, x2, y2))


def plate_from_quad(points: Sequence[Point], width: int, height: int) -> Plate:
    """A plate from its four corners, clockwise from the top left as one reads it.

    Raises:
        LabelError: as for `plate_from_box`; the box is the one around the corners.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    flat = [value for point in points for value in point]
    _refuse_outside(flat, points, width, height)
    plate = plate_from_box(min(xs), min(ys), max(xs), max(ys), width, height)
    a, b, c, d = (
        (min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))) for x, y in points
    )
    if abs(_area((a, b, c, d))) < MIN_AREA_PX:
        raise LabelError(f"polygon {_shown(flat)} has no area")
    return Plate(plate.box, (a, b, c, d))


def plate_from_polygon(points: Sequence[Point], width: int, height: int) -> Plate:
    """A plate from a polygon whose order means nothing: four corners make a quad, more a box.

    The quad's first corner is the one nearest to the image's top left, which is right for plates
    that are turned by less than 45 degrees.
    """
    if len(points) != 4 or not all(math.isfinite(v) for point in points for v in point):
        flat = [value for point in points for value in point]
        _refuse_outside(flat, points, width, height)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return plate_from_box(min(xs), min(ys), max(xs), max(ys), width, height)
    cx, cy = sum(x for x, _ in points) / 4, sum(y for _, y in points) / 4
    # With y downwards, growing angles run clockwise.
    ring = sorted(points, key=lambda p: math.atan2(p[1] - cy, p[0] - cx))
    first = min(range(4), key=lambda i: ring[i][0] + ring[i][1])
    return plate_from_quad(ring[first:] + ring[:first], width, height)


def finite(text: str, what: str) -> float:
    """A finite number from text.

    Raises:
        LabelError: it is none; `what` names it in the message.
    """
    try:
        value = float(text)
    except ValueError:
        raise LabelError(f"{what} is {text[:40]!r}, not a number") from None
    if not math.isfinite(value):
        raise LabelError(f"{what} is {text[:40]!r}, not a finite number")
    return value


def pair(
    images: Iterable[str], labels: Iterable[str], what: str
) -> tuple[list[tuple[str, str]], list[Problem]]:
    """Match images with label files by folder and stem; what has no partner is a problem."""
    problems: list[Problem] = []
    by_key: dict[tuple[str, ...], str] = {}
    for name in images:
        key = pairing_key(name)
        if key in by_key:
            problems.append(Problem(name, f"shares its label file with {by_key[key]}"))
        else:
            by_key[key] = name
    pairs: list[tuple[str, str]] = []
    taken: dict[tuple[str, ...], str] = {}
    for label in labels:
        key = pairing_key(label)
        if key not in by_key:
            problems.append(Problem(label, "labels without an image"))
        elif key in taken:
            problems.append(Problem(label, f"labels {by_key[key]} a second time"))
        else:
            taken[key] = label
            pairs.append((by_key[key], label))
    problems += [
        Problem(name, f"image without a label file ({what})")
        for key, name in by_key.items()
        if key not in taken
    ]
    return pairs, problems


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _shown(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _area(points: Sequence[Point]) -> float:
    turned = [*points[1:], points[0]]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, turned, strict=True)) / 2


def _refuse_outside(
    values: Sequence[float], points: Sequence[Point], width: int, height: int
) -> None:
    if not all(math.isfinite(value) for value in values):
        raise LabelError(f"coordinates {_shown(values)} are not finite numbers")
    inside = all(
        -OVERHANG_PX <= x <= width + OVERHANG_PX and -OVERHANG_PX <= y <= height + OVERHANG_PX
        for x, y in points
    )
    if not inside:
        raise LabelError(f"box {_shown(values)} lies outside the image of {width}x{height} pixels")
