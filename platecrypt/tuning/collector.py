"""The metrics collectors StdOut and File: what a trial prints or writes, read as Katib reads it."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from platecrypt.tuning.experiment import Collector

# A line that never ends (a progress bar, binary noise) is cut here; no metric is longer.
LONGEST_LINE = 8192
Metric = tuple[str, float]


class LineReader(Protocol):
    """Finds metrics in one line."""

    def read(self, line: bytes) -> Iterator[Metric]:
        """The metrics of a line without its end."""
        ...


class StreamCollector:
    """Follows a stream of bytes that is made of lines."""

    def __init__(self, reader: LineReader) -> None:
        self._reader = reader
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Metric]:
        """The metrics in the lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:LONGEST_LINE]
        for line in lines:
            yield from self._reader.read(line[:LONGEST_LINE])

    def close(self) -> Iterator[Metric]:
        """The metrics of a last line without an end."""
        rest, self._rest = self._rest, b""
        yield from self._reader.read(rest)


class TextReader:
    """`name=value` by filters.

    Katib's rule: every match of every filter in a line; group 1 is the name, group 2 the value;
    names that are not collected are passed over. What is no finite number (`nan`, `inf`, nothing)
    was not measured and is passed over too.
    """

    def __init__(self, metrics: Sequence[str], filters: Sequence[str]) -> None:
        self._metrics = set(metrics)
        # RE2, which Katib uses, knows \w, \d and \s as ASCII.
        self._filters = [re.compile(rule, re.ASCII) for rule in filters]

    def read(self, line: bytes) -> Iterator[Metric]:
        """The metrics of a line."""
        text = line.decode(errors="replace")
        if not any(name in text for name in self._metrics):
            return
        for rule in self._filters:
            for match in rule.finditer(text):
                name, value = (match.group(1) or "").strip(), (match.group(2) or "").strip()
                if name in self._metrics and (number := _number(value)) is not None:
                    yield name, number


class JsonReader:
    """One JSON object a line, metric -> value as text; a number is none, as in Katib.

    A line that is no JSON object is passed over.
    """

    def __init__(self, metrics: Sequence[str]) -> None:
        self._metrics = tuple(metrics)

    def read(self, line: bytes) -> Iterator[Metric]:
        """The metrics of a line."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict):
            return
        for name in self._metrics:
            value = found.get(name)
            if isinstance(value, str) and (number := _number(value)) is not None:
                yield name, number


def make_collector(metrics: Sequence[str], collector: Collector) -> StreamCollector:
    """The collector of an Experiment, for one trial."""
    if collector.format == "JSON":
        return StreamCollector(JsonReader(metrics))
    return StreamCollector(TextReader(metrics, collector.filters))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
