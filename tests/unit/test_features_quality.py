"""Image-quality features say what they are named after, and selection acts on them."""

import math

import cv2
import numpy as np
import pandas as pd
import pytest

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate, Split
from platecrypt.datasets.training_set import parse_training_set
from platecrypt.errors import BadInputError
from platecrypt.features.quality import BRIGHT_FROM, DARK_BELOW, exposure, measure
from platecrypt.features.selection import RARE_WEIGHT, describe, select


def record(name: str, split: Split = "train", plates: tuple[Plate, ...] = ()) -> ImageRecord:
    return ImageRecord(
        image_id=name,
        key=f"images/{name}",
        name=f"{name}.jpg",
        size=1,
        width=320,
        height=240,
        plates=plates,
        camera="c",
        group="g",
        time=None,
        split=split,
    )


def encoded(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.fixture(scope="module")
def textured() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def test_brightness_and_contrast_of_a_flat_image() -> None:
    found = measure(encoded(np.full((240, 320, 3), 90, np.uint8)), record("a"))
    assert found.brightness == pytest.approx(90, abs=0.5)
    assert (found.contrast, found.sharpness, found.saturation) == pytest.approx((0, 0, 0), abs=1e-6)


def test_blur_lowers_sharpness_and_darkness_lowers_brightness(textured: np.ndarray) -> None:
    sharp = measure(encoded(textured), record("a"))
    blurred = measure(encoded(cv2.GaussianBlur(textured, (0, 0), 3)), record("a"))
    dark = measure(encoded((textured * 0.2).astype(np.uint8)), record("a"))
    assert blurred.sharpness < sharp.sharpness / 20
    assert dark.brightness < sharp.brightness / 3


def test_colour_raises_saturation() -> None:
    red = np.zeros((240, 320, 3), np.uint8)
    red[..., 2] = 200
    assert measure(encoded(red), record("a")).saturation == 255


def test_plates_are_counted_and_the_narrowest_is_measured(textured: np.ndarray) -> None:
    plates = (Plate((10, 10, 60, 22)), Plate((100, 100, 117, 106)))
    found = measure(encoded(textured), record("a", plates=plates))
    assert (found.plate_count, found.smallest_plate) == (2, 17)


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(BadInputError, match=r"x\.jpg cannot be decoded"):
        measure(b"nothing", record("x"))


@pytest.mark.parametrize(
    ("brightness", "expected"),
    [
        (0, "dark"),
        (DARK_BELOW - 0.1, "dark"),
        (DARK_BELOW, "normal"),
        (BRIGHT_FROM - 0.1, "normal"),
        (BRIGHT_FROM, "bright"),
        (math.nan, "unknown"),
        (None, "unknown"),
    ],
)
def test_exposure_classes(brightness: float | None, expected: str) -> None:
    assert exposure(brightness) == expected


def features(rows: dict[str, tuple[float, float, str]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"image_id": name, "contrast": contrast, "sharpness": sharpness, "exposure": exposed}
            for name, (contrast, sharpness, exposed) in rows.items()
        ]
    )


def test_selection_drops_the_unreadable_and_weighs_the_rare() -> None:
    names = [f"day{i}" for i in range(8)] + ["night", "flat", "unknown"]
    images = [record(name) for name in names] + [record("held", split="test")]
    rows = dict.fromkeys(names[:8], (50.0, 100.0, "normal"))
    rows["night"] = (30.0, 80.0, "dark")
    rows["flat"] = (1.0, 0.0, "normal")
    rows["unknown"] = (math.nan, math.nan, "unknown")
    selected = select(Manifest(tuple(images), "voc", "ride"), features(rows))
    weights = {item.image_id: (item.weight, item.reason) for item in selected.selected}
    assert "held" not in weights
    assert weights["day0"] == (1, "exposure: normal")
    assert weights["night"][0] == RARE_WEIGHT
    assert "rare exposure: dark (11%" in weights["night"][1]
    assert weights["flat"][0] == 0
    assert "contrast 1.0" in weights["flat"][1]
    assert weights["unknown"][0] == 1
    assert "flat" not in selected.weights
    assert "10 of 11 images" in describe(selected)
    assert parse_training_set(selected.to_bytes()) == selected
