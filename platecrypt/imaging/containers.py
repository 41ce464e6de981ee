"""Where sealed data lives in a picture file, and what a file's header says before it is decoded.

One blob a file: `SLEB` | version 1 | three zero bytes | u32 count | each envelope after its u32
length (little-endian). It is carried

- in JPEG by APP9 segments (APP11 belongs to JPEG XT and C2PA): `SLE1` and a zero byte, the first
  8 bytes of the blob's SHA-256, u16 index, u16 count, a piece of the blob;
- in PNG by one `slEp` chunk (ancillary, private, safe to copy);
- in WebP by one `SLE1` chunk of the extended format;
- in TIFF by the private tag 65211 (type UNDEFINED) of the first directory;
- beside any file by a sidecar, `NAME.sle`, which is the blob alone.

The parsers read headers only, never trust a length, and stop after `MAX_PARTS` parts.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from platecrypt.errors import BadInputError
from platecrypt.imaging.tags import ORIENTATION, Tags, orientation

Format = Literal["jpeg", "png", "webp", "tiff"]

MAX_PARTS = 100_000
"""Segments or chunks in one file; a real file has a few thousand at most."""
MAX_ENVELOPES = 10_000
"""In one file: several times the regions that one picture may have."""

_BLOB_HEAD = struct.Struct("<4sB3sI")
_BLOB_MAGIC = b"SLEB"
_BLOB_VERSION = 1
_JPEG_MARK = b"SLE1\0"
_JPEG_PART = struct.Struct("<8sHH")
_JPEG_PIECE = 0xFFFF - 2 - len(_JPEG_MARK) - _JPEG_PART.size
_JPEG_START = b"\xff\xd8"
_JPEG_EXIF = b"Exif\0\0"
_APP1 = 0xE1
_APP9 = 0xE9
_SOS, _EOI, _COM, _DQT = 0xDA, 0xD9, 0xFE, 0xDB
_CELLS = 64
# fmt: off
_K1 = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
# fmt: on
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff]")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_SEALED = b"slEp"
_WEBP_SEALED = b"SLE1"
_WEBP_ALPHA = 0x10
SAMPLINGS = {"4:4:4": 0x11, "4:2:2": 0x21, "4:4:0": 0x12, "4:1:1": 0x41, "4:2:0": 0x22}
"""Of a JPEG's colours: how many samples of luma fall on one of them, across and down."""
AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7\x01]")
"""The marker that ends a JPEG's coded data: neither a stuffed byte, a restart nor a filler."""
MAX_SCANS = 100
"""Of a JPEG: progressive ones have about ten."""
_SCAN = b"\xff\xda"
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_TIFF_SEALED = 65211
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_UNDEFINED = 7


@dataclass(frozen=True)
class Header:
    """What the outside of a file says.

    Attributes:
        format: 'jpeg', 'png', 'webp' or 'tiff'.
        width, height: pixels as stored, before any EXIF rotation.
        animated: it holds more than one picture (frames, pages).
        lossless: its pixels were not quantised (PNG, lossless WebP, TIFF).
        sealed: the envelopes it carries, in order.
        insert_at: byte offset at which sealed data goes in.
        orientation: EXIF's, 1..8; 1 where the file says nothing.
        sealed_at: byte ranges of what carries the sealed data, whole segments and chunks.
        quality: of a JPEG, 1..100 on libjpeg's scale; 0 where it cannot be told.
        sampling: of a JPEG's colours, "4:2:0" or another of SAMPLINGS; "" where it is none of them.
    """

    format: Format
    width: int
    height: int
    animated: bool
    lossless: bool
    sealed: tuple[bytes, ...]
    insert_at: int
    orientation: int = 1
    sealed_at: tuple[tuple[int, int], ...] = ()
    quality: int = 0
    sampling: str = ""


def read_header(data: bytes) -> Header:
    """Read the header and the sealed data of a picture file; no pixel is decoded.

    Raises:
        BadInputError: it is no JPEG, PNG, WebP or TIFF, it ends too early, or its sealed data is
            damaged.
    """
    if not data:
        raise BadInputError("the image is empty (0 bytes)")
    if data.startswith(_JPEG_START):
        return _jpeg(data)
    if data.startswith(_PNG_START):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(_TIFF_STARTS):
        return _tiff(data)
    raise BadInputError("this is not a JPEG, PNG, WebP or TIFF image; give one of these")


def read_sealed(data: bytes) -> list[bytes]:
    """The envelopes in a file, in order; an empty list where it carries none.

    Raises:
        BadInputError: see `read_header`.
    """
    return list(read_header(data).sealed)


def embed(data: bytes, envelopes: Sequence[bytes]) -> bytes:
    """The file with `envelopes` inside; its picture is not touched.

    Raises:
        BadInputError: see `read_header`; or it carries sealed data already.
    """
    header = read_header(data)
    if header.sealed:
        raise BadInputError("the image carries sealed plates already; recover it first")
    if not envelopes:
        return data
    if len(envelopes) > MAX_ENVELOPES:
        raise BadInputError(f"{len(envelopes)} envelopes, a file holds at most {MAX_ENVELOPES}")
    blob = pack(envelopes)
    if header.format == "webp":
        return _webp_with(data, header, blob)
    if header.format == "tiff":
        return _tiff_with(data, blob)
    parts = _png_chunk(blob) if header.format == "png" else _jpeg_segments(blob)
    return b"".join((data[: header.insert_at], parts, data[header.insert_at :]))


def without_sealed(data: bytes) -> bytes:
    """The file without its sealed data; everything else is as it was.

    Raises:
        BadInputError: see `read_header`.
    """
    header = read_header(data)
    if not header.sealed_at:
        return data
    if header.format == "tiff":
        return _tiff_without(data, header)
    pieces, at = [], 0
    for start, end in header.sealed_at:
        pieces.append(data[at:start])
        at = end
    left = b"".join((*pieces, data[at:]))
    if header.format == "webp":
        left = left[:4] + struct.pack("<I", len(left) - 8) + left[8:]
    return left


def read_sidecar(data: bytes) -> list[bytes]:
    """The envelopes in a sidecar, in order.

    Raises:
        BadInputError: it is damaged or no sidecar.
    """
    return list(_unpack(data))


def pack(envelopes: Sequence[bytes]) -> bytes:
    """The blob that holds these envelopes; alone in a file it is a sidecar."""
    parts = [_BLOB_HEAD.pack(_BLOB_MAGIC, _BLOB_VERSION, bytes(3), len(envelopes))]
    for envelope in envelopes:
        parts += [struct.pack("<I", len(envelope)), envelope]
    return b"".join(parts)


def _unpack(blob: bytes) -> tuple[bytes, ...]:
    if len(blob) < _BLOB_HEAD.size or blob[:4] != _BLOB_MAGIC:
        raise _damaged()
    _, version, reserved, count = _BLOB_HEAD.unpack_from(blob)
    if version != _BLOB_VERSION:
        raise BadInputError(
            f"the sealed data has version {version}, this program reads {_BLOB_VERSION}; update it"
        )
    if any(reserved) or count > MAX_ENVELOPES:
        raise _damaged()
    at, envelopes = _BLOB_HEAD.size, []
    for _ in range(count):
        if at + 4 > len(blob):
            raise _damaged()
        (size,) = struct.unpack_from("<I", blob, at)
        at += 4 + size  # one that reaches too far is noticed by the next, or below
        envelopes.append(blob[at - size : at])
    if at != len(blob) or not envelopes:
        raise _damaged()
    return tuple(envelopes)


def _jpeg(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    insert_at: int | None = None
    pieces: list[bytes] = []
    places: list[tuple[int, int]] = []
    turned: int | None = None
    quality, sampling = 0, ""
    frame = 0, 0
    for marker, start, payload_at, end in jpeg_parts(data):
        if marker == _DQT and not quality:
            quality = _quality(data[payload_at : min(end, payload_at + 1 + _CELLS)])
        if not (0xE0 <= marker <= 0xEF or marker == _COM) and insert_at is None:
            insert_at = start
        if marker == _APP9 and data.startswith(_JPEG_MARK, payload_at, end):
            pieces.append(data[payload_at + len(_JPEG_MARK) : end])
            places.append((start, end))
        if marker == _APP1 and turned is None and data.startswith(_JPEG_EXIF, payload_at, end):
            turned = orientation(data[payload_at + len(_JPEG_EXIF) : end])
        # C0..CF are frame headers, but for DHT (C4), JPG (C8) and DAC (CC).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if end - payload_at < 6:
                raise _cut("JPEG")
            size = struct.unpack_from(">HH", data, payload_at + 1)
            sampling = _sampling(data[payload_at + 5 : end])
            frame = marker, data[payload_at + 5]
    if size is None or insert_at is None:
        raise _cut("JPEG")
    # Where the first scan has all components there is no other: it is not worth a look at the file.
    if frame not in ((0xC0, data[payload_at]), (0xC1, data[payload_at])):
        _check_scans(data, end)
    sealed = _join(pieces)
    header = Header("jpeg", size[1], size[0], False, False, sealed, insert_at, turned or 1)
    return replace(header, sealed_at=tuple(places), quality=quality, sampling=sampling)


def _check_scans(data: bytes, at: int) -> None:
    """Refuse too many; `at` is where the data of the first one begins.

    A decoder goes over the whole picture for each, so a small file could keep it busy for hours.
    """
    if data.count(_SCAN, at) < MAX_SCANS:
        return
    count = 1
    while found := AFTER_SCAN.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            return
        count += marker == _SOS
        if count > MAX_SCANS:
            raise BadInputError(
                f"the JPEG has more than {MAX_SCANS} scans, as no camera or program writes it"
            )
        at += int.from_bytes(data[at : at + 2], "big")


def _sampling(components: bytes) -> str:
    """The name of the colours' sampling, from the end of a frame header (T.81, B.2.2)."""
    if len(components) != 10 or components[0] != 3:  # 3 components of 3 bytes: id, factors, table
        return ""
    luma, first, second = components[2::3]
    across, down = first >> 4, first & 0xF
    # Other factors may say the same: what counts is how many samples of luma fall on one of colour.
    if first != second or not across or not down or (luma >> 4) % across or (luma & 0xF) % down:
        return ""
    ratio = (luma >> 4) // across << 4 | (luma & 0xF) // down
    return next((name for name, factors in SAMPLINGS.items() if factors == ratio), "")


@cache
def _coarseness() -> list[int]:
    """The sums of libjpeg's luminance tables, quality 1 to 100: each is less than the one before.

    The scale is libjpeg's, the table that it scales is K.1 of ITU-T T.81.
    """
    scales = [5000 // q if q < 50 else 200 - 2 * q for q in range(1, 101)]
    return [sum(min(max((v * scale + 50) // 100, 1), 255) for v in _K1) for scale in scales]


def _quality(table: bytes) -> int:
    """The lowest quality that quantises no coarser than a table of the DQT segment (8 bit, first).

    Of a file that libjpeg wrote it is the quality that was asked for.
    """
    if len(table) != 1 + _CELLS or table[0] != 0:
        return 0
    found = sum(table[1:])
    return next((q for q, total in enumerate(_coarseness(), 1) if total <= found), 100)


def jpeg_parts(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Marker, its offset, offset and end of its payload; up to and with the first scan's head.

    Raises:
        BadInputError: it ends too early, or has too many parts.
    """
    at = len(_JPEG_START)
    for _ in range(MAX_PARTS):
        found = _NEXT_MARKER.search(data, at)  # bytes before a marker are skipped, as decoders do
        if found is None:
            raise _cut("JPEG")
        marker = data[found.end() - 1]
        start, at = found.span()
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # stand alone
            continue
        if marker == _EOI or at + 2 > len(data):
            raise _cut("JPEG")
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end < at + 2 or end > len(data):
            raise _cut("JPEG")
        yield marker, start, at + 2, end
        if marker == _SOS:
            return
        at = end
    raise _too_many()


def _jpeg_segments(blob: bytes) -> bytes:
    identity = hashlib.sha256(blob).digest()[:8]
    pieces = [blob[at : at + _JPEG_PIECE] for at in range(0, len(blob), _JPEG_PIECE)]
    if len(pieces) > 0xFFFF:
        raise BadInputError(f"{len(blob)} bytes of sealed data do not fit into one JPEG")
    parts = []
    for index, piece in enumerate(pieces):
        payload = _JPEG_MARK + _JPEG_PART.pack(identity, index, len(pieces)) + piece
        parts.append(jpeg_segment(_APP9, payload))
    return b"".join(parts)


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    """A whole segment; the payload has at most 65533 bytes."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(payload) + 2) + payload


def _join(segments: list[bytes]) -> tuple[bytes, ...]:
    """The envelopes in the APP9 segments, whatever order these came in."""
    if not segments:
        return ()
    pieces: dict[int, bytes] = {}
    sets: set[tuple[bytes, int]] = set()
    for segment in segments:
        if len(segment) < _JPEG_PART.size:
            raise _damaged()
        identity, index, count = _JPEG_PART.unpack_from(segment)
        sets.add((identity, count))
        pieces[index] = segment[_JPEG_PART.size :]
    if len(sets) > 1:
        raise BadInputError(
            "the sealed data of several images is mixed in this file; take an unchanged copy"
        )
    ((identity, count),) = sets
    if len(segments) != count or sorted(pieces) != list(range(count)):
        raise _damaged()
    blob = b"".join(pieces[index] for index in range(count))
    if hashlib.sha256(blob).digest()[:8] != identity:
        raise _damaged()
    return _unpack(blob)


def _png(data: bytes) -> Header:
    size: tuple[int, int] | None = None
    animated, envelopes = False, tuple[bytes, ...]()
    places: list[tuple[int, int]] = []
    turned = 1
    for kind, at, body, end in png_parts(data):
        # Exactly one header, in front: a second one could announce another size to the decoder.
        if (kind == b"IHDR") != (size is None) or (size is None and end - body != 13):
            raise _cut("PNG")
        if size is None:
            size = struct.unpack_from(">II", data, body)
        elif kind == b"acTL":
            animated = True
        elif kind == _PNG_SEALED:
            (crc,) = struct.unpack_from(">I", data, end)
            if places or crc != zlib.crc32(data[at + 4 : end]):
                raise _damaged()
            envelopes = _unpack(data[body:end])
            places.append((at, end + 4))
        elif kind == b"eXIf":
            turned = orientation(data[body:end])
        elif kind == b"IEND":
            return Header("png", *size, animated, True, envelopes, at, turned, tuple(places))
    raise _cut("PNG")


def png_parts(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Type, offset of the chunk, offset and end of its body.

    Raises:
        BadInputError: it ends too early, or has too many parts.
    """
    at = len(_PNG_START)
    for _ in range(MAX_PARTS):
        if at + 12 > len(data):
            raise _cut("PNG")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise _cut("PNG")
        yield kind, at, at + 8, end
        at = end + 4
    raise _too_many()


def _png_chunk(blob: bytes) -> bytes:
    return png_chunk(_PNG_SEALED, blob)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A whole chunk."""
    typed = kind + body
    return struct.pack(">I", len(body)) + typed + struct.pack(">I", zlib.crc32(typed))


def _webp(data: bytes) -> Header:
    chunks = dict[bytes, tuple[int, int]]()
    end = _webp_end(data)
    for kind, body, length in webp_parts(data):
        if kind == _WEBP_SEALED and kind in chunks:
            raise _damaged()
        chunks.setdefault(kind, (body, length))
    width, height = _webp_size(data, chunks)
    sealed, places = tuple[bytes, ...](), tuple[tuple[int, int], ...]()
    if _WEBP_SEALED in chunks:
        body, length = chunks[_WEBP_SEALED]
        sealed = _unpack(data[body : body + length])
        places = ((body - 8, min(body + length + length % 2, end)),)
    turned = 1
    if b"EXIF" in chunks:
        body, length = chunks[b"EXIF"]
        turned = orientation(data[body : body + length].removeprefix(_JPEG_EXIF))
    animated = b"ANIM" in chunks or b"ANMF" in chunks
    lossless = b"VP8L" in chunks
    return Header("webp", width, height, animated, lossless, sealed, end, turned, places)


def _webp_end(data: bytes) -> int:
    if len(data) < 12:
        raise _cut("WebP")
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise _cut("WebP")
    return end


def webp_parts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, offset and length of the body of each chunk.

    Raises:
        BadInputError: it ends too early, or has too many parts.
    """
    at, end = 12, _webp_end(data)
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise _cut("WebP")
        yield kind, at + 8, length
        at += 8 + length + length % 2
    raise _too_many()


def _webp_size(data: bytes, chunks: dict[bytes, tuple[int, int]]) -> tuple[int, int]:
    """Width and height: of the canvas, else of the one bitstream."""
    for kind, need in ((b"VP8X", 10), (b"VP8L", 5), (b"VP8 ", 10)):
        if kind not in chunks:
            continue
        body, length = chunks[kind]
        if length < need:
            raise _cut("WebP")
        if kind == b"VP8X":
            wide, high = data[body + 4 : body + 7], data[body + 7 : body + 10]
            return 1 + int.from_bytes(wide, "little"), 1 + int.from_bytes(high, "little")
        if kind == b"VP8L":
            bits = int.from_bytes(data[body + 1 : body + 5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        wide, high = data[body + 6 : body + 8], data[body + 8 : body + 10]
        return int.from_bytes(wide, "little") & 0x3FFF, int.from_bytes(high, "little") & 0x3FFF
    raise _cut("WebP")


def _webp_with(data: bytes, header: Header, blob: bytes) -> bytes:
    """Only the extended format may carry chunks of others: make the file one first."""
    extended = b""
    if data[12:16] != b"VP8X":
        alpha = data[12:16] == b"VP8L" and data[24] & 0x10
        canvas = b"".join((n - 1).to_bytes(3, "little") for n in (header.width, header.height))
        flags = bytes([_WEBP_ALPHA if alpha else 0, 0, 0, 0])
        extended = b"VP8X" + struct.pack("<I", 10) + flags + canvas
    chunks = data[12 : header.insert_at]
    chunk = _WEBP_SEALED + struct.pack("<I", len(blob)) + blob + b"\0" * (len(blob) % 2)
    body = b"".join((b"WEBP", extended, chunks, b"\0" * (len(chunks) % 2), chunk))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(data: bytes) -> Header:
    try:
        tags = Tags(data)
        entries, after = tags.directory(tags.first)
        width = tags.number(entries.get(_TIFF_WIDTH))
        height = tags.number(entries.get(_TIFF_HEIGHT))
        turned = tags.number(entries.get(ORIENTATION), 1)
    except ValueError:
        raise _cut("TIFF") from None
    sealed, places = tuple[bytes, ...](), tuple[tuple[int, int], ...]()
    found = entries.get(_TIFF_SEALED)
    if found is not None:
        end = found.value_at + found.bytes
        if found.kind != _UNDEFINED or end > len(data):
            raise _damaged()
        sealed = _unpack(data[found.value_at : end])
        places = ((found.value_at, end),)
    turned = turned if 1 <= turned <= 8 else 1
    return Header("tiff", width, height, bool(after), True, sealed, len(data), turned, places)


def _tiff_with(data: bytes, blob: bytes) -> bytes:
    """A new first directory at the end, which has one entry more; the rest is not touched."""
    tags = Tags(data)
    entries, after = tags.directory(tags.first)
    blob_at = len(data) + len(data) % 2
    raw = {tag: data[entry.at : entry.at + 12] for tag, entry in entries.items()}
    raw[_TIFF_SEALED] = struct.pack(
        tags.order + "HHII", _TIFF_SEALED, _UNDEFINED, len(blob), blob_at
    )
    directory_at = blob_at + len(blob) + len(blob) % 2
    head = data[:4] + struct.pack(tags.order + "I", directory_at)
    directory = b"".join(
        (
            struct.pack(tags.order + "H", len(raw)),
            *(raw[tag] for tag in sorted(raw)),
            struct.pack(tags.order + "I", after),
        )
    )
    padding = b"\0" * (blob_at - len(data))
    return b"".join((head, data[8:], padding, blob, b"\0" * (len(blob) % 2), directory))


def _tiff_without(data: bytes, header: Header) -> bytes:
    """Cut off what `_tiff_with` appended, or blank it where something came after it."""
    tags = Tags(data)
    entries, after = tags.directory(tags.first)
    ((start, end),) = header.sealed_at
    kept = [data[e.at : e.at + 12] for tag, e in sorted(entries.items()) if tag != _TIFF_SEALED]
    appended = tags.first == end + (end - start) % 2
    left = data[:start] if appended else data[:start] + bytes(end - start) + data[end:]
    left += b"\0" * (len(left) % 2)
    directory = b"".join(
        (struct.pack(tags.order + "H", len(kept)), *kept, struct.pack(tags.order + "I", after))
    )
    return left[:4] + struct.pack(tags.order + "I", len(left)) + left[8:] + directory


def _cut(kind: str) -> BadInputError:
    return BadInputError(f"the {kind} image is damaged or ends too early; fetch it again")


def _damaged() -> BadInputError:
    return BadInputError(
        "the sealed data in the image is damaged or was tampered with; take an unchanged copy"
    )


def _too_many() -> BadInputError:
    return BadInputError(f"the image has more than {MAX_PARTS} parts; that is no real picture")
