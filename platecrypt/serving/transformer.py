"""The transformer container: a picture in, the same picture with its plates sealed out.

`POST /v1/models/plates:predict` with an image as the body, or JSON with base64. With `Accept:
image/jpeg` (or png, webp) the answer is the protected file, otherwise JSON. It fails closed: what
was not found, sealed and covered without a hitch does not leave.
"""

import argparse
import asyncio
import base64
import datetime
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kserve import InferRequest

from platecrypt import cipher, imaging
from platecrypt.detection import Detections
from platecrypt.errors import BadInputError
from platecrypt.imaging.containers import read_header
from platecrypt.serving.door import PLATES, REQUEST_ID, HttpError
from platecrypt.serving.keys import KeyFile
from platecrypt.serving.remote import RemoteDetector
from platecrypt.serving.requests import Wanted, images_of, largest_body, wanted
from platecrypt.serving.server import ServedModel, argument_parser, grpc_options, run

T = TypeVar("T")

logger = logging.getLogger("platecrypt.serving")


class Transformer(ServedModel):
    """Translates between the wire and the library, which decodes, seals and covers.

    Args:
        name: of the model on the endpoint path.
        detector: the line to the predictor.
        keys: the keyring file.
        max_bytes, max_pixels: of one image; checked before it is decoded.
        margin: of a plate's region, as a share of the box's size.
    """

    def __init__(
        self,
        name: str,
        *,
        detector: RemoteDetector,
        keys: KeyFile,
        max_bytes: int,
        max_pixels: int,
        margin: float = imaging.MARGIN,
    ) -> None:
        super().__init__(name, return_response_headers=True)
        self._detector = detector
        self._keys = keys
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._margin = margin
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "protect")
        self.ready = True

    async def available(self) -> bool:
        """Whether the keys are there and the predictor is ready."""
        try:
            self._keys.current()
        except cipher.KeyringError as error:
            logger.error("%s", error)
            return False
        return bool(self.ready) and await self._detector.ready()

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """Protect the images of one request.

        Raises:
            HttpError: anything that keeps the answer from being a protected one.
        """
        if isinstance(payload, InferRequest):
            raise HttpError(501, "the transformer speaks v1: POST /v1/models/NAME:predict")
        asked = {name.lower(): value for name, value in (headers or {}).items()}
        request_id = asked.get(REQUEST_ID, "")
        form = wanted(asked.get("accept", ""))
        images = images_of(payload, asked.get("content-type", ""), max_bytes=self._max_bytes)
        if form.file and len(images) != 1:
            raise HttpError(400, f"{len(images)} images do not fit in one image file; accept JSON")
        done = [await self._protect(data, form, request_id) for data in images]
        answer_headers = {} if response_headers is None else response_headers
        answer_headers[PLATES] = str(sum(len(protected.regions) for protected in done))
        if form.file:
            answer_headers["content-type"] = f"image/{done[0].format}"
            return done[0].data
        return {"predictions": [_prediction(protected, request_id) for protected in done]}

    async def _protect(self, data: bytes, form: Wanted, request_id: str) -> imaging.Protected:
        image = await self._run(self._decode, data)
        found, version = await self._detector.detect(image.pixels, request_id=request_id)
        return await self._run(self._seal, image, found, version, form, request_id)

    def _decode(self, data: bytes) -> imaging.Image:
        try:
            return imaging.decode(data, max_bytes=self._max_bytes, max_pixels=self._max_pixels)
        except BadInputError as error:
            status = 413 if self._has_too_many_pixels(data) else 400
            raise HttpError(status, str(error)) from None

    def _has_too_many_pixels(self, data: bytes) -> bool:
        try:
            header = read_header(data)
        except BadInputError:
            return False
        return header.width * header.height > self._max_pixels

    def _seal(
        self, image: imaging.Image, found: Detections, version: str, form: Wanted, request_id: str
    ) -> imaging.Protected:
        try:
            return imaging.protect(
                image,
                found.boxes,
                self._keys.current(),
                model_name=self.name,
                model_version=version,
                request_id=request_id,
                time=datetime.datetime.now(datetime.UTC),
                margin=self._margin,
                scores=found.scores.tolist(),
                format=form.format,
            )
        except BadInputError as error:
            raise HttpError(400, str(error)) from None
        except cipher.KeyringError as error:
            logger.error("%s", error, extra={"fields": {"request_id": request_id}})
            raise HttpError(503, "no key to seal with; nothing is published") from None

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        """Blocking work in a thread, so that probes are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


def _prediction(protected: imaging.Protected, request_id: str) -> dict[str, Any]:
    """The JSON answer for one image: nothing in it says what a plate shows or how sure we are."""
    plates = [
        {"box": list(region), "envelope": base64.b64encode(envelope).decode()}
        for region, envelope in zip(protected.regions, protected.envelopes, strict=True)
    ]
    return {
        "image": {"b64": base64.b64encode(protected.data).decode()},
        "content_type": f"image/{protected.format}",
        "plates": plates,
        "request_id": request_id,
    }


def make(args: argparse.Namespace) -> Transformer:
    """Read the keys, prepare the compiled cipher, name the predictor.

    Raises:
        BadInputError: an argument or the key file is wrong.
    """
    import cv2

    if not args.predictor_host or ":" not in args.predictor_host:
        raise BadInputError(f"--predictor_host is {args.predictor_host!r}; give host:port of gRPC")
    if args.predictor_protocol != "grpc-v2":
        raise BadInputError(
            f"--predictor_protocol is {args.predictor_protocol}; the predictor is asked by grpc-v2"
        )
    if not 0 <= args.margin <= 1:
        raise BadInputError(f"--margin {args.margin} is not between 0 and 1")
    cv2.setNumThreads(1)  # one thread a request; requests run beside each other
    try:
        keys = KeyFile(args.keys_file)
    except cipher.KeyringError as error:
        raise BadInputError(str(error)) from None
    cipher.warm_up()
    detector = RemoteDetector(
        args.predictor_host,
        model=args.model_name,
        timeout_s=args.predictor_request_timeout_seconds,
        options=grpc_options(args.max_pixels),
    )
    return Transformer(
        args.model_name,
        detector=detector,
        keys=keys,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        margin=args.margin,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended; returns the exit code."""
    parser = argument_parser("platecrypt transformer")
    parser.add_argument("--keys_file", type=Path, required=True, help="the keyring that seals")
    parser.add_argument("--margin", type=float, default=imaging.MARGIN, help="around a plate, 0..1")
    parser.set_defaults(predictor_protocol="grpc-v2", enable_grpc=False)
    return run(make, parser, argv, max_body=lambda args: largest_body(args.max_bytes))


if __name__ == "__main__":
    raise SystemExit(main())
