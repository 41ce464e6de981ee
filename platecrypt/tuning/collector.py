"""The StdOut metrics collector: reads name=value from what a trial prints, as Katib's does."""

import math
import re
from collections.abc import Iterator, Sequence

# A line that never ends (a progress bar, binary noise) is cut here; no metric is longer.
LONGEST_LINE = 8192


class StdOutCollector:
    """Follows a stream of output.

    Katib's rule: every match of every filter in a line; group 1 is the name, group 2 the value;
    names that are not collected are passed over. What is no finite number (`nan`, `inf`, nothing)
    was not measured and is passed over too.
    """

    def __init__(self, metrics: Sequence[str], filters: Sequence[str]) -> None:
        self._metrics = set(metrics)
        # RE2, which Katib uses, knows \w, \d and \s as ASCII.
        self._filters = [re.compile(rule, re.ASCII) for rule in filters]
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, float]]:
        """The metrics in the lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:LONGEST_LINE]
        for line in lines:
            yield from self._read(line)

    def close(self) -> Iterator[tuple[str, float]]:
        """The metrics of a last line without an end."""
        rest, self._rest = self._rest, b""
        yield from self._read(rest)

    def _read(self, line: bytes) -> Iterator[tuple[str, float]]:
        text = line[:LONGEST_LINE].decode(errors="replace")
        if not any(name in text for name in self._metrics):
            return
        for rule in self._filters:
            for match in rule.finditer(text):
                name, value = (match.group(1) or "").strip(), (match.group(2) or "").strip()
                if name in self._metrics and (number := _number(value)) is not None:
                    yield name, number


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
