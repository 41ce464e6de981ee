"""The StdOut collector reads what Katib's would read, from any output whatsoever."""

import pytest

from platecrypt.tuning.collector import LONGEST_TEXT, StreamCollector, make_collector
from platecrypt.tuning.experiment import DEFAULT_FILTER, Collector


def collector_of(*metrics: str, rule: str = DEFAULT_FILTER, form: str = "TEXT") -> StreamCollector:
    return make_collector(metrics, Collector("StdOut", "", form, (rule,)))


def read(
    *chunks: bytes,
    metrics: tuple[str, ...] = ("mAP50", "loss"),
    rule: str = DEFAULT_FILTER,
    form: str = "TEXT",
) -> list[tuple[str, float]]:
    collector = collector_of(*metrics, rule=rule, form=form)
    found = [item for chunk in chunks for item in collector.feed(chunk)]
    return found + list(collector.close())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"mAP50=0.53\n", [("mAP50", 0.53)]),
        (b"epoch=3 mAP50 = 0.5 loss=1.5e-3\n", [("mAP50", 0.5), ("loss", 0.0015)]),
        (b"2026-01-01T00:00:00Z mAP50=+.5\n", [("mAP50", 0.5)]),
        (b"loss=-2\n", [("loss", -2.0)]),
        (b"mAP50-95=0.4 mAP50=0.6\n", [("mAP50", 0.6)]),
        (b"xmAP50=0.4\n", []),
        (b"mAP50=nan\n", []),
        (b"mAP50=inf\n", []),
        (b"mAP50=1e999\n", []),
        (b"mAP50=\n", []),
        (b"mAP50: 0.3\n", []),
        ("mAP50=٣\n".encode(), []),
        (b"\xff\xfe\x00mAP50=0.25\xff\n", [("mAP50", 0.25)]),
    ],
)
def test_a_line(line: bytes, found: list[tuple[str, float]]) -> None:
    assert read(line) == found


def test_a_name_with_a_dash_is_one_name() -> None:
    assert read(b"mAP50-95=0.4 mAP50=0.6\n", metrics=("mAP50-95",)) == [("mAP50-95", 0.4)]


def test_a_line_may_arrive_in_pieces_and_lack_an_end() -> None:
    assert read(b"mAP", b"50=0.", b"5\nmAP50=0.7") == [("mAP50", 0.5), ("mAP50", 0.7)]


def test_another_rule_replaces_the_default() -> None:
    rule = r"\[(\w+): ([\d.]+)\]"
    assert read(b"[mAP50: 0.5] mAP50=0.9\n", rule=rule) == [("mAP50", 0.5)]


def test_a_line_without_end_costs_bounded_memory() -> None:
    collector = collector_of("mAP50")
    for _ in range(100):
        assert not list(collector.feed(b"x" * 100_000))
        assert len(collector._rest) <= 2 * LONGEST_TEXT
    assert list(collector.feed(b"\nmAP50=1\n")) == [("mAP50", 1.0)]


@pytest.mark.slow  # five seconds
def test_a_metric_printed_a_million_times_is_read_every_time() -> None:
    collector = collector_of("loss")
    count = sum(len(list(collector.feed(b"loss=1\n" * 10_000))) for _ in range(100))
    assert count == 1_000_000


PROGRESS = b"".join(b"\r%3d%% |####     | step %d lr=0.1" % (i % 100, i) for i in range(3000))


@pytest.mark.parametrize("size", [7, 4096, 10**6])
def test_a_metric_after_a_long_progress_bar_is_found(size: int) -> None:
    """Carriage returns alone: to Katib all of it is one line."""
    data = PROGRESS + b"\rmAP50=0.5\n"
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert read(*chunks) == [("mAP50", 0.5)]


@pytest.mark.parametrize("gap", range(LONGEST_TEXT - 24, LONGEST_TEXT + 24))
def test_no_value_is_cut_in_two(gap: int) -> None:
    line = (b"ab " * LONGEST_TEXT)[:gap] + b" mAP50 = 12345.5 "
    assert read(line + b"\n") == [("mAP50", 12345.5)]
    assert read(line + b"z " * 3 * LONGEST_TEXT, b"\n") == [("mAP50", 12345.5)]


def test_a_long_json_object_is_read_and_one_without_end_passed_over() -> None:
    long = b'{"loss":"0.5","matrix":"' + b"9" * 500_000 + b'"}\n'
    assert read(long[:9000], long[9000:], form="JSON") == [("loss", 0.5)]
    endless = [b'{"loss":"0.5","matrix":"', *[b"9" * 500_000] * 9, b'"}\n', b'{"loss":"1"}\n']
    assert read(*endless, form="JSON") == [("loss", 1.0)]
