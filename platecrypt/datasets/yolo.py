"""YOLO form: one text file an image, a class number and normalised coordinates a line."""

import functools
from collections.abc import Sequence
from pathlib import PurePosixPath

from platecrypt.datasets.labels import (
    LabelError,
    Problem,
    Sample,
    choose_classes,
    finite,
    given_split,
    is_image,
    pair,
    plate_from_box,
    plate_from_polygon,
)
from platecrypt.datasets.manifest import Plate
from platecrypt.datasets.sources import SourceFile

MAX_LABEL_BYTES = 1 << 20
MAX_PLATES = 1000
# Text files that are not labels unless they lie in a folder named labels.
OTHER_STEMS = frozenset({"classes", "obj", "notes", "license", "licence", "train", "val", "valid",
                         "test", "requirements"})  # fmt: skip
DATA_FILES = frozenset({"data.yaml", "data.yml", "dataset.yaml", "dataset.yml"})


def is_label(name: str, image_folders: frozenset[str]) -> bool:
    """Whether a file of that name is a YOLO label; `image_folders` are those that hold images."""
    path = PurePosixPath(name)
    if path.suffix.lower() != ".txt":
        return False
    if any(part.lower() == "labels" for part in path.parts[:-1]):
        return path.stem.lower() != "classes"
    stem = path.stem.lower()
    reserved = stem in OTHER_STEMS or stem.startswith("readme")
    return str(path.parent) in image_folders and not reserved


def is_data_file(name: str) -> bool:
    """Whether a file of that name names the classes in YOLO's YAML."""
    return PurePosixPath(name).name.lower() in DATA_FILES


def image_folders(names: Sequence[str]) -> frozenset[str]:
    """The folders that hold images."""
    return frozenset(str(PurePosixPath(name).parent) for name in names if is_image(name))


def read(files: Sequence[SourceFile]) -> tuple[list[Sample], list[Problem]]:
    """The samples of a YOLO source; an empty label file means: no plate.

    Raises:
        LabelError: the classes cannot be told.
    """
    by_name = {file.name: file for file in files}
    folders = image_folders(list(by_name))
    classes = _classes(files)
    plates = choose_classes(classes)
    pairs, problems = pair(
        (name for name in by_name if is_image(name)),
        (name for name in by_name if is_label(name, folders)),
        "an empty .txt says that there is no plate",
    )
    samples = [
        Sample(
            name=image,
            read=by_name[image].read,
            plates=functools.partial(_plates, by_name[label], tuple(classes), plates),
            given=given_split(image),
        )
        for image, label in pairs
    ]
    return samples, problems


def _plates(
    file: SourceFile, classes: tuple[str, ...], chosen: frozenset[str], width: int, height: int
) -> tuple[Plate, ...]:
    """The plates of one label file.

    Raises:
        LabelError: a line is malformed, of an unknown class, or its box cannot be.
    """
    found: list[Plate] = []
    for number, line in enumerate(file.text(MAX_LABEL_BYTES).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            class_id = int(words[0])
        except ValueError:
            raise LabelError(f"line {number}: class {words[0][:20]!r} is not a number") from None
        if not 0 <= class_id < len(classes):
            raise LabelError(f"line {number}: unknown class {class_id} of {len(classes)}")
        try:
            plate = _plate(words[1:], width, height)
        except LabelError as error:
            raise LabelError(f"line {number}: {error}") from None
        if classes[class_id] in chosen:
            found.append(plate)
        if number > MAX_PLATES:
            raise LabelError(f"more than {MAX_PLATES} lines")
    return tuple(found)


def _plate(words: Sequence[str], width: int, height: int) -> Plate:
    values = [finite(word, "a coordinate") for word in words]
    if len(values) == 4:
        x, y, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
        if w <= 0 or h <= 0:
            raise LabelError(f"box of {w:.6g}x{h:.6g} pixels has no area")
        return plate_from_box(x - w / 2, y - h / 2, x + w / 2, y + h / 2, width, height)
    if len(values) < 6 or len(values) % 2:
        raise LabelError(f"{len(values)} coordinates are neither a box (4) nor a polygon (6, 8...)")
    points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
    return plate_from_polygon(points, width, height)


def _classes(files: Sequence[SourceFile]) -> list[str]:
    """Class names by number: from data.yaml, else classes.txt, else the one class 'plate'."""
    for file in files:
        if is_data_file(file.name):
            return _yaml_classes(file)
    for file in files:
        if PurePosixPath(file.name).name.lower() == "classes.txt":
            names = [line.strip() for line in file.text(MAX_LABEL_BYTES).splitlines()]
            if any(names):
                return [name for name in names if name]
    return ["plate"]


def _yaml_classes(file: SourceFile) -> list[str]:
    import yaml

    try:
        document = yaml.safe_load(file.text(MAX_LABEL_BYTES))
        names = document["names"]
        if isinstance(names, dict):
            names = [names[number] for number in range(len(names))]
    except (yaml.YAMLError, KeyError, TypeError, RecursionError):
        raise LabelError(f"{file.name} gives no `names` of classes") from None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise LabelError(f"{file.name}: `names` is not a list of class names")
    return names
