"""Detections against labels: matching, average precision, precision and recall at a threshold.

COCO's rules for one class (greedy by score, one label a detection, precision read at 101 recalls,
labels outside a slice neither reward nor punish), in NumPy: pycocotools needs a compiler on
platforms without a wheel, and its figures cannot be cut into our slices without rewriting labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platecrypt.datasets.manifest import Box

# COCO: .50, .55, ... .95
IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ImageResult:
    """What was found in one image and what is on it.

    Attributes:
        boxes: `(N, 4)` x1, y1, x2, y2 in pixels, best score first.
        scores: `(N,)` falling, 0..1.
        labels: `(M, 4)` labelled boxes, the same pixels.
        ignored: `(M,)` bool: labels that do not count; what matches them does not count either.
        min_width, max_width: an unmatched detection counts as false only when its width is in
            [min_width, max_width), pixels.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    min_width: float = 0.0
    max_width: float = float("inf")


@dataclass(frozen=True)
class Counts:
    """Detections at one score threshold: hits, false ones, labels missed."""

    hits: int
    false: int
    missed: int

    @property
    def precision(self) -> float | None:
        """Hits / detections; None without detections."""
        return self.hits / (self.hits + self.false) if self.hits + self.false else None

    @property
    def recall(self) -> float | None:
        """Hits / labels; None without labels."""
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else None


def as_boxes(boxes: Sequence[Box] | NDArray[np.float32]) -> NDArray[np.float64]:
    """`(N, 4)` float64, also for N = 0."""
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def iou_matrix(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of `(N, 4)` with `(M, 4)`: `(N, M)`, 0..1."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(axis=1)
    area_b = np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1)
    union = area_a[:, None] + area_b[None] - common
    overlap: NDArray[np.float64] = np.zeros_like(common)
    np.divide(common, union, out=overlap, where=union > 0)
    return overlap


def match(result: ImageResult, iou: float) -> NDArray[np.int64]:
    """The label each detection takes: its index, -1 for a false one, -2 where it does not count.

    A detection takes the free label it overlaps most, by at least `iou`; a label that counts goes
    before one that does not.
    """
    overlaps = iou_matrix(result.boxes, result.labels)
    taken = np.full(len(result.boxes), -1, np.int64)
    free = np.ones(len(result.labels), np.bool_)
    for row, overlap in enumerate(overlaps):
        for pool in (free & ~result.ignored, result.ignored):
            allowed = np.where(pool & (overlap >= iou), overlap, -1.0)
            if allowed.size and allowed.max() >= iou:
                best = int(allowed.argmax())
                taken[row] = -2 if result.ignored[best] else best
                free[best] = False
                break
    width = result.boxes[:, 2] - result.boxes[:, 0]
    outside = (width < result.min_width) | (width >= result.max_width)
    taken[(taken == -1) & outside] = -2
    return taken


def precision_recall(
    results: Sequence[ImageResult], iou: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores (falling), precision and recall when every detection down to that score counts."""
    labels = count_labels(results)
    scores: list[float] = []
    hits: list[bool] = []
    for result in results:
        taken = match(result, iou)
        counts = taken != -2
        scores += result.scores[counts].tolist()
        hits += (taken[counts] >= 0).tolist()
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    is_hit = np.asarray(hits, np.float64)[order]
    found = np.cumsum(is_hit)
    every = np.arange(1, len(order) + 1)
    return np.asarray(scores, np.float64)[order], found / every, found / max(labels, 1)


def average_precision(results: Sequence[ImageResult], iou: float) -> float | None:
    """Area under the precision-recall curve, 0..1; None without labels."""
    if not count_labels(results):
        return None
    _, precision, recall = precision_recall(results, iou)
    if not len(precision):
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # A recall of exactly 0.3 must count for the point 0.3 although neither is exact in binary.
    at = np.searchsorted(recall, RECALLS - 1e-12, side="left")
    reached = np.append(envelope, 0.0)  # a recall that is never reached has precision 0
    return float(reached[at].mean())


def counts_at(results: Sequence[ImageResult], score: float, iou: float) -> Counts:
    """Hits, false ones and misses of the detections that score more than `score`."""
    hits = false = 0
    for result in results:
        taken = match(result, iou)[result.scores > score]
        hits += int((taken >= 0).sum())
        false += int((taken == -1).sum())
    return Counts(hits, false, count_labels(results) - hits)


def count_labels(results: Sequence[ImageResult]) -> int:
    """Labels that count."""
    return sum(int((~result.ignored).sum()) for result in results)
