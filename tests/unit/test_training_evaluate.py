"""Evaluation runs the real engine: a network whose answer is known gives figures that are known."""

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate
from platecrypt.detection import Detector
from platecrypt.errors import BadInputError
from platecrypt.training.evaluate import (
    SMALL_BELOW_PX,
    CurvePoint,
    Looked,
    evaluate,
    working_threshold,
)
from platecrypt.training.export import write_threshold
from platecrypt.training.report import to_html

SIZE = 128
# (score, x1, y1, x2, y2) of what the network "finds" in every image.
FOUND = [(0.9, 10, 10, 90, 30), (0.6, 10, 60, 50, 80), (0.1, 100, 100, 120, 110)]
LARGE, SMALL, ELSEWHERE = (
    (10.0, 10.0, 90.0, 30.0),
    (10.0, 60.0, 50.0, 80.0),
    (60.0, 90.0, 100.0, 99.0),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An ONNX file of a detector's shape that answers FOUND whatever it is shown."""
    rows = [[(a + c) / 2, (b + d) / 2, c - a, d - b, score] for score, a, b, c, d in FOUND]
    answer = numpy_helper.from_array(np.array(rows, np.float32).T[None], "answer")
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["answer", "nothing"], ["output0"]),
        ],
        "fixed",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, len(FOUND)])],
        [answer, zero],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "fixed.onnx"
    onnx.save(made, path)
    return path


def make(folder: Path, *images: tuple[int, list[tuple[float, float, float, float]]]) -> Manifest:
    """Grey images of a brightness with plates."""
    records = []
    for index, (grey, boxes) in enumerate(images):
        out = io.BytesIO()
        Image.new("RGB", (SIZE, SIZE), (grey, grey, grey + index)).save(out, "PNG")
        digest = hashlib.sha256(out.getvalue()).hexdigest()
        (folder / f"{digest}.png").write_bytes(out.getvalue())
        plates = tuple(Plate(box) for box in boxes)
        records.append(
            ImageRecord(
                digest,
                f"{digest}.png",
                f"<b>{index}.png",
                1,
                SIZE,
                SIZE,
                plates,
                "c",
                "g",
                None,
                "test",
            )
        )
    return Manifest(tuple(records), "test", "image")


def test_figures_by_slice(tmp_path: Path, model: Path) -> None:
    manifest = make(tmp_path, (200, [LARGE, SMALL]), (20, [LARGE, ELSEWHERE]))
    looked: list[Looked] = []
    found = evaluate(model, manifest, lambda image: tmp_path / image.key, on_image=looked.append)
    parts = {part.name: part for part in (found.overall, *found.slices)}
    counts = {name: (p.hits, p.false, p.missed) for name, p in parts.items()}
    # The weak third detection (score 0.1) lies below the working threshold.
    assert counts == {
        "all": (3, 1, 1),
        "day": (2, 0, 0),
        "night": (1, 1, 1),
        "small": (1, 1, 1),
        "large": (2, 0, 0),
    }
    assert parts["large"].map50 == 1.0
    assert parts["day"].map50 == 1.0
    # 51 of 101 recalls are reached with precision 1.
    assert parts["night"].map50 == pytest.approx(51 / 101)
    assert (parts["all"].precision, parts["all"].recall) == (0.75, 0.75)
    assert (found.model_digest, found.dataset_digest) == (
        hashlib.sha256(model.read_bytes()).hexdigest(),
        manifest.digest,
    )
    assert found.image_size == SIZE
    assert len(looked) == 2
    assert found.metrics()["night/recall"] == 0.5
    assert SMALL[2] - SMALL[0] < SMALL_BELOW_PX <= LARGE[2] - LARGE[0]


def test_the_brightness_feature_decides_day_and_night(tmp_path: Path, model: Path) -> None:
    manifest = make(tmp_path, (200, [LARGE]))
    night = {manifest.images[0].image_id: 10.0}
    found = evaluate(model, manifest, lambda image: tmp_path / image.key, brightness=night)
    assert {part.name: part.images for part in found.slices} == {
        "day": 0,
        "night": 1,
        "small": 0,
        "large": 1,
    }


def test_a_slice_without_plates_has_no_figures(tmp_path: Path, model: Path) -> None:
    manifest = make(tmp_path, (200, [LARGE]))
    found = evaluate(model, manifest, lambda image: tmp_path / image.key)
    night = next(part for part in found.slices if part.name == "night")
    assert (night.map50, night.recall, night.plates) == (None, None, 0)
    assert not [name for name in found.metrics() if name in ("night/map50", "night/recall")]


def test_a_split_without_plates_cannot_be_evaluated(tmp_path: Path, model: Path) -> None:
    for manifest in (make(tmp_path, (200, [])), Manifest((), "test", "image")):
        with pytest.raises(BadInputError, match="no labelled plate"):
            evaluate(model, manifest, lambda image: tmp_path / image.key)


def test_the_report_stands_alone_and_shows_hits_misses_and_false_ones(
    tmp_path: Path, model: Path
) -> None:
    manifest = make(tmp_path, (20, [LARGE, ELSEWHERE]))
    looked: list[Looked] = []
    found = evaluate(model, manifest, lambda image: tmp_path / image.key, on_image=looked.append)
    page = to_html(found, looked)
    assert not re.search(r"https?://|<script|<link", page)
    assert "<b>0.png" not in page  # a name is text, never markup
    assert "&lt;b&gt;0.png" in page
    assert "by image, not by ride" in page
    picture = re.search(r"data:image/jpeg;base64,([^\"]+)", page)
    assert picture
    import base64

    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.group(1)))).convert("RGB"))
    scale = shown.shape[1] / SIZE
    edges = {"green": LARGE, "amber": SMALL, "red": ELSEWHERE}
    for colour, (x1, y1, x2, _) in edges.items():
        red, green, _ = shown[round(y1 * scale), round((x1 + x2) / 2 * scale)].astype(int)
        seen = {
            "green": green > red + 40,
            "amber": red > 150 and green > 90,
            "red": red > green + 100,
        }
        assert seen[colour], (colour, red, green)


def test_the_threshold_counts_a_miss_twice_and_stays_within_bounds() -> None:
    def curve(*points: tuple[float, float, float]) -> list[CurvePoint]:
        return [CurvePoint(*point) for point in points]

    assert working_threshold(curve((0.2, 0.9, 0.6), (0.1, 0.7, 0.9))) == 0.1
    assert working_threshold(curve((0.2, 0.9, 0.9), (0.1, 0.3, 0.95))) == 0.2
    assert working_threshold(curve((0.8, 1.0, 1.0))) == 0.25
    assert working_threshold(curve((0.001, 0.5, 1.0))) == 0.05
    assert working_threshold([]) == working_threshold(curve((0.1, 0.0, 0.0))) == 0.25


def test_the_threshold_travels_in_the_model_file(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.read_bytes())
    assert Detector.load(copy).confidence == 0.25
    for value in (0.1, 0.0625):
        write_threshold(copy, value)
        assert Detector.load(copy).confidence == value
        assert Detector.load(copy, confidence=0.5).confidence == 0.5
    damaged = onnx.load(str(copy))
    damaged.metadata_props[-1].value = "high"
    onnx.save(damaged, str(copy))
    with pytest.raises(BadInputError, match=r"platecrypt\.confidence"):
        Detector.load(copy)
