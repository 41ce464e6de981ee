"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from platecrypt.steps import say

Progress = Callable[[int, int], None]
LINE_EVERY_S = 5.0


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yield a function that is told `(done, total)`; it draws to standard error."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(title)


class _Lines:
    """A line at the end, and one every few seconds until then."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._next = time.monotonic() + LINE_EVERY_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now >= self._next:
            self._next = now + LINE_EVERY_S
            say(f"{self._title}: {done}/{total}")
