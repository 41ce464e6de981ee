"""Tells the label forms apart by the names of the files, and hands over to the form's reader."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Literal

from platecrypt.datasets import ccpd, coco, voc, yolo
from platecrypt.datasets.labels import LabelError, Problem, Sample, is_image
from platecrypt.datasets.sources import SourceFile
from platecrypt.errors import BadInputError

Form = Literal["yolo", "voc", "coco", "ccpd"]
KNOWN_FORMS = "YOLO (.txt), Pascal VOC (.xml), COCO (.json) or CCPD (labels in the file name)"
# Pictures, but none that a JPEG/PNG pipeline reads: said aloud instead of passed over.
UNREAD_SUFFIXES = frozenset({".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jp2"})

_READERS: dict[Form, Callable[[Sequence[SourceFile]], tuple[list[Sample], list[Problem]]]] = {
    "yolo": yolo.read,
    "voc": voc.read,
    "coco": coco.read,
    "ccpd": ccpd.read,
}


def detect_form(names: Sequence[str]) -> Form:
    """The form of a source from the names of its files.

    Raises:
        BadInputError: none of the forms fits, or more than one does.
    """
    folders = yolo.image_folders(names)
    found: list[Form] = []
    if any(yolo.is_label(name, folders) or yolo.is_data_file(name) for name in names):
        found.append("yolo")
    if any(map(voc.is_label, names)):
        found.append("voc")
    if any(map(coco.is_label, names)):
        found.append("coco")
    if any(map(ccpd.is_label, names)):
        found.append("ccpd")
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInputError(
            f"labels of several forms lie together ({', '.join(found)}): keep one of them"
        )
    pictures = sum(map(is_image, names))
    if pictures:
        raise BadInputError(f"{pictures} images but no labels of a known form: {KNOWN_FORMS}")
    raise BadInputError(f"no images and no labels of a known form: {KNOWN_FORMS}")


def read_samples(files: Sequence[SourceFile]) -> tuple[Form, list[Sample], list[Problem]]:
    """The form, the samples and what is wrong with the rest.

    Raises:
        BadInputError: no form fits, or its classes cannot be told.
    """
    form = detect_form([file.name for file in files])
    try:
        samples, problems = _READERS[form](files)
    except LabelError as error:
        raise BadInputError(f"{form} labels cannot be used: {error}") from None
    problems += [
        Problem(file.name, "is a picture in a format that is not read; convert it to JPEG or PNG")
        for file in files
        if PurePosixPath(file.name).suffix.lower() in UNREAD_SUFFIXES
    ]
    return form, samples, problems
