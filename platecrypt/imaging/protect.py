"""Make the published picture: every region is noise, and what was there is sealed inside the file.

Fails closed: every failure raises, and no file is returned in which a given region still shows.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from platecrypt.cipher import DETACHED, PIXELS, Keyring, keystream
from platecrypt.errors import BadInputError
from platecrypt.imaging.codec import QUALITY, SAMPLING, Image, Pixels, encode_bgr, swapped
from platecrypt.imaging.containers import Format, embed
from platecrypt.imaging.regions import MARGIN, Boxes, Region, regions
from platecrypt.imaging.sealing import Origin, Sealer, check_scores, containing

CELL = 8
"""Side of one cell of cover noise, pixels: a JPEG block, so a cell costs one coefficient."""


@dataclass(frozen=True, eq=False)
class Covered:
    """A picture whose plates are covered and sealed, not yet a file.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, upright.
        regions: what was covered.
        envelopes: one a region, in their order: the sealed pixels.
        record: the sealed JSON record of the detections, or None where there is no region.
    """

    pixels: Pixels = field(repr=False)
    regions: tuple[Region, ...]
    envelopes: tuple[bytes, ...] = field(repr=False)
    record: bytes | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class Protected:
    """A published picture.

    Attributes:
        data: the file, sealed envelopes inside; this is what may leave.
        format: of `data`.
        regions, envelopes, record: see `Covered`.
    """

    data: bytes = field(repr=False)
    format: Format
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
    quality: int | None = None,
    sidecar: bool = False,
) -> Protected:
    """Cover and seal every plate of `image`.

    A JPEG (and a lossy WebP) is decoded, covered and encoded again at `quality`: what lies outside
    the regions changes by that one generation, while the sealed pixels are exactly those that were
    decoded. At the source's own quality, the default, a generation costs least and the file does
    not grow; its colours are sampled as the source's. PNG and lossless WebP keep every pixel
    outside.

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
        quality: 1..100, for JPEG and lossy WebP; None: the source's where both files are JPEG and
            it can be told, else 92.
        sidecar: keep the envelopes out of the file.

    Raises:
        BadInputError: boxes, scores, margin or quality that cannot be used, or an image that
            carries sealed plates already (encoding it again would lose them for ever).
        ValueError: `time` has no time zone.
        KeyringError: the keyring is empty.
    """
    made = cover_and_seal(
        image,
        boxes,
        keyring,
        origin=Origin(model_name, model_version, request_id, time),
        margin=margin,
        scores=scores,
        sidecar=sidecar,
        copied=swapped,  # what is painted over lies in the encoder's order of colours
    )
    return written(image, made, format=format, quality=quality, sidecar=sidecar)


def written(
    image: Image,
    made: Covered,
    *,
    format: Format | None = None,  # noqa: A002
    quality: int | None = None,
    sidecar: bool = False,
) -> Protected:
    """The second half of `protect`: the file of what `cover_and_seal` covered, in BGR.

    Arguments and errors as `protect`.
    """
    chosen = format or image.format
    keep = image.lossless or image.format == "png"
    if quality is None:
        quality = (image.quality if chosen == "jpeg" else 0) or QUALITY
    sampling = image.sampling or SAMPLING
    data = encode_bgr(made.pixels, chosen, quality=quality, sampling=sampling, lossless=keep)
    if made.record is not None and not sidecar:
        data = embed(data, [*made.envelopes, made.record])
    return Protected(data, chosen, made.regions, made.envelopes, made.record)


def cover_and_seal(
    image: Image,
    boxes: Boxes,
    keyring: Keyring,
    *,
    origin: Origin,
    margin: float = MARGIN,
    scores: Sequence[float] | None = None,
    sidecar: bool = False,
    copied: Callable[[Pixels], Pixels] = np.copy,
) -> Covered:
    """The part of `protect` that makes no file, for who wants pixels or envelopes alone.

    Arguments and errors as `protect`; `origin` says who found the plates and when, and `copied`
    makes the copy that is painted over, whose order of colours the result has.
    """
    if image.sealed:
        raise BadInputError("the image carries sealed plates already; recover it first")
    check_scores(boxes, scores)
    found = regions(boxes, image.width, image.height, margin=margin)
    sealer = Sealer(keyring, origin.context(image.sha256), DETACHED if sidecar else 0)
    envelopes = tuple(
        seal_pixels(sealer, index, image.pixels, region) for index, region in enumerate(found)
    )
    record = None
    if found:
        within = containing(boxes, image.width, image.height, found, margin=margin)
        record = sealer.record(boxes, within, len(found), scores)
    pixels = copied(image.pixels)
    cover(pixels, found)
    return Covered(pixels, found, envelopes, record)


def cover(pixels: Pixels, found: Sequence[Region]) -> None:
    """Turn every region into grey noise, in place.

    The noise is LCL-1 under a fresh key that is thrown away, one byte a cell: it depends on nothing
    in the picture. Cells lie on the grid of JPEG blocks and have no colour, so they cost about two
    bytes each and the file does not grow. An alpha channel becomes opaque there.

    Args:
        pixels: (H, W) or (H, W, C) uint8.
        found: regions within it.
    """
    shapes = [
        ((y2 - 1) // CELL - y1 // CELL + 1, (x2 - 1) // CELL - x1 // CELL + 1)
        for x1, y1, x2, y2 in found
    ]
    noise = fresh_noise(sum(rows * columns for rows, columns in shapes))
    for (x1, y1, x2, y2), (rows, columns) in zip(found, shapes, strict=True):
        cells, noise = noise[: rows * columns].reshape(rows, columns), noise[rows * columns :]
        row = np.arange(y1, y2) // CELL - y1 // CELL
        column = np.arange(x1, x2) // CELL - x1 // CELL
        region = pixels[y1:y2, x1:x2]
        # Rows as wide as the region's bytes: NumPy spreads a last axis of three at eight times
        # the cost.
        wide = np.repeat(cells[:, column], region[0, 0].size, axis=1)
        region[...] = wide[row].reshape(region.shape)
        if pixels.ndim == 3 and pixels.shape[2] == 4:
            pixels[y1:y2, x1:x2, 3] = 255


def fresh_noise(count: int) -> Pixels:
    """So many bytes of LCL-1 under a key that nobody keeps."""
    return np.frombuffer(keystream(os.urandom(32), count), np.uint8)


def seal_pixels(sealer: Sealer, number: int, pixels: Pixels, region: Region) -> bytes:
    """The envelope of a region's upright pixels."""
    x1, y1, x2, y2 = region
    plate = np.ascontiguousarray(pixels[y1:y2, x1:x2])
    fields = {"box": list(region), "shape": list(plate.shape), "dtype": "uint8"}
    return sealer.plate(number, plate.data, PIXELS, fields)
