"""What a search leaves behind: trials, the best of them, conditions in Katib's own words."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from platecrypt.tuning.experiment import Experiment

Status = Literal[
    "Pending", "Running", "Succeeded", "EarlyStopped", "Failed", "Killed", "MetricsUnavailable"
]
UNAVAILABLE = "unavailable"  # Katib's word for a metric that was never printed
GOAL_REACHED = "ExperimentGoalReached"
MAX_TRIALS_REACHED = "ExperimentMaxTrialsReached"
SUGGESTION_END = "ExperimentSuggestionEndReached"
FAILED = "ExperimentFailed"
BUDGET_REACHED = "ExperimentBudgetReached"  # ours: Katib has no budget
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
    """One entry of the Experiment's conditions: Created, Running, Succeeded, Failed."""

    type: str
    reason: str
    message: str
    time: str


@dataclass(frozen=True)
class TuningEvent:
    """Something happened: a trial "started", printed a "metric", "ended"; the search "finished".

    A "note" is about the search: a repeated request, what it waits for.
    """

    kind: Literal["started", "metric", "ended", "finished", "note"]
    message: str
    trial: Trial | None = None


EventHandler = Callable[[TuningEvent], None]


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
        earlier: how many results of an earlier search it began with.
    """

    experiment: Experiment
    trials: tuple[Trial, ...]
    best: Trial | None
    best_value: float | None
    conditions: tuple[Condition, ...]
    seconds: float
    earlier: int = 0

    @property
    def ended(self) -> bool:
        """Whether the Experiment ended at all; else the last condition is what was last seen."""
        return self.conditions[-1].type in ("Succeeded", "Failed")

    @property
    def ended_for_good(self) -> bool:
        """Whether it ended by its own rules, not by a limit of one call."""
        return self.ended and self.conditions[-1].reason != BUDGET_REACHED

    @property
    def succeeded(self) -> bool:
        """Whether the Experiment ended as Succeeded."""
        return self.conditions[-1].type == "Succeeded"

    @property
    def device_seconds(self) -> float:
        """What the trials took, each on the devices that it asks for (one where it asks none)."""
        return device_seconds(self.experiment, self.trials)

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
                    "status": str(not (self.ended and condition.type == "Running")),
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
        if self.ended:
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

    def to_document(self) -> dict[str, Any]:
        """The Experiment with its status, as `kubectl get -o json` shows it."""
        return {**self.experiment.document, "status": self.status()}

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
            "device_seconds": self.device_seconds,
            "earlier": self.earlier,
        }
        return json.dumps(document, indent=1)


# Status of a trial -> names of its count and of its list in Katib's status.
LISTS: dict[str, tuple[str, str]] = {
    "Succeeded": ("trialsSucceeded", "succeededTrialList"),
    "EarlyStopped": ("trialsEarlyStopped", "earlyStoppedTrialList"),
    "Failed": ("trialsFailed", "failedTrialList"),
    "Killed": ("trialsKilled", "killedTrialList"),
    "MetricsUnavailable": ("trialMetricsUnavailable", "metricsUnavailableTrialList"),
    "Running": ("trialsRunning", "runningTrialList"),
    "Pending": ("trialsPending", "pendingTrialList"),
}
MEASURED = ("Succeeded", "EarlyStopped")


def best_of(experiment: Experiment, trials: Iterable[Trial]) -> Trial | None:
    """The best of the trials that gave a result, the earlier of two equal ones."""
    best: Trial | None = None
    best_value = 0.0
    for trial in sorted(trials, key=lambda trial: trial.number):
        value = trial.value(experiment) if trial.status in MEASURED else None
        if value is not None and (best is None or experiment.objective.better(value, best_value)):
            best, best_value = trial, value
    return best


def device_seconds(experiment: Experiment, trials: Iterable[Trial]) -> float:
    """Wall time of trials times the devices that each asks for (one where it asks none)."""
    return sum(trial.seconds for trial in trials) * max(1, experiment.container.gpus)


def write_result(found: TuningResult, work_dir: Path) -> None:
    """Write `result.json`, and `experiment.yaml`: the Experiment with its status."""
    _write(work_dir / "result.json", found.to_json())
    _write(work_dir / "experiment.yaml", yaml.safe_dump(found.to_document(), sort_keys=False))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def read_trial(raw: Mapping[str, Any]) -> Trial:
    """A trial from what `asdict` made of it."""
    metrics = {name: Observed(**values) for name, values in raw["metrics"].items()}
    return Trial(**{**raw, "metrics": metrics, "history": tuple(raw["history"])})


def _assignments(trial: Trial) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in trial.parameters.items()]


def _observation(experiment: Experiment, trial: Trial) -> list[dict[str, str]]:
    rows = []
    for name in experiment.objective.metrics:
        found = trial.metrics.get(name)
        values = asdict(found) if found else dict.fromkeys(("min", "max", "latest"), UNAVAILABLE)
        rows.append({"name": name, **{key: str(value) for key, value in values.items()}})
    return rows
