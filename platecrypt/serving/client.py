"""A client of the endpoint: one call, one picture, errors in one line."""

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from platecrypt.errors import BadInputError, UnavailableError

if TYPE_CHECKING:
    import httpx

DEADLINE_S = 60.0
CONNECT_S = 5.0
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


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
class Prediction:
    """The JSON answer for one image."""

    image: bytes
    content_type: str
    plates: tuple[SealedPlate, ...]
    request_id: str


@dataclass(frozen=True)
class ProtectedFile:
    """The protected file itself, its sealed plates inside.

    Attributes:
        data: the file.
        content_type: its media type.
        plates: how many plates were sealed.
        request_id: the name of this call in the server's log.
    """

    data: bytes
    content_type: str
    plates: int
    request_id: str


class Client:
    """Talks to one endpoint; keeps the connection.

    Args:
        url: `http(s)://host[:port]/v1/models/NAME:predict`.
        timeout_s: of a whole call, seconds.

    Raises:
        BadInputError: the URL is none.
    """

    def __init__(self, url: str, *, timeout_s: float = DEADLINE_S) -> None:
        import httpx

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInputError(f"{url!r} is no endpoint; it looks like http://host:8080/v1/...")
        self.url = url
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            trust_env=parts.hostname not in LOOPBACK,  # a proxy does not lead to this machine
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def protect(
        self, image: bytes, *, image_format: Literal["jpeg", "png", "webp"] | None = None
    ) -> ProtectedFile:
        """Send an image, get the protected file back, in `image_format` or as it came.

        Raises:
            BadInputError: the endpoint refused the image; the message is its own.
            UnavailableError: it does not answer, or failed.
        """
        response = self._post(image, accept=f"image/{image_format or '*'}")
        try:
            return ProtectedFile(
                data=response.content,
                content_type=response.headers["content-type"],
                plates=int(response.headers["x-platecrypt-plates"]),
                request_id=response.headers["x-request-id"],
            )
        except (KeyError, ValueError):
            raise self._stranger() from None

    def predict(self, image: bytes) -> Prediction:
        """Send an image, get the protected image and the envelopes as JSON.

        Raises:
            BadInputError: the endpoint refused the image; the message is its own.
            UnavailableError: it does not answer, or failed.
        """
        response = self._post(image, accept="application/json")
        try:
            (found,) = response.json()["predictions"]
            return Prediction(
                image=base64.b64decode(found["image"]["b64"]),
                content_type=found["content_type"],
                plates=tuple(_plate(plate) for plate in found["plates"]),
                request_id=found["request_id"],
            )
        except (KeyError, ValueError, TypeError, binascii.Error):
            raise self._stranger() from None

    def _post(self, image: bytes, *, accept: str) -> "httpx.Response":
        import httpx

        # The type is not our business: the server looks at the bytes.
        headers = {"content-type": "image/*", "accept": accept}
        try:
            response = self._http.post(self.url, content=image, headers=headers)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{self.url} does not answer ({type(error).__name__}); see `platecrypt status`"
            ) from None
        if response.is_success:
            return response
        sentence = _error_of(response)
        if response.status_code in (400, 413, 415, 422):
            raise BadInputError(f"{self.url} refused the image: {sentence}")
        raise UnavailableError(f"{self.url} answered {response.status_code}: {sentence}")

    def _stranger(self) -> UnavailableError:
        return UnavailableError(f"{self.url} gave an answer that is none of platecrypt's")


def _plate(raw: Any) -> SealedPlate:
    x1, y1, x2, y2 = (int(value) for value in raw["box"])
    return SealedPlate((x1, y1, x2, y2), base64.b64decode(raw["envelope"]))


def _error_of(response: "httpx.Response") -> str:
    try:
        found = response.json()
        return f"{found['error']} (request {found.get('request_id', '?')})"
    except (ValueError, KeyError, TypeError):
        return "no reason given"
