"""The transformer's line to the predictor: an image out, boxes back, over gRPC, with a deadline.

What comes back is checked as if a stranger had sent it: a transformer that believed in no plates
because an answer was garbled would publish them.
"""

from collections.abc import Mapping, Sequence

import grpc  # type: ignore[import-untyped]
import numpy as np
from kserve.protocol.grpc.grpc_predict_v2_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelReadyRequest,
)
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray

from platecrypt.detection import Detections, Letterbox
from platecrypt.serving import oip
from platecrypt.serving.door import REQUEST_ID
from platecrypt.serving.protobuf import put_in
from platecrypt.serving.refusals import HttpError

SIZE = "size"  # the response parameter that tells the side of the network's input, pixels
MAX_SIZE = 8192
PROBE_S = 2.0
SLACK_PX = 1.0  # a box may overhang by what float32 rounds
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.lb_policy_name", "round_robin"),  # a service may stand for several predictors
]
BUSY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}


class RemoteDetector:
    """A predictor behind an address. Its calls block: they belong into a worker thread.

    Args:
        target: `host:port` of its gRPC endpoint.
        model: its name there.
        timeout_s: how long one image may take, seconds.
        options: gRPC channel options (message limits).
    """

    def __init__(
        self, target: str, *, model: str, timeout_s: float, options: Sequence[tuple[str, int]]
    ) -> None:
        self._model = model
        self._timeout_s = timeout_s
        channel = grpc.insecure_channel(target, options=[*options, *RECONNECT])
        self._stub = GRPCInferenceServiceStub(channel)
        # Not the stub's: its serialiser would copy the pixels three times.
        self._infer = channel.unary_unary(
            f"/{oip.SERVICE}/ModelInfer", response_deserializer=ModelInferResponse.FromString
        )
        self._size: int | None = None

    def ready(self) -> bool:
        """Whether the predictor says that its model is ready."""
        try:
            answer = self._stub.ModelReady(ModelReadyRequest(name=self._model), timeout=PROBE_S)
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    def detect(
        self, pixels: NDArray[np.uint8], *, confidence: float | None, headers: Mapping[str, str]
    ) -> tuple[Detections, str]:
        """Boxes for a `(H, W, 3)` uint8 RGB image, and the version of the model that saw them.

        Only as many pixels are sent as the network looks at, once its size is known.

        Args:
            pixels: the image.
            confidence: the threshold, 0..1; None: the predictor's own.
            headers: request id and trace context, passed on.

        Raises:
            HttpError: 503 when no predictor answers in time, 502 when its answer is no answer.
        """
        height, width = pixels.shape[:2]
        known = self._size  # others ask beside us, and may learn another
        letterbox = Letterbox(width, height, known) if known else None
        if letterbox and letterbox.inner[0] * letterbox.inner[1] < width * height:
            answer = self._ask(letterbox.fit(pixels), confidence, headers)
            self._size = size = _size_of(answer)
            if size == letterbox.size:
                found = read_answer(answer, *letterbox.inner)
                boxes = letterbox.from_fitted(found.boxes)
                return Detections(boxes, found.scores), answer.model_version
            # Another model answers now, and would look closer: it gets all there is.
        answer = self._ask(pixels, confidence, headers)
        self._size = _size_of(answer)
        return read_answer(answer, width, height), answer.model_version

    def _ask(
        self, pixels: NDArray[np.uint8], confidence: float | None, headers: Mapping[str, str]
    ) -> ModelInferResponse:
        tensor = ModelInferRequest.InferInputTensor
        request = ModelInferRequest(
            id=headers.get(REQUEST_ID, ""),
            model_name=self._model,
            inputs=[tensor(name="image", datatype="UINT8", shape=pixels.shape)],
        )
        if confidence is not None:  # as text: a gRPC parameter has no float
            request.parameters["confidence"].string_param = repr(confidence)
        raw = oip.raw_bytes(oip.tensor("image", pixels))
        field = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
        message = put_in(request.SerializeToString(), field, [raw])
        try:
            answer: ModelInferResponse = self._infer(
                message, timeout=self._timeout_s, metadata=tuple(headers.items())
            )
            return answer
        except grpc.RpcError as error:
            if error.code() in BUSY:
                raise HttpError(503, "the predictor does not answer; try again") from None
            raise HttpError(502, "the predictor failed") from None


def read_answer(answer: ModelInferResponse, width: int, height: int) -> Detections:
    """The boxes of an answer for an image of that size.

    Raises:
        HttpError: 502, it is not exactly `boxes` FP32 `[N, 4]` and `scores` FP32 `[N]`, raw and
            finite, each box with an area and inside the image.
    """
    try:
        (boxes_meta, scores_meta), (boxes_raw, scores_raw) = (
            answer.outputs,
            answer.raw_output_contents,
        )
        named = [(t.name, t.datatype, tuple(t.shape)) for t in (boxes_meta, scores_meta)]
        count = len(scores_raw) // 4
        if named != [("boxes", "FP32", (count, 4)), ("scores", "FP32", (count,))]:
            raise ValueError
        boxes = np.frombuffer(boxes_raw, np.float32).reshape(count, 4)
        scores = np.frombuffer(scores_raw, np.float32)
    except ValueError:
        raise HttpError(502, "the predictor's answer is malformed") from None
    limit = np.array([width, height], np.float32) + SLACK_PX
    sane = (
        np.isfinite(boxes).all()
        and ((scores >= 0) & (scores <= 1)).all()
        and (boxes[:, :2] >= -SLACK_PX).all()
        and (boxes[:, 2:] <= limit).all()
        and (boxes[:, 2:] > boxes[:, :2]).all()
    )
    if not sane:
        raise HttpError(502, "the predictor's answer makes no sense")
    return Detections(boxes, scores)


def _size_of(answer: ModelInferResponse) -> int | None:
    size = answer.parameters[SIZE].int64_param if SIZE in answer.parameters else 0
    return int(size) if 0 < size <= MAX_SIZE else None
