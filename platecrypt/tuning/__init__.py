"""Tuning: one Katib Experiment as a typed object, and the engine that runs it on this machine."""

from platecrypt.tuning.experiment import Experiment, load_experiment, parse_experiment
from platecrypt.tuning.local import Limits, LocalTuner
from platecrypt.tuning.result import Trial, TuningEvent, TuningResult

__all__ = [
    "Experiment",
    "Limits",
    "LocalTuner",
    "Trial",
    "TuningEvent",
    "TuningResult",
    "load_experiment",
    "parse_experiment",
]
