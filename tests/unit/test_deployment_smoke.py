"""The smoke test believes no endpoint: one that cheats in any way fails it."""

import http.server
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from platecrypt import imaging
from platecrypt.cipher import Keyring
from platecrypt.deployment import smoke_test
from platecrypt.errors import RefusedError, UnavailableError

KEYRING = Keyring([b"k" * 32])
BOX = [[40, 30, 104, 62]]
PIXELS = np.random.default_rng(5).integers(0, 256, (120, 160, 3), np.uint8)
SOURCE = imaging.encode(PIXELS, "png")


def protected(pixels: np.ndarray[Any, Any] = PIXELS) -> imaging.Protected:
    return imaging.protect(
        imaging.decode(imaging.encode(pixels, "png")),
        BOX,
        KEYRING,
        model_name="plates",
        model_version="1",
        request_id="r",
        time=datetime.now(UTC),
    )


def honest() -> bytes:
    return protected().data


def readable() -> bytes:
    """The plates are sealed, and still to be seen."""
    made = protected()
    assert made.record is not None
    return imaging.embed(SOURCE, [*made.envelopes, made.record])


def another_picture() -> bytes:
    """Opens, but to other pixels than those that were sent."""
    other = PIXELS.copy()
    other[45, 60] ^= 1
    return protected(other).data


def nothing_sealed() -> bytes:
    return imaging.encode(imaging.decode(protected().data).pixels, "png")


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start an endpoint that answers everything with the given file; returns its URL."""
    servers = []

    def start(body: bytes, plates: str = "1", status: int = 200) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.send_header("content-type", "image/png")
                self.send_header("content-length", str(len(body)))
                self.send_header("x-platecrypt-plates", plates)
                self.send_header("x-request-id", "r")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1/models/plates:predict"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_honest_endpoint_passes(serve: Callable[..., str]) -> None:
    result = smoke_test(serve(honest()), SOURCE, KEYRING)
    assert (result.plates, result.request_id) == (1, "r")
    assert 0 < result.seconds < 10


@pytest.mark.parametrize(
    ("body", "plates", "sentence"),
    [
        (readable, "1", "readable"),
        (another_picture, "1", "did not come back"),
        (nothing_sealed, "1", "do not open"),
        (honest, "2", "2 plates were announced, 1 opened"),
        (honest, "0", "no plate"),
    ],
)
def test_an_endpoint_that_cheats_fails(
    serve: Callable[..., str], body: Callable[[], bytes], plates: str, sentence: str
) -> None:
    with pytest.raises(RefusedError, match=sentence):
        smoke_test(serve(body(), plates), SOURCE, KEYRING)


def test_a_failing_endpoint_is_unavailable(serve: Callable[..., str]) -> None:
    with pytest.raises(UnavailableError, match="503"):
        smoke_test(serve(b"", status=503), SOURCE, KEYRING)
