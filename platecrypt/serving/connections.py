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
MAX_HEAD = 64 * 1024  # bytes of a head that has not ended yet


class Connection(HttpToolsProtocol):
    """One connection.

    Attributes:
        headers_s: seconds for the head of each request.
        answer_s: seconds in which a client must have taken something of its answer.
    """

    headers_s = 10.0
    answer_s = 30.0
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head = 0

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
        within = self._patience is not None
        super().data_received(data)
        if within and self._patience is not None and not self.transport.is_closing():
            self._head += len(data)  # all of it belongs to the head
            if self._head > MAX_HEAD:
                self.send_400_response("The head of the request is too large.")

    def on_body(self, body: bytes) -> None:
        """Take what came; the door counts it, so there is no need to stop and go on reading."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        held: Any = cycle.body  # not `bytes += bytes`: that copies all of it for each part
        if held and isinstance(held, bytes):
            held = bytearray(held)
        held += body
        cycle.body = held
        # The door is woken for much of it, or by uvicorn for the last of it: not for each packet.
        if len(cycle.body) >= GATHERED:
            cycle.message_event.set()

    def on_headers_complete(self) -> None:
        """The headers are there: what follows is the door's to limit."""
        self._stop_waiting()
        super().on_headers_complete()

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


def connection_class(headers_s: float, answer_s: float) -> type[Connection]:
    """A protocol class for uvicorn with that patience; see `Connection`."""
    return type("Connection", (Connection,), {"headers_s": headers_s, "answer_s": answer_s})
