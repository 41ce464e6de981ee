"""COCO form: JSON files that list images, categories and annotations."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from platecrypt.datasets.labels import (
    SPLIT_FOLDERS,
    LabelError,
    Problem,
    Sample,
    choose_classes,
    given_split,
    is_image,
    pairing_key,
    plate_from_box,
    plate_from_polygon,
)
from platecrypt.datasets.manifest import Plate, Split
from platecrypt.datasets.sources import SourceFile

MAX_JSON_BYTES = 256 << 20


@dataclass
class _Listed:
    """One image as a JSON file lists it."""

    size: tuple[int, int]
    split: Split | None
    annotations: list[dict[str, Any]] = field(default_factory=list)


def is_label(name: str) -> bool:
    """Whether a file of that name may be a COCO annotation file."""
    return PurePosixPath(name).suffix.lower() == ".json"


def read(files: Sequence[SourceFile]) -> tuple[list[Sample], list[Problem]]:
    """The samples of a COCO source; a listed image without annotations means: no plate.

    Raises:
        LabelError: a JSON file is damaged or its categories hold no plates.
    """
    images = {file.name: file for file in files if is_image(file.name)}
    resolve = _Resolver(list(images))
    samples: list[Sample] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for file in files:
        if not is_label(file.name):
            continue
        document = _load(file)
        listed, missing = _listed(file.name, document, resolve)
        problems += missing
        chosen = _categories(file.name, document)
        for name, entry in listed.items():
            if name in seen:
                problems.append(Problem(name, f"is listed a second time by {file.name}"))
                continue
            seen.add(name)
            samples.append(
                Sample(
                    name=name,
                    read=images[name].read,
                    plates=functools.partial(_plates, entry, chosen),
                    given=given_split(name) or entry.split,
                )
            )
    problems += [
        Problem(name, "image without an entry in the COCO file (an entry without annotations "
                "says that there is no plate)")
        for name in images
        if name not in seen
    ]  # fmt: skip
    return samples, problems


class _Resolver:
    """Finds the file that a `file_name` means: by folders and stem, else by a unique base name."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._by_key: dict[tuple[str, ...], list[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        for name in names:
            self._by_key.setdefault(pairing_key(name), []).append(name)
            self._by_base.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, json_name: str, file_name: str) -> str | None:
        beside = str(PurePosixPath(json_name).parent / file_name)
        if beside in self._names:
            return beside
        base = PurePosixPath(file_name).name
        for found in (self._by_key.get(pairing_key(beside)), self._by_base.get(base)):
            if found and len(found) == 1:
                return found[0]
        return None


def _load(file: SourceFile) -> Mapping[str, Any]:
    try:
        document = json.loads(file.text(MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{file.name} is not JSON ({error})") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(
        isinstance(document.get(part), list)
        and all(isinstance(row, dict) for row in document[part])
        for part in parts
    ):
        raise LabelError(f"{file.name} is no COCO file: it needs lists of {', '.join(parts)}")
    return document


def _listed(
    source: str, document: Mapping[str, Any], resolve: _Resolver
) -> tuple[dict[str, _Listed], list[Problem]]:
    word = re.search(r"(?<![a-z])(train|validation|valid|val|test)", source.lower().split("/")[-1])
    split = SPLIT_FOLDERS[word.group(1)] if word else None
    by_id: dict[Any, _Listed] = {}
    found: dict[str, _Listed] = {}
    problems: list[Problem] = []
    for row in document["images"]:
        try:
            name, number = str(row["file_name"]), row["id"]
            entry = _Listed((int(row["width"]), int(row["height"])), split)
            known = number in by_id
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LabelError(f"{source}: an image's entry is damaged ({error!r})") from None
        if known:
            raise LabelError(f"{source}: two images have the id {number}")
        by_id[number] = entry
        path = resolve.find(source, name)
        if path is None:
            problems.append(Problem(name, f"labels without an image (in {source})"))
        elif path in found:
            problems.append(Problem(name, f"is listed twice by {source}"))
        else:
            found[path] = entry
    for row in document["annotations"]:
        owner = row.get("image_id")
        if not isinstance(owner, int | str) or owner not in by_id:
            problems.append(Problem(source, f"an annotation is for the unknown image {owner!r}"))
        else:
            by_id[owner].annotations.append(row)
    return found, problems


def _categories(source: str, document: Mapping[str, Any]) -> dict[Any, bool]:
    """Category id -> whether it means plates."""
    try:
        names = {row["id"]: str(row["name"]) for row in document["categories"]}
    except (KeyError, TypeError) as error:
        raise LabelError(f"{source}: a category is damaged ({error!r})") from None
    if not names:
        raise LabelError(f"{source} declares no categories")
    # Roboflow puts a parent category above the real ones that no annotation uses.
    used = {
        row.get("category_id")
        for row in document["annotations"]
        if isinstance(row.get("category_id"), int | str)
    }
    considered = [name for number, name in names.items() if number in used] or list(names.values())
    chosen = choose_classes(considered)
    return {number: name in chosen for number, name in names.items()}


def _plates(
    entry: _Listed, categories: Mapping[Any, bool], width: int, height: int
) -> tuple[Plate, ...]:
    if entry.size != (width, height):
        claimed = "x".join(map(str, entry.size))
        raise LabelError(f"COCO says {claimed} pixels, the image has {width}x{height}")
    found: list[Plate] = []
    for row in entry.annotations:
        category = row.get("category_id")
        if not isinstance(category, int | str) or category not in categories:
            raise LabelError(f"unknown class {category!r}")
        plate = _plate(row, width, height)
        if categories[category]:
            found.append(plate)
    return tuple(found)


def _plate(row: Mapping[str, Any], width: int, height: int) -> Plate:
    try:
        x, y, w, h = (float(value) for value in row["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise LabelError(f"bbox {str(row.get('bbox'))[:60]} is not [x, y, width, height]") from None
    if w <= 0 or h <= 0:
        raise LabelError(f"box of {w:.6g}x{h:.6g} pixels has no area")
    plate = plate_from_box(x, y, x + w, y + h, width, height)
    polygons = row.get("segmentation")
    if isinstance(polygons, list) and len(polygons) == 1 and isinstance(polygons[0], list):
        corners = polygons[0]
        if len(corners) == 8 and all(isinstance(v, int | float) for v in corners):
            points = [
                (float(a), float(b)) for a, b in zip(corners[::2], corners[1::2], strict=True)
            ]
            return Plate(plate.box, plate_from_polygon(points, width, height).quad)
    return plate
