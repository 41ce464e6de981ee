"""What can be wrong with a Katib Experiment, found before it costs money.

The custom resource's schema and the published models accept an Experiment that can never run (a
parameter that nobody defined, a placeholder without a value); a cluster's webhook refuses it, one
error at a time. Here every error is collected and named by its field path.
"""

import copy
import json
import math
import re
from collections.abc import Iterator
from typing import Any

ALGORITHMS = (
    "random",
    "grid",
    "tpe",
    "multivariate-tpe",
    "bayesianoptimization",
    "hyperband",
    "cmaes",
    "sobol",
    "pbt",
)
STRATEGIES = ("min", "max", "latest")
RESUME_POLICIES = ("Never", "LongRunning", "FromVolume")
DISTRIBUTIONS = ("uniform", "logUniform", "normal", "logNormal")
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 40
PLACEHOLDER = re.compile(r"\$\{trialParameters\.([^}]*)\}")


def shape_problems(document: dict[str, Any]) -> Iterator[str]:
    """Wrong types and unknown fields, by the published models; none when the shape is right."""
    from kubeflow_katib_api.models.v1beta1_experiment import V1beta1Experiment

    try:
        model = V1beta1Experiment.from_dict(copy.deepcopy(document))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        errors: list[dict[str, Any]] = getattr(error, "errors", list)()
        if not errors:
            yield f"it has the wrong shape ({str(error).splitlines()[0]})"
        for item in errors:
            yield f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
        return
    known = model.to_dict() if model else {}
    for part in ("metadata", "spec"):
        if not isinstance(document.get(part), dict):
            yield f"{part} is missing"
    yield from _unknown(document, known, "")


def _unknown(given: Any, known: Any, path: str) -> Iterator[str]:
    """Fields that the models dropped: a misspelt name would be ignored in silence."""
    if path.startswith(".spec.trialTemplate.trialSpec"):
        return
    if isinstance(given, dict):
        for name, value in given.items():
            if value is None:
                continue
            if not isinstance(known, dict) or name not in known:
                if value not in ({}, []):
                    yield f"{path.lstrip('.')}{'.' if path else ''}{name}: no such field"
                continue
            yield from _unknown(value, known[name], f"{path}.{name}")
    elif isinstance(given, list):
        for index, item in enumerate(given):
            if isinstance(known, list) and index < len(known):
                yield from _unknown(item, known[index], f"{path}[{index}]")


def meaning_problems(document: dict[str, Any]) -> Iterator[str]:
    """What is wrong with an Experiment of the right shape, each with its field path."""
    spec = document["spec"]
    name = document["metadata"].get("name") or ""
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield (
            f"metadata.name {name!r}: at most {LONGEST_NAME} lower-case letters, digits and "
            "dashes, beginning with a letter"
        )
    algorithm = (spec.get("algorithm") or {}).get("algorithmName")
    if algorithm not in ALGORITHMS:
        yield f"spec.algorithm.algorithmName {algorithm!r}: one of {', '.join(ALGORITHMS)}"
    yield from _wrong_objective(spec.get("objective") or {})
    yield from _wrong_counts(spec)
    for index, parameter in enumerate(spec.get("parameters") or []):
        yield from _wrong_parameter(parameter, f"spec.parameters[{index}]")
    names = [parameter.get("name") for parameter in spec.get("parameters") or []]
    if not names:
        yield "spec.parameters: at least one is needed"
    for repeated in sorted({str(n) for n in names if names.count(n) > 1}):
        yield f"spec.parameters: {repeated!r} stands there twice"
    yield from _wrong_collector(spec.get("metricsCollectorSpec") or {})
    yield from _wrong_template(spec.get("trialTemplate") or {}, {str(n) for n in names})
    if (policy := spec.get("resumePolicy", "Never")) not in RESUME_POLICIES:
        yield f"spec.resumePolicy {policy!r}: one of {', '.join(RESUME_POLICIES)}"


def _wrong_objective(objective: dict[str, Any]) -> Iterator[str]:
    where = "spec.objective"
    if objective.get("type") not in ("maximize", "minimize"):
        yield f"{where}.type {objective.get('type')!r}: maximize or minimize"
    metric = objective.get("objectiveMetricName")
    additional = objective.get("additionalMetricNames") or []
    if not metric:
        yield f"{where}.objectiveMetricName is missing"
    if metric in additional:
        yield f"{where}.additionalMetricNames: the objective {metric!r} does not belong there"
    for strategy in objective.get("metricStrategies") or []:
        if strategy.get("value") not in STRATEGIES:
            yield f"{where}.metricStrategies {strategy.get('value')!r}: {', '.join(STRATEGIES)}"
        if strategy.get("name") not in [metric, *additional]:
            yield f"{where}.metricStrategies: no metric is named {strategy.get('name')!r}"


def _wrong_counts(spec: dict[str, Any]) -> Iterator[str]:
    most = spec.get("maxTrialCount")
    for name, least in (
        ("maxTrialCount", 1),
        ("parallelTrialCount", 1),
        ("maxFailedTrialCount", 0),
    ):
        value = spec.get(name)
        if value is not None and value < least:
            yield f"spec.{name} {value}: at least {least}"
        if value is not None and most is not None and value > most:
            yield f"spec.{name} {value}: not more than maxTrialCount {most}"


def _wrong_parameter(parameter: dict[str, Any], where: str) -> Iterator[str]:
    kind, space = parameter.get("parameterType"), parameter.get("feasibleSpace") or {}
    if not parameter.get("name"):
        yield f"{where}.name is missing"
    if space.get("distribution", "uniform") not in DISTRIBUTIONS:
        yield f"{where}.feasibleSpace.distribution {space['distribution']!r}: {DISTRIBUTIONS}"
    if kind in ("discrete", "categorical"):
        if not space.get("list") or {"min", "max", "step"} & space.keys():
            yield f"{where}.feasibleSpace: a {kind} parameter has a list and no min, max or step"
        elif kind == "discrete" and not all(map(_is_number, space["list"])):
            yield f"{where}.feasibleSpace.list: a discrete parameter lists numbers"
        return
    if kind not in ("int", "double"):
        yield f"{where}.parameterType {kind!r}: int, double, discrete or categorical"
        return
    if "list" in space:
        yield f"{where}.feasibleSpace: a list is for discrete and categorical parameters"
    yield from _wrong_range(space, f"{where}.feasibleSpace", whole=kind == "int")


def _wrong_range(space: dict[str, Any], where: str, *, whole: bool) -> Iterator[str]:
    for name in ("min", "max", "step"):
        value = space.get(name)
        if (value is None and name != "step") or not _is_number(value or 0, whole=whole):
            yield f"{where}.{name} {value!r}: a {'whole ' if whole else ''}number as text"
            return
    low, high = float(space["min"]), float(space["max"])
    if low > high:
        yield f"{where}: min {low} is above max {high}"
    if space.get("distribution") in ("logUniform", "logNormal") and low <= 0:
        yield f"{where}.min {low}: a logarithmic range begins above 0"
    if space.get("step") is not None and float(space["step"]) <= 0:
        yield f"{where}.step {space['step']}: above 0"


def _is_number(value: object, *, whole: bool = False) -> bool:
    try:
        number = float(str(value))
    except ValueError:
        return False
    return math.isfinite(number) and (not whole or number.is_integer())


def _wrong_collector(spec: dict[str, Any]) -> Iterator[str]:
    where = "spec.metricsCollectorSpec"
    for rule in filters_of(spec):
        try:
            groups = re.compile(rule, re.ASCII).groups
        except re.error as error:
            yield f"{where}.source.filter {rule!r}: {error}"
            continue
        if groups < 2:
            yield f"{where}.source.filter {rule!r}: needs two groups, name and value"


def filters_of(collector: dict[str, Any]) -> list[str]:
    """The filters of a `metricsCollectorSpec`, none where it leaves them out."""
    source = collector.get("source") or {}
    return list((source.get("filter") or {}).get("metricsFormat") or [])


def _wrong_template(template: dict[str, Any], names: set[str]) -> Iterator[str]:
    where = "spec.trialTemplate"
    declared: dict[str, str] = {}
    for index, item in enumerate(template.get("trialParameters") or []):
        declared[str(item.get("name"))] = str(item.get("reference"))
        if item.get("reference") not in names:
            yield (
                f"{where}.trialParameters[{index}].reference {item.get('reference')!r}: no "
                "parameter has that name"
            )
    trial = template.get("trialSpec")
    if not isinstance(trial, dict):
        yield f"{where}.trialSpec is missing"
        return
    metadata = trial.get("metadata") or {}
    for name in ("name", "namespace"):
        if name in metadata:
            yield f"{where}.trialSpec.metadata.{name}: Katib sets it, take it out"
    used = set(PLACEHOLDER.findall(json.dumps(trial)))
    for name in sorted(used - declared.keys()):
        yield f"{where}.trialSpec: ${{trialParameters.{name}}} is not among trialParameters"
    for name in sorted(declared.keys() - used):
        yield f"{where}.trialParameters: {name!r} is used nowhere in trialSpec"
    yield from _wrong_container(template, trial, where)


def _wrong_container(template: dict[str, Any], trial: dict[str, Any], where: str) -> Iterator[str]:
    primary = template.get("primaryContainerName")
    try:
        containers = trial["spec"]["template"]["spec"]["containers"]
        names = [container["name"] for container in containers]
    except (KeyError, TypeError):
        yield f"{where}.trialSpec.spec.template.spec.containers is missing"
        return
    if primary not in names:
        yield f"{where}.primaryContainerName {primary!r}: containers are {', '.join(names)}"
        return
    container = containers[names.index(primary)]
    for part in ("command", "args"):
        if not all(isinstance(word, str) for word in container.get(part) or []):
            yield f"{where}.trialSpec: {part} of {primary} holds something that is no text"
    if not container.get("command"):
        yield f"{where}.trialSpec: {primary} needs a command (what its image runs is unknown here)"
