"""Sealed data survives in every kind of file, and damage to it is noticed, never followed."""

import io
import random
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from platecrypt.errors import BadInputError
from platecrypt.imaging import decode, embed, encode, read_sealed
from platecrypt.imaging.containers import MAX_ENVELOPES, MAX_PARTS, Format

PIXELS = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
FORMATS: tuple[Format, ...] = ("jpeg", "png", "webp")
FILES = {f: encode(PIXELS, f) for f in FORMATS}
FILES_LOSSLESS_WEBP = encode(PIXELS, "webp", lossless=True)
LARGE = [random.Random(3).randbytes(200_000), b"", b"x", random.Random(4).randbytes(65_501)]


def segments(data: bytes) -> list[tuple[int, int]]:
    """Start and end of our segments in a JPEG."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xE9:
            found.append((at, end))
        at = end
    return found


@pytest.mark.parametrize("data", [*FILES.values(), FILES_LOSSLESS_WEBP])
@pytest.mark.parametrize("envelopes", [[b"one"], [b"one", b"four"], LARGE])
def test_what_was_embedded_is_read_and_the_picture_is_the_same(
    data: bytes, envelopes: list[bytes]
) -> None:
    sealed = embed(data, envelopes)
    assert read_sealed(sealed) == envelopes
    assert (decode(sealed).pixels == decode(data).pixels).all()
    ours, theirs = (Pillow.open(io.BytesIO(d)).convert("RGB") for d in (sealed, data))
    assert (np.asarray(ours) == np.asarray(theirs)).all()
    assert len(sealed) - len(data) < sum(map(len, envelopes)) * 1.001 + 100


@pytest.mark.parametrize("data", [*FILES.values(), FILES_LOSSLESS_WEBP])
def test_without_sealed_data_there_is_none(data: bytes) -> None:
    assert read_sealed(data) == []
    assert embed(data, []) == data


@pytest.mark.parametrize("format_", FORMATS)
def test_sealed_data_is_never_embedded_twice(format_: Format) -> None:
    with pytest.raises(BadInputError, match="carries sealed plates already"):
        embed(embed(FILES[format_], [b"one"]), [b"two"])


@pytest.mark.parametrize("format_", FORMATS)
def test_saving_again_drops_the_sealed_data_and_reading_says_none(format_: Format) -> None:
    out = io.BytesIO()
    Pillow.open(io.BytesIO(embed(FILES[format_], [b"one"]))).convert("RGB").save(out, format_)
    assert read_sealed(out.getvalue()) == []


def test_jpeg_segments_are_put_in_order_again() -> None:
    sealed = embed(FILES["jpeg"], LARGE)
    places = segments(sealed)
    assert len(places) == 5
    parts = [sealed[a:b] for a, b in places]
    shuffled = sealed[: places[0][0]] + b"".join(reversed(parts)) + sealed[places[-1][1] :]
    assert shuffled != sealed
    assert read_sealed(shuffled) == LARGE


def test_jpeg_keeps_its_jfif_header_in_front() -> None:
    sealed = embed(FILES["jpeg"], [b"one"])
    assert sealed[:11] == FILES["jpeg"][:11]
    assert sealed[6:10] == b"JFIF"


def test_a_missing_doubled_or_foreign_jpeg_segment_is_noticed() -> None:
    sealed = embed(FILES["jpeg"], LARGE)
    places = segments(sealed)
    start, end = places[2]
    other = embed(FILES["jpeg"], [*LARGE, b"more"])
    a, b = segments(other)[2]
    for changed in (
        sealed[:start] + sealed[end:],
        sealed[:end] + sealed[start:end] + sealed[end:],
    ):
        with pytest.raises(BadInputError, match="damaged or was tampered"):
            read_sealed(changed)
    with pytest.raises(BadInputError, match="several images is mixed"):
        read_sealed(sealed[:start] + other[a:b] + sealed[end:])


@pytest.mark.parametrize("format_", ["jpeg", "png"])
def test_every_changed_byte_of_sealed_data_is_noticed(format_: Format) -> None:
    # WebP has no checksum of its own: there the envelopes' authentication notices.
    data = FILES[format_]
    sealed = embed(data, [b"one", b"two"])
    start = sealed.index(b"SLEB")
    for at in range(start, sealed.index(b"two") + 3):
        changed = bytearray(sealed)
        changed[at] ^= 0x10
        with pytest.raises(BadInputError):
            read_sealed(bytes(changed))


def test_another_version_is_named() -> None:
    sealed = bytearray(embed(FILES["webp"], [b"one"]))
    sealed[sealed.index(b"SLEB") + 4] = 9
    with pytest.raises(BadInputError, match="version 9"):
        read_sealed(bytes(sealed))


def test_two_sealed_chunks_are_refused() -> None:
    one = embed(FILES["png"], [b"one"])
    at = one.index(b"slEp") - 4
    end = one.index(b"IEND") - 4
    with pytest.raises(BadInputError):
        read_sealed(one[:end] + one[at:end] + one[end:])


def with_blob(format_: Format, blob: bytes) -> bytes:
    """A PNG or WebP file that carries `blob` as it is."""
    if format_ == "png":
        end = FILES["png"].rindex(b"IEND") - 4
        typed = b"slEp" + blob
        chunk = struct.pack(">I", len(blob)) + typed + struct.pack(">I", zlib.crc32(typed))
        return FILES["png"][:end] + chunk + FILES["png"][end:]
    chunks = FILES["webp"][12:] + b"SLE1" + struct.pack("<I", len(blob)) + blob
    body = b"WEBP" + chunks + b"\0" * (len(blob) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


HEAD = b"SLEB\1\0\0\0"
BLOBS = [
    b"",
    b"SLEB",
    HEAD,
    HEAD + struct.pack("<I", 0),
    HEAD + struct.pack("<I", 1),
    HEAD + struct.pack("<II", 1, 5) + b"four",
    HEAD + struct.pack("<II", 1, 3) + b"four",
    HEAD + struct.pack("<II", 0xFFFFFFFF, 4) + b"four",
    HEAD + struct.pack("<II", 1, 0xFFFFFFFF) + b"four",
]


@pytest.mark.parametrize("blob", BLOBS)
@pytest.mark.parametrize("format_", ["png", "webp"])
def test_lying_lengths_are_refused(format_: Format, blob: bytes) -> None:
    with pytest.raises(BadInputError):
        read_sealed(with_blob(format_, blob))
    good = HEAD + struct.pack("<II", 1, 4) + b"four"
    assert read_sealed(with_blob(format_, good)) == [b"four"]


def test_endless_parts_are_refused_in_bounded_time() -> None:
    png = FILES["png"][:33] + b"\0\0\0\0teST\0\0\0\0" * (MAX_PARTS + 5) + FILES["png"][33:]
    jpeg = FILES["jpeg"][:2] + b"\xff\xe5\0\2" * (MAX_PARTS + 5) + FILES["jpeg"][2:]
    chunks = FILES["webp"][12:] + b"teST\0\0\0\0" * (MAX_PARTS + 5)
    webp = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    for data in (png, jpeg, webp):
        started = time.process_time()
        with pytest.raises(BadInputError, match="parts"):
            read_sealed(data)
        assert time.process_time() - started < 2


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_endless_envelopes_are_refused(format_: Format) -> None:
    count = MAX_ENVELOPES + 1
    with pytest.raises(BadInputError, match="damaged"):
        read_sealed(with_blob(format_, HEAD + struct.pack("<I", count) + bytes(4 * count)))
    with pytest.raises(BadInputError, match="10001 envelopes"):
        embed(FILES[format_], [b""] * count)
    assert len(read_sealed(embed(FILES[format_], [b""] * MAX_ENVELOPES))) == MAX_ENVELOPES


def test_a_run_of_fill_bytes_costs_linear_time() -> None:
    started = time.process_time()
    with pytest.raises(BadInputError):
        read_sealed(b"\xff\xd8" + b"\xff" * 8_000_000 + b"\0")
    assert time.process_time() - started < 2


@settings(max_examples=300, deadline=None)
@given(
    format_=st.sampled_from(FORMATS),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=0, max_size=6)), max_size=4),
    cut=st.floats(0, 1),
)
def test_damaged_files_are_read_or_refused_but_never_crash(
    format_: Format, edits: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(embed(FILES[format_], [b"one", b"two"]))
    for where, put in edits:
        at = int(where * len(data))
        data[at : at + len(put)] = put
    if cut < 0.3:
        del data[int(cut / 0.3 * len(data)) :]
    message = ""
    try:
        read_sealed(bytes(data))
        decode(bytes(data))
    except BadInputError as error:
        message = str(error)
    assert "\n" not in message


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBP"]),
    st.binary(max_size=300),
)
def test_arbitrary_bytes_never_crash_the_parsers(start: bytes, rest: bytes) -> None:
    with pytest.raises(BadInputError):
        decode(start + rest)
