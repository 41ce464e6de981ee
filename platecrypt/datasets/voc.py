"""Pascal VOC form: one XML file an image, boxes in pixels."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

# Documents with a DOCTYPE, which is what entity attacks need, are refused before this sees them.
from xml.etree import ElementTree

from platecrypt.datasets.labels import (
    LabelError,
    Problem,
    Sample,
    finite,
    given_split,
    is_bystander_class,
    is_image,
    is_plate_class,
    pair,
    plate_from_box,
)
from platecrypt.datasets.manifest import Plate
from platecrypt.datasets.sources import SourceFile

MAX_LABEL_BYTES = 4 << 20
MAX_OBJECTS = 1000
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Annotation:
    """One XML file: the size it claims for its image, and its objects in pixels."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


def is_label(name: str) -> bool:
    """Whether a file of that name is a VOC annotation."""
    return PurePosixPath(name).suffix.lower() == ".xml"


def read(files: Sequence[SourceFile]) -> tuple[list[Sample], list[Problem]]:
    """The samples of a VOC source; an annotation without objects means: no plate."""
    by_name = {file.name: file for file in files}
    pairs, problems = pair(
        (name for name in by_name if is_image(name)),
        (name for name in by_name if is_label(name)),
        "an annotation without objects says that there is no plate",
    )
    parsed: list[tuple[str, _Annotation]] = []
    for image, label in pairs:
        try:
            parsed.append((image, _parse(by_name[label])))
        except LabelError as error:
            problems.append(Problem(label, str(error)))
    classes = {name for _, annotation in parsed for name, _ in annotation.objects}
    only = classes.pop() if len(classes) == 1 else None
    samples = [
        Sample(
            name=image,
            read=by_name[image].read,
            plates=functools.partial(_plates, annotation, only),
            given=given_split(image),
        )
        for image, annotation in parsed
    ]
    return samples, problems


def _parse(file: SourceFile) -> _Annotation:
    text = file.text(MAX_LABEL_BYTES)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise LabelError("has a DOCTYPE, which annotations have no use for")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314
    except (ElementTree.ParseError, ValueError) as error:
        raise LabelError(f"is not XML ({error})") from None
    if root.tag != "annotation":
        raise LabelError(f"is no VOC annotation: its root is <{root.tag[:40]}>")
    objects = root.findall("object")
    if len(objects) > MAX_OBJECTS:
        raise LabelError(f"has {len(objects)} objects; {MAX_OBJECTS} is the most that is read")
    return _Annotation(_size(root), tuple(_object(element) for element in objects))


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    width, height = (root.findtext(f"size/{side}") for side in ("width", "height"))
    if width is None or height is None:
        return None
    w, h = int(finite(width, "width")), int(finite(height, "height"))
    # Some tools write 0x0 when they never opened the image.
    return (w, h) if w and h else None


def _object(element: ElementTree.Element) -> tuple[str, tuple[float, float, float, float]]:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise LabelError("has an object without a class name")
    texts = [element.findtext(f"bndbox/{side}") for side in SIDES]
    x1, y1, x2, y2 = (
        finite("" if text is None else text, f"{side} of {name!r}")
        for side, text in zip(SIDES, texts, strict=True)
    )
    return name, (x1, y1, x2, y2)


def _plates(
    annotation: _Annotation, only: str | None, width: int, height: int
) -> tuple[Plate, ...]:
    """The plates of one annotation; `only` is the class of every object of the source, if one."""
    if annotation.size not in (None, (width, height)):
        claimed = "x".join(map(str, annotation.size or ()))
        raise LabelError(f"the annotation is for {claimed} pixels, the image has {width}x{height}")
    found: list[Plate] = []
    for name, box in annotation.objects:
        plate = plate_from_box(*box, width, height)
        if name == only or is_plate_class(name):
            found.append(plate)
        elif not is_bystander_class(name):
            raise LabelError(f"unknown class {name[:40]!r}: neither a plate nor a road user")
    return tuple(found)
