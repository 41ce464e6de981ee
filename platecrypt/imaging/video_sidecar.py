"""The sealed plates of a video, in a file beside it: written and read as a stream.

Framed as in a picture (see `containers`): `SLEB` | version 1 | three zero bytes | u32 count | each
envelope after its u32 length, little-endian. Every envelope is detached. First come the plates,
frame by frame, each a whole PNG file (content type 3); last comes one sealed record with the
totals and digests, so that an envelope taken out, doubled, exchanged or changed shows.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from platecrypt.cipher import (
    DETACHED,
    FRAME,
    OVERHEAD,
    RECORD,
    EnvelopeError,
    EnvelopeInfo,
    Keyring,
    canonical_json,
    inspect,
    open_sealed,
    padded_record,
    seal,
)
from platecrypt.cipher.envelope import RECORD_STEP
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging.regions import Region

SUFFIX = ".sle"
FORMAT = "png"
MAX_TRACKS = 100_000

_HEAD = struct.Struct("<4sB3sI")
_MAGIC, _VERSION = b"SLEB", 1
_COUNT_AT = 8
_LENGTH = struct.Struct("<I")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Plate:
    """One plate in one frame: the public part of its envelope.

    Attributes:
        track: number of the track, from 0.
        frame: number of the frame, from 0.
        pts: presentation time of the frame in units of `time_base`.
        time_base: seconds of one unit, e.g. "1/90000".
        region: where it lies in the upright frame, pixels.
    """

    track: int
    frame: int
    pts: int
    time_base: str
    region: Region

    @property
    def seconds(self) -> float:
        """Presentation time of the frame."""
        return float(self.pts * Fraction(self.time_base))


@dataclass(frozen=True)
class Sealed:
    """One envelope as it stands in the file; what it says is verified only once it was opened."""

    envelope: bytes
    info: EnvelopeInfo
    ctx: dict[str, Any]

    @property
    def origin(self) -> tuple[str, str]:
        """What all envelopes of one run share."""
        return self.ctx["source_sha256"], self.ctx["request_id"]


class Totals:
    """What a run sealed: how many envelopes each track has, and a digest over all of them."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._digests: dict[int, Any] = {}

    @property
    def tracks(self) -> int:
        """How many tracks there are."""
        return len(self._counts)

    def add(self, track: int, envelope: bytes) -> None:
        """Count one envelope; a track's envelopes come in the order of its frames."""
        if track not in self._counts and len(self._counts) >= MAX_TRACKS:
            raise BadInputError(f"more than {MAX_TRACKS} tracks: that is no real video")
        self._counts[track] = self._counts.get(track, 0) + 1
        self._digests.setdefault(track, hashlib.sha256()).update(envelope)

    def record(self) -> list[dict[str, Any]]:
        """One entry for each track."""
        return [
            {"track": track, "frames": count, "sha256": self._digests[track].hexdigest()}
            for track, count in sorted(self._counts.items())
        ]


class Writer:
    """Writes the file, envelope by envelope; a full disk is an UnavailableError."""

    def __init__(self, path: Path, keyring: Keyring, context: dict[str, Any]) -> None:
        """Begin.

        Args:
            path: the file to write.
            keyring: its newest master seals.
            context: what the contexts of all envelopes share.

        Raises:
            UnavailableError: it cannot be written.
        """
        self._path, self._keyring, self._context = path, keyring, context
        self._count, self.totals = 0, Totals()
        with self._writing():
            self._file = path.open("wb")
            self._file.write(_HEAD.pack(_MAGIC, _VERSION, bytes(3), 0))

    def plate(self, plate: Plate, png: bytes) -> None:
        """Seal one plate; its length is padded, as that tells a little of what it shows."""
        region = plate.region
        ctx = {
            **self._context,
            "track": plate.track,
            "frame": plate.frame,
            "pts": plate.pts,
            "time_base": plate.time_base,
            "box": list(region),
            "shape": [region.height, region.width, 3],
            "dtype": "uint8",
            "format": FORMAT,
        }
        self.totals.add(plate.track, self._add(png + bytes(-len(png) % RECORD_STEP), ctx, FRAME))

    def finish(self, frames: int) -> None:
        """Seal the record, and say how many envelopes there are."""
        record = padded_record({"frames": frames, "tracks": self.totals.record()})
        self._add(record, self._context, RECORD)
        with self._writing():
            self._file.seek(_COUNT_AT)
            self._file.write(_LENGTH.pack(self._count))
            self._file.close()

    def abandon(self) -> None:
        """Close the file; what is in it is of no use."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _add(self, plaintext: bytes, ctx: dict[str, Any], content_type: int) -> bytes:
        envelope = seal(
            plaintext,
            canonical_json(ctx),
            self._keyring,
            content_type=content_type,
            flags=DETACHED,
        )
        with self._writing():
            self._file.write(_LENGTH.pack(len(envelope)))
            self._file.write(envelope)
        self._count += 1
        return envelope

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnavailableError(
                f"{self._path.parent} cannot be written: {error.strerror}"
            ) from None


def read(path: Path) -> Iterator[Sealed]:
    """The envelopes of a sidecar, one at a time; the record comes last.

    Raises:
        BadInputError: no such file, no sidecar of a video, damaged, or incomplete.
    """
    origin: tuple[str, str] | None = None
    item: Sealed | None = None
    for envelope in _envelopes(path):
        if item is not None and item.info.content_type == RECORD:
            raise damaged(path)
        item = _inspected(path, envelope)
        origin = origin or item.origin
        if item.origin != origin:
            raise BadInputError(f"{path} holds the sealed plates of several videos; take a copy")
        yield item
    if item is None or item.info.content_type != RECORD:
        raise damaged(path)


def plate_of(path: Path, item: Sealed) -> Plate:
    """The public part of a plate's envelope.

    Raises:
        BadInputError: it says nothing sensible.
    """
    ctx = item.ctx
    box, numbers = ctx.get("box"), [ctx.get(name) for name in ("track", "frame", "pts")]
    if not isinstance(box, list) or len(box) != 4:
        raise damaged(path)
    if not all(type(value) is int and abs(value) < 1 << 62 for value in [*box, *numbers]):
        raise damaged(path)
    region = Region(*box)
    form = ctx.get("shape"), ctx.get("dtype"), ctx.get("format")
    if form != ([region.height, region.width, 3], "uint8", FORMAT):
        raise damaged(path)
    if min(*box, ctx["track"], ctx["frame"]) < 0 or region.width < 1 or region.height < 1:
        raise damaged(path)
    try:
        base = Fraction(str(ctx.get("time_base"))[:40])
    except (ValueError, ZeroDivisionError):
        raise damaged(path) from None
    return Plate(ctx["track"], ctx["frame"], ctx["pts"], str(base), region)


def opened(path: Path, item: Sealed, keyring: Keyring) -> bytes:
    """The plaintext of an envelope.

    Raises:
        BadInputError: no key fits, or it was changed.
    """
    if item.info.kid not in keyring.kids:
        raise BadInputError(
            f"none of the keys in {keyring.path or 'the keyring'} opens this: sealed with key id "
            f"{item.info.kid}"
        )
    try:
        return open_sealed(item.envelope, keyring)
    except EnvelopeError:
        raise damaged(path) from None


def png_of(path: Path, item: Sealed, keyring: Keyring) -> bytes:
    """The PNG file of a plate, bit for bit as it was sealed, without its padding.

    Raises:
        BadInputError: see `opened`.
    """
    png = opened(path, item, keyring).rstrip(b"\0")  # no PNG ends in a zero byte: its last is 0x82
    if not png.startswith(_PNG):
        raise damaged(path)
    return png


def check_totals(path: Path, item: Sealed, keyring: Keyring, totals: Totals) -> int:
    """Compare the sealed record with what was read.

    Returns:
        How many frames the video has.

    Raises:
        BadInputError: an envelope is missing, doubled, exchanged or changed; or see `opened`.
    """
    try:
        record = json.loads(opened(path, item, keyring))
        frames, tracks = record["frames"], record["tracks"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(path) from None
    if type(frames) is not int or tracks != totals.record():
        raise damaged(path)
    return frames


def damaged(path: Path) -> BadInputError:
    """The one message for whatever was done to the file."""
    return BadInputError(f"{path} was tampered with or damaged; nothing was recovered")


def _envelopes(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - _HEAD.size
            count = _count(path, file.read(_HEAD.size))
            for _ in range(count):
                left -= _LENGTH.size
                head = file.read(_LENGTH.size)
                size = int.from_bytes(head, "little")
                if len(head) < _LENGTH.size or size < OVERHEAD or size > left:
                    raise damaged(path)
                left -= size
                yield file.read(size)
            if left:
                raise damaged(path)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None


def _count(path: Path, head: bytes) -> int:
    if len(head) < _HEAD.size or head[:4] != _MAGIC:
        raise BadInputError(f"{path} is no file of sealed plates")
    _, version, reserved, count = _HEAD.unpack(head)
    if version != _VERSION:
        raise BadInputError(
            f"{path} has version {version}, this program reads {_VERSION}; update it"
        )
    if any(reserved) or not count:
        raise damaged(path)
    return int(count)


def _inspected(path: Path, envelope: bytes) -> Sealed:
    try:
        info = inspect(envelope)
        ctx = json.loads(info.ctx)
    except (EnvelopeError, ValueError, RecursionError):
        raise damaged(path) from None
    named = isinstance(ctx, dict) and all(
        isinstance(ctx.get(name), str) for name in ("source_sha256", "request_id")
    )
    if not named or info.flags != DETACHED or info.content_type not in (FRAME, RECORD):
        raise damaged(path)
    return Sealed(envelope, info, ctx)
