"""The detector finds what its network finds, in source pixels, and refuses what is no detector."""

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from platecrypt.detection import Detector, Letterbox, find_model
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging import regions
from platecrypt.imaging.regions import MAX_BOXES as MOST
from platecrypt.serving.local import LocalDetector
from platecrypt.serving.refusals import HttpError

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
picture = MARKER["picture"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MARKER["build"](tmp_path_factory.mktemp("model") / "model.onnx", 320)


def graph(path: Path, shape_in: list[object], shape_out: list[int]) -> Path:
    """A valid ONNX file with one constant output: a model, but no plate detector."""
    value = helper.make_tensor("v", TensorProto.FLOAT, shape_out, np.zeros(shape_out).ravel())
    nodes = [
        helper.make_node("Constant", [], ["output0"], value=value),
        helper.make_node("Identity", ["images"], ["unused"]),
    ]
    info = helper.make_tensor_value_info
    g = helper.make_graph(
        nodes,
        "g",
        [info("images", TensorProto.FLOAT, shape_in)],
        [info("output0", TensorProto.FLOAT, shape_out)],
    )
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_plates_come_back_in_source_pixels_whatever_the_aspect(model: Path) -> None:
    detector = Detector.load(model)
    for width, height in ((640, 360), (360, 640), (100, 75), (1920, 1080), (319, 211)):
        truth = (width // 8, height // 4, width // 8 + width // 5, height // 4 + height // 6)
        found = detector.detect(picture(width, height, truth))
        assert len(found) == 1
        scale = max(width, height) / 320
        np.testing.assert_allclose(found.boxes[0], truth, atol=1.0 + 1.5 * scale)
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert found.scores[0] == pytest.approx(0.9)


def test_two_plates_are_two_and_none_is_none(model: Path) -> None:
    detector = Detector.load(model)
    two = detector.detect(picture(320, 240, (20, 30, 80, 60), (200, 100, 280, 140)))
    assert len(two) == 2
    empty = detector.detect(picture(320, 240))
    assert empty.boxes.shape == (0, 4)
    assert empty.scores.shape == (0,)


def test_the_threshold_of_a_call_wins_over_the_detectors(model: Path) -> None:
    detector = Detector.load(model, confidence=0.25)
    image = picture(320, 240, (20, 30, 80, 60))
    assert len(detector.detect(image, confidence=0.95)) == 0
    assert len(detector.detect(image)) == 1
    with pytest.raises(BadInputError, match=r"1\.5"):
        detector.detect(image, confidence=1.5)


def test_boxes_stay_inside_the_image(model: Path) -> None:
    found = Detector.load(model).detect(picture(301, 177, (0, 0, 120, 177)))
    x1, y1, x2, y2 = found.boxes[0]
    assert 0 <= x1 < x2 <= 301
    assert 0 <= y1 < y2 <= 177


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_odd_shapes_are_no_accident(model: Path, shape: tuple[int, int]) -> None:
    assert len(Detector.load(model).detect(np.zeros((*shape, 3), np.uint8))) == 0


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(model: Path, pixels: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="uint8"):
        Detector.load(model).detect(pixels)


def test_the_network_sees_red_first_and_values_from_0_to_1(tmp_path: Path) -> None:
    """A network whose score is the mean of its first channel."""
    size = 8
    first = helper.make_tensor("first", TensorProto.INT64, [1], [0])
    end = helper.make_tensor("end", TensorProto.INT64, [1], [1])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    box = helper.make_tensor("box", TensorProto.FLOAT, [1, 4, 1], [4.0, 4.0, 2.0, 2.0])
    flat = helper.make_tensor("flat", TensorProto.INT64, [3], [1, 1, 1])
    nodes = [
        helper.make_node("Slice", ["images", "first", "end", "axis"], ["red"]),
        helper.make_node("ReduceMean", ["red"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "flat"], ["score"]),
        helper.make_node("Concat", ["box", "score"], ["output0"], axis=1),
    ]
    info = helper.make_tensor_value_info
    g = helper.make_graph(
        nodes,
        "mean",
        [info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [info("output0", TensorProto.FLOAT, [1, 5, 1])],
        [first, end, axis, box, flat],
    )
    path = tmp_path / "mean.onnx"
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[...] = (102, 7, 230)
    found = Detector.load(path).detect(pixels, confidence=0.0)
    assert found.scores[0] == pytest.approx(102 / 255, abs=1e-6)
    np.testing.assert_allclose(found.boxes, [[3, 3, 5, 5]])


def test_the_digest_is_that_of_the_file(model: Path) -> None:
    import hashlib

    assert Detector.load(model).digest == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_missing_model_is_one_line_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"gone\.onnx") as caught:
        Detector.load(tmp_path / "gone.onnx")
    assert "\n" not in str(caught.value)


def test_a_damaged_model_is_one_line(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    for name, data in {
        "empty": b"",
        "text": b"hello",
        "half": whole[: len(whole) // 2],
        "zeros": bytes(2000),
    }.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(BadInputError, match=name) as caught:
            Detector.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape_in", "shape_out"),
    [
        ([1, 3, 64, 64], [1, 84, 20]),  # many classes
        ([1, 3, 64, 64], [1, 300, 6]),  # end to end
        ([1, 3, 64, 64], [1, 5]),  # a classifier
        ([1, 1, 64, 64], [1, 5, 20]),  # grey images
        ([1, 3, 64, 32], [1, 5, 20]),  # no square
        ([1, 10], [1, 5, 20]),  # no images at all
    ],
)
def test_another_kind_of_model_is_refused(
    tmp_path: Path, shape_in: list[object], shape_out: list[int]
) -> None:
    path = graph(tmp_path / "other.onnx", shape_in, shape_out)
    with pytest.raises(BadInputError, match="no plate detector"):
        Detector.load(path)


def test_a_folder_holds_one_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="none"):
        find_model(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"")
    assert find_model(tmp_path) == tmp_path / "a.onnx"
    (tmp_path / "b.onnx").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"a\.onnx, b\.onnx"):
        find_model(tmp_path)
    with pytest.raises(BadInputError, match="does not exist"):
        find_model(tmp_path / "nowhere")


def constant(path: Path, rows: list[list[float]]) -> Path:
    """A detector that always answers with these rows: centre, size, score of one box each."""
    values = np.array(rows, np.float32).T[np.newaxis]
    value = helper.make_tensor("v", TensorProto.FLOAT, values.shape, values.ravel())
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=value),
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["constant", "mean"], ["output0"]),
    ]
    info = helper.make_tensor_value_info
    g = helper.make_graph(
        nodes,
        "g",
        [info("images", TensorProto.FLOAT, [1, 3, 320, 320])],
        [info("output0", TensorProto.FLOAT, list(values.shape))],
    )
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    "row",
    [
        [100, 100, 40, 20, np.nan],
        [100, 100, 40, 20, np.inf],
        [np.nan, 100, 40, 20, 0.9],
        [100, 100, np.inf, 20, 0.9],
    ],
)
def test_a_network_that_answers_no_number_has_not_seen_that_there_is_no_plate(
    tmp_path: Path, row: list[float]
) -> None:
    sound = [160.0, 160.0, 40.0, 20.0, 0.5]
    black = np.zeros((320, 320, 3), np.uint8)
    assert len(Detector.load(constant(tmp_path / "sound.onnx", [sound])).detect(black)) == 1
    detector = Detector.load(constant(tmp_path / "broken.onnx", [sound, row]))
    with pytest.raises(UnavailableError, match="no number"):
        detector.detect(black)
    with pytest.raises(HttpError) as refused:
        LocalDetector(detector, "1").detect(black, confidence=None, headers={})
    assert refused.value.status == 502


def test_what_is_no_number_below_the_threshold_is_nobodys_box(tmp_path: Path) -> None:
    detector = Detector.load(constant(tmp_path / "m.onnx", [[np.inf, 1, 1, 1, 0.01]]))
    assert len(detector.detect(np.zeros((320, 320, 3), np.uint8))) == 0


def test_no_plate_is_left_out_however_many_there_are(model: Path) -> None:
    """Either all of them are told, or one more than a picture may have, which is refused."""
    detector = Detector.load(model)
    letterbox = Letterbox(320, 320, 320)
    across, down = np.meshgrid(np.arange(0, 320, 5) + 2, np.arange(0, 320, 5) + 2)
    every = np.full((5, across.size), 4, np.float32)
    every[0], every[1], every[4] = across.ravel(), down.ravel(), 0.9
    assert len(detector._read(every[:, :2000], letterbox, 0.25)) == MOST
    found = detector._read(every, letterbox, 0.25)
    with pytest.raises(BadInputError, match="are more than the 2000 one picture may have"):
        regions(found.boxes, 320, 320)
