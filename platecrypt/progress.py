"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from platecrypt.steps import say

Progress = Callable[[int, int], None]
LINE_EVERY_S = 5.0


@contextmanager
def progress(title: str, unit: str = "") -> Iterator[Progress]:
    """Yield a function that is told `(done, total)`; it draws to standard error.

    Args:
        title: what is going on.
        unit: what is counted, e.g. "frames"; if given, their number a second is shown as well.
    """
    speed = _Speed(unit)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import TextColumn

        columns = (*Bar.get_default_columns(), TextColumn("{task.fields[speed]}"))
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, speed="")
            yield lambda done, total: bar.update(
                task, completed=done, total=total, speed=speed.text(done)
            )
    else:
        yield _Lines(title, speed)


class _Speed:
    """How many a second, since the beginning."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._began = time.monotonic()

    def of(self, done: int) -> float:
        return done / max(1e-3, time.monotonic() - self._began)

    def text(self, done: int) -> str:
        return f"{self.of(done):.1f} {self.unit}/s" if self.unit else ""


class _Lines:
    """A line at the end, and one every few seconds until then."""

    def __init__(self, title: str, speed: _Speed) -> None:
        self._title, self._speed = title, speed
        self._next = time.monotonic() + LINE_EVERY_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now >= self._next:
            self._next = now + LINE_EVERY_S
            say(f"{self._title}: {done}/{total}{self._rest(done, total)}")

    def _rest(self, done: int, total: int) -> str:
        if not (self._speed.unit and done):
            return ""
        left = f", {(total - done) / self._speed.of(done):.0f} s left" if total > done else ""
        return f" {self._speed.unit}, {self._speed.text(done)}{left}"
