"""The manifest: which images make a dataset, what is on them, and to which split each belongs.

JSON lines, UTF-8. Line 1 is the header, then one image a line, sorted by image id. The digest is
the SHA-256 of those bytes, so the same images with the same labels have the same digest.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from platecrypt.errors import BadInputError, RefusedError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VERSION = 1

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Plate:
    """One labelled plate, in pixels of the stored image.

    Attributes:
        box: x1, y1, x2, y2 with x2 > x1 and y2 > y1.
        quad: the four corners clockwise from the top left as one reads the plate, or None.
    """

    box: Box
    quad: tuple[Point, Point, Point, Point] | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One image of a dataset.

    Attributes:
        image_id: SHA-256 of the stored bytes, hexadecimal.
        key: object key in the store (`images/<2 hex>/<image_id>.<ext>`).
        name: the file's path inside the source it was imported from.
        size: length of the stored bytes.
        width, height: pixels, before any EXIF rotation.
        plates: labelled plates; empty for an image that is known to show none.
        camera: who took it, or "unknown".
        group: what must not be divided between splits: a ride, a burst, or the image itself.
        time: when it was taken, RFC 3339 UTC, or None where nothing says so.
        split: the side it belongs to.
    """

    image_id: str
    key: str
    name: str
    size: int
    width: int
    height: int
    plates: tuple[Plate, ...]
    camera: str
    group: str
    time: str | None
    split: Split


@dataclass(frozen=True)
class Manifest:
    """A dataset: its images, the form it was read from, how it was divided."""

    images: tuple[ImageRecord, ...]
    form: str
    grouping: str

    def to_bytes(self) -> bytes:
        """The canonical JSON lines."""
        header = {
            "manifest": VERSION,
            "form": self.form,
            "grouping": self.grouping,
            "images": len(self.images),
        }
        rows: list[Any] = [header]
        rows += [asdict(image) for image in sorted(self.images, key=lambda i: i.image_id)]
        lines = [json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows]
        return ("\n".join(lines) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def split(self, name: Split) -> tuple[ImageRecord, ...]:
        """The images of one split."""
        return tuple(image for image in self.images if image.split == name)


def manifest_key(digest: str) -> str:
    """Where the manifest of that digest lives in the object store."""
    return f"datasets/{digest}/manifest.jsonl"


def parse_manifest(data: bytes, *, expected_digest: str | None = None) -> Manifest:
    """Read a manifest.

    Raises:
        RefusedError: the bytes do not have `expected_digest`.
        BadInputError: they are no manifest.
    """
    if expected_digest is not None:
        digest = hashlib.sha256(data).hexdigest()
        if digest != expected_digest:
            raise RefusedError(
                f"the manifest's digest is {digest}, not {expected_digest}: it was changed or "
                "damaged; import the dataset again"
            )
    try:
        header, *rows = [json.loads(line) for line in data.decode().splitlines()]
        if header["manifest"] != VERSION:
            raise ValueError(f"version {header['manifest']} is not {VERSION}")
        images = tuple(_image(row) for row in rows)
        if len(images) != header["images"]:
            raise ValueError(f"{header['images']} images announced, {len(images)} found")
        return Manifest(images, form=header["form"], grouping=header["grouping"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"not a manifest of version {VERSION}: {error}") from None


def _image(row: dict[str, Any]) -> ImageRecord:
    if row["split"] not in SPLITS:
        raise ValueError(f"split {row['split']!r} is none of {', '.join(SPLITS)}")
    plates = tuple(_plate(plate) for plate in row.pop("plates"))
    return ImageRecord(plates=plates, **row)


def _plate(row: dict[str, Any]) -> Plate:
    x1, y1, x2, y2 = row["box"]
    quad = row.get("quad")
    if quad is None:
        return Plate((x1, y1, x2, y2))
    a, b, c, d = ((x, y) for x, y in quad)
    return Plate((x1, y1, x2, y2), (a, b, c, d))


def group_by_id(images: Iterable[ImageRecord]) -> dict[str, ImageRecord]:
    """Image id -> record."""
    return {image.image_id: image for image in images}
