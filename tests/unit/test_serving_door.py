"""The door lets in what is small enough, names every request, and tells nobody what went wrong."""

import asyncio
import json
import logging
from typing import Any

import pytest

from platecrypt.serving.door import Door, HttpError, JsonLines


def visit(app: Any, *, body: list[bytes], limit: int = 100, **headers: str) -> dict[str, Any]:
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
    scope = {"type": "http", "method": "POST", "path": "/p", "headers": raw}
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
