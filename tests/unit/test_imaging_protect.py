"""Nobody sees the plate, and whoever holds the key gets it back bit for bit."""

import importlib
import io
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow

from platecrypt.cipher import (
    Keyring,
    KeyringError,
    canonical_json,
    inspect,
    open_sealed,
    padded_record,
    seal,
)
from platecrypt.errors import BadInputError
from platecrypt.imaging import (
    Image,
    Protected,
    decode,
    embed,
    encode,
    protect,
    read_sealed,
    recover,
    regions,
)
from platecrypt.imaging.containers import SAMPLINGS, Format
from platecrypt.imaging.protect import CELL, cover

MODULE = importlib.import_module("platecrypt.imaging.protect")  # the name is the function

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "plates-ro" / "images"
RING = Keyring([b"m" * 32])
BOXES = [[40.5, 60.2, 131.0, 88.9], [200, 30, 260, 50], [210, 45, 290, 70]]
NAMES: dict[str, Any] = {
    "model_name": "plates",
    "model_version": "7",
    "request_id": "r-1",
    "time": datetime(2026, 5, 4, 12, 30, tzinfo=timezone(timedelta(hours=2))),
}
FORMATS: tuple[Format, ...] = ("jpeg", "png", "webp")


def street(seed: int = 5) -> npt.NDArray[np.uint8]:
    """A picture of soft shades with hard-edged 'plates' in it."""
    rng = np.random.default_rng(seed)
    soft = Pillow.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    pixels = np.array(soft.resize((320, 200), Pillow.Resampling.BICUBIC))
    pixels[62:87, 44:128] = 255
    pixels[66:83, 50:122:6] = 0
    return pixels


def image(format_: Format = "png", seed: int = 5, *, lossless: bool = False) -> Image:
    return decode(encode(street(seed), format_, lossless=lossless))


def protected(source: Image, **more: Any) -> Protected:
    return protect(source, BOXES, RING, **{**NAMES, **more})


def shown(found: Protected) -> npt.NDArray[np.uint8]:
    """What a viewer shows of the published file."""
    return decode(found.data).pixels


def mask(found: Protected) -> npt.NDArray[np.bool_]:
    inside = np.zeros(shown(found).shape[:2], bool)
    for r in found.regions:
        inside[r.y1 : r.y2, r.x1 : r.x2] = True
    return inside


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("lossless", [False, True])
def test_recovered_plates_are_exactly_the_decoded_ones(format_: Format, lossless: bool) -> None:
    source = image(format_, lossless=lossless)
    found = protected(source)
    assert len(found.regions) == 2  # the second and third box overlap
    back = recover(found.data, RING)
    assert back.regions == found.regions
    assert back.count == 2
    inside = mask(found)
    assert (back.pixels[inside] == source.pixels[inside]).all()


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_lossless_files_change_nowhere_outside_and_nowhere_after_recovery(format_: Format) -> None:
    source = image(format_, lossless=True)
    found = protected(source)
    inside = mask(found)
    assert (shown(found)[~inside] == source.pixels[~inside]).all()
    assert (recover(found.data, RING).pixels == source.pixels).all()


def test_a_reencoded_jpeg_stays_close_outside_the_regions() -> None:
    source = image("jpeg")
    found = protected(source)
    away = ~mask(found)
    away[:, :-16] &= away[:, 16:]  # blocks that a region touches carry some of its noise
    away[:, 16:] &= away[:, :-16]
    away[:-16] &= away[16:]
    away[16:] &= away[:-16]
    error = np.abs(decode(found.data).pixels.astype(int) - source.pixels)[away]
    assert error.mean() < 2


@pytest.mark.parametrize("quality", [40, 80, 95])
def test_a_jpeg_leaves_at_the_quality_it_came_with(quality: int) -> None:
    source = decode(encode(street(), "jpeg", quality=quality))
    own = protect(source, [], RING, **NAMES)
    assert decode(own.data).quality == quality
    assert len(own.data) < 1.1 * len(source.source)
    other = protect(source, [], RING, quality=quality - 7, **NAMES)
    lost = [
        np.abs(decode(one.data).pixels - source.pixels.astype(int)).mean() for one in (own, other)
    ]
    assert lost[0] < 0.5 * lost[1]  # the same quantisers lose next to nothing again


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_colours_of_a_jpeg_leave_as_fine_as_they_came(sampling: str) -> None:
    coarse = np.random.default_rng(4).integers(0, 256, (90, 160, 3), np.uint8)
    colours = coarse.repeat(3, axis=0).repeat(3, axis=1)
    source = decode(encode(colours, "jpeg", quality=95, sampling=sampling))
    own = decode(protect(source, [], RING, **NAMES).data)
    assert own.sampling == source.sampling == sampling
    coarser = decode(protect(replace(source, sampling="4:2:0"), [], RING, **NAMES).data)
    lost = [np.abs(one.pixels - source.pixels.astype(int)).mean() for one in (own, coarser)]
    assert lost[0] <= lost[1]
    assert sampling != "4:4:4" or lost[0] < 0.2 * lost[1]


@pytest.mark.parametrize("target", FORMATS)
def test_another_format_may_be_published(target: Format) -> None:
    source = image("jpeg")
    found = protected(source, format=target)
    assert found.format == decode(found.data).format == target
    inside = mask(found)
    assert (recover(found.data, RING).pixels[inside] == source.pixels[inside]).all()


def test_an_upright_picture_is_published_and_recovered_for_a_rotated_source() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Camera maker"
    out = io.BytesIO()
    Pillow.fromarray(street()).save(out, "JPEG", quality=95, exif=exif)
    source = decode(out.getvalue())
    assert source.pixels.shape == (320, 200, 3)
    found = protect(source, [[20, 200, 90, 230]], RING, **NAMES)
    assert Pillow.open(io.BytesIO(found.data)).size == (200, 320)
    assert b"Camera maker" not in found.data
    inside = mask(found)
    assert (recover(found.data, RING).pixels[inside] == source.pixels[inside]).all()


# What leaves says nothing of the plate


def test_the_cover_does_not_depend_on_the_plate(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = street(), street(seed=6)
    two[...] = one
    two[62:87, 44:128] = 17  # another plate, the same picture
    found = regions(BOXES, 320, 200)
    keys = iter([b"k" * 32] * 2 + [b"l" * 32])
    monkeypatch.setattr(MODULE.os, "urandom", lambda _: next(keys))
    first, second, third = one.copy(), two.copy(), one.copy()
    for pixels in (first, second, third):
        cover(pixels, found)
    assert (first == second).all()
    for r in found:
        assert (first[r.y1 : r.y2, r.x1 : r.x2] != third[r.y1 : r.y2, r.x1 : r.x2]).mean() > 0.9


def test_every_cover_is_drawn_afresh() -> None:
    source = image()
    one, two = protected(source), protected(source)
    inside = mask(one)
    assert (shown(one)[inside] != shown(two)[inside]).mean() > 0.9


def test_every_region_is_covered_with_flat_cells_on_the_jpeg_grid() -> None:
    source = image()
    found = protected(source)
    pixels = shown(found)
    for r in found.regions:
        for y in range(r.y1 // CELL, (r.y2 - 1) // CELL + 1):
            for x in range(r.x1 // CELL, (r.x2 - 1) // CELL + 1):
                cell = pixels[
                    max(r.y1, y * CELL) : min(r.y2, (y + 1) * CELL),
                    max(r.x1, x * CELL) : min(r.x2, (x + 1) * CELL),
                ]
                assert cell.size
                assert cell.min() == cell.max()
        shades = np.unique(pixels[r.y1 : r.y2, r.x1 : r.x2])
        assert len(shades) > 20


def test_the_source_is_not_changed() -> None:
    source = image()
    before = source.pixels.copy()
    protected(source)
    assert (source.pixels == before).all()


def test_scores_and_classes_leave_only_sealed() -> None:
    found = protected(image(), scores=[0.91234, 0.81, 0.77])
    assert found.record is not None
    assert len(open_sealed(found.record, RING)) == 512
    record = json.loads(open_sealed(found.record, RING))
    assert [plate["score"] for plate in record["plates"]] == [0.91234, 0.81, 0.77]
    # Regions are numbered from the top: boxes 2 and 3 share the upper one.
    assert [plate["region"] for plate in record["plates"]] == [1, 0, 0]
    assert {plate["class"] for plate in record["plates"]} == {"plate"}
    assert record["regions"] == 2
    for text in (b"0.91234", b"score", b"class"):
        assert text not in found.data


def test_the_context_names_what_the_specification_asks_for() -> None:
    source = image()
    found = protected(source)
    for index, (envelope, region) in enumerate(zip(found.envelopes, found.regions, strict=True)):
        info = inspect(envelope)
        assert info.content_type == 1
        assert info.ctx == canonical_json(json.loads(info.ctx))
        assert json.loads(info.ctx) == {
            "box": list(region),
            "dtype": "uint8",
            "model": "plates",
            "model_version": "7",
            "region": index,
            "request_id": "r-1",
            "shape": [region.height, region.width, 3],
            "source_sha256": source.sha256,
            "time": "2026-05-04T10:30:00.000Z",
        }
    assert found.record is not None
    assert inspect(found.record).content_type == 2
    assert read_sealed(found.data) == [*found.envelopes, found.record]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_picture_without_plates_is_published_without_sealed_data(format_: Format) -> None:
    source = image(format_)
    found = protect(source, [], RING, **NAMES)
    assert (found.regions, found.envelopes, found.record) == ((), (), None)
    assert read_sealed(found.data) == []
    lost = np.abs(shown(found) - source.pixels.astype(int)).mean()
    assert lost == 0 if format_ == "png" else lost < 3, "nothing is covered"


def test_the_file_grows_by_little_more_than_what_is_sealed() -> None:
    source = image("jpeg")
    found = protected(source)
    sealed = sum(len(e) for e in read_sealed(found.data))
    plain = len(encode(source.pixels, "jpeg"))
    assert len(found.data) <= 1.10 * plain + 4096 + 1.1 * sealed


# It fails closed


def test_what_cannot_be_protected_raises() -> None:
    source = image()
    with pytest.raises(BadInputError, match="3 boxes but 1 scores"):
        protected(source, scores=[0.5])
    with pytest.raises(BadInputError, match="box 0"):
        protect(source, [[0, 0, float("nan"), 1]], RING, **NAMES)
    with pytest.raises(BadInputError, match="margin"):
        protected(source, margin=7)
    with pytest.raises(KeyringError, match="holds no master"):
        protect(source, BOXES, Keyring(), **NAMES)
    with pytest.raises(ValueError, match="no time zone"):
        protected(source, time=datetime(2026, 5, 4))
    with pytest.raises(BadInputError, match="carries sealed plates already"):
        protected(decode(protected(source).data))


@pytest.mark.parametrize("broken", ["seal_pixels", "cover", "encode_bgr", "embed", "containing"])
def test_a_failure_in_any_step_returns_nothing(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("broken on purpose")

    monkeypatch.setattr(MODULE, broken, fail)
    with pytest.raises(OSError, match="on purpose"):
        protected(image())


# Recovering


def test_one_plate_alone_can_be_put_back() -> None:
    source = image(lossless=True)
    found = protected(source)
    back = recover(found.data, RING, plate=1)
    assert (back.count, back.regions) == (1, (found.regions[1],))
    for number, r in enumerate(found.regions):
        same = back.pixels[r.y1 : r.y2, r.x1 : r.x2] == source.pixels[r.y1 : r.y2, r.x1 : r.x2]
        assert same.all() == (number == 1)
    with pytest.raises(BadInputError, match="there is no plate 2; the image holds 0, 1"):
        recover(found.data, RING, plate=2)


def test_any_key_of_the_ring_recovers() -> None:
    found = protected(image())
    ring = Keyring([b"m" * 32])
    ring.rotate()
    assert recover(found.data, ring).count == 2


def test_a_file_without_sealed_plates_says_exactly_that() -> None:
    found = protected(image("jpeg"))
    out = io.BytesIO()
    Pillow.open(io.BytesIO(found.data)).save(out, "JPEG")
    with pytest.raises(BadInputError, match=re.escape("contains no sealed plates (re-saved by")):
        recover(out.getvalue(), RING)


def test_a_wrong_key_names_the_file_and_the_key_id(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    stranger = Keyring.create(path)
    message = f"none of the keys in {path} opens this: sealed with key id {RING.kids[0]}"
    for plate in (None, 0):
        with pytest.raises(BadInputError, match=re.escape(message)):
            recover(protected(image()).data, stranger, plate=plate)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_changed_byte_of_the_sealed_data_is_noticed(format_: Format) -> None:
    found = protect(image(format_), [[100, 100, 104, 103]], RING, **NAMES, margin=0)
    start = found.data.index(b"SLEB")
    end = start + sum(len(e) + 4 for e in read_sealed(found.data)) + 12
    assert recover(found.data, RING).count == 1
    for at in range(start, end, 3):
        changed = bytearray(found.data)
        changed[at] ^= 0x04
        with pytest.raises(BadInputError):
            recover(bytes(changed), RING)


def test_a_plate_taken_out_is_noticed() -> None:
    source = image()
    found = protected(source)
    assert found.record is not None
    bare = encode(shown(found), "png")
    for kept in (
        [found.envelopes[0], found.record],
        [found.envelopes[1], found.record],
        [*found.envelopes],
        [*found.envelopes, found.envelopes[0], found.record],
        [*found.envelopes, found.record, found.record],
        [found.record],
    ):
        with pytest.raises(BadInputError, match="tampered"):
            recover(embed(bare, kept), RING)


def test_the_sealed_data_of_two_pictures_does_not_mix() -> None:
    one, two = protected(image(seed=5)), protected(image(seed=6))
    assert one.record is not None
    bare = encode(shown(one), "png")
    with pytest.raises(BadInputError, match="several pictures is mixed"):
        recover(embed(bare, [one.envelopes[0], two.envelopes[1], one.record]), RING)


def test_a_scaled_picture_is_refused() -> None:
    found = protected(image())
    half = encode(np.ascontiguousarray(shown(found)[::4, ::4]), "png")
    with pytest.raises(BadInputError, match="outside this picture of 80 x 50"):
        recover(embed(half, read_sealed(found.data)), RING)


def forged(**changes: Any) -> bytes:
    """A file of a key holder who writes another context."""
    ctx: dict[str, Any] = {"source_sha256": "s", "request_id": "r"}
    plate = {**ctx, "box": [0, 0, 4, 2], "shape": [2, 4, 3], "dtype": "uint8", "region": 0}
    plate |= changes
    envelopes = [
        seal(bytes(24), canonical_json(plate), RING, content_type=1),
        seal(padded_record({"regions": 1}), canonical_json(ctx), RING, content_type=2),
    ]
    return embed(encode(street(), "png"), envelopes)


@pytest.mark.parametrize(
    "changes",
    [
        {"box": [0, 0, 4]},
        {"box": [0, 0, 4.0, 2]},
        {"box": [0, 0, True, 2]},
        {"box": "0042"},
        {"box": [4, 0, 0, 2]},
        {"box": [-1, 0, 3, 2]},
        {"box": [0, 0, 8, 2]},
        {"box": [318, 0, 322, 2]},
        {"shape": [4, 2, 3]},
        {"shape": None},
        {"dtype": "float32"},
        {"region": 1},
        {"region": "0"},
        {"request_id": 5},
        {"request_id": "other"},
    ],
)
def test_a_context_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    assert recover(forged(), RING).count == 1
    with pytest.raises(BadInputError):
        recover(forged(**changes), RING)


def test_real_photographs_protect_and_recover() -> None:
    if not PHOTOS.is_dir():
        pytest.skip("the folder with real photographs is not beside this checkout")
    for path in sorted(PHOTOS.iterdir())[:12]:
        source = decode(path.read_bytes())
        h, w = source.pixels.shape[:2]
        found = protect(source, [[w * 0.4, h * 0.5, w * 0.5, h * 0.55]], RING, **NAMES)
        inside = mask(found)
        assert (recover(found.data, RING).pixels[inside] == source.pixels[inside]).all()
        assert (decode(found.data).pixels[inside] != source.pixels[inside]).mean() > 0.8
