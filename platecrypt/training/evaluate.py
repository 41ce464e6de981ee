"""Evaluate the model that will serve (the ONNX file, run by our detector) on a held-out split."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platecrypt.datasets.manifest import ImageRecord, Manifest, Split
from platecrypt.detection import MAX_DETECTIONS, Detector
from platecrypt.errors import BadInputError
from platecrypt.features.quality import DARK_BELOW
from platecrypt.training import matching
from platecrypt.training.matching import ImageResult
from platecrypt.training.yolo_folder import orientation_of, upright

VERSION = 1
# Below this a detection tells nothing about the curve (ultralytics' validator uses it too).
LOWEST_SCORE = 0.001
HIT_IOU = 0.5
# A plate carries about seven characters: under 64 px each is less than 8 px wide and can hardly
# be read, so missing a small plate leaks less than missing a large one.
SMALL_BELOW_PX = 64.0
CURVE_POINTS = 50


@dataclass(frozen=True)
class SliceMetrics:
    """Figures of one part of a split. None: nothing there to measure.

    Attributes:
        name: "all", "day", "night", "small" or "large".
        images: in the slice (for small and large: with a plate of that size).
        plates: labelled plates in the slice.
        map50: average precision at IoU 0.5, 0..1.
        map50_95: its mean over IoU 0.5, 0.55 .. 0.95.
        precision, recall: at the working threshold and IoU 0.5.
        hits, false, missed: the counts behind them (the confusion of one class).
    """

    name: str
    images: int
    plates: int
    map50: float | None
    map50_95: float | None
    precision: float | None
    recall: float | None
    hits: int
    false: int
    missed: int


RECALL_COUNTS = 2.0
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.05, 0.25


@dataclass(frozen=True)
class CurvePoint:
    """Precision and recall, 0..1, when detections above `confidence` count (IoU 0.5)."""

    confidence: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a split.

    Attributes:
        model_digest: SHA-256 of the ONNX file.
        dataset_digest: the manifest's.
        split: which images.
        grouping: what the split kept together: "ride", "burst" or "image"; with "image" similar
            pictures may stand on both sides and the figures are optimistic.
        confidence: the working threshold.
        image_size: side of the network's input, pixels.
        overall: every image.
        slices: day, night, small, large.
        curve: precision over recall, at most 50 points.
        milliseconds: median time of one detection, decoding excluded.
    """

    model_digest: str
    dataset_digest: str
    split: Split
    grouping: str
    confidence: float
    image_size: int
    overall: SliceMetrics
    slices: tuple[SliceMetrics, ...]
    curve: tuple[CurvePoint, ...]
    milliseconds: float

    def to_json(self) -> str:
        """As a JSON document; `parse_evaluation` reads it."""
        return json.dumps({"evaluation": VERSION, **asdict(self)}, indent=1, sort_keys=True)

    def metrics(self) -> dict[str, float]:
        """The figures that exist, named for a tracker: `map50`, `night/recall`, ..."""
        found: dict[str, float] = {}
        for part in (self.overall, *self.slices):
            prefix = "" if part.name == "all" else f"{part.name}/"
            for name in ("map50", "map50_95", "precision", "recall", "plates", "images"):
                value = getattr(part, name)
                if value is not None:
                    found[prefix + name] = float(value)
        return found


@dataclass(frozen=True)
class Looked:
    """One evaluated image: for pictures of what was found and missed."""

    image: ImageRecord
    path: Path
    result: ImageResult
    brightness: float


def evaluate(
    model: Path,
    manifest: Manifest,
    image_path: Callable[[ImageRecord], Path],
    *,
    split: Split = "test",
    brightness: Mapping[str, float] | None = None,
    confidence: float | None = None,
    threads: int = 1,
    on_image: Callable[[Looked], None] = lambda looked: None,
) -> Evaluation:
    """Run the detector over a split and measure.

    Args:
        model: the ONNX file.
        manifest: the dataset.
        image_path: where an image's bytes lie (`YoloFolder.image_path`).
        split: the held-out split.
        brightness: image id -> mean luma 0..255 (the feature); measured here where absent.
        confidence: the working threshold, 0..1; None: the model's own.
        threads: of one forward pass.
        on_image: is shown every image with what was found.

    Raises:
        BadInputError: the split is empty or without plates, the model or an image cannot be read.
    """
    images = manifest.split(split)
    if not any(image.plates for image in images):
        raise BadInputError(f"split {split} has no labelled plate to evaluate on; import more")
    detector = Detector.load(model, threads=threads, confidence=confidence, limit=MAX_DETECTIONS)
    confidence = detector.confidence
    looked: list[Looked] = []
    times: list[float] = []
    for image in images:
        path = image_path(image)
        pixels = read_upright(path)
        started = time.perf_counter()
        found = detector.detect(pixels, confidence=LOWEST_SCORE)
        times.append(time.perf_counter() - started)
        light = (brightness or {}).get(image.image_id)
        labels = _labels(image, path)
        one = Looked(
            image,
            path,
            ImageResult(
                matching.as_boxes(found.boxes),
                found.scores.astype(np.float64),
                labels,
                np.zeros(len(labels), np.bool_),
            ),
            mean_luma(pixels) if light is None else light,
        )
        looked.append(one)
        on_image(one)
    parts = {name: _slice(name, looked, confidence) for name in ("all", *SLICES)}
    return Evaluation(
        model_digest=hashlib.sha256(model.read_bytes()).hexdigest(),
        dataset_digest=manifest.digest,
        split=split,
        grouping=manifest.grouping,
        confidence=confidence,
        image_size=detector.size,
        overall=parts.pop("all"),
        slices=tuple(parts.values()),
        curve=_curve([one.result for one in looked]),
        milliseconds=round(float(np.median(times)) * 1000, 2),
    )


def working_threshold(curve: Sequence[CurvePoint]) -> float:
    """The threshold that a model should work at: the best F2, between 0.05 and 0.25.

    A missed plate is published, a false one only costs a patch of noise: recall counts twice. Above
    ultralytics' own 0.25 it never goes, and below 0.05 the noise of an untrained head begins.

    Args:
        curve: of the validation split.
    """
    beta = RECALL_COUNTS**2

    def score(point: CurvePoint) -> float:
        both = beta * point.precision + point.recall
        return (1 + beta) * point.precision * point.recall / both if both else 0.0

    best = max(curve, key=score, default=None)
    chosen = HIGHEST_THRESHOLD if best is None or not score(best) else best.confidence
    return round(min(max(chosen, LOWEST_THRESHOLD), HIGHEST_THRESHOLD), 4)


def parse_evaluation(data: str | bytes) -> Evaluation:
    """Read what `Evaluation.to_json` wrote; BadInputError when it is something else."""
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw.pop("evaluation") != VERSION:
            raise ValueError("unknown version")
        raw["overall"] = SliceMetrics(**raw["overall"])
        raw["slices"] = tuple(SliceMetrics(**row) for row in raw["slices"])
        raw["curve"] = tuple(CurvePoint(**row) for row in raw["curve"])
        return Evaluation(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"not an evaluation of version {VERSION}: {error}") from None


def read_upright(path: Path) -> NDArray[np.uint8]:
    """An image as it is looked at, `(H, W, 3)` uint8 RGB: its EXIF orientation is applied.

    Raises:
        BadInputError: it cannot be decoded.
    """
    import cv2

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise BadInputError(f"image {path} cannot be decoded; import the dataset again")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def mean_luma(pixels: NDArray[np.uint8]) -> float:
    """Mean luma of `(H, W, 3)` uint8 RGB, 0..255 (Rec. 601)."""
    import cv2

    return float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())


SLICES = ("day", "night", "small", "large")


def _slice(name: str, looked: Sequence[Looked], confidence: float) -> SliceMetrics:
    if name in ("day", "night"):
        night = name == "night"
        results = [one.result for one in looked if (one.brightness < DARK_BELOW) == night]
        images = len(results)
    elif name in ("small", "large"):
        results = [_only_size(one.result, small=name == "small") for one in looked]
        images = sum(bool((~result.ignored).any()) for result in results)
    else:
        results = [one.result for one in looked]
        images = len(results)
    counts = matching.counts_at(results, confidence, HIT_IOU)
    precisions = [matching.average_precision(results, iou) for iou in matching.IOU_THRESHOLDS]
    known = [value for value in precisions if value is not None]
    return SliceMetrics(
        name=name,
        images=images,
        plates=matching.count_labels(results),
        map50=precisions[0],
        map50_95=float(np.mean(known)) if known else None,
        precision=counts.precision,
        recall=counts.recall,
        hits=counts.hits,
        false=counts.false,
        missed=counts.missed,
    )


def _only_size(result: ImageResult, *, small: bool) -> ImageResult:
    width = result.labels[:, 2] - result.labels[:, 0]
    outside = (width >= SMALL_BELOW_PX) if small else (width < SMALL_BELOW_PX)
    low, high = (0.0, SMALL_BELOW_PX) if small else (SMALL_BELOW_PX, float("inf"))
    return ImageResult(result.boxes, result.scores, result.labels, outside, low, high)


def _labels(image: ImageRecord, path: Path) -> NDArray[np.float64]:
    if not image.plates:
        return matching.as_boxes([])
    turn = orientation_of(path)
    return matching.as_boxes(
        [upright(plate.box, image.width, image.height, turn)[0] for plate in image.plates]
    )


def _curve(results: Sequence[ImageResult]) -> tuple[CurvePoint, ...]:
    scores, precision, recall = matching.precision_recall(results, HIT_IOU)
    if not len(scores):
        return ()
    rows = np.unique(np.linspace(0, len(scores) - 1, CURVE_POINTS).round().astype(int))
    return tuple(
        CurvePoint(float(scores[row]), float(precision[row]), float(recall[row])) for row in rows
    )
