"""The door of both servers: a size limit, a request id, one log line, answers without internals.

A plain ASGI application around another one, so that a body that is too large is refused while it
arrives and not after it lies in memory.
"""

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = "x-request-id"
PLATES = "x-platecrypt-plates"
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

logger = logging.getLogger("platecrypt.serving")


class HttpError(Exception):
    """An answer that is an error: an HTTP status and a sentence that the client may read."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _TooLargeError(HttpError):
    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than {limit} bytes")


class Door:
    """Wraps an ASGI application.

    Args:
        app: what is behind the door.
        max_body: the largest request body, bytes.
    """

    def __init__(self, app: App, *, max_body: int) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self._max_body)
        try:
            if visit.announced > self._max_body:
                raise _TooLargeError(self._max_body)
            await self._app(scope, visit.receive, visit.send)
        except HttpError as error:
            await visit.refuse(error.status, str(error))
        except Exception:
            logger.exception("request failed", extra={"fields": {"request_id": visit.id}})
            await visit.refuse(500, "internal error")
        finally:
            visit.log()


class _Visit:
    """One request on its way in and its answer on the way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        given = dict(headers)
        self.id = _request_id(given.get(REQUEST_ID.encode(), b""))
        self.announced = _length(given.get(b"content-length", b""))
        kept = [pair for pair in headers if pair[0] != REQUEST_ID.encode()]
        scope["headers"] = [*kept, (REQUEST_ID.encode(), self.id.encode())]
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_body = max_body
        self._received = 0
        self._started = time.perf_counter()
        self._status = 0
        self._plates: int | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if self._received > self._max_body:
                raise _TooLargeError(self._max_body)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", []))
            count = dict(headers).get(PLATES.encode())
            self._plates = int(count) if count else None
            headers = [pair for pair in headers if pair[0] != REQUEST_ID.encode()]
            headers += [(REQUEST_ID.encode(), self.id.encode()), *ALWAYS]
            if self._status == 413:  # else the server goes on reading what nobody wants
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, status: int, sentence: str) -> None:
        if self._status:
            return  # an answer is under way already; it ends as it can
        body = json.dumps({"error": sentence, "request_id": self.id}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def log(self) -> None:
        fields = {
            "request_id": self.id,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self._status,
            "ms": round((time.perf_counter() - self._started) * 1e3, 2),
            "bytes": self._received,
        }
        if self._plates is not None:
            fields["plates"] = self._plates
        quiet = self._scope["method"] == "GET" and self._status < 400
        logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """One JSON object a line, as a cluster's log collector wants it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with its `fields`."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging() -> None:
    """Structured lines to standard error; readable ones where that is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    if not sys.stderr.isatty():
        handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for noisy in ("kserve", "kserve.trace", "uvicorn", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _request_id(given: bytes) -> str:
    """The client's id if it is a harmless one, else a fresh one."""
    text = given.decode("ascii", "replace")
    return text if SAFE_ID.fullmatch(text) else secrets.token_hex(16)


def _length(header: bytes) -> int:
    return int(header) if header.isdigit() else 0
