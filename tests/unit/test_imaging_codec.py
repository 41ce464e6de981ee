"""Picture files are decoded upright and whole, or refused in one line before memory is spent."""

import contextlib
import hashlib
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from platecrypt.errors import BadInputError
from platecrypt.imaging import decode, encode, read_sealed
from platecrypt.imaging.containers import SAMPLINGS, jpeg_segment, read_header

RNG = np.random.default_rng(1)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "lossy webp": ("WEBP", {"quality": 80}),
    "lossless webp": ("WEBP", {"lossless": True}),
}


def picture(width: int = 61, height: int = 45) -> npt.NDArray[np.uint8]:
    down, across = np.mgrid[0:height, 0:width]
    planes = np.dstack([down * 4, across * 3, (down + across) * 2]) % 256
    return np.asarray(planes, np.uint8)


def file(kind: str, pixels: npt.NDArray[np.uint8] | None = None, **more: Any) -> bytes:
    name, options = KINDS[kind]
    out = io.BytesIO()
    Pillow.fromarray(picture() if pixels is None else pixels).save(out, name, **options, **more)
    return out.getvalue()


def one_line(data: bytes, **limits: int) -> str:
    with pytest.raises(BadInputError) as caught:
        decode(data, **limits)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_decodes_to_what_an_independent_decoder_sees(kind: str) -> None:
    data = file(kind)
    image = decode(data)
    reference = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))
    assert image.pixels.shape == (45, 61, 3)
    assert image.pixels.dtype == np.uint8
    assert np.abs(image.pixels.astype(int) - reference).max() <= 2
    assert image.format == kind.split()[-1]
    assert image.lossless == (kind in ("png", "lossless webp"))
    assert image.source == data
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.sealed == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "lossless webp"])
def test_pixels_are_upright_whatever_the_exif_orientation(kind: str, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = file(kind, exif=exif)
    upright = ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB")
    image = decode(data)
    assert (image.width, image.height) == upright.size
    assert np.abs(image.pixels.astype(int) - np.asarray(upright)).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    out = io.BytesIO()
    Pillow.fromarray(picture()).convert(mode).save(out, "PNG")
    assert decode(out.getvalue()).pixels.shape == (45, 61, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpeg_become_rgb(mode: str) -> None:
    out = io.BytesIO()
    Pillow.fromarray(picture()).convert(mode).save(out, "JPEG", quality=95)
    reference = np.asarray(Pillow.open(io.BytesIO(out.getvalue())).convert("RGB"))
    assert np.abs(decode(out.getvalue()).pixels.astype(int) - reference).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = file(kind)
    for size in [*range(0, len(data), 37), *range(len(data) - 8, len(data))]:
        # A JPEG may lose nothing but its end mark; the others are cut by any byte.
        one_line(data[:size])


def test_what_is_no_picture_is_refused() -> None:
    assert "0 bytes" in one_line(b"")
    for data in (b"hello", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", bytes(5000)):
        one_line(data)
    out = io.BytesIO()
    Pillow.fromarray(picture()).save(out, "GIF")
    assert "not a JPEG, PNG, WebP or TIFF" in one_line(out.getvalue())


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        typed = kind + body
        return struct.pack(">I", len(body)) + typed + struct.pack(">I", zlib.crc32(typed))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    idat = zlib.compress(bytes(500))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg_bomb(side: int) -> bytes:
    data = bytearray(file("jpeg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def webp_bomb(side: int) -> bytes:
    body = b"WEBPVP8L" + struct.pack("<IBI", 5, 0x2F, (side - 1) | (side - 1) << 14) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("bomb", [png_bomb(50_000), jpeg_bomb(50_000), webp_bomb(16_384)])
def test_a_giant_is_refused_before_its_memory_is_spent(bomb: bytes) -> None:
    assert len(bomb) < 4096
    tracemalloc.start()
    try:
        assert "allowed" in one_line(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_second_png_header_cannot_announce_another_size() -> None:
    small, big = file("png"), png_bomb(50_000)
    for data in (small[:33] + big[8:33] + small[33:], big[:33] + small[8:33] + big[33:]):
        one_line(data)
        with pytest.raises(BadInputError):
            read_sealed(data)


def test_limits_are_the_callers() -> None:
    data = file("png")
    assert "more than the 100 allowed" in one_line(data, max_bytes=100)
    assert "61 x 45" in one_line(data, max_pixels=61 * 45 - 1)
    assert decode(data, max_bytes=len(data), max_pixels=61 * 45).width == 61


@pytest.mark.parametrize("name", ["WEBP", "PNG"])
def test_animations_are_refused(name: str) -> None:
    frames = [Pillow.fromarray(picture()), Pillow.fromarray(picture()[::-1].copy())]
    out = io.BytesIO()
    frames[0].save(out, name, save_all=True, append_images=frames[1:])
    assert "animated" in one_line(out.getvalue())


def test_png_and_lossless_webp_keep_every_pixel() -> None:
    noise = RNG.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert (decode(encode(noise, "png")).pixels == noise).all()
    assert (decode(encode(noise, "webp", lossless=True)).pixels == noise).all()


@pytest.mark.parametrize("asked", [1, 10, 49, 50, 75, 80, 92, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_table(asked: int) -> None:
    assert decode(encode(picture(), "jpeg", quality=asked)).quality == asked
    out = io.BytesIO()
    Pillow.fromarray(picture()).save(out, "JPEG", quality=asked, progressive=True)
    assert decode(out.getvalue()).quality == asked


def test_a_foreign_table_counts_as_the_next_finer_one() -> None:
    """And pictures that are no JPEG have no quality."""
    out = io.BytesIO()
    Pillow.fromarray(picture()).save(out, "JPEG", qtables=[[20] * 64, [30] * 64])
    found = decode(out.getvalue()).quality
    finer, coarser = (encode(picture(), "jpeg", quality=q) for q in (found, found - 1))
    assert _table(finer) <= 20 * 64 < _table(coarser)
    assert decode(encode(picture(), "png")).quality == 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_sampling_of_a_jpeg_is_read_and_written(sampling: str) -> None:
    data = encode(picture(), "jpeg", sampling=sampling)
    assert decode(data).sampling == sampling
    exif = Pillow.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    lying = data[:2] + jpeg_segment(0xE1, exif.tobytes()) + data[2:]
    across = {"4:2:2": "4:4:0", "4:4:0": "4:2:2", "4:1:1": ""}
    assert decode(lying).sampling == across.get(sampling, sampling)


@pytest.mark.parametrize(
    ("factors", "sampling"),
    [
        (b"\x22\x12\x12", "4:2:2"),
        (b"\x22\x21\x21", "4:4:0"),
        (b"\x22\x22\x22", "4:4:4"),
        (b"\x42\x11\x11", ""),
        (b"\x21\x11\x21", ""),
        (b"\x11\x22\x22", ""),
        (b"\x22\x00\x00", ""),
    ],
)
def test_what_counts_is_the_ratio_of_the_factors(factors: bytes, sampling: str) -> None:
    data = bytearray(encode(picture(), "jpeg"))
    at = data.index(b"\xff\xc0") + 11
    data[at : at + 9 : 3] = factors
    assert read_header(bytes(data)).sampling == sampling


def test_a_picture_without_usual_colours_has_no_sampling() -> None:
    out = io.BytesIO()
    Pillow.fromarray(picture()).convert("L").save(out, "JPEG")
    assert decode(out.getvalue()).sampling == ""
    assert decode(encode(picture(), "png")).sampling == ""
    with pytest.raises(BadInputError, match="4:2:1"):
        encode(picture(), "jpeg", sampling="4:2:1")


def _table(data: bytes) -> int:
    at = data.index(b"\xff\xdb") + 5
    return sum(data[at : at + 64])


def test_quality_is_what_it_says() -> None:
    for kind in ("jpeg", "webp"):
        low, high = (encode(picture(), kind, quality=q) for q in (20, 95))
        assert len(low) < len(high)
        error = np.abs(decode(high).pixels.astype(int) - picture()).mean()
        assert error < np.abs(decode(low).pixels.astype(int) - picture()).mean()


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(BadInputError, match="'gif'"):
        encode(picture(), "gif")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="quality 0"):
        encode(picture(), "jpeg", quality=0)
    with pytest.raises(BadInputError, match="cannot be written as webp"):
        encode(np.zeros((1, 16384, 3), np.uint8), "webp")
    with pytest.raises(ValueError, match="float64"):
        encode(np.zeros((4, 4, 3)), "png")  # type: ignore[arg-type]


def scans(count: int) -> bytes:
    """A progressive JPEG with so many copies of its last scan more."""
    data = file("progressive jpeg")
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_a_small_file_cannot_keep_the_decoder_busy_for_hours() -> None:
    """Each scan of a progressive JPEG is a pass over the whole picture."""
    assert decode(scans(20)).pixels.shape == (45, 61, 3)
    assert "more than 100 scans" in one_line(scans(100))
    data = scans(100)
    at = data.rindex(b"\xff\xda")  # an end of the picture inside of a comment is none
    hidden = data[:at] + jpeg_segment(0xFE, b"\xff\xd9") + data[at:]
    assert "more than 100 scans" in one_line(hidden)


def test_a_sequential_file_of_many_scans_is_refused_as_well() -> None:
    """Its first scan has one component of three, so that a decoder waits for others."""
    out = io.BytesIO()
    Pillow.fromarray(picture()).save(out, "JPEG")
    data = out.getvalue()
    at = data.index(b"\xff\xda")
    head, coded = data[at : at + 14], data[at + 14 : -2]
    one = head[:3] + b"\x08\x01" + head[5:7] + head[11:]
    many = data[:at] + (one + coded) * 102 + data[-2:]
    assert "more than 100 scans" in one_line(many)
    whole = data[:at] + (head + coded) * 102 + data[-2:]  # libjpeg ends after the first
    with contextlib.suppress(BadInputError):
        decode(whole)


def test_marks_of_scans_in_metadata_or_behind_the_picture_are_none() -> None:
    data = file("jpeg")
    noise = b"\xff\xda" * 500
    whole = data[:2] + jpeg_segment(0xE5, noise) + data[2:] + noise
    np.testing.assert_array_equal(decode(whole).pixels, decode(data).pixels)
