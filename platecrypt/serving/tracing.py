"""W3C trace context: who called, passed on to the predictor and written to the log.

https://www.w3.org/TR/trace-context/: `traceparent` is `00-<trace>-<parent>-<flags>`.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
MAX_STATE = 512
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NOBODY = {"0" * 32, "0" * 16}


@dataclass(frozen=True)
class Trace:
    """One span of a trace, ours.

    Attributes:
        trace_id: 32 hexadecimal digits, the caller's where it gave one.
        span_id: 16 hexadecimal digits, fresh.
        flags: two hexadecimal digits, the caller's.
        state: the caller's `tracestate`, passed on as it is.
    """

    trace_id: str
    span_id: str
    flags: str = "00"
    state: str = ""

    def headers(self) -> list[tuple[str, str]]:
        """What the next server is sent."""
        found = [(TRACEPARENT, f"00-{self.trace_id}-{self.span_id}-{self.flags}")]
        return [*found, (TRACESTATE, self.state)] if self.state else found


def trace_of(headers: Mapping[str, str]) -> Trace:
    """Go on with the caller's trace, or begin one where it sent none that is valid."""
    match = _FORM.fullmatch(headers.get(TRACEPARENT, ""))
    span = secrets.token_hex(8)
    valid = match is not None and not {match[2], match[3]} & _NOBODY
    if match is None or not valid or (match[1] == "00" and match[5]):
        return Trace(secrets.token_hex(16), span)
    state = headers.get(TRACESTATE, "")
    fits = len(state) <= MAX_STATE and state.isascii() and state.isprintable()
    return Trace(match[2], span, match[4], state if fits else "")
