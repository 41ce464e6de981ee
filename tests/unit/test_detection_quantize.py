"""An INT8 model is written where it finds what the original finds, and refused elsewhere."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from platecrypt.detection import Detector
from platecrypt.detection import quantize as module
from platecrypt.detection.quantize import Sample, matched, quantize, read_folder
from platecrypt.errors import BadInputError, RefusedError

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
BOX = (40, 60, 120, 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The marker model behind a convolution that passes its three channels on."""
    path = MARKER["build"](tmp_path_factory.mktemp("model") / "model.onnx", 160)
    document = onnx.load(path)
    graph = document.graph
    for node in graph.node:
        node.input[:] = ["passed" if name == "images" else name for name in node.input]
    kernel = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    graph.node.insert(0, helper.make_node("Conv", ["images", "kernel"], ["passed"], name="first"))
    onnx.checker.check_model(document)
    onnx.save(document, path)
    return path


def sample(*, labelled: bool = True, shift: int = 0) -> Sample:
    image = MARKER["picture"](320, 240, tuple(v + shift for v in BOX))
    truth = np.array([BOX], np.float32) + shift
    return Sample(lambda: image, truth if labelled else None)


@pytest.mark.parametrize("labelled", [True, False])
def test_it_is_written_where_nothing_is_lost(model: Path, tmp_path: Path, labelled: bool) -> None:
    output = tmp_path / "int8.onnx"
    samples = [sample(labelled=labelled, shift=shift) for shift in range(0, 40, 5)]
    report = quantize(model, samples, output)
    assert (report.plates, report.recall_before, report.recall_after) == (8, 1.0, 1.0)
    assert report.labelled is labelled
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(output).graph.node)
    for backend in ("onnxruntime", "openvino"):
        if backend == "openvino":
            pytest.importorskip("openvino", reason="OpenVINO is not installed")
        found = Detector.load(output, backend=backend, precision="int8")
        np.testing.assert_allclose(found.detect(samples[0].read()).boxes, [BOX], atol=4)


def test_it_is_refused_where_plates_are_lost_and_nothing_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._write

    def blind(source: Path, output: Path, samples: Any, original: Detector) -> None:
        real(source, output, samples, original)
        document = onnx.load(output)
        for item in document.graph.initializer:
            if item.name == "score":
                item.CopyFrom(numpy_helper.from_array(np.float32(0.2), "score"))
        onnx.save(document, output)

    monkeypatch.setattr(module, "_write", blind)
    output = tmp_path / "int8.onnx"
    with pytest.raises(RefusedError, match=r"INT8 finds 0\.0% of 2 plates .* 100\.0%"):
        quantize(model, [sample(), sample(shift=8)], output)
    assert list(tmp_path.iterdir()) == []


def test_half_a_point_is_the_limit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for after, refused in ((0.9951, False), (0.9949, True)):
        recalls = [1.0, after]
        monkeypatch.setattr(module, "_recall", lambda *_, left=recalls: left.pop(0))
        output = tmp_path / f"{after}.onnx"
        if refused:
            with pytest.raises(RefusedError):
                quantize(model, [sample()], output)
        else:
            quantize(model, [sample()], output)
        assert output.exists() is not refused


def test_pictures_that_say_nothing_are_refused(model: Path, tmp_path: Path) -> None:
    empty = Sample(lambda: MARKER["picture"](320, 240))
    with pytest.raises(BadInputError, match="no plate"):
        quantize(model, [empty], tmp_path / "x.onnx")
    with pytest.raises(BadInputError, match="no picture"):
        quantize(model, [], tmp_path / "x.onnx")
    with pytest.raises(BadInputError, match="does not exist"):
        read_folder(tmp_path / "gone")
    with pytest.raises(BadInputError, match="holds no picture"):
        read_folder(tmp_path)


def test_each_plate_is_matched_once() -> None:
    truth = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    assert matched(truth, truth) == 2
    assert matched(np.repeat(truth[:1], 3, axis=0), truth) == 1
    assert matched(truth + np.float32(5), truth) == 0
    assert matched(np.zeros((0, 4), np.float32), truth) == 0


def test_the_command_reads_a_folder_with_labels(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "labels").mkdir()
    image = MARKER["picture"](320, 240, BOX)
    cv2.imwrite(str(folder / "a.png"), image[..., ::-1])
    x1, y1, x2, y2 = np.array(BOX) / [320, 240, 320, 240]
    row = f"0 {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n"
    (tmp_path / "labels" / "a.txt").write_text(row)
    (loaded,) = read_folder(folder)
    np.testing.assert_allclose(loaded.boxes, [BOX], atol=1e-3)
    code = "import typer; from platecrypt.commands.serve import quantize; typer.run(quantize)"
    output = tmp_path / "out" / "int8.onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), str(folder), "-o", str(output), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["plates"], result["recall_int8"], result["labelled"]) == (1, 1.0, True)
    assert Detector.load(output, precision="int8").size == 160


def test_a_model_that_cannot_be_quantised_is_said_in_one_line(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["images"], ["output0"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [info("output0", TensorProto.FLOAT, [1, 3, 8, 8])],
    )
    path = tmp_path / "m.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    with pytest.raises(BadInputError, match="no plate detector"):
        quantize(path, [sample()], tmp_path / "x.onnx")


def test_recall_is_judged_at_the_threshold_that_the_model_is_served_with(
    model: Path, tmp_path: Path
) -> None:
    document = onnx.load(model)
    kept = {item.key: item.value for item in document.metadata_props}
    # The network is sure to 0.9.
    helper.set_model_props(document, {**kept, "platecrypt.confidence": "0.95"})
    onnx.save(document, tmp_path / "sure.onnx")
    with pytest.raises(BadInputError, match="show no plate"):
        quantize(tmp_path / "sure.onnx", [sample(labelled=False)], tmp_path / "int8.onnx")
    report = quantize(
        tmp_path / "sure.onnx", [sample(labelled=False)], tmp_path / "int8.onnx", confidence=0.25
    )
    assert report.plates == 1
