"""The letterbox is ultralytics' own, and its inverse is exact; suppression is torchvision's."""

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platecrypt.detection import Letterbox, suppress


def part_of_ultralytics(name: str) -> Any:
    """A module of it, loaded as our training loads it: quiet, and without changing Pillow."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    from platecrypt.training.ultralytics_runtime import load_ultralytics

    load_ultralytics(Path(tempfile.gettempdir()) / "platecrypt-tests")
    return importlib.import_module(name)


SIZES = [(640, 480), (480, 640), (1920, 1080), (333, 517), (1, 700), (700, 1), (640, 640), (20, 9)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("size", [320, 640])
def test_the_square_is_bit_for_bit_that_of_ultralytics(width: int, height: int, size: int) -> None:
    augment = part_of_ultralytics("ultralytics.data.augment")
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    ours = Letterbox(width, height, size).apply(pixels)
    theirs = augment.LetterBox((size, size), auto=False)(image=pixels.copy())
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("size", [320, 640])
def test_the_rectangle_is_bit_for_bit_that_of_ultralytics(
    width: int, height: int, size: int
) -> None:
    augment = part_of_ultralytics("ultralytics.data.augment")
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    ours = Letterbox(width, height, size, 32).apply(pixels)
    theirs = augment.LetterBox((size, size), auto=True, stride=32)(image=pixels.copy())
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("stride", [0, 32])
def test_boxes_go_back_as_ultralytics_takes_them_back(width: int, height: int, stride: int) -> None:
    ops = part_of_ultralytics("ultralytics.utils.ops")
    boxes = np.array([[10, 20, 200, 300], [-5, 0, 640, 640], [250, 300, 400, 340]], np.float32)
    letterbox = Letterbox(width, height, 640, stride)
    ours = letterbox.to_source(boxes)
    theirs = ops.scale_boxes(letterbox.frame[::-1], boxes.copy(), (height, width))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@settings(deadline=None)
@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    stride=st.sampled_from([0, 32]),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_forth_and_back_is_where_it_began(
    width: int, height: int, stride: int, corners: list[float]
) -> None:
    letterbox = Letterbox(width, height, 640, stride)
    inner, offset = np.array(letterbox.inner * 2), np.array(letterbox.offset * 2)
    box = np.array(corners) * np.array([width, height, width, height])
    placed = (box * inner / np.array([width, height] * 2) + offset).astype(np.float32)
    back = letterbox.to_source(placed[np.newaxis])[0]
    np.testing.assert_allclose(back, box, atol=2e-3 * max(width, height) / 640 + 1e-3)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("size", [64, 320])
@pytest.mark.parametrize("stride", [0, 32])
def test_a_fitted_picture_makes_the_same_frame_and_the_same_boxes(
    width: int, height: int, size: int, stride: int
) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    direct = Letterbox(width, height, size, stride)
    fitted = direct.fit(pixels)
    again = Letterbox(fitted.shape[1], fitted.shape[0], size, stride)
    np.testing.assert_array_equal(again.apply(fitted), direct.apply(pixels))
    boxes = np.array([[1, 2, 30, 40], [-9, 10, 2 * size, 50]], np.float32)
    detour = direct.from_fitted(again.to_source(boxes))
    np.testing.assert_allclose(detour, direct.to_source(boxes), atol=1e-3)


def reference(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    """Suppression by the book, box by box."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            w = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            h = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            common = max(w, 0.0) * max(h, 0.0)
            areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j]))
            if common > iou * (areas - common):
                break
        else:
            kept.append(int(i))
    return kept


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), iou=st.sampled_from([0.3, 0.5, 0.7])
)
def test_suppression_is_the_one_by_the_book(seed: int, count: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 40, (count, 2))], axis=1).astype(np.float32)
    scores = rng.integers(0, 20, count).astype(np.float32)
    assert suppress(boxes, scores, iou=iou).tolist() == reference(boxes, scores, iou)


def test_boxes_without_area_and_nothing_at_all_do_no_harm() -> None:
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5]], np.float32)
    assert len(suppress(boxes, np.array([0.9, 0.8], np.float32), iou=0.5)) == 2
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), iou=0.5).size == 0


def test_no_more_than_the_limit_stay() -> None:
    low = np.arange(1000, dtype=np.float32)[:, None] * 10
    boxes = np.concatenate([low, low, low + 5, low + 5], axis=1)
    assert len(suppress(boxes, np.ones(1000, np.float32), iou=0.5)) == 1000
    assert len(suppress(boxes, np.ones(1000, np.float32), iou=0.5, limit=300)) == 300
