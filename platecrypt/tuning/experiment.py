"""A `kubeflow.org/v1beta1` Experiment, read into typed objects and checked before it costs money.

The custom resource's schema and the published models accept an Experiment that can never run;
`checks` finds what is wrong with one, here it becomes objects.
"""

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from platecrypt.errors import BadInputError
from platecrypt.tuning.checks import filters_of, meaning_problems, shape_problems

API_VERSION, KIND = "kubeflow.org/v1beta1", "Experiment"
# Katib's default rule of the StdOut and File collectors: name=value, twice grouped.
DEFAULT_FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
LARGEST = 1024 * 1024
DEFAULT_PARALLEL = 3  # Katib's own default

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
        required_refs: secrets and config maps without which it cannot start; text for messages.
        working_dir: or "" for the image's own.
    """

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: dict[str, str]
    required_refs: tuple[str, ...]
    working_dir: str


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
        trial_parameters: placeholder -> parameter.
        metrics_filter: regular expressions that find name and value in a line of output.
        retain: whether a trial's files stay.
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
    metrics_filter: tuple[str, ...]
    retain: bool
    document: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the search; the counts may change between two runs of it."""
        document = copy.deepcopy(self.document)
        for name in ("maxTrialCount", "maxFailedTrialCount", "parallelTrialCount"):
            document["spec"].pop(name, None)
        document.pop("status", None)
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

    def to_yaml(self) -> str:
        """The resource as YAML."""
        text: str = yaml.safe_dump(self.document, sort_keys=False)
        return text


def load_experiment(path: Path) -> Experiment:
    """Read and check an Experiment.

    Raises:
        BadInputError: the file cannot be read, or the Experiment is wrong; the message names
            every field that is.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise BadInputError(f"{path} is larger than {LARGEST} bytes: no Experiment")
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadInputError(f"experiment {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"experiment {path} is no YAML: {str(error).split(chr(10))[0]}"
        ) from None
    return parse_experiment(document, where=str(path))


def parse_experiment(document: object, *, where: str = "experiment") -> Experiment:
    """Check a document; errors as in `load_experiment`."""
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (
        API_VERSION,
        KIND,
    ):
        raise BadInputError(f"{where} is no {KIND} of {API_VERSION}")
    problems = list(shape_problems(document)) or list(meaning_problems(document))
    if problems:
        raise BadInputError(f"{where}: {'; '.join(problems)}")
    return _build(document)


def _build(document: dict[str, Any]) -> Experiment:
    spec = document["spec"]
    template = spec["trialTemplate"]
    algorithm = spec["algorithm"]
    return Experiment(
        name=document["metadata"]["name"],
        algorithm=algorithm["algorithmName"],
        algorithm_settings={
            item["name"]: item["value"] for item in algorithm.get("algorithmSettings") or []
        },
        objective=_objective(spec["objective"]),
        parameters=tuple(_parameter(item) for item in spec["parameters"]),
        max_trials=spec.get("maxTrialCount"),
        max_failed=spec.get("maxFailedTrialCount"),
        parallel_trials=min(
            spec.get("parallelTrialCount", DEFAULT_PARALLEL),
            spec.get("maxTrialCount", DEFAULT_PARALLEL),
        ),
        container=_container(template),
        trial_parameters={i["name"]: i["reference"] for i in template["trialParameters"]},
        metrics_filter=tuple(
            filters_of(spec.get("metricsCollectorSpec") or {}) or [DEFAULT_FILTER]
        ),
        retain=bool(template.get("retain", False)),
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
    raw = next(c for c in containers if c["name"] == template["primaryContainerName"])
    env: dict[str, str] = {}
    refs: list[str] = []
    for item in raw.get("env") or []:
        if "valueFrom" not in item:
            env[item["name"]] = str(item.get("value", ""))
        elif not any(source.get("optional") for source in item["valueFrom"].values()):
            refs.append(item["name"])
    for item in raw.get("envFrom") or []:
        for kind, source in item.items():
            if isinstance(source, dict) and not source.get("optional"):
                refs.append(f"{kind} {source.get('name')}")
    return Container(
        name=raw["name"],
        image=str(raw.get("image", "")),
        command=tuple(raw["command"]),
        args=tuple(raw.get("args") or []),
        env=env,
        required_refs=tuple(refs),
        working_dir=str(raw.get("workingDir", "")),
    )
