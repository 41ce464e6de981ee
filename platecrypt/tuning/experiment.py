"""A `kubeflow.org/v1beta1` Experiment, read into typed objects and checked before it costs money.

The custom resource's schema and the published models accept an Experiment that can never run;
`checks` finds what is wrong with one, here it becomes objects.
"""

import copy
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from platecrypt import strict_yaml
from platecrypt.errors import BadInputError
from platecrypt.tuning.algorithms import settings_of
from platecrypt.tuning.checks import filters_of, problems
from platecrypt.tuning.checks_template import GPU, PLACEHOLDER

API_VERSION, KIND = "kubeflow.org/v1beta1", "Experiment"
# Katib's default rule of the StdOut and File collectors: name=value, twice grouped.
DEFAULT_FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
LARGEST = 1024 * 1024
DEFAULT_PARALLEL = 3  # Katib's own default
DEFAULT_FILE = "/var/log/katib/metrics.log"
RESTARTABLE = ("LongRunning", "FromVolume")

ParameterType = Literal["int", "double", "discrete", "categorical"]


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search space.

    Attributes:
        name: as the Experiment calls it.
        type: "int", "double", "discrete" or "categorical".
        low, high: inclusive range of an int or double.
        step: grid of an int or double, or None.
        distribution: "uniform", "logUniform", "normal" or "logNormal".
        choices: the list of a discrete or categorical one, as text.
    """

    name: str
    type: ParameterType
    low: float = math.nan
    high: float = math.nan
    step: float | None = None
    distribution: str = "uniform"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objective:
    """What is searched for.

    Attributes:
        type: "maximize" or "minimize".
        metric: name of the metric.
        goal: the search ends when it is reached; None: never.
        additional: other metrics that are collected.
        strategies: metric -> "min", "max" or "latest": which of its values counts.
    """

    type: Literal["maximize", "minimize"]
    metric: str
    goal: float | None
    additional: tuple[str, ...]
    strategies: dict[str, str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that is collected, the objective first."""
        return (self.metric, *self.additional)

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`."""
        return a > b if self.type == "maximize" else a < b

    def reached(self, value: float) -> bool:
        """Whether `value` is the goal or better."""
        return self.goal is not None and not self.better(self.goal, value)


@dataclass(frozen=True)
class Container:
    """The primary container of the trial template: what a trial runs.

    Attributes:
        name, image: as in the template.
        command, args: with placeholders.
        env: plain values.
        required_env: variables taken from a secret or config map, without which it cannot start.
        required_env_from: secrets and config maps that are taken as a whole.
        working_dir: or "" for the image's own.
        gpus: how many it asks for.
    """

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: dict[str, str]
    required_env: tuple[str, ...]
    required_env_from: tuple[str, ...]
    working_dir: str
    gpus: int


@dataclass(frozen=True)
class Collector:
    """How a trial's metrics are read.

    Attributes:
        kind: Katib's name: StdOut, File, ...
        path: of the file that the collector File reads, as the container sees it; else "".
        format: "TEXT" or "JSON".
        filters: regular expressions that find name and value in a line of text.
    """

    kind: str
    path: str
    format: str
    filters: tuple[str, ...]


@dataclass(frozen=True)
class EarlyStopping:
    """When a trial is ended before its time: Katib's name of the rule, and its settings."""

    algorithm: str
    settings: dict[str, str]


@dataclass(frozen=True)
class Experiment:
    """A checked Experiment.

    Attributes:
        name: at most 40 characters.
        algorithm: Katib's name of it.
        algorithm_settings: name -> text.
        objective, parameters: what is searched, and where.
        max_trials: trials in all; None: until the goal or the failures end it.
        max_failed: so many failed trials end the Experiment as failed; None: never.
        parallel_trials: at most so many at once.
        container: what a trial runs.
        trial_parameters: placeholder -> parameter, or what it says about the trial.
        collector: how its metrics are read.
        early_stopping: or None.
        retain: whether a trial's files stay.
        deadline_s: how long the template's Job lets a trial run, seconds; None: for ever.
        resume_policy: "Never", "LongRunning" or "FromVolume".
        document: the resource as it was read.
    """

    name: str
    algorithm: str
    algorithm_settings: dict[str, str]
    objective: Objective
    parameters: tuple[Parameter, ...]
    max_trials: int | None
    max_failed: int | None
    parallel_trials: int
    container: Container
    trial_parameters: dict[str, str]
    collector: Collector
    early_stopping: EarlyStopping | None
    retain: bool
    deadline_s: int | None
    resume_policy: str
    document: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the search; counts and resume policy may change between runs."""
        document = copy.deepcopy(self.document)
        for name in ("maxTrialCount", "maxFailedTrialCount", "parallelTrialCount"):
            document["spec"].pop(name, None)
        document.pop("status", None)
        document["spec"].pop("resumePolicy", None)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_environment(self, values: Mapping[str, str]) -> "Experiment":
        """A copy whose primary container has these environment variables (not for secrets)."""
        document = copy.deepcopy(self.document)
        pod = document["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
        container = next(c for c in pod["containers"] if c["name"] == self.container.name)
        kept = [item for item in container.get("env", []) if item["name"] not in values]
        container["env"] = kept + [{"name": name, "value": values[name]} for name in sorted(values)]
        return parse_experiment(document)

    def with_counts(
        self,
        *,
        max_trials: int | None = None,
        max_failed: int | None = None,
        parallel_trials: int | None = None,
    ) -> "Experiment":
        """A copy with other counts: the only part of an Experiment that Katib lets one edit.

        A smaller `max_trials` brings the two others down with it, unless they are given.
        """
        document = copy.deepcopy(self.document)
        spec = document["spec"]
        for name, value in (
            ("maxTrialCount", max_trials),
            ("maxFailedTrialCount", max_failed),
            ("parallelTrialCount", parallel_trials),
        ):
            if value is not None:
                spec[name] = value
            elif max_trials is not None and name in spec:
                spec[name] = min(spec[name], max_trials)
        return parse_experiment(document)

    def with_algorithm_settings(self, values: Mapping[str, str]) -> "Experiment":
        """A copy whose algorithm has these settings, e.g. `{"random_state": "3"}`."""
        document = copy.deepcopy(self.document)
        merged = {**self.algorithm_settings, **values}
        document["spec"]["algorithm"]["algorithmSettings"] = [
            {"name": name, "value": value} for name, value in merged.items()
        ]
        return parse_experiment(document)

    def judged_from(self, step: int) -> "Experiment":
        """A copy whose early stopping judges a trial from its `step`-th value on (1 or more).

        One without early stopping stays as it is.
        """
        if self.early_stopping is None:
            return self
        document = copy.deepcopy(self.document)
        merged = {**self.early_stopping.settings, "start_step": str(step)}
        document["spec"]["earlyStopping"]["algorithmSettings"] = [
            {"name": name, "value": value} for name, value in merged.items()
        ]
        return parse_experiment(document)

    def with_fixed(self, values: Mapping[str, str]) -> "Experiment":
        """A copy that no longer searches some parameters: they have these values.

        Raises:
            BadInputError: no such parameter, or nothing is left to search.
        """
        known = {parameter.name for parameter in self.parameters}
        if unknown := sorted(values.keys() - known):
            raise BadInputError(f"experiment {self.name} has no parameter {', '.join(unknown)}")
        filled = {
            name: values[reference]
            for name, reference in self.trial_parameters.items()
            if reference in values
        }
        document = copy.deepcopy(self.document)
        spec, template = document["spec"], document["spec"]["trialTemplate"]
        spec["parameters"] = [p for p in spec["parameters"] if p["name"] not in values]
        template["trialParameters"] = [
            item for item in template["trialParameters"] if item["name"] not in filled
        ]
        template["trialSpec"] = _fill(template["trialSpec"], filled)
        return parse_experiment(document)

    def with_name(self, name: str) -> "Experiment":
        """A copy with another name."""
        document = copy.deepcopy(self.document)
        document["metadata"]["name"] = name
        return parse_experiment(document)

    def to_yaml(self) -> str:
        """The resource as YAML."""
        text: str = yaml.safe_dump(self.document, sort_keys=False)
        return text


class InvalidExperimentError(BadInputError):
    """An Experiment with mistakes.

    Attributes:
        problems: one text a mistake: the field's path, what stands there, what should.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        super().__init__(f"{where}: {'; '.join(problems)}")
        self.problems = tuple(problems)


def load_experiment(path: Path, patch: Path | None = None) -> Experiment:
    """Read and check an Experiment.

    Args:
        path: of the YAML.
        patch: of a JSON patch (RFC 6902, as YAML) that changes it first, such as
            `katib/experiment-gpu.yaml`.

    Raises:
        BadInputError: a file cannot be read, the patch does not fit, or the Experiment is wrong;
            the message names every field that is.
    """
    document = _read(path)
    if patch is not None:
        import jsonpatch

        try:
            document = jsonpatch.apply_patch(document, _read(patch))
        except (
            jsonpatch.JsonPatchException,
            jsonpatch.JsonPointerException,
            TypeError,
            ValueError,
        ) as error:
            raise BadInputError(f"{patch} does not fit {path}: {error}") from None
    return parse_experiment(document, where=str(path))


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            raise BadInputError(f"{path} is larger than {LARGEST} bytes: no Experiment")
        return strict_yaml.document(path.read_bytes(), f"experiment {path}")
    except OSError as error:
        raise BadInputError(f"experiment {path}: {error.strerror}") from None


def parse_experiment(document: object, *, where: str = "experiment") -> Experiment:
    """Check a document; errors as in `load_experiment`."""
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (
        API_VERSION,
        KIND,
    ):
        raise BadInputError(f"{where} is no {KIND} of {API_VERSION}")
    given: dict[str, Any] = _without_nulls(document)
    if wrong := problems(given):
        raise InvalidExperimentError(where, wrong)
    return _build(given)


def _without_nulls(part: Any) -> Any:
    """As Kubernetes reads it: a field that is null is a field that is not there."""
    if isinstance(part, dict):
        return {key: _without_nulls(value) for key, value in part.items() if value is not None}
    if isinstance(part, list):
        return [_without_nulls(value) for value in part]
    return part


def _build(document: dict[str, Any]) -> Experiment:
    spec = document["spec"]
    template = spec["trialTemplate"]
    algorithm = spec["algorithm"]
    return Experiment(
        name=document["metadata"]["name"],
        algorithm=algorithm["algorithmName"],
        algorithm_settings=settings_of(algorithm),
        objective=_objective(spec["objective"]),
        parameters=tuple(_parameter(item) for item in spec["parameters"]),
        max_trials=spec.get("maxTrialCount"),
        max_failed=spec.get("maxFailedTrialCount"),
        parallel_trials=min(
            spec.get("parallelTrialCount", DEFAULT_PARALLEL),
            spec.get("maxTrialCount", sys.maxsize),
        ),
        container=_container(template),
        trial_parameters={i["name"]: i["reference"] for i in template["trialParameters"]},
        collector=_collector(spec.get("metricsCollectorSpec") or {}),
        early_stopping=_early_stopping(spec.get("earlyStopping")),
        retain=bool(template.get("retain", False)),
        deadline_s=template["trialSpec"]["spec"].get("activeDeadlineSeconds"),
        resume_policy=spec.get("resumePolicy", "Never"),
        document=document,
    )


def _objective(raw: dict[str, Any]) -> Objective:
    # What Katib's defaulting webhook fills in: the extreme in the direction of the search.
    extreme = "max" if raw["type"] == "maximize" else "min"
    metrics = [raw["objectiveMetricName"], *(raw.get("additionalMetricNames") or [])]
    given = {item["name"]: item["value"] for item in raw.get("metricStrategies") or []}
    return Objective(
        type=raw["type"],
        metric=metrics[0],
        goal=None if raw.get("goal") is None else float(raw["goal"]),
        additional=tuple(metrics[1:]),
        strategies={name: given.get(name, extreme) for name in metrics},
    )


def _collector(raw: dict[str, Any]) -> Collector:
    kind = (raw.get("collector") or {}).get("kind", "StdOut")
    place = (raw.get("source") or {}).get("fileSystemPath") or {}
    return Collector(
        kind=kind,
        path=place.get("path", DEFAULT_FILE) if kind == "File" else "",
        format=place.get("format", "TEXT"),
        filters=tuple(filters_of(raw) or [DEFAULT_FILTER]),
    )


def _early_stopping(raw: dict[str, Any] | None) -> EarlyStopping | None:
    return EarlyStopping(raw["algorithmName"], settings_of(raw)) if raw else None


def _parameter(raw: dict[str, Any]) -> Parameter:
    space = raw["feasibleSpace"]
    if raw["parameterType"] in ("discrete", "categorical"):
        return Parameter(raw["name"], raw["parameterType"], choices=tuple(map(str, space["list"])))
    step = space.get("step")
    return Parameter(
        raw["name"],
        raw["parameterType"],
        low=float(space["min"]),
        high=float(space["max"]),
        step=None if step is None else float(step),
        distribution=space.get("distribution", "uniform"),
    )


def _container(template: dict[str, Any]) -> Container:
    containers = template["trialSpec"]["spec"]["template"]["spec"]["containers"]
    raw = next(c for c in containers if c.get("name") == template["primaryContainerName"])
    env: dict[str, str] = {}
    required: list[str] = []
    for item in raw.get("env") or []:
        if "valueFrom" not in item:
            env[item["name"]] = str(item.get("value", ""))
        elif not _optional(item["valueFrom"]):
            required.append(item["name"])
    whole = [
        str(source.get("name"))
        for item in raw.get("envFrom") or []
        for source in item.values()
        if isinstance(source, dict) and not source.get("optional")
    ]
    limits = (raw.get("resources") or {}).get("limits") or {}
    return Container(
        name=raw["name"],
        image=str(raw.get("image", "")),
        command=tuple(raw["command"]),
        args=tuple(raw.get("args") or []),
        env=env,
        required_env=tuple(required),
        required_env_from=tuple(whole),
        working_dir=str(raw.get("workingDir", "")),
        gpus=int(limits.get(GPU, 0)),
    )


def _optional(value_from: dict[str, Any]) -> bool:
    return any(isinstance(s, dict) and s.get("optional") for s in value_from.values())


def _fill(part: Any, values: Mapping[str, str]) -> Any:
    """A trial spec with some of its placeholders filled."""
    if isinstance(part, dict):
        return {key: _fill(value, values) for key, value in part.items()}
    if isinstance(part, list):
        return [_fill(value, values) for value in part]
    if not isinstance(part, str):
        return part
    return PLACEHOLDER.sub(lambda m: values.get(m.group(1), m.group(0)), part)
