"""The predictor container: pixels in, plate boxes out, over the Open Inference Protocol v2.

Inputs `image` (or `image_0`, `image_1`, ... of different sizes), UINT8, `[H, W, 3]` or
`[N, H, W, 3]`, RGB. Outputs `boxes` FP32 `[B, 4]` (x1, y1, x2, y2 in pixels of the image) and
`scores` FP32 `[B]`; where several images are asked about also `counts` INT32 `[N]`, how many of the
boxes belong to each. The parameter `confidence` (a number or its text, 0..1) sets the threshold.
gRPC is the fast way, and the response parameter `size` tells the side of the network's input, so
that a client need not send more pixels than the network looks at.
"""

import argparse
import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection import Detections, Detector, find_model
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.machine import cores
from platecrypt.serving import metrics, oip
from platecrypt.serving.batching import Batcher
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.remote import SIZE
from platecrypt.serving.requests import MAX_IMAGES, image_tensors, options_of, pixels_of
from platecrypt.serving.server import ServedModel, argument_parser, run

CORES = cores()

logger = logging.getLogger("platecrypt.serving")


class Predictor(ServedModel):
    """Translates between the wire and the detector; the detector computes, in a worker thread.

    Args:
        name: of the model on the endpoint path.
        finder: the loaded detector, or a batcher around it.
        size: longer side of what the network looks at, pixels.
        version: of the model, told in every answer.
        max_pixels: a larger image is refused.
        working: threads.
    """

    def __init__(
        self,
        name: str,
        finder: Detector | Batcher,
        *,
        size: int,
        version: str,
        max_pixels: int,
        working: int = CORES,
    ) -> None:
        super().__init__(name)
        self._finder = finder
        self._size = size
        self._version = version
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(working, "detect")
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The input tensor."""
        return [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The output tensors."""
        return [
            {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "scores", "datatype": "FP32", "shape": [-1]},
            {"name": "counts", "datatype": "INT32", "shape": [-1]},
        ]

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> oip.Reply:
        """Detect plates in the images of a request.

        Raises:
            HttpError: 400, the request is not the one that the module describes; 502, the network's
                answer is no number.
        """
        if not isinstance(payload, oip.Request):
            raise HttpError(400, "the predictor speaks v2: POST /v2/models/NAME/infer, or gRPC")
        images = images_of(payload, self._max_pixels)
        confidence = confidence_of(payload)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, self._detect, images, confidence)
        outputs = [
            oip.tensor("boxes", np.concatenate([one.boxes for one in found])),
            oip.tensor("scores", np.concatenate([one.scores for one in found])),
        ]
        if len(found) > 1:
            counts = np.array([len(one) for one in found], np.int32)
            outputs.append(oip.tensor("counts", counts))
        return oip.Reply(tuple(outputs), self._version, {SIZE: self._size})

    def _detect(
        self, images: Sequence[NDArray[np.uint8]], confidence: float | None
    ) -> list[Detections]:
        with metrics.timed("predict"):
            try:
                return self._finder.detect_all(images, [confidence] * len(images))
            except BadInputError as error:
                raise HttpError(400, str(error)) from None
            except UnavailableError as error:
                raise HttpError(502, str(error)) from None


def images_of(request: oip.Request, max_pixels: int) -> list[NDArray[np.uint8]]:
    """The images of a request, each `(H, W, 3)` uint8; views of the received bytes.

    Raises:
        HttpError: 400, there are none or too many, or one has the wrong type, shape or size.
    """
    tensors = image_tensors(request, ("UINT8",))
    images = [image for item in tensors for image in pixels_of(item, max_pixels)]
    if len(images) > MAX_IMAGES:
        raise HttpError(400, f"{len(images)} images in one call; at most {MAX_IMAGES} are taken")
    return images


def confidence_of(request: oip.Request) -> float | None:
    """The parameter `confidence` of a request, or None.

    Raises:
        HttpError: 400, it is no number within 0..1, or there are other parameters.
    """
    if set(request.parameters) - {"confidence"}:
        raise HttpError(400, "confidence is the only parameter that the predictor knows")
    return options_of(request.parameters).confidence


def load_detector(args: argparse.Namespace) -> Detector:
    """Load the model of `--model_dir`, and say what runs it.

    Raises:
        BadInputError: there is no model, or it cannot be run as asked.
    """
    import cv2

    cv2.setNumThreads(1)  # one thread a request; requests run beside each other
    detector = Detector.load(
        find_model(args.model_dir),
        threads=args.threads,
        confidence=args.confidence,
        iou=args.iou,
        backend=args.backend,
        precision=args.precision,
    )
    fields = {
        "digest": detector.digest,
        "version": args.model_version,
        "provider": detector.provider,
        "size": detector.size,
    }
    logger.info("model loaded", extra={"fields": fields})
    metrics.MODEL.info({name: str(value) for name, value in fields.items()})
    return detector


def finder_of(args: argparse.Namespace, detector: Detector) -> Detector | Batcher:
    """The detector itself, or one that waits for a batch where the arguments want it.

    Raises:
        BadInputError: an argument is out of range.
    """
    if args.batch_size < 1 or args.batch_ms < 0:
        raise BadInputError(
            f"--batch_size {args.batch_size} is less than 1, or --batch_ms {args.batch_ms} than 0"
        )
    if args.batch_size == 1:
        return detector
    return Batcher(detector, size=args.batch_size, window_s=args.batch_ms / 1e3)


def add_detecting(parser: argparse.ArgumentParser) -> None:
    """The flags of every server that runs the network."""
    parser.add_argument("--model_dir", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--model_version", default="0", help="told in every answer")
    parser.add_argument("--threads", type=int, default=1, help="of one forward pass")
    parser.add_argument("--iou", type=float, default=0.5, help="overlap of suppression, 0..1")
    parser.add_argument(
        "--backend",
        choices=("auto", "onnxruntime", "openvino", "tensorrt"),
        default="auto",
        help="who runs the network; auto measures on load",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "f32", "bf16", "int8"),
        default="f32",
        help="of the network's arithmetic; auto: the fastest, bf16 where the CPU has it",
    )
    parser.add_argument(
        "--batch_size", type=int, default=1, help="images of one pass; for GPUs, 1: no waiting"
    )
    parser.add_argument(
        "--batch_ms", type=float, default=5, help="how long the first of a batch waits for others"
    )


def make(args: argparse.Namespace) -> Predictor:
    """Load the model of `--model_dir`."""
    detector = load_detector(args)
    return Predictor(
        args.model_name,
        finder_of(args, detector),
        size=detector.size,
        version=args.model_version,
        max_pixels=args.max_pixels,
        working=max(CORES, 2 * args.batch_size),  # one batch gathers while another is worked on
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended; returns the exit code."""
    parser = argument_parser("platecrypt predictor")
    add_detecting(parser)
    # JSON writes a value in at most four characters and a comma; only v2 JSON is that large.
    return run(make, parser, argv, max_body=lambda args: min(15 * args.max_pixels, 2**28))


if __name__ == "__main__":
    raise SystemExit(main())
