"""What can be wrong with a trial template: placeholders, the Job, its primary container."""

import json
import re
from collections.abc import Iterator
from typing import Any

from platecrypt.tuning.checks_job import wrong_container, wrong_gpus, wrong_job
from platecrypt.tuning.fields import items, mapping, rows, text

PLACEHOLDER = re.compile(r"\$\{trialParameters\.([^}]*)\}")
# What a trialParameter may refer to beside a parameter: the trial itself.
ABOUT_TRIAL = re.compile(
    r"\$\{trialSpec\.(?:(Name|Namespace|Kind|APIVersion)|(Labels|Annotations)\[([^\]]+)\])\}"
)
WHERE = "spec.trialTemplate"
GPU = "nvidia.com/gpu"


def template_problems(template: dict[str, Any], names: set[str]) -> Iterator[str]:
    """Every mistake of a trial template.

    Args:
        template: `spec.trialTemplate`.
        names: of the parameters of the Experiment.
    """
    declared = {str(row.get("name")) for _, row in rows(template.get("trialParameters"))}
    yield from _wrong_parameters(template, names)
    if "configMap" in template:
        yield f"{WHERE}.configMap: the template stands in a ConfigMap; give it as trialSpec"
    trial = template.get("trialSpec")
    if not isinstance(trial, dict):
        yield f"{WHERE}.trialSpec is missing"
        return
    for field in ("apiVersion", "kind"):
        if not text(trial.get(field)):
            yield f"{WHERE}.trialSpec.{field} is missing, e.g. batch/v1 and Job"
    for field in ("name", "namespace"):
        if field in mapping(trial.get("metadata")):
            yield f"{WHERE}.trialSpec.metadata.{field}: Katib sets it, take it out"
    used = set(PLACEHOLDER.findall(json.dumps(trial, default=str)))
    for name in sorted(used - declared):
        yield f"{WHERE}.trialSpec: ${{trialParameters.{name}}} is not among trialParameters"
    for name in sorted(declared - used):
        yield f"{WHERE}.trialParameters: {name!r} is used nowhere in trialSpec"
    deadline = mapping(trial.get("spec")).get("activeDeadlineSeconds", 1)
    if type(deadline) is not int or deadline < 1:  # of any kind: the local engine ends trials by it
        yield f"{WHERE}.trialSpec.spec.activeDeadlineSeconds {deadline!r}: a whole number from 1"
    yield from _wrong_job(trial)
    yield from _wrong_container(template, trial)


def _wrong_parameters(template: dict[str, Any], names: set[str]) -> Iterator[str]:
    seen: dict[str, set[str]] = {"name": set(), "reference": set()}
    if not items(template.get("trialParameters")):
        yield f"{WHERE}.trialParameters is missing: what a trial is told of the parameters"
    for index, row in rows(template.get("trialParameters")):
        place = f"{WHERE}.trialParameters[{index}]"
        name, reference = text(row.get("name")), text(row.get("reference"))
        if not name or "{" in name or "}" in name:
            yield f"{place}.name {name!r}: a name without braces"
        if reference not in names and not ABOUT_TRIAL.fullmatch(reference):
            yield f"{place}.reference {reference!r}: no parameter has that name"
        for field, value in (("name", name), ("reference", reference)):
            if value and value in seen[field]:
                yield f"{place}.{field} {value!r} stands there twice"
            seen[field].add(value)


def is_job(trial: dict[str, Any]) -> bool:
    """Whether a trial is Kubernetes' own Job."""
    return (trial.get("apiVersion"), trial.get("kind")) == ("batch/v1", "Job")


def _wrong_job(trial: dict[str, Any]) -> Iterator[str]:
    """What a batch/v1 Job must have; other kinds are checked by their own controllers."""
    if not is_job(trial):
        return
    where = f"{WHERE}.trialSpec.spec.template.spec"
    yield from wrong_job(trial.get("spec", {}), f"{WHERE}.trialSpec.spec")
    pod = _pod(trial)
    if pod and pod.get("restartPolicy") not in ("Never", "OnFailure"):
        yield f"{where}.restartPolicy {pod.get('restartPolicy')!r}: Never or OnFailure"


def _pod(trial: dict[str, Any]) -> dict[str, Any]:
    return mapping(mapping(mapping(trial.get("spec")).get("template")).get("spec"))


def _wrong_container(template: dict[str, Any], trial: dict[str, Any]) -> Iterator[str]:
    primary = template.get("primaryContainerName")
    containers = [row for _, row in rows(_pod(trial).get("containers"))]
    if not containers:
        yield f"{WHERE}.trialSpec.spec.template.spec.containers is missing"
        return
    names = [str(container.get("name")) for container in containers]
    for index, container in enumerate(containers):
        if not text(container.get("name")):
            yield f"{WHERE}.trialSpec.spec.template.spec.containers[{index}].name is missing"
    if primary not in names:
        yield f"{WHERE}.primaryContainerName {primary!r}: containers are {', '.join(names)}"
        return
    container = containers[names.index(str(primary))]
    where = f"{WHERE}.trialSpec.spec.template.spec.containers[{names.index(str(primary))}]"
    if not is_job(trial):  # a Job was checked as a whole
        yield from wrong_container(container, where)
    limits = mapping(mapping(container.get("resources")).get("limits"))
    yield from wrong_gpus(limits, GPU, where)
    for index, row in rows(container.get("env")):
        if not text(row.get("name")):
            yield f"{where}.env[{index}] has no name"
    if not container.get("command"):
        yield f"{WHERE}.trialSpec: {primary} needs a command (what its image runs is unknown here)"
