"""The detector: an ONNX file and an image in, plate boxes out."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection.backends import (
    Backend,
    Name,
    OnnxRuntime,
    Precision,
    Shape,
    choose,
    first_line,
    onnx_session,
)
from platecrypt.detection.letterbox import Letterbox
from platecrypt.detection.nms import MAX_BOXES, suppress
from platecrypt.errors import BadInputError, UnavailableError

CONFIDENCE_KEY = "platecrypt.confidence"
"""In the metadata of an ONNX file: the working threshold, 0..1, as text."""
DEFAULT_CONFIDENCE = 0.25
DEFAULT_SIZE, DEFAULT_STRIDE = 640, 32  # YOLOv8's own, for a model that names none


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes: `(N, 4)` float32, x1, y1, x2, y2 in pixels of the source image, inside it.
        scores: `(N,)` float32, 0..1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """A loaded network. Safe to use from several threads.

    Attributes:
        size: longer side of what the network looks at, pixels.
        stride: of a network that takes any rectangle of whole strides, pixels; 0: squares only.
        confidence: boxes with a score at or below it are dropped, 0..1.
        iou: the overlap at which the weaker of two boxes is dropped, 0..1.
        provider: what runs the network, e.g. "CPUExecutionProvider" or "OpenVINO bf16".
        kind: the backend and precision to load the same again with, where "auto" has measured.
        digest: SHA-256 of the model file, hexadecimal.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        shape: Shape,
        confidence: float,
        iou: float,
        digest: str,
        limit: int = MAX_BOXES,
    ) -> None:
        self._backend = backend
        self.size = shape.size
        self.stride = shape.stride
        self.confidence = confidence
        self.iou = iou
        self.limit = limit
        self.digest = digest
        self.provider = backend.provider
        self.kind = backend.kind

    @classmethod
    def load(
        cls,
        model: Path,
        *,
        threads: int = 1,
        confidence: float | None = None,
        iou: float = 0.5,
        backend: Name = "onnxruntime",
        precision: Precision = "f32",
        limit: int = MAX_BOXES,
    ) -> "Detector":
        """Load an ONNX file as ultralytics exports it: `(B, 3, H, W)` in, `(B, 5, N)` out.

        Its input tells what it takes: squares of one size, or any rectangle of whole strides.

        Args:
            model: the file.
            threads: of one forward pass. More than one makes ONNX Runtime spin between requests.
            confidence: default threshold, 0..1; None takes the one that training wrote into the
                file (`CONFIDENCE_KEY`), else 0.25, ultralytics' own.
            iou: overlap threshold of non-maximum suppression, 0..1.
            backend: who runs it; "auto" measures, a second at most, and logs what it chose.
            precision: of the arithmetic; what is evaluated is evaluated with "f32".
            limit: of the boxes of a picture; the best stay. Who publishes takes the default.

        Raises:
            BadInputError: the file is missing, damaged, or no detector of one class, or it cannot
                be run as asked.
        """
        for name, value in (("confidence", confidence), ("iou", iou)):
            if value is not None and not 0 <= value <= 1:
                raise BadInputError(f"{name} {value} is not between 0 and 1")
        try:
            data = model.read_bytes()
        except OSError as error:
            raise BadInputError(f"model {model}: {error.strerror}; train or download it") from None
        session = onnx_session(model, data, threads)
        shape = _input_shape(model, session)
        if confidence is None:
            confidence = _working_threshold(model, session)
        _check_output(model, session, shape)
        if backend == "tensorrt":  # it builds an engine for a shape, which may take minutes
            shape = replace(shape, stride=0)
        chosen = choose(
            model, data, session, shape, name=backend, precision=precision, threads=threads
        )
        return cls(
            chosen,
            shape=shape,
            confidence=confidence,
            iou=iou,
            digest=hashlib.sha256(data).hexdigest(),
            limit=limit,
        )

    def detect(self, pixels: NDArray[np.uint8], *, confidence: float | None = None) -> Detections:
        """Find plates.

        Args:
            pixels: `(H, W, 3)` uint8, RGB, any size from 1 x 1.
            confidence: threshold for this image instead of the detector's, 0..1.

        Raises:
            BadInputError: `pixels` is no such array, or the threshold is out of range.
            UnavailableError: the network's answer is no number, so nobody knows what it saw.
        """
        return self.detect_batch([pixels], [confidence])[0]

    def detect_all(
        self, images: Sequence[NDArray[np.uint8]], confidences: Sequence[float | None]
    ) -> list[Detections]:
        """Find plates in one image after the other; arguments and errors as `detect_batch`."""
        given = zip(images, confidences, strict=True)
        return [self.detect(image, confidence=confidence) for image, confidence in given]

    def detect_batch(
        self, images: Sequence[NDArray[np.uint8]], confidences: Sequence[float | None]
    ) -> list[Detections]:
        """Find plates in several images; those whose frames are alike go through in one pass.

        For GPUs: on a CPU it is no faster, and takes the memory of all images at once.

        Args:
            images: each `(H, W, 3)` uint8, RGB, any size from 1 x 1.
            confidences: a threshold for each, 0..1; None takes the detector's.

        Raises:
            BadInputError: an image is no such array, or a threshold is out of range.
            UnavailableError: the network's answer is no number, so nobody knows what it saw.
        """
        given = zip(images, confidences, strict=True)
        thresholds = [self.checked(image, confidence) for image, confidence in given]
        boxes = [
            Letterbox(image.shape[1], image.shape[0], self.size, self.stride) for image in images
        ]
        alike: dict[tuple[int, int], list[int]] = {}
        for index, box in enumerate(boxes):
            alike.setdefault(box.frame, []).append(index)
        found: dict[int, Detections] = {}
        for members in alike.values():
            frames = np.stack([boxes[index].apply(images[index]) for index in members])
            for index, rows in zip(members, self._backend.forward(frames), strict=True):
                found[index] = self._read(rows, boxes[index], thresholds[index])
        return [found[index] for index in range(len(images))]

    def checked(self, pixels: NDArray[np.uint8], confidence: float | None) -> float:
        """The threshold for an image.

        Raises:
            BadInputError: it is out of range, or the image is none.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadInputError(f"an image is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        threshold = self.confidence if confidence is None else confidence
        if not 0 <= threshold <= 1:
            raise BadInputError(f"confidence {threshold} is not between 0 and 1")
        return threshold

    def _read(
        self, rows: NDArray[np.float32], letterbox: Letterbox, threshold: float
    ) -> Detections:
        # NaN compares false: left alone, a network that overflowed would have seen no plate.
        sane = np.isfinite(rows[4]).all()
        rows = rows[:, rows[4] > threshold]
        if not (sane and np.isfinite(rows).all()):
            raise UnavailableError("the network's answer is no number; nobody knows what it saw")
        centre, half, scores = rows[:2].T, rows[2:4].T / 2, rows[4]
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        kept = suppress(boxes, scores, iou=self.iou, limit=self.limit)
        found = letterbox.to_source(boxes[kept])
        has_area = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
        return Detections(found[has_area], np.asarray(scores[kept][has_area], np.float32))


def find_model(folder: Path) -> Path:
    """The one ONNX file of a model folder.

    Raises:
        BadInputError: the folder is missing, or holds none or several.
    """
    if not folder.is_dir():
        raise BadInputError(f"model folder {folder} does not exist")
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise BadInputError(f"model folder {folder} must hold exactly one .onnx file, not {names}")
    return found[0]


def _check_output(model: Path, session: Any, shape: Shape) -> None:
    """Run once on grey: the only proof that the graph is the one we read."""
    try:
        rows = OnnxRuntime(session, shape).forward(shape.frame())
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no other base
        raise _no_detector(model, f"it does not run ({first_line(error)})") from None
    if rows.ndim != 3 or rows.shape[:2] != (1, 5):
        raise _no_detector(model, f"its output is {rows.shape}, not (1, 5, N)")


def _working_threshold(model: Path, session: Any) -> float:
    text = session.get_modelmeta().custom_metadata_map.get(CONFIDENCE_KEY)
    if text is None:
        return DEFAULT_CONFIDENCE
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise _no_detector(model, f"its {CONFIDENCE_KEY} is {text[:20]!r}")
    return value


def _input_shape(model: Path, session: Any) -> Shape:
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type != "tensor(float)" or shape[1] != 3:
        raise _no_detector(model, f"its input is {shape}, not (1, 3, S, S) float")
    batch = not isinstance(shape[0], int)
    if isinstance(shape[2], int):
        if shape[2] != shape[3]:
            raise _no_detector(model, f"its input is not square: {shape}")
        return Shape(shape[2], batch=batch)
    named = session.get_modelmeta().custom_metadata_map
    size = _number(named.get("imgsz", ""), DEFAULT_SIZE)
    return Shape(size, _number(named.get("stride", ""), DEFAULT_STRIDE), batch)


def _number(text: str, otherwise: int) -> int:
    """The first number of what ultralytics writes, as "[640, 640]" or "32"."""
    digits = text.strip("[]() ").split(",")[0].strip()
    return int(digits) if digits.isdigit() and int(digits) else otherwise


def _no_detector(model: Path, why: str) -> BadInputError:
    return BadInputError(f"model {model} is no plate detector: {why}; export YOLOv8 with one class")
