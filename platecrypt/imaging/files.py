"""Protect a picture file without loss and get it back: one way in and out for every format.

A JPEG is protected block by block: outside of the regions not one DCT coefficient changes, and
recovering gives every coefficient back. The others keep their pixels. Metadata stays, but for
pictures inside it, which would show the plates.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from platecrypt.cipher import DETACHED, PIXELS, Keyring
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging.codec import MAX_BYTES, MAX_PIXELS, Image, Pixels, check_size, decode
from platecrypt.imaging.containers import Format, embed, pack, read_header
from platecrypt.imaging.jpeg import NotLosslessError
from platecrypt.imaging.jpeg_picture import JpegPicture
from platecrypt.imaging.orientation import stored_region, upright, upright_region, upright_size
from platecrypt.imaging.protect import cover, protect
from platecrypt.imaging.rasters import Raster
from platecrypt.imaging.regions import MARGIN, Boxes, Region, grown, merged
from platecrypt.imaging.sealing import Origin, Sealer, check_scores, containing
from platecrypt.imaging.tags import Thumbnail

SIDECAR = ".sle"
"""A sidecar is named like the file it belongs to, with this after it: `car.jpg.sle`."""


class Picture(Protocol):
    """A file that can be covered and written again."""

    @property
    def format(self) -> Format:
        """Of the file."""

    @property
    def notes(self) -> Sequence[str]:
        """What is not as it was."""

    def snap(self, region: Region) -> Region:
        """The stored region that is really replaced."""

    def seal(self, sealer: Sealer, number: int, stored: Region, box: Region) -> bytes:
        """The envelope of a stored region."""

    def cover(self, regions: Sequence[Region]) -> None:
        """Replace stored regions by noise."""

    def write(self, *, strip: bool, protected: bool) -> tuple[bytes, dict[str, bytes]]:
        """The file, and the parts of it that must be sealed too."""


class RasterPicture:
    """A PNG, WebP or TIFF whose stored pixels can be taken out and put back."""

    def __init__(self, raster: Raster) -> None:
        self.raster = raster
        self.format = raster.format
        self.notes = raster.notes

    def snap(self, region: Region) -> Region:
        """The region itself: pixels need no grid."""
        return region

    def seal(self, sealer: Sealer, number: int, stored: Region, box: Region) -> bytes:
        """The envelope of a region's stored pixels, all channels."""
        plate = np.ascontiguousarray(
            self.raster.pixels[stored.y1 : stored.y2, stored.x1 : stored.x2]
        )
        fields = {
            "box": list(box),
            "stored": list(stored),
            "shape": list(plate.shape),
            "dtype": "uint8",
        }
        return sealer.plate(number, plate.data, PIXELS, fields)

    def cover(self, regions: Sequence[Region]) -> None:
        """Replace stored regions by noise."""
        cover(self.raster.pixels, regions)

    def write(self, *, strip: bool, protected: bool) -> tuple[bytes, dict[str, bytes]]:
        """The file; nothing else had to go."""
        thumbnail: Thumbnail | None = _no_thumbnail if protected else None
        return self.raster.write(strip=strip, thumbnail=thumbnail), {}


def _no_thumbnail(limit: int) -> bytes:
    return b""


@dataclass(frozen=True, eq=False)
class ProtectedFile:
    """A published file.

    Attributes:
        data: the file.
        format: of it.
        regions: what was covered, upright pixels.
        envelopes: everything sealed: one a region in their order, other parts, the record last.
        sidecar: the file to keep beside it, or None where `data` carries the envelopes.
        lossless: nothing outside of the regions changed.
        notes: what is not as it was, for a person.
    """

    data: bytes = field(repr=False)
    format: Format
    regions: tuple[Region, ...]
    envelopes: tuple[bytes, ...] = field(repr=False)
    sidecar: bytes | None = field(repr=False)
    lossless: bool
    notes: tuple[str, ...]


def protect_file(
    data: bytes,
    boxes: Boxes,
    keyring: Keyring,
    *,
    origin: Origin,
    margin: float = MARGIN,
    scores: Sequence[float] | None = None,
    sidecar: bool = False,
    strip_metadata: bool = False,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> ProtectedFile:
    """Cover and seal every plate of a picture file.

    Fails closed: nothing is returned in which a given region still shows. A file without plates
    is returned as it is.

    Args:
        data: a JPEG, PNG, WebP or TIFF file.
        boxes: (N, 4) boxes or (N, 4, 2) quads, pixels of the upright picture.
        keyring: its newest master seals.
        origin: who found the plates, and when.
        margin: share of a box's size added at each side.
        scores: one a box; sealed, never in clear.
        sidecar: keep the envelopes out of the file.
        strip_metadata: leave out places, makers, serial numbers and times.
        max_bytes: longest file accepted.
        max_pixels: largest width * height accepted, checked before anything is allocated.

    Raises:
        BadInputError: a file, boxes or margin that cannot be used, or one that is protected.
        ValueError: the time has no time zone.
        KeyringError: the keyring is empty.
    """
    header = read_header(_bounded(data, max_bytes))
    check_size(header, max_pixels)
    if header.sealed:
        raise BadInputError("the image carries sealed plates already; recover it first")
    check_scores(boxes, scores)
    stored_size = (header.width, header.height)
    size = upright_size(*stored_size, header.orientation)
    parts = grown(boxes, *size, margin=margin)

    def again(why: NotLosslessError) -> ProtectedFile:
        image = decode(data, max_bytes=max_bytes, max_pixels=max_pixels)
        options = {"margin": margin, "scores": scores, "sidecar": sidecar}
        return _encoded_again(image, boxes, keyring, origin, why, **options)

    try:
        picture = _picture(data, header.format)
    except NotLosslessError as error:
        return again(error)
    stored = merged(
        [picture.snap(stored_region(part, *stored_size, header.orientation)) for part in parts]
    )
    if not stored:
        plain = picture.write(strip=True, protected=False)[0] if strip_metadata else data
        return ProtectedFile(plain, header.format, (), (), None, True, tuple(picture.notes))
    found = tuple(upright_region(region, *stored_size, header.orientation) for region in stored)
    digest = hashlib.sha256(data).hexdigest()
    sealer = Sealer(keyring, origin.context(digest), DETACHED if sidecar else 0)
    try:
        envelopes = [
            picture.seal(sealer, number, region, box)
            for number, (region, box) in enumerate(zip(stored, found, strict=True))
        ]
        picture.cover(stored)
        published, hidden = picture.write(strip=strip_metadata, protected=True)
    except NotLosslessError as error:
        return again(error)
    envelopes += [sealer.part(name, part) for name, part in hidden.items()]
    within = containing(boxes, *size, found, margin=margin)
    envelopes.append(sealer.record(boxes, within, len(found), scores))
    return ProtectedFile(
        published if sidecar else embed(published, envelopes),
        header.format,
        found,
        tuple(envelopes),
        pack(envelopes) if sidecar else None,
        True,
        tuple(picture.notes),
    )


def visible(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture that a detector looks at: (H, W, 3) uint8, RGB, upright.

    Raises:
        BadInputError: see `protect_file`.
    """
    header = read_header(_bounded(data, max_bytes))
    if header.format != "tiff":
        return decode(data, max_bytes=max_bytes, max_pixels=max_pixels).pixels
    check_size(header, max_pixels)
    pixels = Raster.read(data).pixels
    colour = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
    return upright(colour, header.orientation)


def _bounded(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise BadInputError(f"the image has {len(data)} bytes, more than the {max_bytes} allowed")
    return data


def _picture(data: bytes, form: Format) -> Picture:
    return JpegPicture.read(data) if form == "jpeg" else RasterPicture(Raster.read(data))


def _encoded_again(
    image: Image,
    boxes: Boxes,
    keyring: Keyring,
    origin: Origin,
    why: NotLosslessError,
    **options: Any,
) -> ProtectedFile:
    """What cannot be done block by block: decoded, covered, encoded; its metadata is left out."""
    done = protect(image, boxes, keyring, **asdict(origin), **options)
    envelopes = done.envelopes + (() if done.record is None else (done.record,))
    note = f"encoded again without its metadata, because {why}: every pixel changed a little"
    sidecar = pack(envelopes) if options["sidecar"] and envelopes else None
    return ProtectedFile(done.data, done.format, done.regions, envelopes, sidecar, False, (note,))


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a file lies."""
    return path.with_name(path.name + SIDECAR)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name first, so that it appears whole or not at all.

    Raises:
        UnavailableError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
