"""Put the plates back into a published picture, with the key."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from platecrypt.cipher import (
    PIXELS,
    RECORD,
    EnvelopeError,
    EnvelopeInfo,
    Keyring,
    inspect,
    open_sealed,
)
from platecrypt.errors import BadInputError
from platecrypt.imaging.codec import MAX_BYTES, MAX_PIXELS, Image, Pixels, decode
from platecrypt.imaging.regions import Region

_TAMPERED = "the sealed data was tampered with or damaged; nothing was recovered"


@dataclass(frozen=True, eq=False)
class Recovered:
    """A picture with its plates back.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, upright. Within `regions` exactly the pixels that `decode`
            gave when the picture was protected.
        regions: those that were put back, in the order of their numbers.
        count: how many that are.
    """

    pixels: Pixels = field(repr=False)
    regions: tuple[Region, ...]
    count: int


@dataclass(frozen=True, eq=False)
class _Sealed:
    """One envelope, its public part and its context (verified only once it was opened)."""

    envelope: bytes
    info: EnvelopeInfo
    ctx: dict[str, Any]

    @property
    def origin(self) -> tuple[Any, Any]:
        return self.ctx.get("source_sha256"), self.ctx.get("request_id")


def recover(
    data: bytes,
    keyring: Keyring,
    *,
    plate: int | None = None,
    max_bytes: int = 4 * MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Recovered:
    """Open the envelopes in a published file and put the plates back.

    Args:
        data: the published file.
        keyring: any of its masters may have sealed it.
        plate: number of the one plate to put back, from 0; None: all of them.
        max_bytes: longest file accepted.
        max_pixels: largest width * height accepted.

    Raises:
        BadInputError: no sealed plates, no such plate, no fitting key, sealed data that was
            changed, is incomplete or belongs to several pictures, or a file `decode` refuses.
    """
    image = decode(data, max_bytes=max_bytes, max_pixels=max_pixels)
    if not image.sealed:
        raise BadInputError(
            "the image contains no sealed plates (re-saved by software that drops them?)"
        )
    items = [_inspect(envelope) for envelope in image.sealed]
    if len({item.origin for item in items}) > 1:
        raise BadInputError("the sealed data of several pictures is mixed; nothing was recovered")
    plates = _by_number(items)
    if plate is None:
        _check_complete(items, plates, keyring)
    elif plate not in plates:
        raise BadInputError(f"there is no plate {plate}; the image holds {_numbers(plates)}")
    chosen = sorted(plates) if plate is None else [plate]
    found = []
    for number in chosen:
        pixels, region = _open_plate(plates[number], image, keyring)
        image.pixels[region.y1 : region.y2, region.x1 : region.x2] = pixels
        found.append(region)
    return Recovered(image.pixels, tuple(found), len(found))


def _inspect(envelope: bytes) -> _Sealed:
    try:
        info = inspect(envelope)
        ctx = json.loads(info.ctx)
    except (EnvelopeError, ValueError, RecursionError):
        raise BadInputError(_TAMPERED) from None
    if not isinstance(ctx, dict) or not all(
        isinstance(ctx.get(name), str) for name in ("source_sha256", "request_id")
    ):
        raise BadInputError(_TAMPERED)
    return _Sealed(envelope, info, ctx)


def _by_number(items: list[_Sealed]) -> dict[int, _Sealed]:
    plates: dict[int, _Sealed] = {}
    for item in items:
        if item.info.content_type != PIXELS:
            continue
        number = item.ctx.get("region")
        if type(number) is not int or number in plates:
            raise BadInputError(_TAMPERED)
        plates[number] = item
    return plates


def _check_complete(items: list[_Sealed], plates: dict[int, _Sealed], keyring: Keyring) -> None:
    """The sealed record says how many regions there were: an envelope taken out shows."""
    records = [item for item in items if item.info.content_type == RECORD]
    if len(records) != 1:
        raise BadInputError(_TAMPERED)
    try:
        count = json.loads(_open(records[0], keyring))["regions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInputError(_TAMPERED) from None
    if sorted(plates) != list(range(len(plates))) or len(plates) != count:
        raise BadInputError(_TAMPERED)


def _open(item: _Sealed, keyring: Keyring) -> bytes:
    if item.info.kid not in keyring.kids:
        raise BadInputError(
            f"none of the keys in {keyring.path or 'the keyring'} opens this: sealed with key id "
            f"{item.info.kid}"
        )
    try:
        return open_sealed(item.envelope, keyring)
    except EnvelopeError:
        raise BadInputError(_TAMPERED) from None


def _open_plate(item: _Sealed, image: Image, keyring: Keyring) -> tuple[Pixels, Region]:
    plain = _open(item, keyring)
    box, shape = item.ctx.get("box"), item.ctx.get("shape")
    if item.ctx.get("dtype") != "uint8" or not isinstance(box, list):
        raise BadInputError(_TAMPERED)
    if len(box) != 4 or not all(type(value) is int for value in box):
        raise BadInputError(_TAMPERED)
    region = Region(*box)
    inside = (
        0 <= region.x1 < region.x2 <= image.width and 0 <= region.y1 < region.y2 <= image.height
    )
    if not inside:
        raise BadInputError(
            f"plate {item.ctx['region']} lies at {list(region)}, outside this picture of "
            f"{image.width} x {image.height}; was it scaled or cropped?"
        )
    expected = [region.height, region.width, 3]
    if shape != expected or len(plain) != region.height * region.width * 3:
        raise BadInputError(_TAMPERED)
    return np.frombuffer(plain, np.uint8).reshape(expected), region


def _numbers(plates: dict[int, _Sealed]) -> str:
    return ", ".join(str(number) for number in sorted(plates)) or "none"
