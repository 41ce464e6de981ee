"""Whoever runs the network, the plates are the same; what was asked for is had, or refused."""

import logging
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platecrypt.detection import Detector, backends
from platecrypt.detection.backends import Shape, blob_of, fastest
from platecrypt.errors import BadInputError

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
BOXES = ((20, 30, 80, 60), (200, 100, 280, 140))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MARKER["build"](tmp_path_factory.mktemp("model") / "model.onnx", 320)


def has_bf16() -> bool:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_finds_what_onnx_runtime_finds(model: Path, precision: Any) -> None:
    if precision == "bf16" and not has_bf16():
        pytest.skip("this CPU has no bf16")
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    ours = Detector.load(model, backend="openvino", precision=precision)
    assert ours.provider == f"OpenVINO {precision}"
    for shape in ((320, 240), (640, 360), (101, 77)):
        truth = tuple(tuple(v * shape[0] // 320 for v in box) for box in BOXES[:1])
        image = MARKER["picture"](*shape, *truth)
        expected = Detector.load(model).detect(image)
        found = ours.detect(image)
        assert len(found) == len(expected) == 1
        slack = 0.01 if precision == "f32" else 0.02 * max(shape)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=slack)
        np.testing.assert_allclose(found.scores, expected.scores, atol=0.01)


def test_openvino_answers_several_threads_their_own_question(model: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    detector = Detector.load(model, backend="openvino")
    pictures = [MARKER["picture"](320, 240, (10 + 2 * i, 30, 60 + 2 * i, 60)) for i in range(24)]
    expected = [detector.detect(picture).boxes for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = [one.boxes for one in pool.map(detector.detect, pictures * 3)]
    for one, other in zip(found, expected * 3, strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)  # a shape gets its own network midway


TERMINATED = """
import gc, os, signal, sys, threading
from pathlib import Path
from platecrypt.detection import Detector
first, second = (Detector.load(Path(sys.argv[1]), backend="openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
third = [Detector.load(Path(sys.argv[1]), backend="openvino")]
ending = threading.Thread(target=lambda: (third.clear(), gc.collect()))
ending.start()
ending.join()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_finds_its_handler_after_networks_were_dropped(model: Path) -> None:
    """OpenVINO replaces the stack of signal handlers, and gives back what it thinks was there."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    ended = subprocess.run([sys.executable, "-c", TERMINATED, str(model)], check=False, timeout=120)
    assert ended.returncode == 7, "killed by the signal's delivery"


def test_auto_measures_and_says_what_it_chose(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with caplog.at_level(logging.INFO):
        detector = Detector.load(model, backend="auto")
    (record,) = [r for r in caplog.records if r.getMessage() == "backend chosen"]
    measured = record.fields["median_ms"]
    assert set(measured) == {"CPUExecutionProvider", "OpenVINO f32"}
    assert record.fields["backend"] == detector.provider == min(measured, key=measured.get)


class Paced:
    def __init__(self, provider: str, seconds: float) -> None:
        self.provider, self._seconds, self.calls = provider, seconds, 0

    def forward(self, frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.calls += 1
        # The first pass of the fast one is slow, as where a backend compiles on its first call.
        time.sleep(0.2 if self.calls == 1 else self._seconds)
        return np.zeros((1, 5, 1), np.float32)


def test_the_fastest_wins_and_the_first_pass_does_not_count() -> None:
    slow, fast = Paced("slow", 0.03), Paced("fast", 0.002)
    assert fastest([slow, fast], Shape(64), budget_s=0.5) is fast
    assert slow.calls < 30


def test_what_is_not_to_be_had_is_refused_with_a_remedy(model: Path) -> None:
    with pytest.raises(BadInputError, match="platecrypt quantize"):
        Detector.load(model, precision="int8")
    with pytest.raises(BadInputError, match="no backend"):
        Detector.load(model, backend="onnxruntime", precision="bf16")


def test_tensorrt_is_used_or_refused(model: Path) -> None:
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has TensorRT")
    with pytest.raises(BadInputError, match="no TensorRT"):
        Detector.load(model, backend="tensorrt")


def test_a_machine_without_openvino_uses_onnx_runtime(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    assert Detector.load(model, backend="auto").provider == "CPUExecutionProvider"
    with pytest.raises(BadInputError, match="no backend"):
        Detector.load(model, backend="openvino")


def test_the_blob_is_the_pixels_in_planes() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, 32, 64, 3), np.uint8)
    expected = frames.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(blob_of(frames), expected)


def test_a_shape_that_comes_often_has_a_network_of_its_own(model: Path) -> None:
    """And not more of them than a few, whatever clients send."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    detector = Detector.load(model, backend="openvino")
    assert detector.stride
    backend: Any = detector._backend
    (first,) = backend._compiled
    rng = np.random.default_rng(1)
    shapes = [(32 * number, 64) for number in range(1, backends.SHAPES + 3)]
    for shape in shapes:
        frame = rng.integers(0, 256, (1, *shape, 3), np.uint8)
        before = [backend.forward(frame) for _ in range(backends.OFTEN - 1)]
        assert (1, *shape) not in backend._compiled
        after = [backend.forward(frame) for _ in range(2)]
        for rows in (*before[1:], *after):
            np.testing.assert_allclose(rows, before[0], atol=1e-3)
    own = [(1, *shape) for shape in shapes[: backends.SHAPES - 1]]
    assert list(backend._compiled) == [first, *own]
