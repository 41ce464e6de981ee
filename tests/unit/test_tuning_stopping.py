"""medianstop ends whom Katib's rule ends: best so far worse than the median of running averages."""

import statistics
from typing import Any

import pytest

from platecrypt.tuning.experiment import EarlyStopping
from platecrypt.tuning.result import Trial
from platecrypt.tuning.stopping import MedianStop

CURVES = ((0.1, 0.3, 0.5, 0.6), (0.2, 0.4, 0.6, 0.7), (0.0, 0.1, 0.2, 0.3))


class Maximise:
    """The part of an Experiment that the rule reads."""

    def __init__(self, kind: str = "maximize", **settings: str) -> None:
        self.early_stopping = EarlyStopping("medianstop", settings)
        self.objective = type("Objective", (), {"type": kind})()


def succeeded(number: int, history: tuple[float, ...], status: Any = "Succeeded") -> Trial:
    return Trial(number, f"t{number}", {}, status, history=history)


def rule(kind: str = "maximize", curves: Any = CURVES, **settings: str) -> MedianStop:
    trials = [succeeded(index, curve) for index, curve in enumerate(curves)]
    return MedianStop(Maximise(kind, **settings), trials)  # type: ignore[arg-type]


def stopped_at(made: MedianStop, history: tuple[float, ...]) -> int | None:
    """The step (from 1) at which a trial with that history ends, or None."""
    for count in range(1, len(history) + 1):
        if made.should_stop(None, history[:count]):
            return count
    return None


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_the_threshold_is_the_median_of_the_running_averages(step: int) -> None:
    made = rule(min_trials_required="3", start_step=str(step))
    threshold = statistics.median(sum(curve[:step]) / step for curve in CURVES)
    above, below = threshold + 1e-9, threshold - 1e-9
    assert stopped_at(made, (above,) * step) is None
    assert stopped_at(made, (below,) * step) == step


def test_it_is_the_best_value_so_far_that_counts() -> None:
    made = rule(start_step="4")
    assert stopped_at(made, (0.9, 0.0, 0.0, 0.0)) is None
    assert stopped_at(made, (0.0, 0.0, 0.0, 0.1)) == 4


def test_less_is_better_when_the_objective_is_minimised() -> None:
    made = rule("minimize", start_step="2")
    assert stopped_at(made, (0.0, 0.9)) is None
    assert stopped_at(made, (0.9, 0.9)) == 2


def test_it_waits_for_enough_trials_and_enough_steps() -> None:
    assert stopped_at(rule(curves=CURVES[:2]), (0.0,) * 6) is None
    assert stopped_at(rule(), (0.0,) * 6) == 4  # Katib's defaults: 3 trials, step 4
    assert stopped_at(rule(start_step="2"), (0.0,) * 6) == 2
    assert stopped_at(rule(min_trials_required="4"), (0.0,) * 6) is None


@pytest.mark.parametrize("status", ["EarlyStopped", "Failed", "Killed", "MetricsUnavailable"])
def test_it_learns_only_from_trials_that_succeeded(status: str) -> None:
    made = rule(curves=CURVES[:2])
    made.finished(succeeded(2, CURVES[2], status))
    assert stopped_at(made, (0.0,) * 6) is None
    made.finished(succeeded(3, CURVES[2]))
    assert stopped_at(made, (0.0,) * 6) == 4


def test_a_step_that_too_few_have_reached_ends_nobody() -> None:
    made = rule(start_step="4")
    assert stopped_at(made, (0.9, 0.9, 0.9, 0.9, 0.0, 0.0)) is None
