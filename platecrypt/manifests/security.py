"""Pods: the Pod Security Standard `restricted`, a read-only root, and what containers ask for."""

from collections.abc import Iterator
from typing import Any

from platecrypt.manifests.model import Finding, ManifestSet, Path, Pod
from platecrypt.manifests.quantities import quantity
from platecrypt.tuning.fields import items, mapping, rows, text

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
SECCOMP = ("RuntimeDefault", "Localhost")
SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
ENFORCE = "pod-security.kubernetes.io/enforce"
# The reason on a Namespace; our own pods there must be restricted all the same.
BASELINE_BECAUSE = "platecrypt.dev/baseline-because"
RULE, RESOURCES = "pod-security", "resources"
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
LIFECYCLE = ("postStart", "preStop")


def pod_security(group: ManifestSet) -> Iterator[Finding]:
    """What the profile `restricted` forbids, and a root file system that can be written."""
    for pod in group.pods:
        yield from _pod(pod)
        for path, container in pod.containers():
            if path[-1] != "model":  # the runtime gives what is missing there
                yield from _container(pod, path, container)


def namespaces_enforce(group: ManifestSet) -> Iterator[Finding]:
    """Each Namespace enforces `restricted`, or says why pods of others need `baseline` there."""
    for item in group.of("Namespace"):
        enforced = item.labels.get(ENFORCE)
        excused = enforced == "baseline" and item.annotations.get(BASELINE_BECAUSE)
        if enforced != "restricted" and not excused:
            message = f"{enforced!r}: restricted (or baseline, with {BASELINE_BECAUSE}: REASON)"
            yield item.finding(("metadata", "labels", ENFORCE), RULE, message)


def _pod(pod: Pod) -> Iterator[Finding]:
    spec = pod.spec
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield pod.owner.finding((*pod.path, name), RULE, "true is forbidden; take it out")
    for index, volume in rows(spec.get("volumes")):
        for kind in sorted(volume.keys() - VOLUMES - {"name"}):
            message = f"a volume of the kind {kind} is forbidden"
            yield pod.owner.finding((*pod.path, "volumes", index, kind), RULE, message)
    context = mapping(spec.get("securityContext"))
    where = (*pod.path, "securityContext")
    yield from _context(pod, where, context)
    for index, row in rows(context.get("sysctls")):
        if row.get("name") not in SYSCTLS:
            message = f"{row.get('name')} is not among the safe ones"
            yield pod.owner.finding((*where, "sysctls", index), RULE, message)


def _context(pod: Pod, where: Path, context: dict[str, Any]) -> Iterator[Finding]:
    """What holds for a pod's context and a container's alike."""
    if context.get("runAsNonRoot") is False:
        yield pod.owner.finding((*where, "runAsNonRoot"), RULE, "false is forbidden: true")
    if context.get("runAsUser") == 0:
        yield pod.owner.finding((*where, "runAsUser"), RULE, "0 is root; take another")
    profile = mapping(context.get("seccompProfile"))
    if profile and profile.get("type") not in SECCOMP:
        message = f"{profile.get('type')!r}: RuntimeDefault"
        yield pod.owner.finding((*where, "seccompProfile", "type"), RULE, message)
    selinux = mapping(context.get("seLinuxOptions"))
    if selinux.get("type", "") not in SELINUX or selinux.get("user") or selinux.get("role"):
        message = "a user, a role or that type is forbidden; take it out"
        yield pod.owner.finding((*where, "seLinuxOptions"), RULE, message)
    if mapping(context.get("windowsOptions")).get("hostProcess"):
        yield pod.owner.finding((*where, "windowsOptions"), RULE, "hostProcess is forbidden")
    if mapping(context.get("appArmorProfile")).get("type", "RuntimeDefault") not in SECCOMP:
        yield pod.owner.finding((*where, "appArmorProfile"), RULE, "RuntimeDefault")


def _container(pod: Pod, path: Path, container: dict[str, Any]) -> Iterator[Finding]:
    own = mapping(container.get("securityContext"))
    where = (*path, "securityContext")
    yield from _context(pod, where, own)
    yield from _missing(pod, where, own)
    if own.get("privileged"):
        yield pod.owner.finding((*where, "privileged"), RULE, "true is forbidden; take it out")
    if own.get("procMount", "Default") != "Default":
        yield pod.owner.finding((*where, "procMount"), RULE, f"{own['procMount']!r}: Default")
    for name in items(mapping(own.get("capabilities")).get("add")):
        if name != "NET_BIND_SERVICE":
            message = f"{name} is forbidden; take it out"
            yield pod.owner.finding((*where, "capabilities", "add"), RULE, message)
    for index, port in rows(container.get("ports")):
        if port.get("hostPort"):
            message = f"{port['hostPort']} is forbidden; a Service leads to the pod"
            yield pod.owner.finding((*path, "ports", index, "hostPort"), RULE, message)
    yield from _hosts(pod, path, container)


def _missing(pod: Pod, where: Path, own: dict[str, Any]) -> Iterator[Finding]:
    """What each container must say, or its pod for it."""
    outer = mapping(pod.spec.get("securityContext"))
    if own.get("runAsNonRoot", outer.get("runAsNonRoot")) is None:
        yield pod.owner.finding((*where, "runAsNonRoot"), RULE, "missing: true, here or on the pod")
    if not (mapping(own.get("seccompProfile")) or mapping(outer.get("seccompProfile"))):
        message = "missing: {type: RuntimeDefault}, here or on the pod"
        yield pod.owner.finding((*where, "seccompProfile"), RULE, message)
    if own.get("allowPrivilegeEscalation") is not False:
        message = f"{own.get('allowPrivilegeEscalation')!r}: false"
        yield pod.owner.finding((*where, "allowPrivilegeEscalation"), RULE, message)
    if own.get("readOnlyRootFilesystem") is not True:
        message = f"{own.get('readOnlyRootFilesystem')!r}: true, with an emptyDir where it writes"
        yield pod.owner.finding((*where, "readOnlyRootFilesystem"), RULE, message)
    dropped = mapping(own.get("capabilities")).get("drop")
    if "ALL" not in items(dropped):
        yield pod.owner.finding((*where, "capabilities", "drop"), RULE, f'{dropped!r}: ["ALL"]')


def _hosts(pod: Pod, path: Path, container: dict[str, Any]) -> Iterator[Finding]:
    """Probes and hooks that name a host: forbidden since Kubernetes 1.34."""
    hooks = [(name, mapping(container.get(name))) for name in PROBES]
    hooks += [(name, mapping(mapping(container.get("lifecycle")).get(name))) for name in LIFECYCLE]
    for name, hook in hooks:
        for kind in ("httpGet", "tcpSocket"):
            if text(mapping(hook.get(kind)).get("host")):
                message = "is forbidden; the kubelet asks the pod"
                yield pod.owner.finding((*path, name, kind, "host"), RULE, message)


def resources(group: ManifestSet) -> Iterator[Finding]:
    """Each container says what it needs, and how much memory it may take."""
    for pod in group.pods:
        for path, container in pod.containers():
            given = mapping(container.get("resources"))
            requests, limits = mapping(given.get("requests")), mapping(given.get("limits"))
            for name in ("cpu", "memory"):
                if name not in requests:
                    message = "missing: the scheduler must know, and quotas demand it"
                    where = (*path, "resources", "requests", name)
                    yield pod.owner.finding(where, RESOURCES, message)
            if "memory" not in limits:
                message = "missing: one container must not take the node's memory"
                where = (*path, "resources", "limits", "memory")
                yield pod.owner.finding(where, RESOURCES, message)
            yield from _amounts(pod, (*path, "resources"), requests, limits)


def _amounts(
    pod: Pod, path: Path, requests: dict[str, Any], limits: dict[str, Any]
) -> Iterator[Finding]:
    for part, given in (("requests", requests), ("limits", limits)):
        for name, value in given.items():
            if quantity(value) is None:
                message = f"{value!r} is no quantity, e.g. 500m or 2Gi"
                yield pod.owner.finding((*path, part, name), RESOURCES, message)
    for name, value in requests.items():
        asked, most = quantity(value), quantity(limits.get(name))
        if asked is not None and most is not None and asked > most:
            message = f"{value} is above the limit {limits[name]}"
            yield pod.owner.finding((*path, "requests", name), RESOURCES, message)
        extended = "/" in name
        if extended and limits.get(name) != value:
            message = f"{value}: limits.{name} must be the same"
            yield pod.owner.finding((*path, "requests", name), RESOURCES, message)
