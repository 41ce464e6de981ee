"""A client asks again only where that may help, later each time, and never beyond its deadline."""

import asyncio
import base64
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.serving import AsyncClient, Client
from platecrypt.serving.grpc_client import AsyncGrpcClient, GrpcClient
from platecrypt.serving.retries import Attempts

BODY = {
    "predictions": [
        {
            "image": {"b64": base64.b64encode(b"picture").decode()},
            "content_type": "image/jpeg",
            "plates": [{"box": [1, 2, 3, 4], "envelope": base64.b64encode(b"e").decode()}],
            "request_id": "r",
        }
    ]
}


class Script(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses that it was given, one after the other."""

    statuses: list[int]
    seen: list[Any]
    retry_after = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, self.headers.get("authorization")))
        status = self.statuses.pop(0) if self.statuses else 200
        body = json.dumps(BODY if status == 200 else {"error": "no", "request_id": "r"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if self.retry_after:
            self.send_header("retry-after", self.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[str, type[Script]]]]:
    servers = []

    def start(*statuses: int, retry_after: str = "") -> tuple[str, type[Script]]:
        fields = {"statuses": list(statuses), "seen": [], "retry_after": retry_after}
        handler = type("Handler", (Script,), fields)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1/models/plates:predict", handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def blocking(url: str, **arguments: Any) -> Any:
    with Client(url, **arguments) as client:
        return client.predict(b"x", options={"confidence": 0.5})


def concurrent(url: str, **arguments: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, **arguments) as client:
            return await client.predict(b"x", options={"confidence": 0.5})

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ask", [blocking, concurrent])


@BOTH
def test_it_asks_again_after_429_and_503(scripted: Any, ask: Any) -> None:
    url, handler = scripted(429, 503)
    answer = ask(url, token="a-token")
    assert (answer.image, answer.plates[0].envelope) == (b"picture", b"e")
    assert [path.split("?")[1] for path, _ in handler.seen] == ["confidence=0.5"] * 3
    assert {token for _, token in handler.seen} == {"Bearer a-token"}


@BOTH
@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadInputError), (401, BadInputError), (500, UnavailableError), (502, UnavailableError)],
)
def test_it_asks_once_where_asking_again_does_not_help(
    scripted: Any, ask: Any, status: int, error: type[Exception]
) -> None:
    url, handler = scripted(status)
    with pytest.raises(error, match="no"):
        ask(url)
    assert len(handler.seen) == 1


@BOTH
def test_it_gives_up_after_its_retries(scripted: Any, ask: Any) -> None:
    url, handler = scripted(*[503] * 9)
    with pytest.raises(UnavailableError, match="503"):
        ask(url, retries=2)
    assert len(handler.seen) == 3


@BOTH
def test_a_pause_beyond_the_deadline_is_not_waited(scripted: Any, ask: Any) -> None:
    url, handler = scripted(503, retry_after="3600")
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="503"):
        ask(url, timeout_s=20)
    assert time.monotonic() - began < 15
    assert len(handler.seen) == 1


def test_pauses_grow_and_respect_the_server() -> None:
    attempts = Attempts(4, 60)
    pauses = [attempts.pause(429) for _ in range(4)]
    assert None not in pauses
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3] < 2
    assert attempts.pause(429) is None
    assert Attempts(1, 60).pause(503, "7") == 7
    assert Attempts(1, 60).pause(500) is None


class Busy(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Refuses a few times, then answers."""

    codes: list[grpc.StatusCode]

    def ModelInfer(self, request: Any, context: Any) -> Any:
        if self.codes:
            context.abort(self.codes.pop(0), "no")
        tensor = pb.ModelInferResponse.InferOutputTensor
        image, box = b"\xff\xd8\xffx", (1).to_bytes(4, "little") * 4
        return pb.ModelInferResponse(
            outputs=[tensor(name=name) for name in ("image", "boxes", "envelopes")],
            raw_output_contents=[b"\4\0\0\0" + image, box, b"\1\0\0\0e"],
        )


@pytest.fixture
def busy() -> Iterator[tuple[Busy, str]]:
    servant = Busy()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(servant, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servant, f"127.0.0.1:{port}"
    server.stop(0)


def grpc_blocking(target: str) -> Any:
    with GrpcClient(target, timeout_s=20) as client:
        return client.predict(b"x")


def grpc_concurrent(target: str) -> Any:
    async def ask() -> Any:
        async with AsyncGrpcClient(target, timeout_s=20) as client:
            return await client.predict(b"x")

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [grpc_blocking, grpc_concurrent])
def test_grpc_asks_again_in_the_same_cases(busy: tuple[Busy, str], ask: Any) -> None:
    servant, target = busy
    servant.codes = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE]
    answer = ask(target)
    assert (answer.content_type, answer.plates[0].box) == ("image/jpeg", (1, 1, 1, 1))
    servant.codes = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(BadInputError, match="no"):
        ask(target)
    servant.codes = [grpc.StatusCode.INTERNAL]
    with pytest.raises(UnavailableError, match="INTERNAL"):
        ask(target)
    assert servant.codes == []


@pytest.mark.parametrize("url", ["http://h:abc/", "http://[::1", "http://h:99999/", "h:8080", ""])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_is_one_line(url: str, kind: type) -> None:
    with pytest.raises(BadInputError, match="is no endpoint"):
        kind(url)


@BOTH
def test_an_answer_that_drips_ends_with_the_deadline(ask: Any) -> None:
    """Each byte comes in time, and all of them never."""
    over = threading.Event()

    class Drips(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Drips)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    try:
        with pytest.raises(UnavailableError, match="does not answer"):
            ask(f"http://127.0.0.1:{server.server_port}/", timeout_s=0.6)
    finally:
        over.set()
        server.shutdown()
        server.server_close()
    assert time.monotonic() - began < 10
