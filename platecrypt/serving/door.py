"""The door of every server: limits, tokens, a request id, one log line, answers without internals.

A plain ASGI application around another one, so that a body that is too large is refused while it
arrives and not after it lies in memory.
"""

import asyncio
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from platecrypt.serving import metrics
from platecrypt.serving.connections import ARRIVED, Arrived, Held
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.tracing import TRACEPARENT, TRACESTATE, trace_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = "x-request-id"
PLATES = "x-platecrypt-plates"
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
BINARY_HEADER = "inference-header-content-length"
OURS = {REQUEST_ID, TRACEPARENT, TRACESTATE}  # replaced on the way in
ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]
MAX_HELD = 256 * 2**20
BODY_S = 30.0

logger = logging.getLogger("platecrypt.serving")


class _TooLargeError(HttpError):
    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than {limit} bytes")


class Drain:
    """Whether the server is on its way out; readiness and kept connections look at it."""

    def __init__(self) -> None:
        self.began = False


class Door:
    """Wraps an ASGI application.

    Args:
        app: what is behind the door.
        max_body: the largest request body, bytes.
        max_held: bytes of all bodies that are inside at once; a body beyond is told to come again.
        body_s: seconds in which a body must have arrived.
        check: raises `HttpError` unless the Authorization header it is given may ask for work;
            asked for everything but GET and HEAD, which tell health, names and counts.
        drain: told when the server is on its way out.
    """

    def __init__(
        self,
        app: App,
        *,
        max_body: int,
        max_held: int = MAX_HELD,
        body_s: float = BODY_S,
        check: Callable[[str], None] | None = None,
        drain: Drain | None = None,
    ) -> None:
        self._app = app
        self.max_body = max_body
        self.max_held = max(max_held, max_body)
        self.body_s = body_s
        self.drain = drain or Drain()
        self.held = Held()
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, receive, send, self)
        try:
            visit.let_in(self._check)
            await self._app(scope, visit.receive, visit.send)
        except HttpError as error:
            await visit.refuse(error)
        except Exception:
            logger.exception("request failed", extra={"fields": visit.names})
            await visit.refuse(HttpError(500, "internal error"))
        finally:
            visit.leave()


class _Visit:
    """One request on its way in and its answer on the way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, door: Door) -> None:
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        given = {n.decode("latin-1"): value.decode("latin-1") for n, value in headers}
        self._given = given
        self.id = request_id_of(given.get(REQUEST_ID, ""))
        self._trace = trace_of(given)
        self.names = {"request_id": self.id, "trace_id": self._trace.trace_id}
        ours = [(REQUEST_ID, self.id), *self._trace.headers()]
        scope["headers"] = [
            *((name, value) for name, value in headers if name.decode("latin-1") not in OURS),
            *((name.encode(), value.encode()) for name, value in ours),
        ]
        self._lengths = [value for name, value in headers if name == b"content-length"]
        self._scope = scope
        self._receive = receive
        self._send = send
        self._door = door
        self._wire = wire_of(
            scope["path"], given.get("content-type", ""), binary=BINARY_HEADER in given
        )
        self._received = 0
        # Counted as it arrives, where the server does that; else as it is handed on.
        self._counted = ARRIVED in scope
        self._arrived: Arrived = scope.pop(ARRIVED, None) or Arrived(door.held)
        self._whole = False
        self._started = time.perf_counter()
        self._status = 0
        self._plates: int | None = None

    def let_in(self, check: Callable[[str], None] | None) -> None:
        """Refuse what can be refused before a byte of the body is read."""
        if len(self._lengths) > 1 or (self._lengths and "transfer-encoding" in self._given):
            raise HttpError(400, "the request has two lengths")
        if check is not None and self._scope["method"] not in ("GET", "HEAD"):
            check(self._given.get("authorization", ""))
        announced = int(self._lengths[0]) if self._lengths and self._lengths[0].isdigit() else 0
        if announced > self._door.max_body:
            raise _TooLargeError(self._door.max_body)
        # What has come with the head is held already.
        if self._door.held.bytes + announced - self._arrived.bytes > self._door.max_held:
            raise HttpError(429, "too much is on its way in; try again", retry_after=1)

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        left = self._started + self._door.body_s - time.perf_counter()
        try:
            async with asyncio.timeout(max(left, 0)):
                message = await self._receive()
        except TimeoutError:
            raise HttpError(408, "the body did not arrive in time") from None
        if message["type"] == "http.disconnect":
            raise HttpError(400, "the client went away before its body had arrived")
        if message["type"] == "http.request":
            self._take(len(message.get("body", b"")))
            self._whole = not message.get("more_body", False)
        return message

    def _take(self, size: int) -> None:
        self._received += size
        if not self._counted:
            self._arrived.add(size)
        if self._received > self._door.max_body:
            raise _TooLargeError(self._door.max_body)
        if self._door.held.bytes > self._door.max_held:
            raise HttpError(429, "too much is on its way in; try again", retry_after=1)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", []))
            count = dict(headers).get(PLATES.encode())
            self._plates = int(count) if count else None
            headers = [pair for pair in headers if pair[0] != REQUEST_ID.encode()]
            headers += [(REQUEST_ID.encode(), self.id.encode()), *ALWAYS]
            # Else the server goes on reading what nobody wants, or keeps who should go elsewhere.
            announced = self._lengths not in ([], [b"0"]) or "transfer-encoding" in self._given
            unread = (announced or self._scope["method"] == "POST") and not self._whole
            if unread or self._door.drain.began:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        await self._send(message)

    async def refuse(self, error: HttpError) -> None:
        if self._status:
            return  # an answer is under way already; it ends as it can
        body = json.dumps({"error": str(error), "request_id": self.id}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *(
                (name.encode(), value.encode())
                for name, value in error_headers(error.status, error.retry_after).items()
            ),
        ]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def leave(self) -> None:
        """Give back what was held, count and log."""
        self._arrived.leave()
        log_request(
            self._wire,
            self._status,
            time.perf_counter() - self._started,
            quiet=self._scope["method"] == "GET" and self._status < 400,
            fields={
                **self.names,
                "span_id": self._trace.span_id,
                "method": self._scope["method"],
                "path": self._scope["path"][:200],
                "bytes": self._received,
                **({} if self._plates is None else {"plates": self._plates}),
            },
        )


def log_request(
    wire: str, status: int, seconds: float, *, quiet: bool, fields: dict[str, Any]
) -> None:
    """Count a request that is over, and write its one line."""
    metrics.REQUESTS.labels(wire, str(status)).inc()
    metrics.REQUEST_SECONDS.labels(wire).observe(seconds)
    line = {**fields, "wire": wire, "status": status, "ms": round(seconds * 1e3, 2)}
    logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": line})


def error_headers(status: int, retry_after: int | None) -> dict[str, str]:
    """The headers that belong to an error: when to come again, and how to be let in."""
    if status == 401:
        return {"www-authenticate": "Bearer"}
    if retry_after is None and status in (429, 503):
        retry_after = 1
    return {} if retry_after is None else {"retry-after": str(retry_after)}


def wire_of(path: str, content_type: str, *, binary: bool) -> str:
    """The name of a request's wire, for logs and metrics; "other" where it asks for no picture."""
    if path.endswith("/infer"):
        return "v2-binary" if binary else "v2-json"
    if path.endswith(":predict"):
        json_body = content_type.split(";")[0].strip().lower() == "application/json"
        return "v1-json" if json_body else "v1-image"
    return "other"


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


def request_id_of(given: str) -> str:
    """The client's id if it is a harmless one, else a fresh one."""
    return given if SAFE_ID.fullmatch(given) else secrets.token_hex(16)
