"""Callers beside each other share a pass, each gets its own plates, nobody waits for ever."""

import runpy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platecrypt.detection import Detections, Detector
from platecrypt.errors import BadInputError
from platecrypt.serving.batching import Batcher

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))


class Counted(Detector):
    """Notes how many pictures each pass had."""

    passes: list[int]
    before: Callable[[], None] = staticmethod(lambda: None)

    def detect_batch(self, images: Any, confidences: Any) -> list[Detections]:
        self.passes.append(len(images))
        self.before()
        return super().detect_batch(images, confidences)


@pytest.fixture
def detector(tmp_path: Path) -> Counted:
    made = Counted.load(MARKER["build"](tmp_path / "m.onnx", 160))
    assert isinstance(made, Counted)
    made.passes = []
    return made


def pictures(count: int) -> list[np.ndarray]:
    return [MARKER["picture"](320, 200, (10 + 5 * i, 20, 60 + 5 * i, 60)) for i in range(count)]


def test_those_who_ask_together_share_a_pass_and_get_their_own(detector: Counted) -> None:
    images = pictures(12)
    expected = [detector.detect(image).boxes for image in images]
    detector.passes.clear()
    batcher = Batcher(detector, size=4, window_s=10)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda image: batcher.detect_all([image], [None])[0], images))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes, other)
    assert sum(detector.passes) == 12
    assert max(detector.passes) == 4


def test_one_alone_waits_for_the_window_and_no_longer(detector: Counted) -> None:
    batcher = Batcher(detector, size=8, window_s=0.2)
    began = time.monotonic()
    (found,) = batcher.detect_all(pictures(1), [None])
    assert 0.2 <= time.monotonic() - began < 2
    assert (len(found), detector.passes) == (1, [1])


def test_several_pictures_of_one_caller_are_a_batch_and_thresholds_are_each_ones_own(
    detector: Counted,
) -> None:
    batcher = Batcher(detector, size=3, window_s=0.01)
    found = batcher.detect_all(pictures(5), [None, 0.95, None, 0.95, None])
    assert [len(one) for one in found] == [1, 0, 1, 0, 1]
    assert detector.passes == [3, 2]
    assert batcher.detect_all([], []) == []


def test_what_one_got_wrong_fails_nobody_else(detector: Counted) -> None:
    batcher = Batcher(detector, size=2, window_s=0.3)
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(batcher.detect_all, pictures(1), [None])
        with pytest.raises(BadInputError):
            batcher.detect_all(pictures(1), [7.0])
        assert len(good.result()[0]) == 1


def test_a_pass_that_fails_is_told_to_all_and_the_next_works(detector: Counted) -> None:
    batcher = Batcher(detector, size=2, window_s=5)
    both = threading.Barrier(2)

    def fail() -> None:
        raise MemoryError

    def ask(image: np.ndarray) -> Any:
        both.wait()
        return batcher.detect_all([image], [None])

    detector.before = fail  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, image) for image in pictures(2)]
        for one in asked:
            with pytest.raises(MemoryError):
                one.result()
    detector.before = lambda: None  # type: ignore[method-assign]
    assert len(batcher.detect_all(pictures(2), [None, None])) == 2
