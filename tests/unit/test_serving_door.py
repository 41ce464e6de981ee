"""The door lets in what is small enough, names every request, and tells nobody what went wrong."""

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_interceptor.exceptions import GrpcException
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest

from platecrypt.errors import BadInputError
from platecrypt.serving import metrics, server
from platecrypt.serving.admission import Admission
from platecrypt.serving.door import Door, JsonLines
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.tokens import Tokens


def visit(
    app: Any, *, body: list[bytes], limit: int = 100, method: str = "POST", **headers: str
) -> dict[str, Any]:
    """One request through the door: status, headers and body of the answer."""
    pending = [
        {"type": "http.request", "body": part, "more_body": i + 1 < len(body)}
        for i, part in enumerate(body)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return pending.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": "/p", "headers": raw}
    asyncio.run(Door(app, max_body=limit)(scope, receive, send))
    start = sent[0]
    return {
        "status": start["status"],
        "headers": {k.decode(): v.decode() for k, v in start["headers"]},
        "body": b"".join(m.get("body", b"") for m in sent[1:]),
        "seen": dict(scope["headers"]),
        "unread": len(pending),
    }


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def test_a_body_within_the_limit_passes() -> None:
    answer = visit(echo, body=[b"x" * 60, b"y" * 40])
    assert (answer["status"], answer["body"]) == (200, b"x" * 60 + b"y" * 40)
    assert answer["headers"]["x-content-type-options"] == "nosniff"


def test_an_announced_body_that_is_too_large_is_refused_unread() -> None:
    answer = visit(echo, body=[b"x" * 101], content_length="101")
    assert answer["status"] == 413
    assert answer["unread"] == 1
    assert answer["headers"]["connection"] == "close"


def test_a_body_that_grows_too_large_is_cut_off() -> None:
    answer = visit(echo, body=[b"x" * 60] * 10)
    assert answer["status"] == 413
    assert answer["unread"] == 8


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    """Answers without a look at the body, as health does."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("announced", [{"content_length": "2"}, {"transfer_encoding": "chunked"}])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_a_body_that_nobody_reads_ends_the_connection(
    method: str, announced: dict[str, str]
) -> None:
    answer = visit(deaf, body=[b"xx"], method=method, **announced)
    assert answer["headers"]["connection"] == "close"
    if method == "GET":
        assert "connection" not in visit(deaf, body=[], method=method)["headers"]
        empty = visit(deaf, body=[], method=method, content_length="0")
        assert "connection" not in empty["headers"]


def test_a_harmless_request_id_is_kept_and_any_other_replaced() -> None:
    kept = visit(echo, body=[b""], x_request_id="ride-7:a.b_c")
    assert kept["headers"]["x-request-id"] == "ride-7:a.b_c"
    for bad in ("", "a b", "x" * 129, '{"a":1}', "\x7f", "é"):
        answer = visit(echo, body=[b""], x_request_id=bad)
        assert answer["headers"]["x-request-id"] != bad
        assert len(answer["headers"]["x-request-id"]) == 32
        assert answer["seen"][b"x-request-id"].decode() == answer["headers"]["x-request-id"]


def test_an_unexpected_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the inner secret")

    answer = visit(breaks, body=[b""], x_request_id="r1")
    assert answer["status"] == 500
    assert json.loads(answer["body"]) == {"error": "internal error", "request_id": "r1"}
    assert "the inner secret" in caplog.text


def test_a_refusal_is_told_as_it_is() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        raise HttpError(406, "not that")

    answer = visit(refuses, body=[b""], x_request_id="r1")
    assert answer["status"] == 406
    assert json.loads(answer["body"]) == {"error": "not that", "request_id": "r1"}


def test_every_request_is_one_json_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        visit(echo, body=[b"xyz"], x_request_id="r1")
    (record,) = caplog.records
    line = json.loads(JsonLines().format(record))
    assert (line["request_id"], line["status"], line["bytes"]) == ("r1", 200, 3)
    assert line["message"] == "request"
    assert line["time"].endswith("Z")
    assert "\n" not in JsonLines().format(record)


def test_two_lengths_are_refused() -> None:
    for second in ((b"content-length", b"4"), (b"transfer-encoding", b"chunked")):
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/p",
            "headers": [(b"content-length", b"3"), second],
        }
        assert status_of(scope, [b"xyz"]) == 400


def status_of(scope: dict[str, Any], body: list[bytes], **how: Any) -> int:
    sent: list[dict[str, Any]] = []
    pending = [
        {"type": "http.request", "body": part, "more_body": i + 1 < len(body)}
        for i, part in enumerate(body)
    ]

    async def receive() -> Any:
        if not pending:
            await asyncio.sleep(60)
        return pending.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(echo, **{"max_body": 100, **how})(scope, receive, send))
    return int(sent[0]["status"])


def post() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/p", "headers": []}


def test_a_body_that_does_not_come_ends_with_408() -> None:
    first = {"type": "http.request", "body": b"x", "more_body": True}
    sent: list[Any] = []

    async def receive(messages: list[Any] = [first]) -> Any:  # noqa: B006
        if messages:
            return messages.pop()
        return await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(echo, max_body=100, body_s=0.05)(post(), receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_more_bodies_than_memory_is_meant_for_are_told_to_come_again() -> None:
    door = Door(echo, max_body=100, max_held=150)
    door.held.bytes = 100
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 60, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(door(post(), receive, send))
    assert sent[0]["status"] == 429
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    assert door.held.bytes == 100


def test_only_a_token_opens_and_reading_needs_none(tmp_path: Any) -> None:
    path = tmp_path / "tokens"
    path.write_text("a-token-of-some-length\nanother-token-of-length\n")
    tokens = Tokens(path)

    def ask(authorization: str, method: str = "POST") -> int:
        scope = {**post(), "method": method}
        scope["headers"] = [(b"authorization", authorization.encode())]
        return status_of(scope, [b""], check=tokens.check)

    assert ask("Bearer a-token-of-some-length") == 200
    assert ask("bearer another-token-of-length") == 200
    for wrong in ("", "Bearer ", "Bearer a-token-of-some-lengt", "Basic a-token-of-some-length"):
        assert ask(wrong) == 401
    assert ask("", "GET") == 200
    path.write_text("a-new-token-of-some-length")
    assert ask("Bearer a-token-of-some-length") == 401
    assert ask("Bearer a-new-token-of-some-length") == 200
    path.write_text("")
    assert ask("Bearer a-new-token-of-some-length") == 503
    path.unlink()
    assert ask("Bearer ") == 503


def test_a_token_file_must_hold_tokens_at_the_start(tmp_path: Any) -> None:
    path = tmp_path / "tokens"
    for text in (None, "", "short", "ünicode-token-of-length"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(BadInputError, match="token file"):
            Tokens(path)


def test_the_queue_is_bounded_and_patience_ends() -> None:
    async def scenario() -> list[int]:
        admission = Admission(working=1, waiting=1, patience_s=0.2)
        statuses: list[int] = []

        async def visit() -> None:
            try:
                async with admission.enter():
                    await asyncio.sleep(10)
            except HttpError as error:
                assert error.retry_after  # noqa: PT017
                statuses.append(error.status)

        await asyncio.gather(*(visit() for _ in range(4)))
        async with admission.enter():  # all places are free again
            return sorted(statuses)

    assert asyncio.run(scenario()) == [429, 429, 503, 503]


def test_requests_are_counted_by_wire_and_status() -> None:
    def count() -> float:
        return float(metrics.REQUESTS.labels("v1-image", "413")._value.get())

    before = count()
    scope = {**post(), "path": "/v1/models/plates:predict"}
    assert status_of(scope, [b"x" * 101]) == 413
    assert count() == before + 1


def test_grpc_holds_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the door: whoever would take more memory is told to come again, before it is read."""
    seen = []

    async def inner(self: Any, *call: Any, **how: Any) -> bytes:
        seen.append(self._held)
        return b"answer"

    monkeypatch.setattr(server._Servicer, "_infer", inner)
    servicer = server._Servicer(None, None, None)  # type: ignore[arg-type]
    told: list[Any] = []
    context = SimpleNamespace(
        invocation_metadata=lambda: [("x-request-id", "mine")], set_trailing_metadata=told.append
    )
    assert asyncio.run(servicer.infer(b"", context)) == b"answer"
    servicer._held = server.MAX_HELD
    message = ModelInferRequest(model_name="plates").SerializeToString()
    with pytest.raises(GrpcException) as refused:
        asyncio.run(servicer.infer(message, context))
    assert refused.value.status_code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told == [(("x-request-id", "mine"),)]
    assert (seen, servicer._held) == ([0], server.MAX_HELD)
