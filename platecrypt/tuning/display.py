"""A search as it runs: a live table on a terminal, one line an event elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.result import MEASURED, EventHandler, Trial, TuningEvent, best_of

METRIC_EVERY_S = 5.0
SHOWN_TRIALS = 20


@contextmanager
def watching(experiment: Experiment) -> Iterator[EventHandler]:
    """Yield a handler of events that shows them on standard error."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.live import Live

    table = Table(experiment)
    with Live(table, console=Console(stderr=True), refresh_per_second=4):
        yield table


class Lines:
    """One line an event; of the many values of a trial one every few seconds."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def __call__(self, event: TuningEvent) -> None:
        """Print the event."""
        if event.kind == "metric" and event.trial is not None:
            now = time.monotonic()
            if now < self._next.get(event.trial.name, 0.0):
                return
            self._next[event.trial.name] = now + METRIC_EVERY_S
        sys.stderr.write(f"{' '.join(event.message.split())}\n")
        sys.stderr.flush()


class Table:
    """The trials as a table: parameters, last value, best, elapsed; and what remains."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._trials: dict[str, Trial] = {}
        self._began: dict[str, float] = {}
        self._since = time.monotonic()
        self._note = ""

    def __call__(self, event: TuningEvent) -> None:
        """Take in the event; it is drawn at the next refresh."""
        if event.trial is not None:
            self._trials[event.trial.name] = event.trial
            self._began.setdefault(event.trial.name, time.monotonic())
        if event.kind in ("note", "finished"):
            self._note = event.message

    def remaining_s(self) -> float | None:
        """An estimate from the trials that ended, seconds; None where nothing is known."""
        ended = [trial.seconds for trial in self._trials.values() if trial.status in MEASURED]
        most = self._experiment.max_trials
        if not ended or most is None:
            return None
        left = max(0, most - sum(t.status not in ("Running", "Killed") for t in self._all()))
        return left * sum(ended) / len(ended) / self._experiment.parallel_trials

    def _all(self) -> list[Trial]:
        return list(self._trials.values())

    def __rich__(self) -> Any:
        """The table for rich."""
        from rich.table import Table as Drawn

        objective = self._experiment.objective
        best = best_of(self._experiment, self._all())
        value = best.value(self._experiment) if best else None
        known = "-" if value is None else f"{value:.5g}"
        left = self.remaining_s()
        drawn = Drawn(
            title=f"{self._experiment.name}: {objective.type} {objective.metric}, best {known}",
            caption=f"{time.monotonic() - self._since:.0f} s, remaining "
            f"{'unknown' if left is None else f'{left:.0f} s'}  {self._note}",
        )
        names = [parameter.name for parameter in self._experiment.parameters]
        for head in ("trial", *names, "last", "best", "seconds", "state"):
            drawn.add_column(head)
        for trial in self._all()[-SHOWN_TRIALS:]:
            drawn.add_row(*self._row(trial, names), style="bold" if trial is best else None)
        return drawn

    def _row(self, trial: Trial, names: list[str]) -> list[str]:
        found = trial.metrics.get(self._experiment.objective.metric)
        counted = trial.value(self._experiment)
        running = trial.status == "Running"
        seconds = time.monotonic() - self._began[trial.name] if running else trial.seconds
        return [
            trial.name,
            *(trial.parameters.get(name, "")[:9] for name in names),
            f"{found.latest:.5g}" if found else "-",
            "-" if counted is None else f"{counted:.5g}",
            f"{seconds:.0f}",
            trial.status,
        ]
