"""Clients of the endpoint over gRPC (Open Inference Protocol v2, BYTES): blocking and for asyncio.

They ask again after RESOURCE_EXHAUSTED and UNAVAILABLE alone, which are HTTP's 429 and 503.
"""

import asyncio
import secrets
import struct
import time
from collections.abc import Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.serving import oip
from platecrypt.serving.client import Detection, Options, Prediction, SealedPlate, asked
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.retries import DEADLINE_S, RETRIES, Attempts

MAX_MESSAGE = 256 * 2**20
CHANNEL = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
]
REPEATED = {grpc.StatusCode.RESOURCE_EXHAUSTED: 429, grpc.StatusCode.UNAVAILABLE: 503}
CLIENTS_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED)
SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


class _GrpcCaller:
    """What both clients do the same way.

    Args:
        target: `host:port`.
        model: its name there.
        timeout_s: of a whole call with its repetitions, seconds.
        token: bearer token, where the endpoint wants one.
        retries: how often a call is repeated.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = "plates",
        timeout_s: float = DEADLINE_S,
        token: str | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.target = target
        self._model = model
        self._timeout_s = timeout_s
        self._retries = retries
        self._token = token

    def _request(self, image: bytes, options: Options | None) -> tuple[Any, Sequence[Any], str]:
        request_id = secrets.token_hex(16)
        tensor = ModelInferRequest.InferInputTensor
        request = ModelInferRequest(
            id=request_id,
            model_name=self._model,
            inputs=[tensor(name="image", datatype="BYTES", shape=[1])],
            raw_input_contents=[struct.pack("<I", len(image)) + image],
        )
        for name, value in (options or {}).items():
            request.parameters[name].string_param = str(value)
        metadata = [("x-request-id", request_id)]
        if self._token is not None:
            metadata.append(("authorization", f"Bearer {self._token}"))
        return request, metadata, request_id

    def _attempts(self) -> Attempts:
        return Attempts(self._retries, self._timeout_s)

    def _failed(self, error: Any) -> Exception:
        if error.code() in CLIENTS_FAULT:
            return BadInputError(f"{self.target} refused the image: {error.details()}")
        return UnavailableError(f"{self.target} answered {error.code().name}: {error.details()}")

    def _prediction(
        self, answer: ModelInferResponse, request_id: str, options: Options | None
    ) -> Prediction:
        detections, image = asked(options, "detections"), asked(options, "image") != "none"
        try:
            raw = {
                output.name: content
                for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
            }
            data, kind = b"", ""
            if image:
                (data,) = oip.elements_of(raw["image"])
                kind = next(v for k, v in SIGNATURES.items() if data.startswith(k))
            plates: tuple[SealedPlate, ...] = ()
            if detections != "none":
                envelopes = oip.elements_of(raw["envelopes"])
                boxes = struct.iter_unpack("<4i", raw["boxes"])
                plates = tuple(SealedPlate(*pair) for pair in zip(boxes, envelopes, strict=True))
            plain: tuple[Detection, ...] = ()
            if detections == "plain":
                rows = struct.iter_unpack("<5f", raw["detections"])
                plain = tuple(Detection(row[:4], row[4]) for row in rows)
        except (KeyError, ValueError, struct.error, HttpError, StopIteration):
            raise UnavailableError(
                f"{self.target} gave an answer that is none of platecrypt's"
            ) from None
        return Prediction(data, kind, plates, request_id, plain)


class GrpcClient(_GrpcCaller):
    """Talks to one endpoint; keeps the connection. Arguments: see `_GrpcCaller`."""

    def __init__(self, target: str, **arguments: Any) -> None:
        super().__init__(target, **arguments)
        self._channel = grpc.insecure_channel(target, options=CHANNEL)
        self._stub = GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> "GrpcClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def predict(self, image: bytes, *, options: Options | None = None) -> Prediction:
        """Send an image, get the protected image and the envelopes.

        Raises:
            BadInputError: the endpoint refused the image; the message is its own.
            UnavailableError: it does not answer in time, or failed.
        """
        attempts = self._attempts()
        request, metadata, request_id = self._request(image, options)
        while True:
            try:
                answer = self._stub.ModelInfer(
                    request, timeout=attempts.remaining(), metadata=metadata
                )
                return self._prediction(answer, request_id, options)
            except grpc.RpcError as error:
                pause = attempts.pause(REPEATED.get(error.code(), 0))
                if pause is None:
                    raise self._failed(error) from None
                time.sleep(pause)


class AsyncGrpcClient(_GrpcCaller):
    """The same for asyncio; made inside the running loop. Arguments: see `_GrpcCaller`."""

    def __init__(self, target: str, **arguments: Any) -> None:
        super().__init__(target, **arguments)
        self._channel = grpc.aio.insecure_channel(target, options=CHANNEL)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def __aenter__(self) -> "AsyncGrpcClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def predict(self, image: bytes, *, options: Options | None = None) -> Prediction:
        """Send an image, get image and envelopes; errors as `GrpcClient.predict`."""
        attempts = self._attempts()
        request, metadata, request_id = self._request(image, options)
        while True:
            try:
                answer = await self._stub.ModelInfer(
                    request, timeout=attempts.remaining(), metadata=metadata
                )
                return self._prediction(answer, request_id, options)
            except grpc.RpcError as error:
                pause = attempts.pause(REPEATED.get(error.code(), 0))
                if pause is None:
                    raise self._failed(error) from None
                await asyncio.sleep(pause)
