"""What a search will cost, from trials that were measured: before the money is spent."""

from collections.abc import Sequence
from dataclasses import dataclass

from platecrypt.errors import UnavailableError
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.result import MEASURED, Trial
from platecrypt.tuning.samplers import proposals

CALIBRATION_TRIALS = 2
# One trial says nothing of how much trials differ: a third less, or half as much again.
ONE_LOW, ONE_HIGH = 0.67, 1.5


@dataclass(frozen=True)
class Forecast:
    """What is still to come; each figure as (low, expected, high).

    Attributes:
        trials: that will be run beside the measured ones.
        measured: trials the figures rest on.
        device_hours: of those trials.
        wall_hours: with as many at once as the Experiment says.
        cost: in the currency of the price, or None without a price.
    """

    trials: int
    measured: int
    device_hours: tuple[float, float, float]
    wall_hours: tuple[float, float, float]
    cost: tuple[float, float, float] | None

    def lines(self) -> list[str]:
        """The forecast for a person."""
        rows = [
            f"trials         {self.trials} more ({self.measured} measured)",
            f"device hours   {_shown(self.device_hours)}",
            f"hours to wait  {_shown(self.wall_hours)}",
        ]
        return [*rows, f"cost           {_shown(self.cost)}"] if self.cost else rows


def forecast(
    experiment: Experiment,
    trials: Sequence[Trial],
    *,
    price: float | None = None,
    at_once: int | None = None,
) -> Forecast:
    """Forecast the rest of a search.

    The range says what it would be if every trial took as long as the shortest, or the longest,
    that was measured.

    Args:
        experiment: what is searched.
        trials: of it, those that ended.
        price: of a device hour.
        at_once: trials at once; None takes the Experiment's.

    Raises:
        UnavailableError: no trial was measured, or the Experiment names no count.
    """
    seconds = [trial.seconds for trial in trials if trial.status in MEASURED]
    if not seconds:
        why = f"; {trials[-1].name}: {trials[-1].message}" if trials else ""
        raise UnavailableError(f"no trial gave a result, so there is nothing to reckon with{why}")
    counts = [n for n in (experiment.max_trials, proposals(experiment)) if n is not None]
    if not counts:
        raise UnavailableError("the Experiment names no maxTrialCount: its end cannot be foreseen")
    done = sum(trial.status != "Killed" for trial in trials)
    left = max(0, min(counts) - done)
    mean = sum(seconds) / len(seconds)
    spread = (min(seconds), mean, max(seconds))
    if len(seconds) == 1:
        spread = (mean * ONE_LOW, mean, mean * ONE_HIGH)
    each = max(1, experiment.container.gpus)
    hours = _times(spread, left * each / 3600)
    return Forecast(
        trials=left,
        measured=len(seconds),
        device_hours=hours,
        wall_hours=_times(hours, 1 / (each * (at_once or experiment.parallel_trials))),
        cost=None if price is None else _times(hours, price),
    )


def _times(values: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    low, expected, high = values
    return low * factor, expected * factor, high * factor


def _shown(values: tuple[float, float, float]) -> str:
    low, expected, high = values
    return f"{expected:.3g} ({low:.3g} to {high:.3g})"
