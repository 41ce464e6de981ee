"""Who runs the network: ONNX Runtime or OpenVINO, behind one interface, chosen by measurement.

A backend takes letterboxed frames as they are, `(B, H, W, 3)` uint8, and gives the rows of the
network, `(B, 5, N)` float32: cx, cy, w, h in pixels of the frame, and the score.
"""

import functools
import logging
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection.letterbox import Letterbox
from platecrypt.errors import BadInputError
from platecrypt.machine import cores

Name = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
Precision = Literal["auto", "f32", "bf16", "int8"]

MEASURE_S = 0.5  # for all candidates together
MAX_ROUNDS = 15
INT8_KEY, INT8 = "platecrypt.precision", "int8"  # in the metadata of a quantised model
GREY = 114
OFTEN, SHAPES = 20, 4  # frames of a shape before it has a network of its own; so many have one
WIDE = 9 / 16  # of the frame that is measured with: what most cameras make

logger = logging.getLogger("platecrypt.detection")
_making_core = threading.Lock()


class Backend(Protocol):
    """A network that runs. Safe to use from several threads.

    Attributes:
        provider: what runs it, for people and logs, e.g. "CPUExecutionProvider".
        kind: how to ask for the same again: name and precision.
    """

    provider: str
    kind: "tuple[Name, Precision]"

    def forward(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The rows of frames of one shape."""


@dataclass(frozen=True)
class Shape:
    """What a network takes.

    Attributes:
        size: longer side of its frames, pixels.
        stride: of a network that takes any rectangle of whole strides, pixels; 0: squares only.
        batch: whether it takes several frames at once.
    """

    size: int
    stride: int = 0
    batch: bool = False

    def frame(self) -> NDArray[np.uint8]:
        """A grey frame like most that will come, `(1, H, W, 3)`."""
        height = round(self.size * WIDE) if self.stride else self.size
        box = Letterbox(self.size, height, self.size, self.stride)
        return np.full((1, *box.frame[::-1], 3), GREY, np.uint8)


class OnnxRuntime:
    """ONNX Runtime, on the CPU or a GPU."""

    def __init__(self, session: Any, shape: Shape, name: Name = "onnxruntime") -> None:
        self._session = session
        self.kind: tuple[Name, Precision] = (name, "auto")  # it has one: the model's own
        self._batch = shape.batch
        self._input = session.get_inputs()[0].name
        self.provider = str(session.get_providers()[0])

    def forward(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The rows of frames of one shape."""
        return _in_turn(self._run, frames, at_once=self._batch)

    def _run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self._session.run(None, {self._input: blob_of(frames)})[0]
        return np.asarray(found, np.float32)


class OpenVino:
    """OpenVINO on the CPU; the conversion of the pixels is part of its graph.

    A network that is compiled for one shape is a tenth to a fifth quicker than one for any shape
    (benchmarks/serving.py). So the frame that most cameras make has its own from the start, and a
    few others that come often get theirs; the rest, whatever clients send, shares the one for any.
    """

    def __init__(self, model: bytes, shape: Shape, *, threads: int, precision: Precision) -> None:
        self._model = model
        self._threads = threads
        self._precision: Precision = precision
        self._batch = shape.batch and shape.stride > 0
        self._own = threading.local()
        self._compiling = threading.Lock()
        self._seen: Counter[tuple[int, ...]] = Counter()
        most = shape.frame().shape[:3]
        self._any = first = self._compile([1, 3, *most[1:]])
        self._compiled: dict[tuple[int, ...], Any] = {most: first}
        if shape.stride:
            self._any = self._compile([-1 if shape.batch else 1, 3, -1, -1])
        self.kind: tuple[Name, Precision] = ("openvino", precision)
        self.provider = f"OpenVINO {precision}"

    def forward(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The rows of frames of one shape."""
        return _in_turn(self._run, frames, at_once=self._batch)

    def _run(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        import openvino  # type: ignore[import-untyped]

        network = self._network(frames.shape[:3])
        requests = self._own.__dict__.setdefault("requests", {})
        request = requests.get(id(network))
        if request is None:
            request = requests[id(network)] = network.create_infer_request()
        # Not `infer([frames])`, which copies them, and looks up how: a quarter of a millisecond.
        request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
        request.infer()
        # A copy: the next pass writes to the same place.
        return np.array(request.get_output_tensor().data, np.float32)

    def _network(self, shape: tuple[int, ...]) -> Any:
        """The compiled network for frames `(B, H, W)`."""
        if shape in self._compiled:
            return self._compiled[shape]
        if shape[0] > 1 or len(self._compiled) == SHAPES:
            return self._any
        self._seen[shape] += 1
        if self._seen[shape] < OFTEN or not self._compiling.acquire(blocking=False):
            return self._any
        try:
            if shape not in self._compiled and len(self._compiled) < SHAPES:
                self._compiled[shape] = self._compile([1, 3, *shape[1:]])
        finally:
            self._compiling.release()
        return self._compiled.get(shape, self._any)

    def _compile(self, sides: list[int]) -> Any:
        import openvino
        from openvino.preprocess import PrePostProcessor  # type: ignore[import-untyped]

        core = _openvino_core()
        network = core.read_model(self._model, b"")
        network.reshape(sides)
        steps = PrePostProcessor(network)
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(
            openvino.Layout("NHWC")
        )
        steps.input().model().set_layout(openvino.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
        streams = cores()
        return core.compile_model(
            steps.build(),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if self._precision == "bf16" else "f32",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams * self._threads,
                "ENABLE_CPU_PINNING": False,
            },
        )


def _in_turn(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    frames: NDArray[np.uint8],
    *,
    at_once: bool,
) -> NDArray[np.float32]:
    if at_once or len(frames) == 1:
        return run(frames)
    return np.concatenate([run(frames[at : at + 1]) for at in range(len(frames))])


def blob_of(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(B, H, W, 3)` uint8 frames as the `(B, 3, H, W)` float32 that the network takes, 0..1."""
    import cv2

    count, height, width, _ = frames.shape
    blob = np.empty((count, 3, height, width), np.float32)
    for planes, frame in zip(blob, frames, strict=True):
        for plane, values in zip(planes, cv2.split(frame), strict=True):
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
    shape: Shape,
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
        shape: of the network's input.
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
        return OnnxRuntime(onnx_session(model, data, threads, tensorrt=True), shape, name)
    if name in ("auto", "onnxruntime") and precision != "bf16":
        makers.append(lambda: OnnxRuntime(session, shape))
    if name in ("auto", "openvino"):
        makers += [
            lambda kind=kind: OpenVino(data, shape, threads=threads, precision=kind)  # type: ignore[misc]
            for kind in _openvino_precisions(precision, quantised=quantised)
        ]
    found, why = _made(makers)
    if not found:
        raise BadInputError(
            f"no backend runs {model} as {name} {precision}: {why or 'this machine has none'}"
        )
    return found[0] if len(found) == 1 else fastest(found, shape)


def fastest(candidates: Sequence[Backend], shape: Shape, *, budget_s: float = MEASURE_S) -> Backend:
    """The candidate with the shortest median pass; all are measured within the budget, in turns."""
    frame = shape.frame()
    times: list[list[float]] = [[] for _ in candidates]
    end = time.monotonic() + budget_s
    for turn in range(MAX_ROUNDS + 1):
        for candidate, taken in zip(candidates, times, strict=True):
            began = time.perf_counter()
            candidate.forward(frame)
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


def _openvino_core() -> Any:
    """OpenVINO's core: one for the life of the process.

    A core gives the thread that makes it a stack for signal handlers, and unmaps that stack when it
    is destroyed. Of two cores that are destroyed in the order of their making, or of one that is
    destroyed by another thread, a pointer to nothing stays behind, and the next signal kills the
    process: it does not drain, and nobody is told why.
    """
    with _making_core:  # a cache alone lets two threads make two
        return _made_core()


@functools.cache
def _made_core() -> Any:
    import openvino

    return openvino.Core()


def _openvino_precisions(precision: Precision, *, quantised: bool) -> list[Precision]:
    try:
        import openvino  # noqa: F401
    except ImportError:
        logger.info("OpenVINO is not installed; ONNX Runtime runs the network")
        return []
    if quantised:
        return ["int8"]
    capable = "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
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
