"""What a search leaves behind: trials, the best of them, conditions in Katib's own words."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from platecrypt.tuning.experiment import Experiment

Status = Literal["Running", "Succeeded", "Failed", "Killed", "MetricsUnavailable"]
UNAVAILABLE = "unavailable"  # Katib's word for a metric that was never printed
GOAL_REACHED = "ExperimentGoalReached"
MAX_TRIALS_REACHED = "ExperimentMaxTrialsReached"
FAILED = "ExperimentFailed"
RUNNING = "ExperimentRunning"
CREATED = "ExperimentCreated"


@dataclass(frozen=True)
class Observed:
    """The values of one metric in one trial."""

    min: float
    max: float
    latest: float

    def by(self, strategy: str) -> float:
        """The value that counts: "min", "max" or "latest"."""
        return float(getattr(self, strategy))


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: from 0, in the order of proposal.
        name: of the trial and of its folder.
        parameters: parameter -> value as the command line shows it.
        status: Katib's word.
        metrics: collected metrics.
        history: the objective's values in the order they were printed, 1000 at most.
        seconds: wall time.
        message: why it failed, one line.
    """

    number: int
    name: str
    parameters: dict[str, str]
    status: Status
    metrics: dict[str, Observed] = field(default_factory=dict)
    history: tuple[float, ...] = ()
    seconds: float = 0.0
    message: str = ""

    def value(self, experiment: Experiment) -> float | None:
        """The objective's value by its strategy, or None where it was never printed."""
        metric = experiment.objective.metric
        found = self.metrics.get(metric)
        return found.by(experiment.objective.strategies[metric]) if found else None


@dataclass(frozen=True)
class Condition:
    """One entry of the Experiment's conditions: Created, Running, Succeeded or Failed."""

    type: str
    reason: str
    message: str
    time: str


@dataclass(frozen=True)
class TuningEvent:
    """Something happened: a trial "started", printed a "metric", "ended"; the search "ended"."""

    kind: Literal["started", "metric", "ended", "finished"]
    message: str
    trial: Trial | None = None


@dataclass(frozen=True)
class TuningResult:
    """The outcome of a search.

    Attributes:
        experiment: what was run.
        trials: in the order of proposal.
        best: the trial with the best objective, or None where none printed it.
        best_value: its objective.
        conditions: in Katib's words; the last one says how it ended.
        seconds: wall time of this call.
    """

    experiment: Experiment
    trials: tuple[Trial, ...]
    best: Trial | None
    best_value: float | None
    conditions: tuple[Condition, ...]
    seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether the Experiment ended as Succeeded."""
        return self.conditions[-1].type == "Succeeded"

    @property
    def best_parameters(self) -> dict[str, str]:
        """Parameter -> value of the best trial; empty without one."""
        return dict(self.best.parameters) if self.best else {}

    def status(self) -> dict[str, Any]:
        """The Experiment's `status` as Katib writes it."""
        names = {status: [t.name for t in self.trials if t.status == status] for status in LISTS}
        status: dict[str, Any] = {
            "conditions": [
                {
                    "type": condition.type,
                    "status": "True",
                    "reason": condition.reason,
                    "message": condition.message,
                    "lastUpdateTime": condition.time,
                    "lastTransitionTime": condition.time,
                }
                for condition in self.conditions
            ],
            "startTime": self.conditions[0].time,
            "trials": len(self.trials),
        }
        if self.conditions[-1].type in ("Succeeded", "Failed"):
            status["completionTime"] = self.conditions[-1].time
        for name, (count, entries) in LISTS.items():
            if names[name]:
                status[count] = len(names[name])
                status[entries] = names[name]
        if self.best:
            status["currentOptimalTrial"] = {
                "bestTrialName": self.best.name,
                "parameterAssignments": _assignments(self.best),
                "observation": {"metrics": _observation(self.experiment, self.best)},
            }
        return status

    def to_json(self) -> str:
        """Trials, best and conditions as JSON."""
        document = {
            "experiment": self.experiment.name,
            "experiment_digest": self.experiment.digest,
            "objective": self.experiment.objective.metric,
            "best_value": self.best_value,
            "best": asdict(self.best) if self.best else None,
            "trials": [asdict(trial) for trial in self.trials],
            "conditions": [asdict(condition) for condition in self.conditions],
            "seconds": self.seconds,
        }
        return json.dumps(document, indent=1)


# Status of a trial -> names of its count and of its list in Katib's status.
LISTS: dict[str, tuple[str, str]] = {
    "Succeeded": ("trialsSucceeded", "succeededTrialList"),
    "Failed": ("trialsFailed", "failedTrialList"),
    "Killed": ("trialsKilled", "killedTrialList"),
    "MetricsUnavailable": ("trialMetricsUnavailable", "metricsUnavailableTrialList"),
    "Running": ("trialsRunning", "runningTrialList"),
}


def _assignments(trial: Trial) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in trial.parameters.items()]


def _observation(experiment: Experiment, trial: Trial) -> list[dict[str, str]]:
    rows = []
    for name in experiment.objective.metrics:
        found = trial.metrics.get(name)
        values = asdict(found) if found else dict.fromkeys(("min", "max", "latest"), UNAVAILABLE)
        rows.append({"name": name, **{key: str(value) for key, value in values.items()}})
    return rows
