"""What can be wrong with a Katib Experiment, found before it costs money.

The custom resource's schema and the published models accept an Experiment that can never run (a
parameter that nobody defined, a placeholder without a value); a cluster's webhook refuses it, one
error at a time. Here every error is collected and named by its field path, with what to write
instead.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from platecrypt.tuning.algorithms import setting_problems
from platecrypt.tuning.checks_template import template_problems
from platecrypt.tuning.fields import integer, items, mapping, number, rows, text

STRATEGIES = ("min", "max", "latest")
RESUME_POLICIES = ("Never", "LongRunning", "FromVolume")
DISTRIBUTIONS = ("uniform", "logUniform", "normal", "logNormal")
LISTED, RANGED = ("discrete", "categorical"), ("int", "double")
FILE_FORMATS = ("TEXT", "JSON")
# Collector -> what its source.fileSystemPath is, None where it has none.
COLLECTORS: dict[str, str | None] = {
    "StdOut": None,
    "File": "File",
    "TensorFlowEvent": "Directory",
    "PrometheusMetric": None,
    "Custom": None,
    "Push": None,
    "None": None,
}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 40
# Python reads these, Go does not: look-ahead, look-behind, atomic groups, back references.
_NOT_RE2 = re.compile(r"\(\?(?:[=!>(#]|<[=!]|P=)|\\[1-9]")
_ESCAPED = re.compile(r"\\[^1-9]")


def problems(document: dict[str, Any]) -> list[str]:
    """Everything that is wrong with an Experiment; empty where it is right."""
    shape = list(shape_problems(document))
    # A field of the wrong type is told once.
    told = tuple(problem.split(":")[0] for problem in shape)
    meaning = (p for p in meaning_problems(document) if not (told and p.startswith(told)))
    return [*shape, *meaning]


def shape_problems(document: dict[str, Any]) -> Iterator[str]:
    """Wrong types and unknown fields, by the published models."""
    from kubeflow_katib_api.models.v1beta1_experiment import V1beta1Experiment
    from pydantic import ValidationError

    yield from _wrong_keys(document, "")
    for part in ("metadata", "spec"):
        if part not in document:
            yield f"{part} is missing"
    try:
        V1beta1Experiment.model_validate(document)
    except ValidationError as error:
        for item in error.errors():
            yield f"{_path(item['loc'])}: {item['msg']}, not {item['input']!r:.60}"
    yield from _unknown(document, V1beta1Experiment, "")


def _wrong_keys(part: Any, path: str) -> Iterator[str]:
    """Keys that are no text: YAML has them, JSON and Kubernetes do not."""
    if isinstance(part, dict):
        for name, value in part.items():
            where = f"{path}.{name}" if path else str(name)
            if not isinstance(name, str):
                yield f"{where}: the key {name!r} is no text; quote it"
            yield from _wrong_keys(value, where)
    for index, item in enumerate(items(part)):
        yield from _wrong_keys(item, f"{path}[{index}]")


def _path(parts: tuple[int | str, ...]) -> str:
    made = ""
    for part in parts:
        made += f"[{part}]" if isinstance(part, int) else f".{part}" if made else str(part)
    return made


def _unknown(given: dict[str, Any], model: Any, path: str) -> Iterator[str]:
    """Fields that the models do not have: a misspelt name would be ignored in silence."""
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, value in given.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in known:
            yield f"{where}: no such field; there are {', '.join(known)}"
            continue
        inner = _model_of(known[name].annotation)
        if inner is None:
            continue
        if isinstance(value, dict):
            yield from _unknown(value, inner, where)
        for index, row in rows(value):
            yield from _unknown(row, inner, f"{where}[{index}]")


def _model_of(annotation: Any) -> Any:
    """The model inside an annotation such as `list[Model] | None`, or None."""
    import typing

    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) is dict:
        return None
    found = (_model_of(part) for part in typing.get_args(annotation))
    return next((model for model in found if model), None)


def meaning_problems(document: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the meaning of an Experiment, each with its field path."""
    spec = mapping(document.get("spec"))
    name = text(mapping(document.get("metadata")).get("name"))
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield (
            f"metadata.name {name!r}: at most {LONGEST_NAME} lower-case letters, digits and "
            "dashes, beginning with a letter"
        )
    yield from setting_problems(spec)
    yield from _wrong_objective(mapping(spec.get("objective")))
    yield from _wrong_counts(spec)
    for index, parameter in rows(spec.get("parameters")):
        yield from _wrong_parameter(parameter, f"spec.parameters[{index}]")
    names = [str(parameter.get("name")) for _, parameter in rows(spec.get("parameters"))]
    if "nasConfig" in spec:
        yield "spec.nasConfig: a search for network architectures is not run; give parameters"
    if not names:
        yield "spec.parameters: at least one is needed"
    for repeated in sorted({name for name in names if names.count(name) > 1}):
        yield f"spec.parameters: {repeated!r} stands there twice"
    yield from _wrong_collector(mapping(spec.get("metricsCollectorSpec")))
    yield from template_problems(mapping(spec.get("trialTemplate")), set(names))
    if (policy := spec.get("resumePolicy", "Never")) not in RESUME_POLICIES:
        yield f"spec.resumePolicy {policy!r}: one of {', '.join(RESUME_POLICIES)}"


def _wrong_objective(objective: dict[str, Any]) -> Iterator[str]:
    where = "spec.objective"
    if objective.get("type") not in ("maximize", "minimize"):
        yield f"{where}.type {objective.get('type')!r}: maximize or minimize"
    metric = objective.get("objectiveMetricName")
    additional = items(objective.get("additionalMetricNames"))
    if not metric:
        yield f"{where}.objectiveMetricName is missing: the name of the metric that counts"
    if metric in additional:
        yield f"{where}.additionalMetricNames: the objective {metric!r} does not belong there"
    for repeated in sorted({str(name) for name in additional if additional.count(name) > 1}):
        yield f"{where}.additionalMetricNames: {repeated!r} stands there twice"
    if "goal" in objective and number(objective["goal"]) is None:
        yield f"{where}.goal {objective['goal']!r}: a finite number, or left out"
    seen: list[object] = []
    for index, strategy in rows(objective.get("metricStrategies")):
        place = f"{where}.metricStrategies[{index}]"
        if strategy.get("value") not in STRATEGIES:
            yield f"{place}.value {strategy.get('value')!r}: one of {', '.join(STRATEGIES)}"
        if strategy.get("name") not in [metric, *additional]:
            yield f"{place}.name: no metric is named {strategy.get('name')!r}"
        if strategy.get("name") in seen:
            yield f"{place}.name: {strategy.get('name')!r} stands there twice"
        seen.append(strategy.get("name"))


def _wrong_counts(spec: dict[str, Any]) -> Iterator[str]:
    most = integer(spec.get("maxTrialCount"))
    for name, least in (
        ("maxTrialCount", 1),
        ("parallelTrialCount", 1),
        ("maxFailedTrialCount", 0),
    ):
        value = integer(spec.get(name))
        if value is not None and value < least:
            yield f"spec.{name} {value}: at least {least}"
        if value is not None and most is not None and value > most:
            yield f"spec.{name} {value}: not more than maxTrialCount {most}"


def _wrong_parameter(parameter: dict[str, Any], where: str) -> Iterator[str]:
    kind, space = parameter.get("parameterType"), mapping(parameter.get("feasibleSpace"))
    if not parameter.get("name"):
        yield f"{where}.name is missing"
    where_space = f"{where}.feasibleSpace"
    if (distribution := space.get("distribution", "uniform")) not in DISTRIBUTIONS:
        yield f"{where_space}.distribution {distribution!r}: one of {', '.join(DISTRIBUTIONS)}"
    if kind in LISTED:
        yield from _wrong_list(str(kind), space, where_space)
    elif kind in RANGED:
        if "list" in space:
            yield f"{where_space}.list: a list is for discrete and categorical parameters"
        yield from _wrong_range(space, where_space, whole=kind == "int")
    else:
        yield f"{where}.parameterType {kind!r}: int, double, discrete or categorical"


def _wrong_list(kind: str, space: dict[str, Any], where: str) -> Iterator[str]:
    listed = items(space.get("list"))
    if not listed or {"min", "max", "step"} & space.keys():
        yield f"{where}: a {kind} parameter has a list and no min, max or step"
    elif kind == "discrete" and any(number(value) is None for value in listed):
        yield f"{where}.list: a discrete parameter lists numbers; others are categorical"
    for repeated in sorted({str(value) for value in listed if listed.count(value) > 1}):
        yield f"{where}.list: {repeated!r} stands there twice"
    if space.get("distribution", "uniform") != "uniform":
        yield f"{where}.distribution: a list has none; take it out"


def _wrong_range(space: dict[str, Any], where: str, *, whole: bool) -> Iterator[str]:
    what = "a whole number as text" if whole else "a number as text"
    found = {name: number(space.get(name), whole=whole) for name in ("min", "max", "step")}
    for name in ("min", "max", "step"):
        if found[name] is None and (name != "step" or "step" in space):
            yield f"{where}.{name} {space.get(name)!r}: {what}"
    low, high, step = found["min"], found["max"], found["step"]
    if low is not None and high is not None and not math.isfinite(high - low):
        yield f"{where}: from {low:g} to {high:g} is wider than a double can tell"
    if low is not None and high is not None and low > high:
        yield f"{where}: min {low:g} is above max {high:g}"
    if space.get("distribution") in ("logUniform", "logNormal") and low is not None and low <= 0:
        yield f"{where}.min {low:g}: a logarithmic range begins above 0"
    if step is not None and step <= 0:
        yield f"{where}.step {step:g}: above 0, or left out"


def _wrong_collector(spec: dict[str, Any]) -> Iterator[str]:
    where = "spec.metricsCollectorSpec"
    kind = mapping(spec.get("collector")).get("kind", "StdOut")
    if not isinstance(kind, str) or kind not in COLLECTORS:
        yield f"{where}.collector.kind {kind!r}: one of {', '.join(COLLECTORS)}"
        return
    source = mapping(spec.get("source"))
    place = mapping(source.get("fileSystemPath"))
    yield from _wrong_file(kind, place, f"{where}.source.fileSystemPath")
    if place.get("format") == "JSON" and "filter" in source:
        yield f"{where}.source.filter: a JSON file has none; take it out"
    if kind == "Custom" and not mapping(spec.get("collector")).get("customCollector"):
        yield f"{where}.collector.customCollector is missing: the container that collects"
    for rule in filters_of(spec):
        try:
            groups = re.compile(rule, re.ASCII).groups
        except re.error as error:
            yield f"{where}.source.filter {rule!r}: {error}"
            continue
        if groups < 2:
            yield f"{where}.source.filter {rule!r}: needs two groups, name and value"
        if _NOT_RE2.search(_ESCAPED.sub("", rule)):
            yield f"{where}.source.filter {rule!r}: Katib's RE2 looks neither around nor back"


def _wrong_file(kind: str, place: dict[str, Any], where: str) -> Iterator[str]:
    expected = COLLECTORS[kind]
    if expected is None:
        if place and kind != "Custom":
            yield f"{where}: the collector {kind} reads no file; take it out"
        return
    if place.get("kind", expected) != expected:
        yield f"{where}.kind {place.get('kind')!r}: {expected} for the collector {kind}"
    path = place.get("path", "/")
    if not text(path).startswith("/"):
        yield f"{where}.path {path!r}: an absolute path in the container"
    if kind == "File" and place.get("format", "TEXT") not in FILE_FORMATS:
        yield f"{where}.format {place.get('format')!r}: one of {', '.join(FILE_FORMATS)}"
    if kind != "File" and place.get("format"):
        yield f"{where}.format {place.get('format')!r}: only the collector File has one"


def filters_of(collector: dict[str, Any]) -> list[str]:
    """The filters of a `metricsCollectorSpec`, none where it leaves them out."""
    found = mapping(mapping(collector.get("source")).get("filter")).get("metricsFormat")
    return [rule for rule in items(found) if isinstance(rule, str)]
