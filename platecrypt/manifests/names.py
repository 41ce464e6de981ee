"""Names: which Kubernetes takes, which stand there twice, and what nobody will fill in."""

import re
from collections.abc import Iterator
from typing import Any

from platecrypt.manifests.model import Finding, ManifestSet, Object, Pod, walk
from platecrypt.tuning.fields import items, mapping, rows, text

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # RFC 1123
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # RFC 1035
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
PATH_SEGMENT = re.compile(r"[^/%]+")  # RBAC names may hold colons
QUALIFIED = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)")
LONGEST_LABEL, LONGEST_SUBDOMAIN, LONGEST_PORT = 63, 253, 15
# Kinds whose name becomes a label, with what is put behind it: the longest that works.
LONGEST = {
    "CronJob": 52,  # the Job's name has 11 characters more
    "StatefulSet": 52,  # controller-revision-hash has the name and 11 characters more
    "Job": 63,
    "Deployment": 63,
    "DaemonSet": 63,
    "Namespace": 63,
    "Profile": 63,
    "Service": 63,
    "InferenceService": 63 - len("-transformer"),  # a Service of that name is made
    "Experiment": 40,
}
RBAC = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
ALWAYS_THERE = ("default", "kube-system", "kube-public", "kube-node-lease")
DNS_KINDS = ("Service", "InferenceService", "Experiment")
ENV_REFERENCE = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
SHELL_REFERENCE = re.compile(r"\$\{[A-Za-z_][^}]*\}")
SHELLS = ("sh", "bash", "ash", "dash")


def names(group: ManifestSet) -> Iterator[Finding]:
    """Names and labels that Kubernetes refuses."""
    for item in group.objects:
        yield from _name(item)
        namespace = item.namespace
        if namespace and (not LABEL.fullmatch(namespace) or len(namespace) > LONGEST_LABEL):
            message = f"{namespace!r} ({len(namespace)} characters): {_rule('a', LONGEST_LABEL)}"
            yield item.finding("metadata.namespace", "name", message)
        yield from _labels(item)


def _name(item: Object) -> Iterator[Finding]:
    if not item.name:
        told = "generateName is not applied twice" if "generateName" in item.metadata else "missing"
        yield item.finding("metadata.name", "name", told)
        return
    if item.kind in RBAC:
        pattern, longest = PATH_SEGMENT, LONGEST_SUBDOMAIN
    elif item.kind in DNS_KINDS:
        pattern, longest = SERVICE, LONGEST.get(item.kind, LONGEST_LABEL)
    elif item.kind in ("Namespace", "Profile"):
        pattern, longest = LABEL, LONGEST_LABEL
    else:
        pattern, longest = SUBDOMAIN, LONGEST.get(item.kind, LONGEST_SUBDOMAIN)
    if not pattern.fullmatch(item.name) or len(item.name) > longest:
        begin = "a" if pattern is SERVICE else "0"
        message = f"{item.name!r} ({len(item.name)} characters): {_rule(begin, longest)}"
        yield item.finding("metadata.name", "name", message)


def _rule(begin: str, longest: int) -> str:
    start = "beginning with a letter" if begin == "a" else "beginning with a letter or digit"
    return f"at most {longest} lower-case letters, digits and dashes, {start}"


def _labels(item: Object) -> Iterator[Finding]:
    for path, value in walk(item.document):
        if path[-1:] == ("labels",) and isinstance(value, dict) and _is_metadata(path):
            for key, label in value.items():
                yield from _label(item, path, str(key), label)


def _is_metadata(path: tuple[str | int, ...]) -> bool:
    return len(path) >= 2 and path[-2] == "metadata"


def _label(item: Object, path: tuple[str | int, ...], key: str, label: Any) -> Iterator[Finding]:
    prefix, _, name = key.rpartition("/")
    where = (*path, key)
    if not QUALIFIED.fullmatch(name) or len(name) > LONGEST_LABEL:
        yield item.finding(where, "name", f"{key!r} is no key of a label")
    if prefix and (not SUBDOMAIN.fullmatch(prefix) or len(prefix) > LONGEST_SUBDOMAIN):
        yield item.finding(where, "name", f"{prefix!r} is no domain in front of a label")
    if (
        isinstance(label, str)
        and label
        and not (QUALIFIED.fullmatch(label) and len(label) <= LONGEST_LABEL)
    ):
        message = f"{label!r}: at most {LONGEST_LABEL} letters, digits, dashes, dots, underscores"
        yield item.finding(where, "name", message)


def duplicates(group: ManifestSet) -> Iterator[Finding]:
    """Objects that stand there twice: the second would overwrite the first."""
    seen: dict[tuple[str, str, str, str], Object] = {}
    for item in group.objects:
        key = (item.group, item.kind, item.namespace, item.name)
        if key in seen:
            yield item.finding("metadata.name", "duplicate", f"also stands in {seen[key].file}")
        seen.setdefault(key, item)


def namespaces(group: ManifestSet) -> Iterator[Finding]:
    """Objects in no namespace, or in one that nobody makes."""
    from platecrypt.manifests.external import is_external

    made = {item.name for item in group.of("Namespace", "Profile")}
    for item in group.objects:
        if not item.namespaced:
            if item.namespace:
                message = f"a {item.kind} lives in no namespace; take it out"
                yield item.finding("metadata.namespace", "namespace", message)
            continue
        if not item.namespace:
            if made:
                message = "missing: `kubectl apply` would take the namespace of whoever applies it"
                yield item.finding("metadata.namespace", "namespace", message)
        elif (
            made
            and item.namespace not in made
            and item.namespace not in ALWAYS_THERE
            and not is_external(group, item, "Namespace", "", item.namespace)
        ):
            message = (
                f"nothing makes the namespace {item.namespace!r}; add it, or declare it external"
            )
            yield item.finding("metadata.namespace", "namespace", message)


def placeholders(group: ManifestSet) -> Iterator[Finding]:
    """`$(X)` and `${X}` where nobody puts a value in."""
    for item in group.objects:
        if item.kind in ("Secret", "CustomResourceDefinition"):
            continue
        expanded = {path: pod for pod in group.pods if pod.owner is item for path in [pod.path]}
        for path, value in walk(item.document):
            # Files and scripts in a ConfigMap: whoever reads them knows what stands there.
            file = item.kind == "ConfigMap" and isinstance(value, str) and "\n" in value
            if isinstance(value, str) and "$" in value and not file:
                yield from _placeholder(item, path, value, expanded)


def _placeholder(
    item: Object, path: tuple[str | int, ...], value: str, pods: dict[tuple[str | int, ...], Pod]
) -> Iterator[Finding]:
    container = _container(path, pods)
    if container is None:
        if path[:2] == ("metadata", "annotations") or item.kind == "PrometheusRule":
            return
        unfilled = [*ENV_REFERENCE.findall(value), *SHELL_REFERENCE.findall(value)]
        katib = item.kind == "Experiment"
        unfilled = [name for name in unfilled if not (katib and _katib(name))]
        for name in unfilled[:1]:
            yield item.finding(path, "variable", f"{name} in {value[:80]!r}: nobody fills it in")
        return
    known = {text(row.get("name")) for _, row in rows(container.get("env"))}
    for name in ENV_REFERENCE.findall(value):
        if name not in known and not _from_elsewhere(container) and not _shell(container):
            message = f"$({name}): the container has no variable {name}; add it to env"
            yield item.finding(path, "variable", message)
    for name in SHELL_REFERENCE.findall(value):
        katib = item.kind == "Experiment" and _katib(name)
        if not (katib or (_shell(container) and path[-2] in ("command", "args"))):
            message = f"{name} in {value[:80]!r}: only a shell would fill it in; write $(NAME)"
            yield item.finding(path, "variable", message)


def _katib(name: str) -> bool:
    return name.startswith(("${trialParameters.", "${trialSpec."))


def _container(
    path: tuple[str | int, ...], pods: dict[tuple[str | int, ...], Pod]
) -> dict[str, Any] | None:
    """The container whose command, args or env the path leads to."""
    for start, pod in pods.items():
        rest = path[len(start) :]
        if path[: len(start)] != start or len(rest) < 4 or not isinstance(rest[1], int):
            continue
        if rest[2] in ("command", "args") or (rest[2] == "env" and rest[-1] == "value"):
            return mapping(items(pod.spec.get(str(rest[0])))[rest[1]])
    return None


def _from_elsewhere(container: dict[str, Any]) -> bool:
    return bool(items(container.get("envFrom")))


def _shell(container: dict[str, Any]) -> bool:
    words = [text(word) for word in items(container.get("command"))]
    return bool(words) and words[0].rpartition("/")[2] in SHELLS


def port_names(group: ManifestSet) -> Iterator[Finding]:
    """Ports of containers and Services whose names Kubernetes refuses, or that collide."""
    for item in group.of("Service"):
        ports = list(rows(item.spec.get("ports")))
        for index, port in ports:
            name = text(port.get("name"))
            if len(ports) > 1 and not name:
                message = "missing: a Service with several ports names each"
                yield item.finding(f"spec.ports[{index}].name", "name", message)
    for pod in group.pods:
        seen: set[str] = set()
        for path, container in pod.containers():
            for index, port in rows(container.get("ports")):
                name = text(port.get("name"))
                where = (*path, "ports", index, "name")
                if name and not _port_name(name):
                    message = (
                        f"{name!r}: at most {LONGEST_PORT} lower-case letters, digits and dashes, "
                        "with a letter"
                    )
                    yield pod.owner.finding(where, "name", message)
                if name and name in seen:
                    yield pod.owner.finding(where, "name", f"{name!r} stands in this pod twice")
                seen.add(name)


def _port_name(name: str) -> bool:
    fits = len(name) <= LONGEST_PORT and LABEL.fullmatch(name) is not None
    return fits and "--" not in name and any(letter.isalpha() for letter in name)


def pod_names(group: ManifestSet) -> Iterator[Finding]:
    """Names inside of a pod that collide, or that name nothing."""
    for pod in group.pods:
        seen: set[str] = set()
        for path, container in pod.containers():
            name = text(container.get("name"))
            if name and (not LABEL.fullmatch(name) or len(name) > LONGEST_LABEL):
                message = f"{name!r}: {_rule('0', LONGEST_LABEL)}"
                yield pod.owner.finding((*path, "name"), "name", message)
            if name and name in seen:
                yield pod.owner.finding((*path, "name"), "name", f"{name!r} stands there twice")
            seen.add(name)
        if not _injected(pod):
            yield from _volumes(pod)


def _volumes(pod: Pod) -> Iterator[Finding]:
    """Mounts without a volume, and volumes without a mount."""
    volumes = {text(row.get("name")) for _, row in rows(pod.spec.get("volumes"))}
    claimed = rows(pod.owner.spec.get("volumeClaimTemplates"))
    volumes |= {text(mapping(claim.get("metadata")).get("name")) for _, claim in claimed}
    used: set[str] = set()
    for path, container in pod.containers():
        for index, mount in rows(container.get("volumeMounts")):
            volume = text(mount.get("name"))
            used.add(volume)
            if volume not in volumes:
                message = f"the pod has no volume {volume!r}"
                yield pod.owner.finding((*path, "volumeMounts", index, "name"), "volume", message)
    for index, row in rows(pod.spec.get("volumes")):
        if text(row.get("name")) not in used:
            message = f"no container mounts {row.get('name')!r}; take it out"
            yield pod.owner.finding((*pod.path, "volumes", index), "volume", message)


def _injected(pod: Pod) -> bool:
    """Whether a serving runtime adds volumes or containers to this pod."""
    return "model" in pod.spec
