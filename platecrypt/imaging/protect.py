"""Make the published picture: every region is noise, and what was there is sealed inside the file.

Fails closed: every failure raises, and no file is returned in which a given region still shows.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from platecrypt.cipher import (
    PIXELS,
    RECORD,
    Keyring,
    canonical_json,
    keystream,
    padded_record,
    seal,
)
from platecrypt.errors import BadInputError
from platecrypt.imaging.codec import QUALITY, Image, Pixels, encode
from platecrypt.imaging.containers import Format, embed
from platecrypt.imaging.regions import MARGIN, Boxes, Region, grown, hull_boxes, region_of, regions

CELL = 8
"""Side of one cell of cover noise, pixels: a JPEG block, so a cell costs one coefficient."""


@dataclass(frozen=True, eq=False)
class Protected:
    """A published picture.

    Attributes:
        data: the file, sealed envelopes inside; this is what may leave.
        format: of `data`.
        pixels: (H, W, 3) uint8, RGB, upright: the covered picture before it was encoded.
        regions: what was covered.
        envelopes: one a region, in their order: the sealed pixels.
        record: the sealed JSON record of the detections, or None where there is no region.
    """

    data: bytes = field(repr=False)
    format: Format
    pixels: Pixels = field(repr=False)
    regions: tuple[Region, ...]
    envelopes: tuple[bytes, ...] = field(repr=False)
    record: bytes | None = field(repr=False)


def protect(
    image: Image,
    boxes: Boxes,
    keyring: Keyring,
    *,
    model_name: str,
    model_version: str,
    request_id: str,
    time: datetime,
    margin: float = MARGIN,
    scores: Sequence[float] | None = None,
    format: Format | None = None,  # noqa: A002
    quality: int = QUALITY,
) -> Protected:
    """Cover and seal every plate of `image`.

    A JPEG (and a lossy WebP) is decoded, covered and encoded again at `quality`: what lies outside
    the regions changes by that one generation, while the sealed pixels are exactly those that were
    decoded. PNG and lossless WebP keep every pixel outside.

    Args:
        image: as `decode` gave it.
        boxes: (N, 4) boxes or (N, 4, 2) quads, upright pixels; no box: nothing is covered or
            sealed, and the picture is encoded all the same (its metadata does not leave).
        keyring: its newest master seals.
        model_name: who found the plates; readable in every envelope.
        model_version: its version; readable.
        request_id: names this answer; readable.
        time: when, with a time zone; written in UTC.
        margin: share of a box's size added at each side.
        scores: one a box; sealed, never in clear.
        format: of the published file; None takes the image's own.
        quality: 1..100, for JPEG and lossy WebP.

    Raises:
        BadInputError: boxes, scores, margin or quality that cannot be used, or an image that
            carries sealed plates already (encoding it again would lose them for ever).
        ValueError: `time` has no time zone.
        KeyringError: the keyring is empty.
    """
    if image.sealed:
        raise BadInputError("the image carries sealed plates already; recover it first")
    if scores is not None and len(scores) != len(hull_boxes(boxes)):
        raise BadInputError(f"{len(hull_boxes(boxes))} boxes but {len(scores)} scores")
    found = regions(boxes, image.width, image.height, margin=margin)
    context: dict[str, Any] = {
        "model": model_name,
        "model_version": model_version,
        "request_id": request_id,
        "source_sha256": image.sha256,
        "time": _rfc3339(time),
    }
    envelopes = tuple(
        _seal_region(image.pixels, region, {**context, "region": index}, keyring)
        for index, region in enumerate(found)
    )
    record = None
    if found:
        parts = grown(boxes, image.width, image.height, margin=margin)
        within = [region_of(part, found) for part in parts]
        record = _seal_record(boxes, within, len(found), scores, context, keyring)
    covered = cover(image.pixels, found)
    chosen = format or image.format
    keep = image.lossless or image.format == "png"
    data = encode(covered, chosen, quality=quality, lossless=keep)
    if record is not None:
        data = embed(data, [*envelopes, record])
    return Protected(data, chosen, covered, found, envelopes, record)


def cover(pixels: Pixels, found: Sequence[Region]) -> Pixels:
    """A copy of `pixels` in which every region is grey noise.

    The noise is LCL-1 under a fresh key that is thrown away, one byte a cell: it depends on nothing
    in the picture. Cells lie on the grid of JPEG blocks and have no colour, so they cost about two
    bytes each and the file does not grow.

    Args:
        pixels: (H, W, 3) uint8.
        found: regions within it.
    """
    covered = pixels.copy()
    shapes = [
        ((y2 - 1) // CELL - y1 // CELL + 1, (x2 - 1) // CELL - x1 // CELL + 1)
        for x1, y1, x2, y2 in found
    ]
    noise = np.frombuffer(
        keystream(os.urandom(32), sum(rows * columns for rows, columns in shapes)), np.uint8
    )
    for (x1, y1, x2, y2), (rows, columns) in zip(found, shapes, strict=True):
        cells, noise = noise[: rows * columns].reshape(rows, columns), noise[rows * columns :]
        row = np.arange(y1, y2) // CELL - y1 // CELL
        column = np.arange(x1, x2) // CELL - x1 // CELL
        covered[y1:y2, x1:x2] = cells[row][:, column, np.newaxis]
    return covered


def _seal_region(
    pixels: Pixels, region: Region, context: dict[str, Any], keyring: Keyring
) -> bytes:
    x1, y1, x2, y2 = region
    plate = np.ascontiguousarray(pixels[y1:y2, x1:x2])
    ctx = {**context, "box": list(region), "shape": list(plate.shape), "dtype": "uint8"}
    return seal(plate.data, canonical_json(ctx), keyring, content_type=PIXELS)


def _seal_record(
    boxes: Boxes,
    within: Sequence[int],
    count: int,
    scores: Sequence[float] | None,
    context: dict[str, Any],
    keyring: Keyring,
) -> bytes:
    """What the detector said, sealed and padded; `regions` tells if an envelope was taken out."""
    plates: list[dict[str, Any]] = [
        {"box": [round(value, 2) for value in box], "class": "plate", "region": region}
        for box, region in zip(hull_boxes(boxes).tolist(), within, strict=True)
    ]
    for plate, score in zip(plates, scores or (), strict=False):
        plate["score"] = round(float(score), 6)
    record = padded_record({"plates": plates, "regions": count})
    return seal(record, canonical_json(context), keyring, content_type=RECORD)


def _rfc3339(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError(f"time {time.isoformat()} has no time zone; hand in an aware datetime")
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
