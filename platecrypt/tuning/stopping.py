"""Which running trial is ended before its time: Katib's rules on Optuna's pruners.

medianstop: a trial ends when its best value up to a step is worse than the median, over the trials
that succeeded, of their running averages up to that step. hyperband: a trial ends at a rung of its
bracket when it is not among the best 1/eta that came so far. Where Katib starts the survivors of a
rung anew with a larger budget, here they simply go on: the same budgets without the repeated work.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

from platecrypt.tuning.algorithms import brackets
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.result import Trial
from platecrypt.tuning.samplers import eta

MIN_TRIALS, START_STEP = 3, 4  # Katib's defaults


LONGEST_HISTORY = 1000
"""So many values of a trial's objective are kept and judged."""


def unjudged(experiment: Experiment) -> Iterator[str]:
    """Settings by which a trial would be judged later than the engine looks."""
    stopping = experiment.early_stopping
    late = "start_step", (stopping.settings if stopping else {}).get("start_step", "0")
    if experiment.algorithm == "hyperband":
        late = "r_l", experiment.algorithm_settings["r_l"]
    if float(late[1]) > LONGEST_HISTORY:
        yield f"{late[0]} {late[1]}: the local engine judges the first {LONGEST_HISTORY} values"


class Stopper(Protocol):
    """A rule that ends trials early."""

    def finished(self, trial: Trial) -> None:
        """Learn from a trial that succeeded."""
        ...

    def should_stop(self, handle: Any, history: Sequence[float]) -> bool:
        """Whether a trial ends now.

        Args:
            handle: Optuna's trial.
            history: the objective's values so far; asked once after each of them.
        """
        ...


class NeverStop:
    """No early stopping."""

    def finished(self, trial: Trial) -> None:
        """Nothing is learned."""

    def should_stop(self, handle: Any, history: Sequence[float]) -> bool:
        """Never."""
        return False


class MedianStop:
    """Katib's medianstop."""

    def __init__(self, experiment: Experiment, trials: Iterable[Trial]) -> None:
        import optuna

        settings = experiment.early_stopping.settings if experiment.early_stopping else {}
        least = int(settings.get("min_trials_required", MIN_TRIALS))
        # Steps count from 0: the first answer comes when so many values are there.
        first = int(settings.get("start_step", START_STEP)) - 1
        self._optuna = optuna
        self._best = max if experiment.objective.type == "maximize" else min
        self._pruner = optuna.pruners.MedianPruner(least, first, n_min_trials=least)
        # A study of its own that holds averages: Optuna compares a trial with what others
        # reported, Katib with what they averaged.
        self._study = optuna.create_study(direction=experiment.objective.type)
        for trial in trials:
            self.finished(trial)

    def finished(self, trial: Trial) -> None:
        """Keep the running averages of a trial that succeeded."""
        if trial.status != "Succeeded" or not trial.history:
            return
        sums = accumulate(trial.history)
        averages = {step: total / (step + 1) for step, total in enumerate(sums)}
        self._study.add_trial(
            self._optuna.trial.create_trial(
                value=trial.history[-1], params={}, intermediate_values=averages
            )
        )

    def should_stop(self, handle: Any, history: Sequence[float]) -> bool:
        """Whether the best value so far is worse than the median of the averages."""
        asked = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params={},
            intermediate_values={len(history) - 1: self._best(history)},
        )
        return bool(self._pruner.prune(self._study, asked))


class HyperbandStop:
    """The halving of hyperband; the rungs are kept in the study."""

    def __init__(self, experiment: Experiment, study: Any) -> None:
        import optuna

        most, factor = float(experiment.algorithm_settings["r_l"]), eta(experiment)
        least = max(1, int(most / factor ** brackets(most, factor)))
        study.pruner = optuna.pruners.HyperbandPruner(least, int(most), factor)

    def finished(self, trial: Trial) -> None:
        """Nothing: the study knows."""

    def should_stop(self, handle: Any, history: Sequence[float]) -> bool:
        """Whether the trial falls at a rung."""
        handle.report(history[-1], len(history))
        return bool(handle.should_prune())


def make_stopper(experiment: Experiment, study: Any, trials: Iterable[Trial]) -> Stopper:
    """The rule of an Experiment, with what earlier trials of the search taught it."""
    if experiment.algorithm == "hyperband":
        return HyperbandStop(experiment, study)
    if experiment.early_stopping:
        return MedianStop(experiment, trials)
    return NeverStop()
