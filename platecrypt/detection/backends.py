"""Who runs the network: ONNX Runtime or OpenVINO, behind one interface, chosen by measurement.

A backend takes the letterboxed square as it is, `(S, S, 3)` uint8, and gives the rows of the
network, `(5, N)` float32: cx, cy, w, h in pixels of the square, and the score.
"""

import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from platecrypt.errors import BadInputError

Name = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
Precision = Literal["auto", "f32", "bf16", "int8"]

MEASURE_S = 0.8  # for all candidates together
MAX_ROUNDS = 15
INT8_KEY, INT8 = "platecrypt.precision", "int8"  # in the metadata of a quantised model
GREY = 114

logger = logging.getLogger("platecrypt.detection")


class Backend(Protocol):
    """A network that runs. Safe to use from several threads.

    Attributes:
        provider: what runs it, for people and logs, e.g. "CPUExecutionProvider".
    """

    provider: str

    def forward(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One pass over a square."""


class OnnxRuntime:
    """ONNX Runtime, on the CPU or a GPU."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._input = session.get_inputs()[0].name
        self.provider = str(session.get_providers()[0])

    def forward(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One pass over a square."""
        return np.asarray(self.session.run(None, {self._input: blob_of(square)})[0][0], np.float32)


class OpenVino:
    """OpenVINO on the CPU; the conversion of the pixels is part of its graph."""

    def __init__(self, model: bytes, size: int, *, threads: int, precision: str) -> None:
        import openvino  # type: ignore[import-untyped]
        from openvino.preprocess import PrePostProcessor  # type: ignore[import-untyped]

        core = openvino.Core()
        network = core.read_model(model, b"")
        network.reshape([1, 3, size, size])
        steps = PrePostProcessor(network)
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(
            openvino.Layout("NHWC")
        )
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
        streams = len(os.sched_getaffinity(0))
        self._compiled = core.compile_model(
            steps.build(),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams * threads,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._own = threading.local()
        self.provider = f"OpenVINO {precision}"

    def forward(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One pass over a square."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        (rows,) = request.infer([square[np.newaxis]]).values()
        return np.array(rows[0], np.float32)  # a copy: the next pass writes to the same place


def blob_of(square: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A `(S, S, 3)` uint8 square as the `(1, 3, S, S)` float32 that the network takes, 0..1."""
    import cv2

    height, width = square.shape[:2]
    blob = np.empty((1, 3, height, width), np.float32)
    for plane, values in zip(blob[0], cv2.split(square), strict=True):
        np.multiply(values, np.float32(1 / 255), out=plane)
    return blob


def onnx_session(model: Path, data: bytes, threads: int, *, tensorrt: bool = False) -> Any:
    """An ONNX Runtime session, on the GPU where this build has one.

    Raises:
        BadInputError: the file is damaged, or TensorRT was asked for and there is none.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: they come back as exceptions, in one line
    available = onnxruntime.get_available_providers()
    if tensorrt and "TensorrtExecutionProvider" not in available:
        raise BadInputError("this build of ONNX Runtime has no TensorRT; choose another backend")
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if tensorrt:  # never by itself: it may take minutes to build its engine
        wanted.insert(0, "TensorrtExecutionProvider")
    providers = [name for name in wanted if name in available]
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no other base
        raise BadInputError(
            f"model {model} cannot be loaded ({first_line(error)}); it is damaged or no ONNX: "
            "export it again"
        ) from None


def choose(
    model: Path,
    data: bytes,
    session: Any,
    size: int,
    *,
    name: Name,
    precision: Precision,
    threads: int,
) -> Backend:
    """The backend that was asked for; where several may run, the one that is fastest here.

    Args:
        model: the file, for messages.
        data: its bytes.
        session: an ONNX Runtime session of it, loaded already.
        size: side of the network's input, pixels.
        name: "auto" lets ONNX Runtime and OpenVINO compete.
        precision: of the arithmetic; "auto" lets f32 and bf16 compete (OpenVINO only).
        threads: of one forward pass.

    Raises:
        BadInputError: what was asked for is not to be had; the message says why.
    """
    quantised = session.get_modelmeta().custom_metadata_map.get(INT8_KEY) == INT8
    if precision == "int8" and not quantised:
        raise BadInputError(f"model {model} is not INT8; make one with `platecrypt quantize`")
    makers: list[Callable[[], Backend]] = []
    if name == "tensorrt":
        return OnnxRuntime(onnx_session(model, data, threads, tensorrt=True))
    if name in ("auto", "onnxruntime") and precision != "bf16":
        makers.append(lambda: OnnxRuntime(session))
    if name in ("auto", "openvino"):
        makers += [
            lambda kind=kind: OpenVino(data, size, threads=threads, precision=kind)  # type: ignore[misc]
            for kind in _openvino_precisions(precision, quantised=quantised)
        ]
    found, why = _made(makers)
    if not found:
        raise BadInputError(
            f"no backend runs {model} as {name} {precision}: {why or 'this machine has none'}"
        )
    return found[0] if len(found) == 1 else fastest(found, size)


def fastest(candidates: Sequence[Backend], size: int, *, budget_s: float = MEASURE_S) -> Backend:
    """The candidate with the shortest median pass; all are measured within the budget, in turns."""
    square = np.full((size, size, 3), GREY, np.uint8)
    times: list[list[float]] = [[] for _ in candidates]
    end = time.monotonic() + budget_s
    for turn in range(MAX_ROUNDS + 1):
        for candidate, taken in zip(candidates, times, strict=True):
            began = time.perf_counter()
            candidate.forward(square)
            if turn:  # the first pass is the one that warms up
                taken.append(time.perf_counter() - began)
        if turn and time.monotonic() > end:
            break
    medians = [statistics.median(taken) for taken in times]
    best = min(range(len(candidates)), key=medians.__getitem__)
    measured = {c.provider: round(m * 1e3, 2) for c, m in zip(candidates, medians, strict=True)}
    logger.info(
        "backend chosen",
        extra={"fields": {"backend": candidates[best].provider, "median_ms": measured}},
    )
    return candidates[best]


def first_line(error: Exception) -> str:
    """What an exception says, short enough for a message."""
    return str(error).strip().split("\n")[0][:200]


def _openvino_precisions(precision: Precision, *, quantised: bool) -> list[str]:
    try:
        import openvino
    except ImportError:
        logger.info("OpenVINO is not installed; ONNX Runtime runs the network")
        return []
    if quantised:
        return ["int8"]
    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16":
        if not capable:
            raise BadInputError("this CPU has no bf16; choose another precision")
        return ["bf16"]
    return ["f32", "bf16"] if precision == "auto" and capable else ["f32"]


def _made(makers: Sequence[Callable[[], Backend]]) -> tuple[list[Backend], str]:
    """The backends that can be made, and why the last of the others cannot."""
    found: list[Backend] = []
    why = ""
    for make in makers:
        try:
            found.append(make())
        except Exception as error:  # noqa: BLE001 - OpenVINO's exceptions share no other base
            why = first_line(error)
            logger.warning("a backend cannot run the model: %s", why)
    return found, why
