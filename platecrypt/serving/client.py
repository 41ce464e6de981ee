"""Clients of the endpoint over HTTP: one call, one picture, errors in one line.

`Client` blocks, `AsyncClient` does not; `platecrypt.serving.grpc_client` has the same two for gRPC.
All of them ask again after 429 and 503 alone, until their deadline.
"""

import asyncio
import base64
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.serving.retries import DEADLINE_S, RETRIES, Attempts

if TYPE_CHECKING:
    import httpx

CONNECT_S = 5.0
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
DECODED = ("content-encoding", "content-length", "transfer-encoding")  # of the body as it came
CLIENTS_FAULT = (400, 401, 406, 413, 415, 422)
ImageFormat = Literal["jpeg", "png", "webp"]
Options = Mapping[str, str | float]
"""Options of a request by name: confidence, margin, camera_id, detections, image."""


@dataclass(frozen=True)
class SealedPlate:
    """One plate of an answer: where it was, and its envelope.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        envelope: the sealed pixels (SLE1).
    """

    box: tuple[int, int, int, int]
    envelope: bytes


@dataclass(frozen=True)
class Detection:
    """What the detector saw, in the clear.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image, without margin.
        score: 0..1.
    """

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Prediction:
    """The JSON answer for one image.

    Attributes:
        image: the protected file; empty where the option `image` is "none".
        content_type: its media type, or "".
        plates: those that were sealed; none are told where the option `detections` is "none".
        request_id: the name of this call in the server's log.
        detections: told only where the option `detections` is "plain".
    """

    image: bytes
    content_type: str
    plates: tuple[SealedPlate, ...]
    request_id: str
    detections: tuple[Detection, ...] = ()


@dataclass(frozen=True)
class ProtectedFile:
    """The protected file itself, its sealed plates inside.

    Attributes:
        data: the file.
        content_type: its media type.
        plates: how many plates were sealed; None where the option `detections` is "none".
        request_id: the name of this call in the server's log.
    """

    data: bytes
    content_type: str
    plates: int | None
    request_id: str


class NoAnswerError(UnavailableError):
    """Nobody answered in time, as opposed to an answer that the picture could not be protected."""


class _Caller:
    """What both clients do the same way: they differ in how they wait.

    Args:
        url: `http(s)://host[:port]/v1/models/NAME:predict`.
        timeout_s: of a whole call with its repetitions, seconds.
        token: bearer token, where the endpoint wants one.
        retries: how often a call is repeated after 429 or 503.

    Raises:
        BadInputError: the URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = DEADLINE_S,
        token: str | None = None,
        retries: int = RETRIES,
    ) -> None:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # half an address, or a port that is no number
            known = False
        if not known:
            raise BadInputError(f"{url!r} is no endpoint; it looks like http://host:8080/v1/...")
        self.url = url
        self._timeout_s = timeout_s
        self._retries = retries
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # A proxy does not lead to this machine.
        self._trust_env = parts.hostname not in LOOPBACK

    def _attempts(self) -> Attempts:
        return Attempts(self._retries, self._timeout_s)

    def _request(self, image: bytes, accept: str, options: Options | None) -> dict[str, Any]:
        # The type is not our business: the server looks at the bytes.
        headers = {**self._headers, "content-type": "image/*", "accept": accept}
        return {"content": image, "headers": headers, "params": dict(options or {})}

    def _timeout(self, attempts: Attempts) -> "httpx.Timeout":
        import httpx

        left = attempts.remaining()
        return httpx.Timeout(left, connect=min(CONNECT_S, left))

    def _silent(self, error: Exception) -> UnavailableError:
        return NoAnswerError(
            f"{self.url} does not answer ({type(error).__name__}); see `platecrypt status`"
        )

    def _checked(self, response: "httpx.Response") -> "httpx.Response":
        if response.is_success:
            return response
        sentence = _error_of(response)
        if response.status_code in CLIENTS_FAULT:
            raise BadInputError(f"{self.url} refused the image: {sentence}")
        raise UnavailableError(f"{self.url} answered {response.status_code}: {sentence}")

    def _file(self, response: "httpx.Response", options: Options | None) -> ProtectedFile:
        told = asked(options, "detections") != "none"
        try:
            return ProtectedFile(
                data=response.content,
                content_type=response.headers["content-type"],
                plates=int(response.headers["x-platecrypt-plates"]) if told else None,
                request_id=response.headers["x-request-id"],
            )
        except (KeyError, ValueError):
            raise self._stranger() from None

    def _prediction(self, response: "httpx.Response", options: Options | None) -> Prediction:
        detections, image = asked(options, "detections"), asked(options, "image") != "none"
        try:
            (found,) = response.json()["predictions"]
            sealed = [] if detections == "none" else found["plates"]
            plain = found["detections"] if detections == "plain" else []
            return Prediction(
                image=base64.b64decode(found["image"]["b64"]) if image else b"",
                content_type=found["content_type"] if image else "",
                plates=tuple(_plate(plate) for plate in sealed),
                request_id=found["request_id"],
                detections=tuple(_detection(*one["box"], one["score"]) for one in plain),
            )
        except (KeyError, ValueError, TypeError, binascii.Error):
            raise self._stranger() from None

    def _stranger(self) -> UnavailableError:
        return UnavailableError(f"{self.url} gave an answer that is none of platecrypt's")


class Client(_Caller):
    """Talks to one endpoint; keeps the connection. Arguments: see `_Caller`."""

    def __init__(self, url: str, **arguments: Any) -> None:
        import httpx

        super().__init__(url, **arguments)
        self._http = httpx.Client(trust_env=self._trust_env)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def protect(
        self,
        image: bytes,
        *,
        image_format: ImageFormat | None = None,
        options: Options | None = None,
    ) -> ProtectedFile:
        """Send an image, get the protected file back, in `image_format` or as it came.

        Raises:
            BadInputError: the endpoint refused the image; the message is its own.
            UnavailableError: it does not answer in time, or failed.
        """
        return self._file(self._post(image, f"image/{image_format or '*'}", options), options)

    def predict(self, image: bytes, *, options: Options | None = None) -> Prediction:
        """Send an image, get the protected image and the envelopes as JSON.

        Raises:
            BadInputError: the endpoint refused the image; the message is its own.
            UnavailableError: it does not answer in time, or failed.
        """
        return self._prediction(self._post(image, "application/json", options), options)

    def _post(self, image: bytes, accept: str, options: Options | None) -> "httpx.Response":
        import httpx

        attempts, request = self._attempts(), self._request(image, accept, options)
        while True:
            try:
                timeout = self._timeout(attempts)
                with self._http.stream("POST", self.url, timeout=timeout, **request) as answer:
                    response = _whole(answer, attempts)
            except httpx.HTTPError as error:
                raise self._silent(error) from None
            pause = attempts.pause(response.status_code, response.headers.get("retry-after", ""))
            if pause is None:
                return self._checked(response)
            time.sleep(pause)


class AsyncClient(_Caller):
    """The same for asyncio. Arguments: see `_Caller`."""

    def __init__(self, url: str, **arguments: Any) -> None:
        import httpx

        super().__init__(url, **arguments)
        self._http = httpx.AsyncClient(trust_env=self._trust_env)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def protect(
        self,
        image: bytes,
        *,
        image_format: ImageFormat | None = None,
        options: Options | None = None,
    ) -> ProtectedFile:
        """Send an image, get the protected file back; errors as `Client.protect`."""
        answer = await self._post(image, f"image/{image_format or '*'}", options)
        return self._file(answer, options)

    async def predict(self, image: bytes, *, options: Options | None = None) -> Prediction:
        """Send an image, get image and envelopes as JSON; errors as `Client.predict`."""
        answer = await self._post(image, "application/json", options)
        return self._prediction(answer, options)

    async def _post(self, image: bytes, accept: str, options: Options | None) -> "httpx.Response":
        import httpx

        attempts, request = self._attempts(), self._request(image, accept, options)
        while True:
            try:
                async with asyncio.timeout(attempts.remaining()):
                    response = await self._http.post(
                        self.url, timeout=self._timeout(attempts), **request
                    )
            except (httpx.HTTPError, TimeoutError) as error:
                raise self._silent(error) from None
            pause = attempts.pause(response.status_code, response.headers.get("retry-after", ""))
            if pause is None:
                return self._checked(response)
            await asyncio.sleep(pause)


def asked(options: Options | None, name: str) -> str:
    """What a call asks for under that name; "" where it leaves it to the endpoint."""
    return str((options or {}).get(name, ""))


def _whole(answer: "httpx.Response", attempts: Attempts) -> "httpx.Response":
    """An answer with its body, within the deadline: httpx has one for each read alone."""
    import httpx

    body = bytearray()
    for chunk in answer.iter_bytes():
        body += chunk
        if attempts.over:
            raise httpx.ReadTimeout("the answer did not end in time")
    headers = {k: v for k, v in answer.headers.items() if k not in DECODED}
    return httpx.Response(answer.status_code, headers=headers, content=bytes(body))


def _detection(*values: Any) -> Detection:
    x1, y1, x2, y2, score = map(float, values)
    return Detection((x1, y1, x2, y2), score)


def _plate(raw: Any) -> SealedPlate:
    x1, y1, x2, y2 = (int(value) for value in raw["box"])
    return SealedPlate((x1, y1, x2, y2), base64.b64decode(raw["envelope"]))


def _error_of(response: "httpx.Response") -> str:
    try:
        found = response.json()
        return f"{found['error']} (request {found.get('request_id', '?')})"
    except (ValueError, KeyError, TypeError):
        return "no reason given"
