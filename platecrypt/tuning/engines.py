"""Which engine runs an Experiment; every other part of the library knows only `Tuner`.

A successor of Katib is one more class with this `run`, and one more name in the settings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.katib import KatibTuner
from platecrypt.tuning.local import Limits, LocalTuner
from platecrypt.tuning.proposer import EarlierResult
from platecrypt.tuning.result import EventHandler, TuningResult


class Tuner(Protocol):
    """Runs an Experiment and says what came of it."""

    def run(
        self,
        experiment: Experiment,
        work_dir: Path,
        on_event: EventHandler = ...,
        *,
        earlier: Sequence[EarlierResult] = (),
        limits: Limits = ...,
    ) -> TuningResult:
        """Run, or go on with, a search."""
        ...


def choose_tuner(engine: str, environment: Mapping[str, str] | None = None) -> Tuner:
    """The engine of that name.

    Args:
        engine: as in the settings, `tuning_engine`.
        environment: for the trials of the local engine; on a cluster they take theirs from the
            config maps and secrets that the template names.
    """
    return KatibTuner() if engine == "katib" else LocalTuner(environment)
