"""The metrics collectors StdOut and File: what a trial prints or writes, read as Katib reads it."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from platecrypt.tuning.experiment import Collector

# A longer line of text is read in pieces, so that one that never ends (binary noise) does not fill
# the memory; a longer JSON object is passed over.
LONGEST_TEXT, LONGEST_JSON = 8192, 2**20
Metric = tuple[str, float]
_BETWEEN = re.compile(rb"(?<!=)\s(?=[^\s=])")  # not around the sign of `name = value`


class LineReader(Protocol):
    """Finds metrics in one line.

    Attributes:
        longest: bytes of a line that it reads at once.
        pieces: whether a longer line is read in pieces, else it is passed over.
    """

    longest: int
    pieces: bool

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
        for line in lines:
            yield from self._line(line)
        if len(self._rest) > 2 * self._reader.longest:
            yield from self._shorten()

    def close(self) -> Iterator[Metric]:
        """The metrics of a last line without an end."""
        rest, self._rest = self._rest, b""
        yield from self._line(rest)

    def _line(self, line: bytes) -> Iterator[Metric]:
        if len(line) <= self._reader.longest:
            yield from self._reader.read(line)
        elif self._reader.pieces:
            for piece in _pieces(line, self._reader.longest):
                yield from self._reader.read(piece)

    def _shorten(self) -> Iterator[Metric]:
        """Read what is there of a line that goes on; keep its last piece."""
        if not self._reader.pieces:
            self._rest = self._rest[: self._reader.longest + 1]  # enough to be too long
            return
        *pieces, self._rest = _pieces(self._rest, self._reader.longest)
        for piece in pieces:
            yield from self._reader.read(piece)


def _pieces(line: bytes, longest: int) -> Iterator[bytes]:
    """A long line, cut in white space (a progress bar has carriage returns) where there is some.

    So neither a name nor a value is cut in two, unless it is longer than half a piece.
    """
    while len(line) > longest:
        cut = max(
            (m.end() for m in _BETWEEN.finditer(line, longest // 2, longest)), default=longest
        )
        yield line[:cut]
        line = line[cut:]
    yield line


class TextReader:
    """`name=value` by filters.

    Katib's rule: every match of every filter in a line; group 1 is the name, group 2 the value;
    names that are not collected are passed over. What is no finite number (`nan`, `inf`, nothing)
    was not measured and is passed over too.
    """

    longest, pieces = LONGEST_TEXT, True

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

    longest, pieces = LONGEST_JSON, False

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
