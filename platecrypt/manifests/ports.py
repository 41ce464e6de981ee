"""Ports and labels: what a Service, a policy, a monitor or a probe points at is there."""

from collections.abc import Iterator, Mapping
from typing import Any

from platecrypt.manifests.external import PORT as EXTERNAL_PORT
from platecrypt.manifests.external import has_external_pods, is_external
from platecrypt.manifests.labels import matcher, plain_matcher, selector_labels
from platecrypt.manifests.model import Finding, ManifestSet, Object, Path, Pod, at, strings
from platecrypt.tuning.fields import items, mapping, rows, text

RULE = "selector"
PORT = "port"
NAMESPACE_NAME = "kubernetes.io/metadata.name"
ALWAYS_THERE = ("default", "kube-system", "kube-public", "kube-node-lease")
HOOKS: tuple[Path, ...] = (
    ("livenessProbe",),
    ("readinessProbe",),
    ("startupProbe",),
    ("lifecycle", "postStart"),
    ("lifecycle", "preStop"),
)


def services(group: ManifestSet) -> Iterator[Finding]:
    """Each Service finds pods, and each of its ports one of theirs."""
    for item in group.of("Service"):
        if item.group or item.spec.get("type") == "ExternalName":
            continue  # a Knative Service, or one that only gives another name
        selector = strings(item.spec.get("selector"))
        if not selector:
            continue
        pods = group.pods_with(item.namespace, plain_matcher(selector))
        if not pods:
            if not has_external_pods(group, item, selector):
                yield item.finding("spec.selector", RULE, _nobody(selector, item.namespace))
            continue
        known = _ports(pods)
        for index, port in rows(item.spec.get("ports")):
            target = port.get("targetPort", port.get("port"))
            if target not in known:
                where = f"spec.ports[{index}].targetPort"
                yield item.finding(where, PORT, _no_port(target, known))


def selectors(group: ManifestSet) -> Iterator[Finding]:
    """Each PodDisruptionBudget, policy and rule of the mesh selects pods that there are."""
    for item in group.of("PodDisruptionBudget"):
        yield from _selects(group, item, "spec.selector", mapping(item.spec.get("selector")))
    for item in group.of("NetworkPolicy"):
        yield from _selects(group, item, "spec.podSelector", mapping(item.spec.get("podSelector")))
    for item in group.of("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"):
        selector = mapping(item.spec.get("selector"))
        yield from _selects(group, item, "spec.selector", selector)
    for pod in group.pods:
        spread = pod.spec.get("topologySpreadConstraints")
        for index, row in rows(spread):
            selector = mapping(row.get("labelSelector"))
            if selector and not matcher(selector)(pod.labels):
                message = "does not select the pod itself"
                where = (*pod.path, "topologySpreadConstraints", index, "labelSelector")
                yield pod.owner.finding(where, RULE, message)


def _selects(
    group: ManifestSet, item: Object, where: str, selector: Mapping[str, Any]
) -> Iterator[Finding]:
    if not selector:
        return  # all pods of the namespace
    if group.pods_with(item.namespace, matcher(selector)):
        return
    labels = selector_labels(selector)
    if not has_external_pods(group, item, labels):
        yield item.finding(where, RULE, _nobody(labels, item.namespace))


def monitors(group: ManifestSet) -> Iterator[Finding]:
    """ServiceMonitors find a Service with that port, PodMonitors pods with it."""
    for item in group.of("ServiceMonitor"):
        yield from _service_monitor(group, item)
    for item in group.of("PodMonitor"):
        yield from _pod_monitor(group, item)


def _service_monitor(group: ManifestSet, item: Object) -> Iterator[Finding]:
    spaces, selector = _namespaces(item), mapping(item.spec.get("selector"))
    matches, labels = matcher(selector), selector_labels(selector)
    found = [s for s in group.of("Service") if s.namespace in spaces and matches(s.labels)]
    if not found:
        if not has_external_pods(group, item, labels):
            message = (
                f"no Service with {_listed(labels)} in {', '.join(spaces)}; add it, or declare"
            )
            yield item.finding("spec.selector", RULE, f"{message} Pod/KEY=VALUE external")
        return
    known = {text(port.get("name")) for s in found for _, port in rows(s.spec.get("ports"))}
    for index, endpoint in rows(item.spec.get("endpoints")):
        name = text(endpoint.get("port"))
        if name and name not in known:
            yield item.finding(f"spec.endpoints[{index}].port", PORT, _no_port(name, known))


def _pod_monitor(group: ManifestSet, item: Object) -> Iterator[Finding]:
    spaces, selector = _namespaces(item), mapping(item.spec.get("selector"))
    pods = [pod for space in spaces for pod in group.pods_with(space, matcher(selector))]
    if not pods:
        labels = selector_labels(selector)
        if not has_external_pods(group, item, labels):
            yield item.finding("spec.selector", RULE, _nobody(labels, ", ".join(spaces)))
        return
    ports = _ports(pods)
    for index, endpoint in rows(item.spec.get("podMetricsEndpoints")):
        for field in ("port", "portNumber", "targetPort"):
            value = endpoint.get(field)
            if value is None or value in ports:
                continue
            if not is_external(group, item, EXTERNAL_PORT, item.namespace, str(value)):
                where = f"spec.podMetricsEndpoints[{index}].{field}"
                yield item.finding(where, PORT, _no_port(value, ports))


def _namespaces(item: Object) -> list[str]:
    names = items(mapping(item.spec.get("namespaceSelector")).get("matchNames"))
    return [text(name) for name in names] or [item.namespace]


def probes(group: ManifestSet) -> Iterator[Finding]:
    """Each probe and hook asks a port that its container has."""
    for pod in group.pods:
        for path, container in pod.containers():
            known: set[object] = set()
            for _, port in rows(container.get("ports")):
                known |= {port[name] for name in ("containerPort", "name") if name in port}
            for place in HOOKS:
                hook = mapping(at(container, place))
                for kind in ("httpGet", "tcpSocket", "grpc"):
                    asked = mapping(hook.get(kind)).get("port")
                    if asked is not None and asked not in known:
                        where = (*path, *place, kind, "port")
                        yield pod.owner.finding(where, PORT, _no_port(asked, known))


def policies(group: ManifestSet) -> Iterator[Finding]:
    """The peers and ports of a NetworkPolicy are there."""
    for item in group.of("NetworkPolicy"):
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for index, rule in rows(item.spec.get(direction)):
                where: Path = ("spec", direction, index)
                reached: list[Pod] | None = []
                for number, peer in rows(rule.get(peers)):
                    found, wrong = _peer(group, item, (*where, peers, number), peer)
                    yield from wrong
                    reached = None if found is None or reached is None else reached + found
                if direction == "ingress":
                    own = matcher(mapping(item.spec.get("podSelector")))
                    reached = group.pods_with(item.namespace, own) or None
                elif not rule.get(peers):
                    reached = None
                if reached:
                    yield from _policy_ports(group, item, where, rule, reached)


def _peer(
    group: ManifestSet, item: Object, where: Path, peer: Mapping[str, Any]
) -> tuple[list[Pod] | None, list[Finding]]:
    """The pods of a peer, None where they are not all ours; and what is wrong with it."""
    if "ipBlock" in peer:
        return None, []
    spaces = _selected_namespaces(group, item, peer)
    if spaces is None:
        return None, []
    if not spaces:
        wanted = selector_labels(mapping(peer.get("namespaceSelector")))
        message = f"no namespace with {_listed(wanted)}; add it, or declare it external"
        return None, [item.finding((*where, "namespaceSelector"), RULE, message)]
    selector = mapping(peer.get("podSelector"))
    pods = [pod for space in spaces for pod in group.pods_with(space, matcher(selector))]
    if not selector:
        return None, []
    if pods:
        return pods, []
    labels = selector_labels(selector)
    if has_external_pods(group, item, labels):
        return None, []
    message = _nobody(labels, ", ".join(spaces))
    return None, [item.finding((*where, "podSelector"), RULE, message)]


def _selected_namespaces(
    group: ManifestSet, item: Object, peer: Mapping[str, Any]
) -> list[str] | None:
    """The namespaces of a peer; None where they are somebody else's."""
    if "namespaceSelector" not in peer:
        return [item.namespace]
    selector = mapping(peer["namespaceSelector"])
    if not selector:
        return None
    known = {name: {NAMESPACE_NAME: name} for name in ALWAYS_THERE}
    for space in group.of("Namespace", "Profile"):
        known[space.name] = {**space.labels, NAMESPACE_NAME: space.name}
    found = [name for name, labels in known.items() if matcher(selector)(labels)]
    ours = [name for name in found if name not in ALWAYS_THERE]
    if found and not ours:
        return None
    name = selector_labels(selector).get(NAMESPACE_NAME, "")
    if not found and name and is_external(group, item, "Namespace", "", name):
        return None
    return ours


def _policy_ports(
    group: ManifestSet, item: Object, where: Path, rule: Mapping[str, Any], pods: list[Pod]
) -> Iterator[Finding]:
    known = _ports(pods)
    for number, port in rows(rule.get("ports")):
        value = port.get("port")
        if value is None or value in known or "endPort" in port:
            continue
        if is_external(group, item, EXTERNAL_PORT, item.namespace, str(value)):
            continue  # of a container that somebody else puts into the pod
        yield item.finding((*where, "ports", number, "port"), PORT, _no_port(value, known))


def _ports(pods: list[Pod]) -> dict[str | int, int]:
    return {name: number for pod in pods for name, number in pod.ports().items()}


def _no_port(port: object, known: Any) -> str:
    shown = ", ".join(sorted(map(str, known))) or "none"
    return f"{port!r} is no port of what it points at; there are {shown}"


def _nobody(labels: Mapping[str, str], where: str) -> str:
    return (
        f"no pod with {_listed(labels)} in {where}; correct it, or declare Pod/KEY=VALUE external"
    )


def _listed(labels: Mapping[str, str]) -> str:
    pairs = (f"{key}={value}" if value else key for key, value in labels.items())
    return ", ".join(pairs) or "that selector"
