"""A published file loses nothing outside of its plates, and the key gives everything back."""

import io
import os
import re
import runpy
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jpeglib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from platecrypt.cipher import DETACHED, Keyring, disclosure_token, inspect
from platecrypt.errors import BadInputError
from platecrypt.imaging import (
    Origin,
    ProtectedFile,
    Region,
    decode,
    protect_file,
    read_sealed,
    read_sidecar,
    recover,
    visible,
)
from platecrypt.imaging.containers import read_header
from platecrypt.imaging.orientation import (
    stored_region,
    upright,
    upright_region,
    upright_size,
)
from platecrypt.imaging.recover import sealed_in
from platecrypt.imaging.reseal import reseal_file, reseal_sidecar

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT.parent / "shared" / "data" / "plates-ro" / "images"
MAKE: dict[str, Any] = runpy.run_path(str(ROOT / "tests" / "support" / "pictures.py"))
RING = Keyring([os.urandom(32)])
ORIGIN = Origin("m", "1", "r", datetime(2026, 3, 1, tzinfo=UTC))
BOXES = [[40, 30, 95, 58], [150.5, 90, 190, 109.5]]


def protected(data: bytes, boxes: Any = BOXES, **options: Any) -> ProtectedFile:
    return protect_file(data, boxes, RING, origin=ORIGIN, **options)


def jpeg(width: int = 211, height: int = 143, mode: str | None = None, **options: Any) -> bytes:
    channels = 1 if mode == "L" else 3
    pixels = MAKE["street"](width, height, channels=channels)
    return bytes(MAKE["file"](pixels, "JPEG", mode, **{"quality": 88, **options}))


def segment(marker: int, body: bytes) -> Callable[[bytes], bytes]:
    return lambda data: bytes(MAKE["with_segments"](data, (marker, body)))


def unnamed_rgb() -> bytes:
    """Its component ids alone say that it is RGB."""
    return bytes(MAKE["without_segments"](jpeg(keep_rgb=True), 0xE0, 0xEE))


JPEGS: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: jpeg(subsampling=2),
    "4:2:2": lambda: jpeg(subsampling=1),
    "4:4:4": lambda: jpeg(subsampling=0),
    "grey": lambda: jpeg(mode="L"),
    "CMYK": lambda: jpeg(mode="CMYK"),
    "progressive CMYK": lambda: jpeg(mode="CMYK", progressive=True),
    "RGB": lambda: jpeg(keep_rgb=True),
    "RGB without a name": unnamed_rgb,
    "progressive": lambda: jpeg(progressive=True, quality=93),
    "optimised": lambda: jpeg(optimize=True),
    "restart markers": lambda: jpeg(restart_marker_blocks=3),
    "one MCU high": lambda: jpeg(640, 16),
    "odd": lambda: jpeg(193, 111),
}


def coefficients(data: bytes, folder: Path) -> list[npt.NDArray[Any]]:
    """What jpeglib reads, the library's oldest engine, not through our own code."""
    path = folder / "probe.jpg"
    path.write_bytes(data)
    jpeglib.version.set("6b")
    read = jpeglib.read_dct(str(path))
    read.load()
    return [c for c in (read.Y, read.Cb, read.Cr, read.K)[: read.num_components] if c is not None]


def under(regions: tuple[Region, ...], rows: int, columns: int, size: tuple[int, int]) -> Any:
    """Which blocks of a component lie under regions, in proportion."""
    covered = np.zeros((rows, columns), bool)
    high, wide = -(-size[1] // 8) / rows * 8, -(-size[0] // 8) / columns * 8
    for r in regions:
        top, left = int(r.y1 // high), int(r.x1 // wide)
        covered[top : int(np.ceil(r.y2 / high)), left : int(np.ceil(r.x2 / wide))] = True
    return covered


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_keeps_every_coefficient(kind: str, tmp_path: Path) -> None:
    source = JPEGS[kind]()
    boxes = [[40, 3, 95, 12]] if kind == "one MCU high" else BOXES
    found = protected(source, boxes)
    assert found.lossless
    assert found.notes == ()
    size = (decode(source).width, decode(source).height)
    before, after = coefficients(source, tmp_path), coefficients(found.data, tmp_path)
    back = recover(found.data, RING)
    assert back.file is not None
    again = coefficients(back.file, tmp_path)
    for one, two, three in zip(before, after, again, strict=True):
        covered = under(found.regions, *one.shape[:2], size)
        assert (one[~covered] == two[~covered]).all()
        assert (one == three).all()
    changed = (before[0] != after[0]).any(axis=(2, 3))
    assert changed[under(found.regions, *before[0].shape[:2], size)].mean() > 0.95
    # What a decoder makes of it is the same, colours included.
    with Image.open(io.BytesIO(source)) as first, Image.open(io.BytesIO(back.file)) as last:
        assert first.mode == last.mode
        assert (np.asarray(first) == np.asarray(last)).all()


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_hardly_grows(kind: str) -> None:
    source = JPEGS[kind]()
    boxes = [[40, 3, 95, 12]] if kind == "one MCU high" else BOXES
    found = protected(source, boxes)
    sealed = sum(inspect(envelope).plaintext_bytes for envelope in found.envelopes)
    assert len(found.data) <= 1.1 * len(source) + 4096 + 1.1 * sealed


@pytest.mark.parametrize("kind", JPEGS)
def test_cut_short_a_jpeg_is_refused(kind: str) -> None:
    source = JPEGS[kind]()
    for length in (*range(0, len(source) - 1, len(source) // 12), len(source) - 1):
        with pytest.raises(BadInputError):
            protected(source[:length], [[2, 2, 20, 12]])


def raster(form: str, mode: str, **options: Any) -> bytes:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    return bytes(MAKE["file"](MAKE["street"](211, 143, channels=channels), form, **options))


RASTERS: dict[str, Callable[[], bytes]] = {
    f"{form} {mode} {name}": lambda form=form, mode=mode, options=options: raster(
        form, mode, **options
    )
    for form, name, options in (
        ("PNG", "", {"icc_profile": b"profile" * 30}),
        ("WEBP", "lossless", {"lossless": True, "exact": True}),
        ("WEBP", "lossy", {"quality": 70}),
        ("TIFF", "raw", {}),
        ("TIFF", "lzw", {"compression": "tiff_lzw", "icc_profile": b"profile" * 30}),
        ("TIFF", "deflate", {"compression": "tiff_adobe_deflate"}),
    )
    for mode in ("L", "RGB", "RGBA")
}


def stored(data: bytes) -> npt.NDArray[Any]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("kind", RASTERS)
def test_the_others_keep_every_pixel(kind: str) -> None:
    source = RASTERS[kind]()
    found = protected(source)
    before, after = stored(source), stored(found.data)
    inside = np.zeros(before.shape[:2], bool)
    for r in found.regions:
        inside[r.y1 : r.y2, r.x1 : r.x2] = True
    assert (before[~inside] == after[~inside]).all()
    assert (before[inside] != after[inside]).any(axis=-1).mean() > 0.9
    back = recover(found.data, RING)
    assert back.file is not None
    assert (stored(back.file) == before).all()
    assert read_header(back.file).format == read_header(source).format
    if not kind.endswith("lossy"):
        sealed = sum(len(envelope) for envelope in found.envelopes)
        assert len(found.data) <= 1.1 * len(source) + 4096 + 1.1 * sealed


def test_a_colour_profile_and_other_chunks_stay() -> None:
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    source = raster("PNG", "RGB", icc_profile=b"profile" * 30, pnginfo=text, dpi=(300, 300))
    for data in (protected(source).data, recover(protected(source).data, RING).file):
        with Image.open(io.BytesIO(data or b"")) as image:
            assert image.info["icc_profile"] == b"profile" * 30
            assert image.info["Author"] == "somebody"
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    with Image.open(io.BytesIO(protected(source, strip_metadata=True).data)) as image:
        assert image.info["icc_profile"] == b"profile" * 30
        assert "Author" not in image.info


@pytest.mark.parametrize("mode", ["P", "LA", "1"])
def test_a_rare_mode_is_written_in_another_and_said(mode: str) -> None:
    source = bytes(MAKE["file"](MAKE["street"](211, 143), "PNG", mode))
    found = protected(source)
    assert mode in found.notes[0]
    back = recover(found.data, RING)
    with Image.open(io.BytesIO(source)) as image, Image.open(io.BytesIO(back.file or b"")) as now:
        assert (np.asarray(image.convert(now.mode)) == np.asarray(now)).all()


def test_sixteen_bits_are_refused() -> None:
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    out = io.BytesIO()
    Image.fromarray(deep).save(out, "PNG")
    with pytest.raises(BadInputError, match="8 bits"):
        protected(out.getvalue(), [[2, 2, 9, 9]])


def test_pages_are_refused() -> None:
    out = io.BytesIO()
    pages = [Image.fromarray(MAKE["street"](60, 40, seed)) for seed in (1, 2)]
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(BadInputError, match="pages"):
        protected(out.getvalue(), [[2, 2, 9, 9]])


TURNED = [(form, value) for form in ("JPEG", "PNG", "WEBP") for value in range(1, 9)]


@pytest.mark.parametrize(("form", "value"), TURNED)
def test_boxes_mean_the_picture_as_it_is_seen(form: str, value: int) -> None:
    upright_pixels = np.full((120, 200, 3), 90, np.uint8)
    upright_pixels[30:58, 40:96] = (250, 30, 40)
    # Store it so that a viewer that obeys the orientation shows it upright.
    pixels = next(
        candidate
        for turn in range(4)
        for flip in (False, True)
        if (candidate := np.rot90(upright_pixels[:, ::-1] if flip else upright_pixels, turn))
        is not None
        and upright(candidate, value).shape == upright_pixels.shape
        and (upright(candidate, value) == upright_pixels).all()
    )
    options = {"lossless": True} if form == "WEBP" else {}
    body = MAKE["exif"](value)
    source = MAKE["file"](np.ascontiguousarray(pixels), form, exif=body, **options)
    seen = visible(source)
    with Image.open(io.BytesIO(source)) as image:
        from PIL import ImageOps

        judged = np.asarray(ImageOps.exif_transpose(image))
    assert seen.shape == judged.shape == upright_pixels.shape
    assert np.abs(seen.astype(int) - judged).max() <= 4
    found = protected(source, [[40, 30, 96, 58]], margin=0.02)
    assert read_header(found.data).orientation == value
    now = visible(found.data)
    assert not ((now[..., 0] > 200) & (now[..., 1] < 80)).any()
    (region,) = found.regions
    assert region.x1 <= 40 < 96 <= region.x2
    assert region.y1 <= 30 < 58 <= region.y2
    back = recover(found.data, RING)
    assert (back.pixels == seen).all()


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_there_and_back(value: int) -> None:
    pixels = np.arange(6 * 10).reshape(6, 10)
    region = Region(2, 1, 5, 3)
    turned = upright(pixels, value)
    box = upright_region(region, 10, 6, value)
    assert upright_size(10, 6, value) == turned.shape[::-1]
    assert sorted(turned[box.y1 : box.y2, box.x1 : box.x2].ravel()) == sorted(
        pixels[1:3, 2:5].ravel()
    )
    assert stored_region(box, 10, 6, value) == region


def small(pixels: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((160, 120))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def test_the_thumbnail_shows_no_plate_and_comes_back() -> None:
    plain = MAKE["street"](640, 480)
    plain[200:260, 200:360] = (250, 20, 30)
    thumbnail = small(plain)
    preview = b"MAKER" + small(plain[::2, ::2])
    body = MAKE["exif"](1, thumbnail, preview)
    source = MAKE["file"](plain, "JPEG", quality=90, exif=body)
    assert source.count(thumbnail) == 1
    found = protected(source, [[200, 200, 360, 260]])
    assert thumbnail not in found.data
    assert preview not in found.data
    with Image.open(io.BytesIO(found.data)) as image:
        exif = image.info["exif"]
        assert image.getexif()[0x0112] == 1
    assert exif.count(b"\xff\xd8\xff") == 1
    with Image.open(io.BytesIO(exif[exif.index(b"\xff\xd8\xff") :])) as image:
        now = np.asarray(image.convert("RGB"))
    assert not ((now[..., 0] > 180) & (now[..., 1] < 90)).any()
    back = recover(found.data, RING).file or b""
    assert back.count(thumbnail) == 1
    assert preview in back
    alone = recover(found.data, RING, plate=0).file or b""
    assert thumbnail not in alone


HIDING = {
    "a picture after the picture": lambda data: data + b"\xff\xd8\xff second picture",
    "an index of pictures": segment(0xE2, b"MPF\0" + bytes(40)),
    "a JFXX thumbnail": segment(0xE0, b"JFXX\0\x10" + b"\xff\xd8\xffthumb"),
    "a Photoshop thumbnail": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x0c\0\0" + bytes(30)),
    "an XMP thumbnail": segment(
        0xE1, b"http://ns.adobe.com/xap/1.0/\0<xmp:Thumbnails>AAAA</xmp:Thumbnails>"
    ),
    "extended XMP": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60)),
    "a PNG in a comment": segment(0xFE, b"\x89PNG\r\n\x1a\n more"),
}


@pytest.mark.parametrize("kind", HIDING)
def test_no_other_picture_stays_in_the_file(kind: str) -> None:
    plain = jpeg()
    source = HIDING[kind](plain)
    extra = source.replace(plain[2:], b"").replace(plain, b"")[4:]
    assert len(extra) > 10
    found = protected(source)
    assert extra[-20:] not in found.data
    assert extra in (recover(found.data, RING).file or b"")


def test_metadata_stays_unless_it_is_stripped() -> None:
    place = b"48.2 N 16.4 E, serial 12345"
    source = MAKE["with_segments"](
        jpeg(icc_profile=b"profile" * 30), (0xE1, MAKE["exif"](6, note=place)), (0xFE, place)
    )
    box = [[40, 30, 95, 58]]
    kept = protected(source, box)
    assert kept.data.count(place) == 2
    stripped = protected(source, box, strip_metadata=True)
    assert place not in stripped.data
    assert read_header(stripped.data).orientation == 6
    assert b"profile" * 30 in stripped.data
    assert place not in (recover(stripped.data, RING).file or b"")
    nothing = protected(source, [], strip_metadata=True)
    assert place not in nothing.data
    assert (decode(nothing.data).pixels == decode(source).pixels).all()


def test_a_file_without_plates_is_left_as_it_is() -> None:
    for source in (jpeg(), raster("PNG", "RGB"), raster("TIFF", "L")):
        found = protected(source, [])
        assert found.data == source
        assert (found.regions, found.envelopes, found.sidecar) == ((), (), None)


def test_regions_are_whole_blocks_and_one_where_they_touch() -> None:
    found = protected(jpeg(subsampling=2), [[33, 33, 40, 40], [47.5, 35, 60, 45]], margin=0)
    assert found.regions == (Region(32, 32, 64, 48),)
    edge = protected(jpeg(subsampling=2), [[200, 130, 211, 143]], margin=0.5)
    assert edge.regions == (Region(192, 112, 211, 143),)


def test_the_noise_says_nothing_about_the_plate(tmp_path: Path) -> None:
    box = [[40, 30, 95, 58]]
    pixels = MAKE["street"](211, 143)
    other = pixels.copy()
    other[20:70, 30:110] = 255
    (one, two) = (MAKE["file"](p, "JPEG", quality=88) for p in (pixels, other))
    (region,) = protected(one, box).regions
    rows, columns = slice(region.y1 // 8, region.y2 // 8), slice(region.x1 // 8, region.x2 // 8)
    draws = [
        coefficients(protected(data, box).data, tmp_path)[0][rows, columns]
        for data in (one, one, two)
    ]
    assert all((draw[..., 1:, :] == 0).all() and (draw[..., 0, 1:] == 0).all() for draw in draws)
    for first, second in ((0, 1), (0, 2)):
        a, b = draws[first][..., 0, 0].ravel(), draws[second][..., 0, 0].ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


@pytest.mark.parametrize("source", [jpeg(), raster("PNG", "RGBA"), raster("TIFF", "L")])
def test_a_sidecar_takes_the_envelopes(source: bytes) -> None:
    found = protected(source, sidecar=True)
    assert found.sidecar is not None
    assert read_sealed(found.data) == []
    assert all(inspect(e).flags == DETACHED for e in read_sidecar(found.sidecar))
    with pytest.raises(BadInputError, match="no sealed plates"):
        recover(found.data, RING)
    back = recover(found.data, RING, sidecar=found.sidecar)
    assert (back.pixels == visible(source)).all()


def test_a_token_opens_one_plate_and_no_other() -> None:
    source = jpeg()
    found = protected(source)
    token = disclosure_token(found.envelopes[1], RING)
    back = recover(found.data, None, token=token)
    assert back.regions == (found.regions[1],)
    full, one = decode(source).pixels, back.pixels
    x1, y1, x2, y2 = found.regions[1]
    inner = slice(y1 + 8, y2 - 8), slice(x1 + 8, x2 - 8)
    assert (one[inner] == full[inner]).all()
    x1, y1, x2, y2 = found.regions[0]
    other = slice(y1, y2), slice(x1, x2)
    assert (one[other] != full[other]).mean() > 0.9
    with pytest.raises(BadInputError, match="opens no plate"):
        recover(found.data, None, token=token, plate=0)
    with pytest.raises(BadInputError, match="opens no plate"):
        recover(protected(source).data, None, token=token)
    for wrong in ("", "!", token[:-4], "A" * len(token)):
        with pytest.raises(BadInputError, match="opens no plate"):
            recover(found.data, None, token=wrong)


def test_saved_again_without_its_segments_it_recovers_nothing_and_says_so() -> None:
    found = protected(jpeg())
    with Image.open(io.BytesIO(found.data)) as image:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=80)
    with pytest.raises(BadInputError, match="contains no sealed plates"):
        recover(out.getvalue(), RING)


def test_encoded_anew_with_its_segments_the_plates_come_back_as_pixels() -> None:
    source = jpeg(subsampling=0)
    found = protected(source)
    with Image.open(io.BytesIO(found.data)) as image:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=60, subsampling=0)
    segments = [found.data[start:end] for start, end in read_header(found.data).sealed_at]
    anew = out.getvalue()[:2] + b"".join(segments) + out.getvalue()[2:]
    back = recover(anew, RING)
    assert back.file is None
    full = decode(source).pixels
    for r in found.regions:
        inner = slice(r.y1, r.y2), slice(r.x1, r.x2)
        assert (back.pixels[inner] == full[inner]).all()


def test_the_segments_of_two_pictures_do_not_mix() -> None:
    one, two = protected(jpeg()), protected(jpeg(quality=70))
    segments = MAKE["without_segments"]
    start = two.data.index(b"\xff\xe9")
    size = 2 + int.from_bytes(two.data[start + 2 : start + 4], "big")
    both = one.data[:2] + two.data[start : start + size] + one.data[2:]
    with pytest.raises(BadInputError, match="mixed"):
        recover(both, RING)
    swapped = segments(one.data, 0xE9)
    swapped = swapped[:2] + two.data[start : start + size] + swapped[2:]
    back = recover(swapped, RING)  # the plates of the other picture, on other tables: pixels only
    assert back.file is None


def test_what_is_rare_is_encoded_again_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import platecrypt.imaging.jpeg_picture as module
    from platecrypt.imaging.jpeg import NotLosslessError

    def refuse(_: Any) -> Any:
        raise NotLosslessError("it is JPEG of a rare kind (SOF9)")

    source = jpeg()
    monkeypatch.setattr(module, "read_blocks", refuse)
    for sidecar in (False, True):
        found = protected(source, sidecar=sidecar)
        assert not found.lossless
        assert "encoded again" in found.notes[0]
        assert "SOF9" in found.notes[0]
        back = recover(found.data, RING, sidecar=found.sidecar)
        for r in found.regions:
            inner = slice(r.y1, r.y2), slice(r.x1, r.x2)
            assert (back.pixels[inner] == decode(source).pixels[inner]).all()


def test_protected_twice_is_refused() -> None:
    for source in (jpeg(), raster("WEBP", "RGB", lossless=True), raster("TIFF", "RGB")):
        with pytest.raises(BadInputError, match="already"):
            protected(protected(source).data)


@pytest.mark.parametrize(
    "boxes",
    [[[300, 10, 400, 20]], [[-20, -20, -1, -1]], [[10, 10, 10, 20]], [[0, 0, float("nan"), 5]]],
)
def test_boxes_that_make_no_sense_are_refused(boxes: Any) -> None:
    with pytest.raises(BadInputError, match="box 0"):
        protected(jpeg(), boxes)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    import struct
    import zlib

    rows = zlib.compress(bytes(1000))
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 1100
    big = bytearray(jpeg())
    at = big.index(b"\xff\xc0")
    big[at + 5 : at + 9] = struct.pack(">HH", 50_000, 50_000)
    tiff = bytearray(raster("TIFF", "RGB"))
    at = tiff.index(struct.pack("<H", 256), 8)
    tiff[at : at + 12] = struct.pack("<HHII", 256, 4, 1, 2_000_000)
    for data in (bomb, bytes(big), bytes(tiff)):
        with pytest.raises(BadInputError, match="more than the 100000000 allowed"):
            protected(data, [[1, 1, 5, 5]])


def test_reseal_takes_the_old_key_out_of_the_file() -> None:
    ring = Keyring([os.urandom(32)])
    old = ring.kids[0]
    for source in (
        jpeg(),
        raster("PNG", "RGB"),
        raster("WEBP", "RGB", lossless=True),
        raster("TIFF", "RGB"),
    ):
        found = protect_file(source, BOXES, ring, origin=ORIGIN)
        assert reseal_file(found.data, ring) is None
        beside = protect_file(source, BOXES, ring, origin=ORIGIN, sidecar=True)
        newer = Keyring([ring.newest.key, os.urandom(32)])
        fresh = reseal_file(found.data, newer)
        assert fresh is not None
        assert {item.info.kid for item in sealed_in(fresh)} == {newer.kids[1]}
        assert bytes.fromhex(old) not in fresh
        alone = Keyring([newer.newest.key])
        assert (recover(fresh, alone).pixels == visible(source)).all()
        sidecar = reseal_sidecar(beside.sidecar or b"", newer)
        assert (recover(beside.data, alone, sidecar=sidecar).pixels == visible(source)).all()
        with pytest.raises(BadInputError, match=re.escape(f"key id {old}")):
            reseal_file(found.data, alone)


@pytest.mark.slow
def test_two_hundred_photographs_lose_nothing(tmp_path: Path) -> None:
    if not PHOTOS.is_dir():
        pytest.skip("the folder with real photographs is not beside this checkout")
    changed_outside = changed_after = grown = 0
    photos = sorted(PHOTOS.iterdir())
    for path in photos[:: max(1, len(photos) // 200)][:200]:
        source = path.read_bytes()
        header = read_header(source)
        w, h = header.width, header.height
        found = protected(source, [[w * 0.4, h * 0.5, w * 0.5, h * 0.55], [9, 9, 99, 44]])
        before, after = coefficients(source, tmp_path), coefficients(found.data, tmp_path)
        again = coefficients(recover(found.data, RING).file or b"", tmp_path)
        for one, two, three in zip(before, after, again, strict=True):
            covered = under(found.regions, *one.shape[:2], (w, h))
            changed_outside += int((one[~covered] != two[~covered]).sum())
            changed_after += int((one != three).sum())
        sealed = sum(inspect(envelope).plaintext_bytes for envelope in found.envelopes)
        grown += len(found.data) > 1.1 * len(source) + 4096 + 1.1 * sealed
    assert (changed_outside, changed_after, grown) == (0, 0, 0)
