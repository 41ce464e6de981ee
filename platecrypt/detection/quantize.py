"""INT8 models: calibrated on pictures, and written only where they find what the original finds.

Static quantisation in ONNX's own form (QDQ), per channel, of the convolutions alone: the decoding
of boxes at the end of the network needs the range of pixels and stays float.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection.backends import INT8, INT8_KEY, blob_of, first_line
from platecrypt.detection.engine import Detector
from platecrypt.detection.letterbox import Letterbox
from platecrypt.errors import BadInputError, RefusedError

MAX_LOSS = 0.005  # of recall: half a point
MATCH_IOU = 0.5
CALIBRATION_IMAGES = 128
OPERATORS = ("Conv",)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Sample:
    """A picture to calibrate and to judge with.

    Attributes:
        read: gives `(H, W, 3)` uint8 RGB.
        boxes: its plates, `(N, 4)` pixels; None where nobody labelled it.
    """

    read: Callable[[], NDArray[np.uint8]]
    boxes: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class QuantizeReport:
    """What was judged: plates, and the share of them that each model finds."""

    images: int
    plates: int
    recall_before: float
    recall_after: float
    labelled: bool


def quantize(
    model: Path, samples: Sequence[Sample], output: Path, *, confidence: float | None = None
) -> QuantizeReport:
    """Write an INT8 copy of a model.

    Where no picture has labels, the plates are those that the original finds.

    Args:
        model: ONNX file of the original.
        samples: pictures; the first ones calibrate, all of them judge.
        output: the file to write; written whole or not at all.
        confidence: the threshold that recall is judged at, 0..1; None: the one in the model file,
            which it is served with.

    Raises:
        BadInputError: there is no picture or no plate, or the model cannot be quantised.
        RefusedError: the INT8 model loses more than half a point of recall; nothing is written.
    """
    original = Detector.load(model, confidence=confidence)
    labelled = any(sample.boxes is not None for sample in samples)
    judged = [s for s in samples if s.boxes is not None] if labelled else list(samples)
    if not judged:
        raise BadInputError("there is no picture to calibrate with")
    truths = _truths(original, judged, labelled=labelled)
    plates = sum(map(len, truths))
    if not plates:
        raise BadInputError("the pictures show no plate, so nothing says what INT8 would lose")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        _write(model, made, samples[:CALIBRATION_IMAGES], original)
        before = _recall(original, judged, truths)
        after = _recall(Detector.load(made, confidence=confidence), judged, truths)
        if after < before - MAX_LOSS:
            raise RefusedError(
                f"INT8 finds {after:.1%} of {plates} plates where the original finds {before:.1%}: "
                f"more than {MAX_LOSS:.1%} lost, so {output} is not written; calibrate with more "
                "pictures, or serve bf16"
            )
        _place(made, output)
    return QuantizeReport(len(judged), plates, before, after, labelled)


def matched(found: NDArray[np.float32], truth: NDArray[np.float32]) -> int:
    """How many boxes of `truth` overlap one of `found` enough, each of which counts once."""
    if not len(found) or not len(truth):
        return 0
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (found, truth)]
    overlap = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)
    count = 0
    while overlap.size and overlap.max() >= MATCH_IOU:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[row, :] = overlap[:, column] = -1
        count += 1
    return count


def read_folder(folder: Path, limit: int = 0) -> list[Sample]:
    """The pictures of a folder, with labels of the YOLO form where such files lie beside them.

    A label file has the picture's name and `.txt`, in the same folder or in the one that is
    called `labels` where the picture's is called `images`.

    Raises:
        BadInputError: the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise BadInputError(f"folder {folder} does not exist")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise BadInputError(f"folder {folder} holds no picture")
    return [_sample(path) for path in paths[: limit or None]]


def _sample(path: Path) -> Sample:
    def read() -> NDArray[np.uint8]:
        import cv2

        pixels: Any = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise BadInputError(f"{path} cannot be decoded; take it out")
        return np.asarray(pixels, np.uint8)

    folders = [part if part != "images" else "labels" for part in path.parent.parts]
    for label in (path.with_suffix(".txt"), Path(*folders) / f"{path.stem}.txt"):
        if label.is_file():
            height, width = read().shape[:2]
            return Sample(read, _labels(label, width, height))
    return Sample(read)


def _labels(path: Path, width: int, height: int) -> NDArray[np.float32]:
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text().splitlines()]
        values = np.array([row[1:5] for row in rows if row], np.float32).reshape(-1, 4)
    except ValueError:
        raise BadInputError(f"{path} is no label file of the YOLO form") from None
    centre, half = values[:, :2], values[:, 2:] / 2
    scale = np.array([width, height] * 2, np.float32)
    return np.asarray(np.concatenate((centre - half, centre + half), axis=1) * scale, np.float32)


def _truths(
    original: Detector, samples: Sequence[Sample], *, labelled: bool
) -> list[NDArray[np.float32]]:
    if labelled:
        return [sample.boxes for sample in samples if sample.boxes is not None]
    return [original.detect(sample.read()).boxes for sample in samples]


def _recall(
    detector: Detector, samples: Sequence[Sample], truths: Sequence[NDArray[np.float32]]
) -> float:
    found = sum(
        matched(detector.detect(sample.read()).boxes, truth)
        for sample, truth in zip(samples, truths, strict=True)
    )
    return found / sum(map(len, truths))


def _write(model: Path, output: Path, samples: Sequence[Sample], original: Detector) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._blobs = ({name: blob} for blob in _blobs(samples, original))

        def get_next(self) -> Any:
            return next(self._blobs, None)

    document = onnx.load(model)
    try:
        with _quiet():
            quantize_static(
                document,
                output,
                Reader(document.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(OPERATORS),
            )
    except Exception as error:  # noqa: BLE001 - the tool's exceptions share no other base
        raise BadInputError(f"model {model} cannot be quantised: {first_line(error)}") from None
    made = onnx.load(output)
    kept = {item.key: item.value for item in onnx.load(model).metadata_props}
    onnx.helper.set_model_props(made, {**kept, INT8_KEY: INT8})
    onnx.save(made, output)


def _blobs(samples: Sequence[Sample], original: Detector) -> Iterator[NDArray[np.float32]]:
    for sample in samples:
        pixels = sample.read()
        height, width = pixels.shape[:2]
        box = Letterbox(width, height, original.size, original.stride)
        yield blob_of(box.apply(pixels)[np.newaxis])


def _place(made: Path, output: Path) -> None:
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(made.read_bytes())
        temporary.replace(output)
    except OSError as error:
        raise BadInputError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tool writes its advice to the root logger."""
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(before)
