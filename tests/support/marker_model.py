"""A tiny ONNX detector with the wire form of YOLOv8: it finds magenta blocks, exactly.

The left and the right half of the picture are looked at apart, so it finds up to two "plates".
A pixel counts where red and blue are above 0.7 and green is below 0.3.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCORE = 0.9
MAGENTA = (255, 0, 255)


def build(path: Path, size: int = 64, *, dynamic: bool = True) -> Path:
    """Write the model; output `(1, 5, 2)`.

    `dynamic`: it takes frames of any shape up to `size`, as ours are exported; else one square.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {
        "high": np.float32(0.7),
        "low": np.float32(0.3),
        "half": np.float32(0.5),
        "score": np.float32(SCORE),
        "size": np.float32(size),
        "up": np.arange(1, size + 1, dtype=np.float32),
        "down": np.arange(size, 0, -1, dtype=np.float32),
        "channel_axis": np.array([1], np.int64),
        "column_axis": np.array([3], np.int64),
    }

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def cut(source: str, output: str, start: int, stop: int, axis: str) -> str:
        constants[f"{output}_from"] = np.array([start], np.int64)
        constants[f"{output}_to"] = np.array([stop], np.int64)
        return node("Slice", [source, f"{output}_from", f"{output}_to", axis], output)

    red, green, blue = (cut("images", f"c{i}", i, i + 1, "channel_axis") for i in range(3))
    bright = node(
        "And",
        [node("Greater", [red, "high"], "r_hi"), node("Greater", [blue, "high"], "b_hi")],
        "bright",
    )
    both = node("And", [bright, node("Less", [green, "low"], "g_lo")], "both")
    mask = node("Cast", [both], "mask", to=TensorProto.FLOAT)

    shape = node("Shape", ["images"], "shape")
    lengths = {
        "x": cut(shape, "length_x", 3, 4, "batch_axis"),
        "y": cut(shape, "length_y", 2, 3, "batch_axis"),
    }
    steps = {
        (way, axis): node("Slice", [way, "batch_axis", length, "batch_axis"], f"{way}_{axis}")
        for axis, length in lengths.items()
        for way in ("up", "down")
    }
    wide = node("Cast", [lengths["x"]], "wide", to=TensorProto.FLOAT)
    middle = node("Mul", [wide, "half"], "middle")
    right = node("Greater", [steps["up", "x"], middle], "right")

    anchors = []
    for side, half in (("l", node("Not", [right], "left")), ("r", right)):
        chosen = node("Cast", [half], f"{side}_half", to=TensorProto.FLOAT)
        full = node("Mul", [mask, chosen], f"{side}_full")
        edges = []
        for axis, other in (("x", 2), ("y", 3)):
            line = node("ReduceMax", [full], f"{side}_{axis}", axes=[1, other], keepdims=0)
            low = node("Mul", [line, steps["down", axis]], f"{side}_{axis}_d")
            low = node("ReduceMax", [low], f"{side}_{axis}_dm", axes=[1], keepdims=0)
            high = node("Mul", [line, steps["up", axis]], f"{side}_{axis}_u")
            high = node("ReduceMax", [high], f"{side}_{axis}_2", axes=[1], keepdims=0)
            edges.append((node("Sub", ["size", low], f"{side}_{axis}_1"), high))
        rows = []
        for kind in ("centre", "extent"):
            for axis, (low, high) in zip("xy", edges, strict=True):
                name = f"{side}_{axis}_{kind}"
                if kind == "centre":
                    total = node("Add", [low, high], f"{name}_s")
                    rows.append(node("Mul", [total, "half"], name))
                else:
                    rows.append(node("Sub", [high, low], name))
        any_ = node("ReduceMax", [full], f"{side}_any", axes=[1, 2, 3], keepdims=0)
        rows.append(node("Mul", [any_, "score"], f"{side}_score"))
        anchors.append(node("Concat", rows, f"{side}_row", axis=0))
    stacked = [node("Unsqueeze", [a, "channel_axis"], f"{a}_u") for a in anchors]
    table = node("Concat", stacked, "table", axis=1)
    constants["batch_axis"] = np.array([0], np.int64)
    node("Unsqueeze", [table, "batch_axis"], "output0")

    sides = ["height", "width"] if dynamic else [size, size]
    graph = helper.make_graph(
        nodes,
        "marker",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *sides])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 5, 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"imgsz": f"[{size}, {size}]", "stride": "32"})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def picture(width: int = 320, height: int = 240, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """A calm `(H, W, 3)` uint8 RGB street with magenta blocks at `boxes`."""
    ramp = np.linspace(40, 160, width, dtype=np.float32)[None, :, None]
    rows = np.linspace(0, 40, height, dtype=np.float32)[:, None, None]
    image = np.broadcast_to(ramp + rows, (height, width, 3)).astype(np.uint8).copy()
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = MAGENTA
    return image
