"""uvicorn's HTTP connection, closed where a client takes too long.

uvicorn has a timeout between requests and none within the headers, so a client that sends one
byte a minute would hold its connection for ever; it keeps headers of any size, and an answer that
nobody takes. And when it ends it closes a connection on which it has read nothing yet, though a
request may be in its buffer: those get a moment more.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGER_S = 0.5
GATHERED = 2**22  # bytes of a body that are handed on together
MAX_HEAD = 64 * 1024  # bytes of a head that has not ended yet, or of trailers
ARRIVED = "platecrypt.arrived"  # where a request's scope has its `Arrived`


class Held:
    """Bytes of all bodies that have arrived and were not answered yet."""

    def __init__(self) -> None:
        self.bytes = 0


class Arrived:
    """Bytes of one body; they count among the held ones until `leave`.

    Attributes:
        bytes: so many are here.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self.bytes = 0
        self._left = False

    def add(self, size: int) -> None:
        """More of it is here."""
        if not self._left:
            self.bytes += size
            self._held.bytes += size

    def leave(self) -> None:
        """The request is over."""
        self._held.bytes -= self.bytes
        self._left, self.bytes = True, 0


class Connection(HttpToolsProtocol):
    """One connection.

    Attributes:
        headers_s: seconds for the head of each request.
        answer_s: seconds in which a client must have taken something of its answer.
        held: what lies in memory of all connections.
        max_held: with more, the door is woken to refuse.
    """

    headers_s = 10.0
    answer_s = 30.0
    held = Held()
    max_held = 2**62
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head = 0
    _in_body = False
    _moved = False  # whether what was read last ended a head or belonged to a body
    _arrived = Arrived(Held())

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """A request begins; for the first one we wait already."""
        super().on_message_begin()
        if self._patience is None:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Read on; refuse a head that has no end."""
        within = self._patience is not None or self._in_body
        self._moved = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if within and not self._moved:  # all of it belongs to the head, or to trailers
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.send_400_response("The head of the request is too large.")
        between = self.cycle is not None and self.cycle.response_complete and not self._in_body
        if between and self._patience is None and self.timeout_keep_alive_task is None:
            self._wait()  # a lone line end has stopped uvicorn's own clock

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers have nothing to say here."""
        if not self._in_body:
            super().on_header(name, value)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._moved, self._in_body, self._head = True, False, 0
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Take what came; the door counts it, so there is no need to stop and go on reading."""
        cycle = self.cycle
        self._moved, self._head = True, 0
        if cycle.response_complete:
            return
        self._arrived.add(len(body))
        held: Any = cycle.body  # not `bytes += bytes`: that copies all of it for each part
        if held and isinstance(held, bytes):
            held = bytearray(held)
        held += body
        cycle.body = held
        # The door is woken for much of it, or by uvicorn for the last of it: not for each packet.
        if len(cycle.body) >= GATHERED or self.held.bytes > self.max_held:
            cycle.message_event.set()

    def on_headers_complete(self) -> None:
        """The headers are there: what follows is the door's to limit."""
        self._stop_waiting()
        self._moved, self._in_body = True, True
        super().on_headers_complete()
        self._arrived = Arrived(self.held)
        if self.cycle is not None:
            scope: Any = self.cycle.scope
            scope[ARRIVED] = self._arrived  # its task has not begun yet

    def pause_writing(self) -> None:
        """The client does not take what it is sent as fast as it comes."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._stop_watching()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        self._stop_waiting()
        self._stop_watching()
        for cycle, _ in self.pipeline:  # nobody will ever answer these
            waiting: Any = cycle.scope
            waiting[ARRIVED].leave()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends: finish what is under way, also what is not read yet."""
        if self.cycle is None:
            self.loop.call_later(LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def _watch(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self.answer_s, self._look, left)

    def _look(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch()
        else:
            self.transport.abort()  # to close it would wait until all was taken

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.headers_s, self.transport.close)

    def _stop_waiting(self) -> None:
        self._head = 0
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


def connection_class(
    headers_s: float, answer_s: float, held: Held, max_held: int
) -> type[Connection]:
    """A protocol class for uvicorn with that patience and memory; see `Connection`."""
    given = {"headers_s": headers_s, "answer_s": answer_s, "held": held, "max_held": max_held}
    return type("Connection", (Connection,), given)
