"""CCPD form: the labels are the file name (area-tilt-box-corners-plate-brightness-blur.jpg).

The fields and their order are those that the data set's authors describe (Xu et al., "Towards
End-to-End License Plate Detection and Recognition: A Large Dataset and Baseline", ECCV 2018).
"""

import functools
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from platecrypt.datasets.labels import Problem, Sample, is_image, plate_from_box, plate_from_quad
from platecrypt.datasets.manifest import Plate, Point
from platecrypt.datasets.sources import SourceFile

_POINT = r"\d{1,5}&\d{1,5}"
NAME = re.compile(
    rf"^\d+-\d+_\d+-({_POINT}_{_POINT})-({_POINT}_{_POINT}_{_POINT}_{_POINT})-[\d_]+-\d+-\d+$"
)


def is_label(name: str) -> bool:
    """Whether an image's name carries CCPD labels."""
    return is_image(name) and NAME.match(PurePosixPath(name).stem) is not None


def read(files: Sequence[SourceFile]) -> tuple[list[Sample], list[Problem]]:
    """The samples of a CCPD source. Every picture shows another car, so each is its own ride.

    The folders are CCPD's conditions (base, blur, tilt...), and its official lists of splits are
    for whole releases: the split is ours.
    """
    samples: list[Sample] = []
    problems: list[Problem] = []
    for file in files:
        if not is_image(file.name):
            continue
        found = NAME.match(PurePosixPath(file.name).stem)
        if found is None:
            problems.append(Problem(file.name, "its name carries no CCPD labels"))
            continue
        plates = functools.partial(_plates, found.group(1), found.group(2))
        samples.append(Sample(name=file.name, read=file.read, plates=plates, ride=file.name))
    return samples, problems


def _plates(box: str, corners: str, width: int, height: int) -> tuple[Plate, ...]:
    """The one plate of a name; the corners are written from the bottom right, clockwise."""
    (x1, y1), (x2, y2) = _points(box)
    bottom_right, bottom_left, top_left, top_right = _points(corners)
    quad = plate_from_quad((top_left, top_right, bottom_right, bottom_left), width, height)
    return (Plate(plate_from_box(x1, y1, x2, y2, width, height).box, quad.quad),)


def _points(text: str) -> list[Point]:
    return [(float(x), float(y)) for x, y in (point.split("&") for point in text.split("_"))]
