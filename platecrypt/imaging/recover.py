"""Put the plates back into a published picture, with the key or with a token for one plate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from platecrypt.cipher import (
    FRAME,
    PIXELS,
    RECORD,
    EnvelopeError,
    EnvelopeInfo,
    Keyring,
    inspect,
    open_sealed,
    open_with_token,
)
from platecrypt.errors import BadInputError
from platecrypt.imaging.codec import MAX_BYTES, MAX_PIXELS, Image, Pixels, decode, encode
from platecrypt.imaging.containers import Format, read_header, read_sidecar, without_sealed
from platecrypt.imaging.files import visible
from platecrypt.imaging.jpeg import Blocks, NotLosslessError, read_part
from platecrypt.imaging.jpeg_picture import JpegPicture
from platecrypt.imaging.orientation import upright
from platecrypt.imaging.rasters import Raster
from platecrypt.imaging.regions import Region

FORMATS: dict[str, Format] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
"""File name endings, small letters."""

_TAMPERED = "the sealed data was tampered with or damaged; nothing was recovered"
_EDITED = "the picture was scaled, cropped or edited since it was protected; take an unchanged copy"


@dataclass(frozen=True, eq=False)
class Recovered:
    """A picture with its plates back.

    Attributes:
        file: the whole file in the format it was published in, exactly as its source was outside
            of the metadata that was stripped; None where the published one was encoded anew.
        format: of the published file.
        regions: those that were put back, in the order of their numbers; upright pixels.
        pixels: (H, W, 3) uint8, RGB, upright.
    """

    file: bytes | None = field(repr=False)
    format: Format
    regions: tuple[Region, ...]
    pixels: Pixels = field(repr=False)

    @property
    def count(self) -> int:
        """How many plates were put back."""
        return len(self.regions)


@dataclass(frozen=True, eq=False)
class Sealed:
    """One envelope and its public part, which is verified only once it was opened.

    Attributes:
        envelope: all of it.
        info: what `inspect` says.
        ctx: its context.
    """

    envelope: bytes = field(repr=False)
    info: EnvelopeInfo
    ctx: dict[str, Any]

    @property
    def origin(self) -> tuple[Any, Any]:
        """Envelopes of one picture share it."""
        return self.ctx.get("source_sha256"), self.ctx.get("request_id")

    @property
    def number(self) -> int | None:
        """The number of the plate; None for what is no plate."""
        value = self.ctx.get("region")
        return value if type(value) is int else None


class _Opener(Protocol):
    def open(self, item: Sealed) -> bytes:
        """The plaintext, or BadInputError."""


class _WithKeys:
    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def open(self, item: Sealed) -> bytes:
        if item.info.kid not in self._keyring.kids:
            raise BadInputError(
                f"none of the keys in {self._keyring.path or 'the keyring'} opens this: sealed "
                f"with key id {item.info.kid}"
            )
        try:
            return open_sealed(item.envelope, self._keyring)
        except EnvelopeError:
            raise BadInputError(_TAMPERED) from None


class _WithToken:
    def __init__(self, token: str) -> None:
        self._token = token

    def fits(self, item: Sealed) -> bool:
        """Whether the token opens this envelope."""
        try:
            open_with_token(item.envelope, self._token)
        except EnvelopeError:
            return False
        return True

    def open(self, item: Sealed) -> bytes:
        try:
            return open_with_token(item.envelope, self._token)
        except EnvelopeError:
            raise BadInputError(_TAMPERED) from None


def sealed_in(data: bytes, *, sidecar: bytes | None = None) -> list[Sealed]:
    """The envelopes of a published file with their public parts; no key is needed.

    Args:
        data: the published file.
        sidecar: what lies beside it, if anything does.

    Raises:
        BadInputError: none, or of several pictures, or damaged.
    """
    envelopes: Sequence[bytes] = read_header(data).sealed
    if not envelopes and sidecar is not None:
        envelopes = read_sidecar(sidecar)
    if not envelopes:
        raise BadInputError(
            "the image contains no sealed plates (re-saved by software that drops them?)"
        )
    items = [_inspect(envelope) for envelope in envelopes]
    if len({item.origin for item in items}) > 1:
        raise BadInputError("the sealed data of several pictures is mixed; nothing was recovered")
    return items


def plates_of(items: list[Sealed]) -> dict[int, Sealed]:
    """The plates among envelopes, by number.

    Raises:
        BadInputError: a number stands twice.
    """
    plates: dict[int, Sealed] = {}
    for item in items:
        if item.info.content_type == RECORD or "part" in item.ctx:
            continue
        if item.number is None or item.number in plates:
            raise BadInputError(_TAMPERED)
        plates[item.number] = item
    return plates


def plate_of(items: list[Sealed], number: int) -> Sealed:
    """One plate by its number.

    Raises:
        BadInputError: there is no such plate.
    """
    plates = plates_of(items)
    if number not in plates:
        held = ", ".join(str(number) for number in sorted(plates)) or "none"
        raise BadInputError(f"there is no plate {number}; the image holds {held}")
    return plates[number]


def recover(
    data: bytes,
    keyring: Keyring | None,
    *,
    plate: int | None = None,
    token: str | None = None,
    sidecar: bytes | None = None,
    max_bytes: int = 4 * MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Recovered:
    """Open the envelopes of a published file and put the plates back.

    Args:
        data: the published file.
        keyring: any of its masters may have sealed it; not needed with a token.
        plate: number of the one plate to put back, from 0; None: all of them.
        token: opens exactly one plate, instead of the keyring.
        sidecar: what lies beside the file, if anything does.
        max_bytes: longest file accepted.
        max_pixels: largest width * height accepted.

    Raises:
        BadInputError: no sealed plates, no such plate, no fitting key, sealed data that was
            changed, is incomplete or belongs to several pictures, or a file that is no picture.
    """
    pixels = visible(data, max_bytes=max_bytes, max_pixels=max_pixels)
    items = sealed_in(data, sidecar=sidecar)
    opener: _Opener
    if token is not None:
        chosen, opener = _by_token(items, _WithToken(token), plate)
    elif keyring is not None:
        opener = _WithKeys(keyring)
        if plate is None:
            plates = plates_of(items)
            _check_complete(items, plates, opener)
            chosen = [plates[number] for number in sorted(plates)]
        else:
            chosen = [plate_of(items, plate)]
    else:
        raise BadInputError("a keyring or a token is needed to open a plate")
    hidden = {}
    if plate is None and token is None:
        parts = [item for item in items if "part" in item.ctx]
        hidden = {str(item.ctx["part"]): opener.open(item) for item in parts}
    opened = [(item, opener.open(item)) for item in chosen]
    return _put_back(data, pixels, opened, hidden)


def recovered_bytes(found: Recovered, suffix: str) -> bytes:
    """The file to write for a name that ends in `suffix`.

    Raises:
        BadInputError: a format that would change the plates.
    """
    wanted = FORMATS.get(suffix.lower())
    if wanted == found.format and found.file is not None:
        return found.file
    if wanted != "png":
        own = f", or {suffix_of(found.format)}" if found.file is not None else ""
        raise BadInputError(
            f"the output must end in .png{own}: another format would change the plates"
        )
    return encode(found.pixels, "png")


def suffix_of(form: Format) -> str:
    """The usual ending of a format, with its dot."""
    return next(suffix for suffix, name in FORMATS.items() if name == form)


def _by_token(
    items: list[Sealed], opener: _WithToken, plate: int | None
) -> tuple[list[Sealed], _WithToken]:
    fitting = [item for item in plates_of(items).values() if opener.fits(item)]
    if not fitting or (plate is not None and fitting[0].number != plate):
        raise BadInputError(
            "the token opens no plate of this image: it is damaged, or belongs to another one"
        )
    return fitting, opener


def _put_back(
    data: bytes, pixels: Pixels, opened: list[tuple[Sealed, bytes]], hidden: dict[str, bytes]
) -> Recovered:
    form = read_header(data).format
    boxes = tuple(_region(item.ctx.get("box")) for item, _ in opened)
    kinds = {(item.info.content_type, "stored" in item.ctx) for item, _ in opened}
    if kinds == {(FRAME, True)}:
        parts = [(item, _blocks(plain)) for item, plain in opened]
        file = _file_of_blocks(data, parts, hidden)
        if file is not None:
            return Recovered(file, form, boxes, visible(file))
        # Encoded anew since, but its sealed data is whole: the plates go back as pixels.
        for (item, plain), box in zip(opened, boxes, strict=True):
            _paste(pixels, _turned(decode(plain), item, data), box)
        return Recovered(None, form, boxes, pixels)
    if kinds == {(PIXELS, True)}:
        raster = Raster.read(data)
        for item, plain in opened:
            stored = _region(item.ctx.get("stored"))
            _paste(raster.pixels, _pixels(item, plain), stored)
        file = raster.write(strip=False, thumbnail=None)
        return Recovered(file, form, boxes, visible(file))
    if kinds == {(PIXELS, False)}:
        for (item, plain), box in zip(opened, boxes, strict=True):
            _paste(pixels, _pixels(item, plain), box)
        return Recovered(None, form, boxes, pixels)
    raise BadInputError(_TAMPERED)


def _file_of_blocks(
    data: bytes, parts: list[tuple[Sealed, Blocks]], hidden: dict[str, bytes]
) -> bytes | None:
    """The file with its blocks back; None where it was quantised anew meanwhile."""
    try:
        picture = JpegPicture.read(without_sealed(data))
        if not all(picture.blocks.fits(part) for _, part in parts):
            return None
        for item, part in parts:
            picture.blocks.paste(part, _region(item.ctx.get("stored")))
        return picture.restore(hidden)
    except (NotLosslessError, BadInputError):
        return None
    except ValueError:
        raise BadInputError(_EDITED) from None


def _blocks(plain: bytes) -> Blocks:
    try:
        return read_part(plain)
    except (NotLosslessError, BadInputError):
        raise BadInputError(_TAMPERED) from None


def _turned(part: Image, item: Sealed, data: bytes) -> Pixels:
    """The pixels of a plate's own JPEG, as the upright picture shows them."""
    stored = _region(item.ctx.get("stored"))
    box = _region(item.ctx.get("box"))
    turned = upright(part.pixels, read_header(data).orientation)
    if turned.shape[:2] != (box.height, box.width) or part.width != stored.width:
        raise BadInputError(_EDITED)
    return turned


def _inspect(envelope: bytes) -> Sealed:
    try:
        info = inspect(envelope)
        ctx = json.loads(info.ctx)
    except (EnvelopeError, ValueError, RecursionError):
        raise BadInputError(_TAMPERED) from None
    if not isinstance(ctx, dict) or not all(
        isinstance(ctx.get(name), str) for name in ("source_sha256", "request_id")
    ):
        raise BadInputError(_TAMPERED)
    return Sealed(envelope, info, ctx)


def _check_complete(items: list[Sealed], plates: dict[int, Sealed], opener: _Opener) -> None:
    """The sealed record says how many regions there were: an envelope taken out shows."""
    records = [item for item in items if item.info.content_type == RECORD]
    if len(records) != 1:
        raise BadInputError(_TAMPERED)
    try:
        count = json.loads(opener.open(records[0]))["regions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInputError(_TAMPERED) from None
    if sorted(plates) != list(range(len(plates))) or len(plates) != count:
        raise BadInputError(_TAMPERED)


def _region(value: Any) -> Region:
    if not isinstance(value, list) or len(value) != 4:
        raise BadInputError(_TAMPERED)
    if not all(type(number) is int for number in value):
        raise BadInputError(_TAMPERED)
    region = Region(*value)
    if not (0 <= region.x1 < region.x2 and 0 <= region.y1 < region.y2):
        raise BadInputError(_TAMPERED)
    return region


def _pixels(item: Sealed, plain: bytes) -> Pixels:
    shape = item.ctx.get("shape")
    if item.ctx.get("dtype") != "uint8" or not isinstance(shape, list):
        raise BadInputError(_TAMPERED)
    if not all(type(size) is int and size > 0 for size in shape) or not 2 <= len(shape) <= 3:
        raise BadInputError(_TAMPERED)
    if int(np.prod(shape)) != len(plain):
        raise BadInputError(_TAMPERED)
    return np.frombuffer(plain, np.uint8).reshape(shape)


def _paste(target: Pixels, plate: Pixels, region: Region) -> None:
    height, width = target.shape[:2]
    if region.x2 > width or region.y2 > height:
        raise BadInputError(
            f"a plate lies at {list(region)}, outside this picture of {width} x {height}; was it "
            "scaled or cropped?"
        )
    window = target[region.y1 : region.y2, region.x1 : region.x2]
    if window.shape != plate.shape:
        raise BadInputError(_EDITED if plate.shape[:2] == window.shape[:2] else _TAMPERED)
    window[...] = plate
