"""Export to ONNX, and the proof that what is exported sees what was trained."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection import CONFIDENCE_KEY, MAX_DETECTIONS, Detector
from platecrypt.errors import BadInputError, RefusedError, UnavailableError
from platecrypt.training import matching
from platecrypt.training.evaluate import read_upright
from platecrypt.training.ultralytics_runtime import load_ultralytics

MAX_BOX_DIFFERENCE_PX = 1.0
MAX_SCORE_DIFFERENCE = 1e-3
CONFIDENCE = 0.25
NMS_IOU = 0.5
# A weak model finds nothing above 0.25; then its best boxes are compared, whatever their score.
WEAK_CONFIDENCE = 0.001
WEAK_BOXES = 5


@dataclass(frozen=True)
class Agreement:
    """How far the ONNX model is from the PyTorch model.

    Attributes:
        images: looked at.
        boxes: compared, a pair counted once.
        confidence: boxes above this score were compared.
        max_box_diff_px: largest difference of one coordinate, source pixels.
        max_score_diff: largest difference of a score.
        unmatched: boxes that only one of the two found.
    """

    images: int
    boxes: int
    confidence: float
    max_box_diff_px: float
    max_score_diff: float
    unmatched: int


def export_onnx(weights: Path, onnx: Path, *, image_size: int, config_dir: Path) -> Path:
    """Write the ONNX file of trained weights; it appears whole or not at all.

    It takes any number of frames of any size: a wide picture needs no square.

    Args:
        weights: the `.pt`.
        onnx: where to; its folder exists.
        image_size: longer side of what the network looks at, pixels.
        config_dir: see `load_ultralytics`.

    Raises:
        BadInputError: the weights cannot be read.
        UnavailableError: the export failed.
    """
    if not weights.is_file():
        raise BadInputError(f"{weights} does not exist; train a model first")
    with tempfile.TemporaryDirectory(dir=onnx.parent, prefix=".export-") as folder:
        # ultralytics writes beside the weights and names the file after them.
        copy = Path(folder) / f"{onnx.stem}.pt"
        shutil.copyfile(weights, copy)
        model = _load(copy, config_dir)
        try:
            written = model.export(
                format="onnx", imgsz=image_size, dynamic=True, device="cpu", verbose=False
            )
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            raise UnavailableError(f"ONNX export of {weights} failed: {error}") from error
        Path(written).replace(onnx)
    return onnx


def write_threshold(onnx: Path, confidence: float) -> None:
    """Write the working threshold into an ONNX file, where `Detector.load` finds it.

    Args:
        onnx: the file; it appears whole or not at all.
        confidence: 0..1.
    """
    import onnx as library

    model = library.load(str(onnx))
    kept = [item for item in model.metadata_props if item.key != CONFIDENCE_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=CONFIDENCE_KEY, value=repr(confidence))
    temporary = onnx.with_name(f".{onnx.name}.new")
    library.save(model, str(temporary))
    temporary.replace(onnx)


def agreement(weights: Path, onnx: Path, images: Sequence[Path], *, config_dir: Path) -> Agreement:
    """Compare both models on images; PyTorch through ultralytics, ONNX through our detector.

    So the comparison covers all that differs in service: graph, letterbox, suppression.

    Raises:
        RefusedError: they differ by more than 1 px or 1e-3, one finds a box that the other does
            not, or neither finds anything at all.
        BadInputError: no images, or a file cannot be read.
    """
    if not images:
        raise BadInputError("no images to compare ONNX with PyTorch on; import more rides")
    model = _load(weights, config_dir)
    detector = Detector.load(onnx, confidence=WEAK_CONFIDENCE, iou=NMS_IOU, limit=MAX_DETECTIONS)
    pairs = [_both(model, detector, path) for path in images]
    found = _compare(pairs, CONFIDENCE, None)
    if not found.boxes:
        found = _compare(pairs, WEAK_CONFIDENCE, WEAK_BOXES)
    if not found.boxes and not found.unmatched:
        raise RefusedError(
            f"the model finds nothing in {len(images)} held-out images, so ONNX cannot be compared "
            "with PyTorch; train longer"
        )
    if (
        found.unmatched
        or found.max_box_diff_px > MAX_BOX_DIFFERENCE_PX
        or found.max_score_diff > MAX_SCORE_DIFFERENCE
    ):
        raise RefusedError(
            f"ONNX and PyTorch disagree on {found.boxes} boxes of {found.images} images: "
            f"{found.max_box_diff_px:.3f} px (limit {MAX_BOX_DIFFERENCE_PX}), score "
            f"{found.max_score_diff:.5f} (limit {MAX_SCORE_DIFFERENCE}), {found.unmatched} without "
            "counterpart; export again"
        )
    return found


_Found = tuple[NDArray[np.float64], NDArray[np.float64]]


def _both(model: Any, detector: Detector, path: Path) -> tuple[_Found, _Found]:
    pixels = read_upright(path)
    answer = model.predict(
        np.ascontiguousarray(pixels[..., ::-1]),  # ultralytics takes BGR
        imgsz=detector.size,
        conf=WEAK_CONFIDENCE,
        iou=NMS_IOU,
        rect=bool(detector.stride),
        device="cpu",
        verbose=False,
    )[0].boxes
    torch_found = (
        matching.as_boxes(answer.xyxy.cpu().numpy()),
        np.asarray(answer.conf.cpu().numpy(), np.float64),
    )
    ours = detector.detect(pixels)
    return torch_found, (matching.as_boxes(ours.boxes), ours.scores.astype(np.float64))


def _compare(
    pairs: Sequence[tuple[_Found, _Found]], confidence: float, limit: int | None
) -> Agreement:
    """Every box above `confidence` (the best `limit` an image) against its closest counterpart."""
    boxes = unmatched = 0
    box_diff = score_diff = 0.0
    for torch_found, onnx_found in pairs:
        for turn, ((a, a_scores), (b, b_scores)) in enumerate(
            ((torch_found, onnx_found), (onnx_found, torch_found))
        ):
            rows = np.flatnonzero(a_scores > confidence)[:limit]
            overlaps = matching.iou_matrix(a[rows], b)
            for row, overlap in zip(rows, overlaps, strict=True):
                # The counterpart may lie just under the threshold: that is a score difference.
                # Of several boxes in one place (clipped at the border) the score tells which.
                apart = np.abs(b_scores - a_scores[row])
                near = int((overlap - apart).argmax()) if overlap.size else -1
                if near < 0 or overlap[near] < 0.5:
                    unmatched += 1
                    continue
                boxes += turn == 0
                box_diff = max(box_diff, float(np.abs(a[row] - b[near]).max()))
                score_diff = max(score_diff, float(abs(a_scores[row] - b_scores[near])))
    return Agreement(len(pairs), boxes, confidence, box_diff, score_diff, unmatched)


def _load(weights: Path, config_dir: Path) -> Any:
    if not weights.is_file():
        raise BadInputError(f"{weights} does not exist; train a model first")
    ultralytics = load_ultralytics(config_dir)
    try:
        return ultralytics.YOLO(str(weights))
    except Exception as error:  # whatever the unpickler meets in a damaged file
        raise BadInputError(
            f"{weights} is no readable YOLO checkpoint ({type(error).__name__}); train again"
        ) from error
