"""The predictor container: pixels in, plate boxes out, over the Open Inference Protocol v2.

One input `image`, UINT8, `[H, W, 3]` or `[1, H, W, 3]`, RGB. Two outputs: `boxes` FP32 `[N, 4]`
(x1, y1, x2, y2 in pixels of that image) and `scores` FP32 `[N]`. The request parameter
`confidence` (a number or its text, 0..1) sets the threshold. gRPC is the fast way: the raw bytes
are read where they lie, and the response parameter `size` tells the side of the network's input,
so that a client need not send more pixels than the network looks at.
"""

import argparse
import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter, ModelInferResponse
from numpy.typing import NDArray

from platecrypt.detection import Detections, Detector, find_model
from platecrypt.errors import BadInputError
from platecrypt.serving.door import REQUEST_ID
from platecrypt.serving.remote import SIZE
from platecrypt.serving.server import ServedModel, argument_parser, run

logger = logging.getLogger("platecrypt.serving")


class Predictor(ServedModel):
    """Translates between the wire and the detector; the detector computes, in a worker thread.

    Args:
        name: of the model on the endpoint path.
        detector: loaded and warm.
        version: of the model, told in every answer.
        max_pixels: a larger image is refused.
    """

    def __init__(self, name: str, detector: Detector, *, version: str, max_pixels: int) -> None:
        super().__init__(name)
        self._detector = detector
        self._version = version
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "detect")
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The input tensor."""
        return [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The output tensors."""
        return [
            {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "scores", "datatype": "FP32", "shape": [-1]},
        ]

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """Detect plates in one image.

        Raises:
            InvalidInput: the request is not the one that the module describes.
        """
        if not isinstance(payload, InferRequest):
            raise InvalidInput("the predictor speaks v2: POST /v2/models/NAME/infer, or gRPC")
        pixels = image_of(payload, self._max_pixels)
        confidence = confidence_of(payload)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._pool, lambda: self._detector.detect(pixels, confidence=confidence)
            )
        except BadInputError as error:
            raise InvalidInput(str(error)) from None
        if payload.from_grpc:
            return self._grpc_answer(payload, found)
        payload.id = payload.id or (headers or {}).get(REQUEST_ID, "")  # v2 wants a text here
        return self._rest_answer(payload, found)

    def _grpc_answer(self, request: InferRequest, found: Detections) -> ModelInferResponse:
        tensor = ModelInferResponse.InferOutputTensor
        return ModelInferResponse(
            id=request.id,
            model_name=self.name,
            model_version=self._version,
            outputs=[
                tensor(name="boxes", datatype="FP32", shape=found.boxes.shape),
                tensor(name="scores", datatype="FP32", shape=found.scores.shape),
            ],
            raw_output_contents=[found.boxes.tobytes(), found.scores.tobytes()],
            parameters={SIZE: InferParameter(int64_param=self._detector.size)},
        )

    def _rest_answer(self, request: InferRequest, found: Detections) -> InferResponse:
        outputs = []
        for name, values in (("boxes", found.boxes), ("scores", found.scores)):
            output = InferOutput(name=name, shape=list(values.shape), datatype="FP32")
            output.set_data_from_numpy(values, binary_data=False)
            outputs.append(output)
        return InferResponse(
            response_id=request.id,
            model_name=self.name,
            model_version=self._version,
            infer_outputs=outputs,
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )


def image_of(request: InferRequest, max_pixels: int) -> NDArray[np.uint8]:
    """The image of a request, `(H, W, 3)` uint8; a view of the received bytes where they are raw.

    Raises:
        InvalidInput: there is not exactly one, its type or shape is wrong, it is too large.
    """
    tensors = request.inputs
    if len(tensors) != 1 or tensors[0].name != "image" or tensors[0].datatype != "UINT8":
        found = ", ".join(f"{t.name} {t.datatype}" for t in tensors[:4]) or "none"
        raise InvalidInput(f"exactly one input, image UINT8, is expected, not: {found}")
    shape = list(tensors[0].shape)
    plain = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(plain) != 3 or plain[2] != 3 or min(plain) < 1:
        raise InvalidInput(f"image has shape {shape}; expected [H, W, 3] or [1, H, W, 3]")
    height, width = int(plain[0]), int(plain[1])
    if height * width > max_pixels:
        raise InvalidInput(f"image has {height * width} pixels; at most {max_pixels} are taken")
    values = _values(tensors[0])
    if values.size != height * width * 3:
        raise InvalidInput(f"image of shape {shape} has {values.size} values")
    return values.reshape(height, width, 3)


def _values(tensor: Any) -> NDArray[np.uint8]:
    if tensor._raw_data is not None:  # the only place where KServe keeps the received bytes
        return np.frombuffer(tensor._raw_data, np.uint8)
    try:
        values = np.array(tensor.data, np.int64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput("image holds something that is no number") from None
    if values.size and (values.min() < 0 or values.max() > 255):
        raise InvalidInput("image holds values outside 0..255")
    return values.astype(np.uint8)


def confidence_of(request: InferRequest) -> float | None:
    """The parameter `confidence` of a request, or None.

    Raises:
        InvalidInput: it is no number.
    """
    value: Any = dict(request.parameters or {}).get("confidence")
    if hasattr(value, "WhichOneof"):
        value = getattr(value, value.WhichOneof("parameter_choice") or "", None)
    if value is None:
        return None
    try:
        return float(value)  # whether it lies in 0..1 is the detector's to say
    except (TypeError, ValueError):
        raise InvalidInput(f"confidence {value!r} is no number") from None


def make(args: argparse.Namespace) -> Predictor:
    """Load the model of `--model_dir`."""
    import cv2

    cv2.setNumThreads(1)  # one thread a request; requests run beside each other
    detector = Detector.load(
        find_model(args.model_dir),
        threads=args.threads,
        confidence=args.confidence,
        iou=args.iou,
    )
    logger.info(
        "model loaded",
        extra={
            "fields": {
                "digest": detector.digest,
                "version": args.model_version,
                "provider": detector.provider,
                "size": detector.size,
            }
        },
    )
    return Predictor(
        args.model_name, detector, version=args.model_version, max_pixels=args.max_pixels
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended; returns the exit code."""
    parser = argument_parser("platecrypt predictor")
    parser.add_argument("--model_dir", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--model_version", default="0", help="told in every answer")
    parser.add_argument("--threads", type=int, default=1, help="of one forward pass")
    parser.add_argument("--iou", type=float, default=0.5, help="overlap of suppression, 0..1")
    # JSON writes a value in at most four characters and a comma; only v2 JSON is that large.
    return run(make, parser, argv, max_body=lambda args: min(15 * args.max_pixels, 2**28))


if __name__ == "__main__":
    raise SystemExit(main())
