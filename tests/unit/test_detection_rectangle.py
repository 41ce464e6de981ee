"""A network that takes any shape looks at less than the square, and sees the same."""

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platecrypt.detection import Detector
from platecrypt.detection.backends import blob_of, onnx_session

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
SIZE = 320


class Spy:
    """Notes the frames that a backend is given."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.frames: list[tuple[int, ...]] = []

    def forward(self, frames: np.ndarray) -> np.ndarray:
        self.frames.append(frames.shape)
        return np.asarray(self._backend.forward(frames))


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    """The same network for squares and for rectangles, on every backend that is here."""
    folder = tmp_path_factory.mktemp("models")
    any_shape = MARKER["build"](folder / "any.onnx", SIZE)
    found = {
        "square": Detector.load(MARKER["build"](folder / "square.onnx", SIZE, dynamic=False)),
        "onnxruntime": Detector.load(any_shape),
    }
    try:
        import openvino  # noqa: F401
    except ImportError:
        return found
    return {**found, "openvino": Detector.load(any_shape, backend="openvino")}


@pytest.mark.parametrize(
    ("width", "height", "frame"),
    [
        (1920, 1080, (192, 320)),
        (1080, 1920, (320, 192)),
        (500, 500, (320, 320)),
        (10_000, 1, (32, 320)),
        (1, 10_000, (320, 32)),
        (1, 1, (320, 320)),
    ],
)
def test_the_frame_is_the_smallest_one_of_whole_strides(
    detectors: dict[str, Detector], width: int, height: int, frame: tuple[int, int]
) -> None:
    detector = detectors["onnxruntime"]
    spy = Spy(detector._backend)
    detector._backend = spy  # type: ignore[assignment]
    try:
        detector.detect(np.zeros((height, width, 3), np.uint8))
    finally:
        detector._backend = spy._backend
    assert spy.frames == [(1, *frame, 3)]


def test_an_old_model_keeps_its_square(detectors: dict[str, Detector]) -> None:
    square = detectors["square"]
    assert (square.size, square.stride) == (SIZE, 0)
    assert (detectors["onnxruntime"].size, detectors["onnxruntime"].stride) == (SIZE, 32)


@settings(deadline=None, max_examples=40)
@given(
    width=st.integers(64, 1600),
    height=st.integers(64, 1600),
    corner=st.tuples(st.floats(0.02, 0.3), st.floats(0.02, 0.8)),
    share=st.tuples(st.floats(0.08, 0.15), st.floats(0.08, 0.15)),
    second=st.booleans(),
)
def test_a_plate_lies_where_the_square_sees_it(
    detectors: dict[str, Detector],
    width: int,
    height: int,
    corner: tuple[float, float],
    share: tuple[float, float],
    second: bool,
) -> None:
    def box(left: float) -> tuple[int, int, int, int]:
        x, y = int(left * width), int(corner[1] * height)
        return x, y, x + int(share[0] * width), y + int(share[1] * height)

    boxes = [box(corner[0]), *([box(corner[0] + 0.52)] if second else [])]
    image = MARKER["picture"](width, height, *boxes)
    expected = detectors["square"].detect(image)
    for name, detector in detectors.items():
        found = detector.detect(image)
        assert len(found) == len(expected), name
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01, err_msg=name)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_several_images_are_one_pass_where_their_frames_are_alike(
    detectors: dict[str, Detector],
) -> None:
    shapes = [(640, 360), (300, 300), (1280, 720), (640, 360), (360, 640)]
    images = [
        MARKER["picture"](*shape, (20, 30 + 7 * i, 90, 70 + 7 * i))
        for i, shape in enumerate(shapes)
    ]
    for detector in detectors.values():
        spy = Spy(detector._backend)
        detector._backend = spy  # type: ignore[assignment]
        try:
            found = detector.detect_batch(images, [None, 0.95, None, None, None])
        finally:
            detector._backend = spy._backend
        assert [len(one) for one in found] == [1, 0, 1, 1, 1]
        if detector.stride:
            assert spy.frames == [(3, 192, 320, 3), (1, 320, 320, 3), (1, 320, 192, 3)]
        for index in (0, 2, 3, 4):
            alone = detector.detect(images[index])
            np.testing.assert_array_equal(found[index].boxes, alone.boxes)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An untrained yolov8n of one class, in PyTorch and as our export writes it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    import yaml

    from platecrypt.training.export import export_onnx
    from platecrypt.training.ultralytics_runtime import load_ultralytics

    folder = tmp_path_factory.mktemp("network")
    ultralytics = load_ultralytics(folder / "config")
    stock = next(Path(ultralytics.__file__).parent.rglob("yolov8.yaml"))
    source = folder / "yolov8n.yaml"
    source.write_text(yaml.safe_dump({**yaml.safe_load(stock.read_text()), "nc": 1, "scale": "n"}))
    torch.manual_seed(4)
    model = ultralytics.YOLO(str(source))
    weights = folder / "model.pt"
    model.save(str(weights))
    path = export_onnx(weights, folder / "model.onnx", image_size=160, config_dir=folder / "config")
    return model.model.float().eval(), path


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(96, 160), (160, 96), (160, 160), (32, 160), (160, 32)])
def test_the_exported_network_is_pytorchs_on_every_rectangle(
    network: tuple[Any, Path], shape: tuple[int, int]
) -> None:
    """The grid of anchors above all: it belongs to the shape of the frame."""
    import torch

    model, path = network
    frames = np.random.default_rng(sum(shape)).integers(0, 256, (2, *shape, 3), np.uint8)
    session = onnx_session(path, path.read_bytes(), 1)
    found = session.run(None, {"images": blob_of(frames)})[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(blob_of(frames)))[0].numpy()
    assert found.shape == expected.shape == (2, 5, shape[0] * shape[1] * 21 // 1024)
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=0.01)
    np.testing.assert_allclose(found[:, 4], expected[:, 4], atol=1e-5)


@pytest.mark.slow
def test_both_backends_run_the_exported_network_on_rectangles(network: tuple[Any, Path]) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    detectors = [Detector.load(network[1], backend=name) for name in ("onnxruntime", "openvino")]
    for shape in ((96, 160), (160, 160), (160, 32), (96, 160)):
        frames = np.random.default_rng(3).integers(0, 256, (2, *shape, 3), np.uint8)
        one, two = (detector._backend.forward(frames) for detector in detectors)
        np.testing.assert_allclose(one, two, atol=0.05)
