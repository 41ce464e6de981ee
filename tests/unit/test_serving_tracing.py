"""Trace context goes on where it is valid, and begins anew where it is not."""

import pytest

from platecrypt.serving.tracing import trace_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_valid_context_goes_on_with_a_span_of_ours() -> None:
    trace = trace_of({"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1,b=2"})
    assert (trace.trace_id, trace.flags, trace.state) == (TRACE, "01", "a=1,b=2")
    assert trace.span_id != PARENT
    assert dict(trace.headers()) == {
        "traceparent": f"00-{TRACE}-{trace.span_id}-01",
        "tracestate": "a=1,b=2",
    }


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert trace_of({"traceparent": f"01-{TRACE}-{PARENT}-01-more"}).trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_an_invalid_context_is_not_believed(header: str) -> None:
    trace = trace_of({"traceparent": header, "tracestate": "a=1"})
    assert trace.trace_id not in (TRACE, "0" * 32)
    assert trace.state == ""
