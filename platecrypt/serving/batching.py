"""Pictures of several requests in one pass of the network: what a GPU wants, and a CPU does not.

Off unless asked for. One CPU thread gains nothing from it; no GPU has measured it yet.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection import Detections, Detector


@dataclass(frozen=True)
class _Asked:
    """A picture that waits for its pass."""

    pixels: NDArray[np.uint8]
    confidence: float | None
    found: "Future[Detections]"


class Batcher:
    """Finds plates as a `Detector` does, for all who ask within a window at once.

    Whoever finds nobody waiting leads: it waits until the window is over or the batch is full, and
    runs the pass for all; meanwhile the next may gather. So there is no thread of its own, and at
    least as many callers as a batch holds must be allowed beside each other.

    Args:
        detector: that finds.
        size: pictures of a batch, at least 1.
        window_s: how long the first one waits for others, seconds.
    """

    def __init__(self, detector: Detector, *, size: int, window_s: float) -> None:
        self._detector = detector
        self._size = size
        self._window_s = window_s
        self._waiting: list[_Asked] = []
        self._changed = threading.Condition()

    def detect_all(
        self, images: Sequence[NDArray[np.uint8]], confidences: Sequence[float | None]
    ) -> list[Detections]:
        """Find plates; arguments and errors as `Detector.detect_batch`."""
        asked = []
        for pixels, confidence in zip(images, confidences, strict=True):
            # Here, so that what one caller got wrong never fails the others of its batch.
            self._detector.checked(pixels, confidence)
            asked.append(_Asked(pixels, confidence, Future()))
        with self._changed:
            leads = not self._waiting
            self._waiting += asked
            self._changed.notify_all()
        if leads and asked:
            self._lead()
        return [one.found.result() for one in asked]

    def _lead(self) -> None:
        end = time.monotonic() + self._window_s
        with self._changed:
            while len(self._waiting) < self._size and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            batch, self._waiting = self._waiting, []
        for at in range(0, len(batch), self._size):
            self._pass(batch[at : at + self._size])

    def _pass(self, batch: Sequence[_Asked]) -> None:
        try:
            found = self._detector.detect_batch(
                [one.pixels for one in batch], [one.confidence for one in batch]
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, each of them must hear of it
            for one in batch:
                one.found.set_exception(error)
            return
        for one, detections in zip(batch, found, strict=True):
            one.found.set_result(detections)
