"""What an API server refuses although the schema takes it: rules within one object."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

from platecrypt.manifests.labels import selector_problems
from platecrypt.manifests.model import Finding, ManifestSet, Object, at, strings
from platecrypt.manifests.quantities import quantity
from platecrypt.tuning.fields import items, mapping, rows, text

RULE = "api-server"
CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
CRON_NAMES = (
    "",
    "",
    "",
    "jan feb mar apr may jun jul aug sep oct nov dec",
    "sun mon tue wed thu fri sat",
)
CRON_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
ENV_NAME = re.compile(r"[^=\x00-\x1f]+")
PROBE_KINDS = ("exec", "httpGet", "tcpSocket", "grpc")


def api_server(group: ManifestSet) -> Iterator[Finding]:
    """Rules that hold within one object."""
    for item in group.objects:
        for rule in BY_KIND.get(item.kind, ()):
            yield from rule(item)
        yield from _selectors(item)
    for pod in group.pods:
        for path, container in pod.containers():
            yield from _container(pod.owner, path, container)


def _job(item: Object) -> Iterator[Finding]:
    yield from _restart_policy(item, ("spec", "template", "spec"))


def _cron_job(item: Object) -> Iterator[Finding]:
    yield from _restart_policy(item, ("spec", "jobTemplate", "spec", "template", "spec"))
    schedule = text(item.spec.get("schedule"))
    if problem := cron_problem(schedule):
        yield item.finding("spec.schedule", RULE, f"{schedule!r}: {problem}")


def _autoscaler(item: Object) -> Iterator[Finding]:
    low, high = item.spec.get("minReplicas", 1), item.spec.get("maxReplicas")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        yield item.finding("spec.minReplicas", RULE, f"{low} is above maxReplicas {high}")


def _budget(item: Object) -> Iterator[Finding]:
    if ("minAvailable" in item.spec) == ("maxUnavailable" in item.spec):
        yield item.finding("spec", RULE, "one of minAvailable and maxUnavailable")


def _quota(item: Object) -> Iterator[Finding]:
    for name, value in mapping(item.spec.get("hard")).items():
        if quantity(value) is None:
            yield item.finding(f"spec.hard.{name}", RULE, f"{value!r} is no quantity")


def _role(item: Object) -> Iterator[Finding]:
    for index, row in rows(item.document.get("rules")):
        of_resources = () if "nonResourceURLs" in row else ("apiGroups", "resources")
        for name in ("verbs", *of_resources):
            if not items(row.get(name)):
                yield item.finding(f"rules[{index}].{name}", RULE, "missing: at least one")


def _volume_claim(item: Object) -> Iterator[Finding]:
    yield from _claim(item, "spec", item.spec)


def _claim_templates(item: Object) -> Iterator[Finding]:
    for index, claim in rows(item.spec.get("volumeClaimTemplates")):
        where = f"spec.volumeClaimTemplates[{index}].spec"
        yield from _claim(item, where, mapping(claim.get("spec")))


def _controller(item: Object) -> Iterator[Finding]:
    selector = mapping(item.spec.get("selector"))
    if not selector:
        yield item.finding("spec.selector", RULE, "missing: the labels of its pods")
        return
    labels = strings(at(item.document, ("spec", "template", "metadata", "labels")))
    for key, value in strings(selector.get("matchLabels")).items():
        if labels.get(key) != value:
            message = f"{key}: {value} is not among the labels of its own template"
            yield item.finding("spec.selector.matchLabels", RULE, message)
    policy = mapping(at(item.document, ("spec", "template", "spec"))).get("restartPolicy", "Always")
    if policy != "Always":
        yield item.finding("spec.template.spec.restartPolicy", RULE, f"{policy!r}: Always")


def _restart_policy(item: Object, path: tuple[str, ...]) -> Iterator[Finding]:
    policy = mapping(at(item.document, path)).get("restartPolicy")
    if policy not in ("Never", "OnFailure"):
        yield item.finding((*path, "restartPolicy"), RULE, f"{policy!r}: Never or OnFailure")


def cron_problem(schedule: str) -> str:
    """What is wrong with a schedule in cron's form, "" where nothing is."""
    if schedule in CRON_MACROS:
        return ""
    fields = schedule.split()
    if len(fields) != len(CRON_RANGES):
        return "five fields: minute hour day month weekday"
    for field, (low, high), names in zip(fields, CRON_RANGES, CRON_NAMES, strict=True):
        for part in field.lower().split(","):
            span, _, step = part.partition("/")
            first, dash, last = span.partition("-")
            ends = [_cron_number(end, low, names) for end in ([first, last] if dash else [first])]
            if span in ("*", "?"):
                ends = [low]
            good = [end for end in ends if end is not None and low <= end <= high]
            if len(good) != len(ends) or ends != sorted(good) or (step and not step.isdigit()):
                return f"{part!r} is not within {low}-{high}"
            if step == "0":
                return f"{part!r}: a step of 0"
    return ""


def _cron_number(value: str, low: int, names: str) -> int | None:
    if value.isdigit():
        return int(value)
    known = names.split()
    return known.index(value) + low if value in known else None


def _network_policy(item: Object) -> Iterator[Finding]:
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in rows(item.spec.get(direction)):
            for number, peer in rows(rule.get(peers)):
                where = f"spec.{direction}[{index}].{peers}[{number}]"
                block = mapping(peer.get("ipBlock"))
                if block and len(peer) > 1:
                    yield item.finding(where, RULE, "ipBlock stands alone")
                if not peer:
                    yield item.finding(
                        where, RULE, "empty: podSelector, namespaceSelector, ipBlock"
                    )
                yield from _blocks(item, where, block)


def _blocks(item: Object, where: str, block: dict[str, Any]) -> Iterator[Finding]:
    if not block:
        return
    try:
        outer = ip_network(text(block.get("cidr")))
    except ValueError as error:
        yield item.finding(f"{where}.ipBlock.cidr", RULE, str(error))
        return
    for value in items(block.get("except")):
        try:
            inside = ip_network(value)
            if inside.version != outer.version or not inside.subnet_of(outer):  # type: ignore[arg-type]
                message = f"{value} is not inside of {outer}"
                yield item.finding(f"{where}.ipBlock.except", RULE, message)
        except ValueError as error:
            yield item.finding(f"{where}.ipBlock.except", RULE, str(error))


def _claim(item: Object, where: str, spec: dict[str, Any]) -> Iterator[Finding]:
    if not items(spec.get("accessModes")):
        yield item.finding(f"{where}.accessModes", RULE, "missing, e.g. [ReadWriteOnce]")
    size = mapping(mapping(spec.get("resources")).get("requests")).get("storage")
    if quantity(size) is None:
        message = f"{size!r}: a quantity, e.g. 10Gi"
        yield item.finding(f"{where}.resources.requests.storage", RULE, message)


def _selectors(item: Object) -> Iterator[Finding]:
    for name in ("selector", "podSelector"):
        selector = mapping(item.spec.get(name))
        if {"matchLabels", "matchExpressions"} & selector.keys():
            for problem in selector_problems(selector):
                yield item.finding(f"spec.{name}", RULE, problem)


def _container(item: Object, path: tuple[str | int, ...], one: dict[str, Any]) -> Iterator[Finding]:
    for index, row in rows(one.get("env")):
        name = text(row.get("name"))
        if not ENV_NAME.fullmatch(name):
            yield item.finding((*path, "env", index, "name"), RULE, f"{name!r} is no name")
        if "value" in row and "valueFrom" in row:
            yield item.finding((*path, "env", index), RULE, "value or valueFrom, not both")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = one.get(name)
        if isinstance(probe, dict):
            kinds = [kind for kind in PROBE_KINDS if kind in probe]
            if len(kinds) != 1:
                message = f"one of {', '.join(PROBE_KINDS)}, not {', '.join(kinds) or 'none'}"
                yield item.finding((*path, name), RULE, message)
            if name != "readinessProbe" and probe.get("successThreshold", 1) != 1:
                yield item.finding((*path, name, "successThreshold"), RULE, "must be 1")


BY_KIND: dict[str, tuple[Callable[[Object], Iterator[Finding]], ...]] = {
    "Deployment": (_controller,),
    "DaemonSet": (_controller,),
    "ReplicaSet": (_controller,),
    "StatefulSet": (_controller, _claim_templates),
    "Job": (_job,),
    "CronJob": (_cron_job,),
    "NetworkPolicy": (_network_policy,),
    "HorizontalPodAutoscaler": (_autoscaler,),
    "PodDisruptionBudget": (_budget,),
    "PersistentVolumeClaim": (_volume_claim,),
    "ResourceQuota": (_quota,),
    "Role": (_role,),
    "ClusterRole": (_role,),
}
