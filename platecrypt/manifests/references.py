"""Names that one object says of another: each is in the set, or declared external."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from platecrypt.manifests.external import is_external
from platecrypt.manifests.model import Finding, ManifestSet, Object, Path, at, walk
from platecrypt.tuning.fields import mapping, rows, text

RULE = "reference"
CLUSTER_ADDRESS = re.compile(
    r"(?<![\w.-])(?:[a-z0-9-]+\.)*?(?P<name>[a-z0-9][a-z0-9-]*)\.(?P<namespace>[a-z0-9][a-z0-9-]*)"
    r"\.svc(?:\.cluster\.local)?(?![\w-])(?::(?P<port>\d+))?"
)
# The short form, in URLs and in front of a port; its namespace must be of the set.
SHORT_ADDRESS = re.compile(
    r"(?<![\w.-])(?P<name>[a-z0-9][a-z0-9-]*)\.(?P<namespace>[a-z0-9][a-z0-9-]*)"
    r"(?![\w.-])(?::(?P<port>\d+))?"
)
ACCOUNT_PRINCIPAL = re.compile(r"[\w.-]+/ns/(?P<namespace>[\w.-]+)/sa/(?P<name>[\w.-]+)")
BUILTIN_CLUSTER_ROLES = ("admin", "edit", "view", "cluster-admin")
BUILTIN_CONFIG_MAPS = ("kube-root-ca.crt",)
PROFILE_ACCOUNTS = ("default-editor", "default-viewer")
# What KServe makes of an InferenceService in its namespace, per part.
SERVICE_PARTS = ("", "-predictor", "-transformer")


@dataclass(frozen=True)
class Reference:
    """One object names another one, and perhaps a key in it."""

    kind: str
    name: str
    path: Path
    key: str = ""


def references(group: ManifestSet) -> Iterator[Finding]:
    """Secrets, ConfigMaps, accounts and claims that do not exist, or lack a key."""
    for item in group.objects:
        if item.kind in ("CustomResourceDefinition", "Profile"):
            continue
        for found in _named(item):
            there = exists(group, item, found.kind, item.namespace, found.name)
            if not there:
                yield item.finding(found.path, RULE, _absent(found.kind, found.name, item))
            elif found.key:
                keys = _keys(group, found.kind, item.namespace, found.name)
                if keys is not None and found.key not in keys:
                    known = ", ".join(sorted(keys)) or "none"
                    message = f"{found.kind} {found.name} has no key {found.key!r}; it has {known}"
                    yield item.finding(found.path, RULE, message)


def _absent(kind: str, name: str, item: Object) -> str:
    inside = f" in {item.namespace}" if item.namespace else ""
    return f"no {kind} {name!r}{inside}; add it, or declare it external"


def exists(group: ManifestSet, item: Object, kind: str, namespace: str, name: str) -> bool:
    """Whether an object is in the set, made by one that is, or declared external."""
    return (
        group.find(kind, namespace, name) is not None
        or _made(group, kind, namespace, name)
        or is_external(group, item, kind, namespace, name)
    )


def _made(group: ManifestSet, kind: str, namespace: str, name: str) -> bool:
    """Whether a controller or Kubernetes itself makes it."""
    if kind == "Secret":
        return any(secret == (namespace, name) for secret in _made_secrets(group))
    if kind == "ServiceAccount":
        profile = group.find("Profile", "", namespace)
        return name == "default" or (profile is not None and name in PROFILE_ACCOUNTS)
    if kind == "ConfigMap":
        return name in BUILTIN_CONFIG_MAPS
    if kind in ("Deployment", "Service", "HorizontalPodAutoscaler"):
        return any(
            item.namespace == namespace and name in [item.name + part for part in SERVICE_PARTS]
            for item in group.of("InferenceService")
        ) or any(
            # The Feast operator's objects begin with its own prefix.
            item.namespace == namespace and name.startswith(f"feast-{item.name}")
            for item in group.of("FeatureStore")
        )
    return False


def _made_secrets(group: ManifestSet) -> Iterator[tuple[str, str]]:
    for item in group.of("ExternalSecret"):
        yield item.namespace, text(mapping(item.spec.get("target")).get("name")) or item.name
    for item in group.of("Certificate"):
        yield item.namespace, text(item.spec.get("secretName"))


def _keys(group: ManifestSet, kind: str, namespace: str, name: str) -> set[str] | None:
    """The keys of a Secret or ConfigMap; None where they are unknown."""
    item = group.find(kind, namespace, name)
    if item is not None:
        parts = ("data", "stringData", "binaryData")
        return {key for part in parts for key in mapping(item.document.get(part))}
    for secret in group.of("ExternalSecret"):
        target = mapping(secret.spec.get("target"))
        if secret.namespace == namespace and (text(target.get("name")) or secret.name) == name:
            if secret.spec.get("dataFrom") or target.get("template"):
                return None
            return {text(row.get("secretKey")) for _, row in rows(secret.spec.get("data"))}
    return None


def _named(item: Object) -> Iterator[Reference]:
    """Every Secret, ConfigMap, account and claim that an object names, wherever it stands."""
    for path, value in walk(item.document):
        field = path[-1] if path else ""
        if isinstance(value, dict):
            if not value.get("optional"):
                yield from _in_mapping(item, path, str(field), value)
        elif isinstance(value, str) and value:
            yield from _in_text(item, path, str(field), value)


def _in_mapping(
    item: Object, path: Path, field: str, value: Mapping[str, Any]
) -> Iterator[Reference]:
    kind, name = _kind_of(path, field), text(value.get("name"))
    if field == "secret" and "volumes" in path and text(value.get("secretName")):
        # The name itself is found as text; here are the keys.
        kind, name = "Secret", text(value["secretName"])
    elif kind and name and not text(value.get("namespace")):
        yield Reference(kind, name, (*path, "name"), text(value.get("key")))
    elif len(path) > 1 and name:
        of_account = (item.kind, path[-2]) == ("ServiceAccount", "secrets")
        if path[-2] == "imagePullSecrets" or of_account:
            yield Reference("Secret", name, (*path, "name"))
        return
    if kind and name:
        for index, row in rows(value.get("items")):
            yield Reference(kind, name, (*path, "items", index, "key"), text(row.get("key")))


def _kind_of(path: Path, field: str) -> str:
    """What a mapping with a name stands for, by the field that it stands in; "" for others."""
    if field in ("secretRef", "secretKeyRef") or field.endswith("SecretRef"):
        return "Secret"
    if field in ("configMapRef", "configMapKeyRef"):
        return "ConfigMap"
    if field == "secret" and "projected" in path:
        return "Secret"
    return "ConfigMap" if field == "configMap" and "volumes" in path else ""


def _in_text(item: Object, path: Path, field: str, value: str) -> Iterator[Reference]:
    if field == "secretName" and item.kind != "Certificate" and not _optional(item, path):
        yield Reference("Secret", value, path)
    elif field == "claimName":
        yield Reference("PersistentVolumeClaim", value, path)
    elif field == "serviceAccountName":
        yield Reference("ServiceAccount", value, path)


def _optional(item: Object, path: Path) -> bool:
    return bool(mapping(at(item.document, path[:-1])).get("optional"))


def roles(group: ManifestSet) -> Iterator[Finding]:
    """Bindings of roles that do not exist, or to accounts that do not."""
    for item in group.of("RoleBinding", "ClusterRoleBinding"):
        role = mapping(item.document.get("roleRef"))
        kind, name = text(role.get("kind")), text(role.get("name"))
        namespace = item.namespace if kind == "Role" else ""
        builtin = name in BUILTIN_CLUSTER_ROLES or name.startswith("system:")
        if not builtin and not exists(group, item, kind, namespace, name):
            yield item.finding("roleRef.name", RULE, _absent(kind, name, item))
        for index, subject in rows(item.document.get("subjects")):
            if subject.get("kind") != "ServiceAccount":
                continue
            where = text(subject.get("namespace")) or item.namespace
            account = text(subject.get("name"))
            if not exists(group, item, "ServiceAccount", where, account):
                message = (
                    f"no ServiceAccount {account!r} in {where}; add it, or declare it external"
                )
                yield item.finding(f"subjects[{index}].name", RULE, message)


def addresses(group: ManifestSet) -> Iterator[Finding]:
    """Addresses inside of the cluster (`name.namespace.svc:port`) and accounts, in any text."""
    made = {item.name for item in group.of("Namespace", "Profile")}
    for item in group.objects:
        if item.kind == "CustomResourceDefinition":
            continue
        for path, value in walk(item.document):
            if isinstance(value, str):
                for found in _addresses(value, made):
                    yield from _address(group, item, path, found)
                if "/sa/" in value:
                    yield from _principals(group, item, path, value)


def _addresses(value: str, namespaces: Set[str]) -> Iterator[re.Match[str]]:
    if ".svc" in value:
        yield from CLUSTER_ADDRESS.finditer(value)
    if ":" in value:
        for found in SHORT_ADDRESS.finditer(value):
            in_url = value[: found.start()].endswith(("://", "@"))
            if found["namespace"] in namespaces and (in_url or found["port"]):
                yield found


def _principals(group: ManifestSet, item: Object, path: Path, value: str) -> Iterator[Finding]:
    for found in ACCOUNT_PRINCIPAL.finditer(value):
        namespace, name = found["namespace"], found["name"]
        if not exists(group, item, "ServiceAccount", namespace, name):
            message = f"no ServiceAccount {name!r} in {namespace}; add it, or declare it external"
            yield item.finding(path, RULE, message)


def _address(
    group: ManifestSet, item: Object, path: Path, found: re.Match[str]
) -> Iterator[Finding]:
    name, namespace, port = found["name"], found["namespace"], found["port"]
    service = group.find("Service", namespace, name)
    if service is None:
        if not exists(group, item, "Service", namespace, name):
            message = f"no Service {name!r} in {namespace}; add it, or declare it external"
            yield item.finding(path, RULE, f"{found[0]}: {message}")
        return
    open_ports = [row.get("port") for _, row in rows(service.spec.get("ports"))]
    if port and int(port) not in open_ports:
        known = ", ".join(map(str, open_ports))
        message = f"{found[0]}: Service {name} has no port {port}; it has {known}"
        yield item.finding(path, RULE, message)


def others(group: ManifestSet) -> Iterator[Finding]:
    """What else is named: targets of scaling, Services of routes, stores, runtimes, pipelines."""
    for item in group.objects:
        for target in _targets(item):
            there = exists(group, item, target.kind, target.namespace, target.name)
            if target.name and not there:
                inside = f" in {target.namespace}" if target.namespace else ""
                message = (
                    f"no {target.kind} {target.name!r}{inside}; add it, or declare it external"
                )
                yield item.finding(target.path, RULE, message)
            service = group.find(target.kind, target.namespace, target.name)
            if target.port is not None and service is not None:
                known = [row.get("port") for _, row in rows(service.spec.get("ports"))]
                known += [row.get("name") for _, row in rows(service.spec.get("ports"))]
                if target.port not in known:
                    shown = ", ".join(str(port) for port in known if port)
                    message = f"Service {target.name} has no port {target.port}; it has {shown}"
                    yield item.finding(target.path, RULE, message)


@dataclass(frozen=True)
class _Target:
    """What an object names: its kind, its name, and a port where it is a Service."""

    path: Path
    kind: str
    name: str
    namespace: str
    port: object = None


def _targets(item: Object) -> Iterator[_Target]:
    yield from _scaled(item)
    yield from _routed(item)
    spec, here = item.spec, item.namespace
    store = mapping(spec.get("secretStoreRef"))
    if store:
        kind = text(store.get("kind")) or "SecretStore"
        where = "" if kind == "ClusterSecretStore" else here
        yield _Target(("spec", "secretStoreRef", "name"), kind, text(store.get("name")), where)
    if item.kind == "StatefulSet":
        yield _Target(("spec", "serviceName"), "Service", text(spec.get("serviceName")), here)
    if item.kind == "InferenceService":
        for part in ("predictor", "transformer", "explainer"):
            runtime = text(mapping(mapping(spec.get(part)).get("model")).get("runtime"))
            yield _Target(("spec", part, "model", "runtime"), "ServingRuntime", runtime, here)
    if item.kind == "PipelineVersion" and item.group == "pipelines.kubeflow.org":
        yield _Target(("spec", "pipelineName"), "Pipeline", text(spec.get("pipelineName")), here)
    if item.kind == "Application" and item.group == "argoproj.io":
        project = text(spec.get("project"))
        if project != "default":  # Argo CD brings that one
            yield _Target(("spec", "project"), "AppProject", project, here)


def _scaled(item: Object) -> Iterator[_Target]:
    """What an autoscaler scales, and what it asks with."""
    target = mapping(item.spec.get("scaleTargetRef"))
    if target:
        kind = text(target.get("kind")) or "Deployment"
        name = text(target.get("name"))
        yield _Target(("spec", "scaleTargetRef", "name"), kind, name, item.namespace)
    for index, trigger in rows(item.spec.get("triggers")):
        reference = mapping(trigger.get("authenticationRef"))
        kind = text(reference.get("kind")) or "TriggerAuthentication"
        where = "" if kind.startswith("Cluster") else item.namespace
        place = ("spec", "triggers", index, "authenticationRef", "name")
        yield _Target(place, kind, text(reference.get("name")), where)


def _routed(item: Object) -> Iterator[_Target]:
    """The Services that a route or an Ingress leads to, and the Gateway that it hangs on."""
    if item.kind not in ("HTTPRoute", "Ingress", "VirtualService"):
        return
    for path, value in walk(item.spec, ("spec",)):
        if not isinstance(value, dict) or len(path) < 2:
            continue
        if path[-2] == "parentRefs":
            yield _backend(item, path, value, "Gateway")
        elif path[-2] == "backendRefs":
            yield _backend(item, path, value, "Service")
        elif path[-2:] == ("backend", "service"):
            port = mapping(value.get("port"))
            asked = port.get("number", port.get("name"))
            name = text(value.get("name"))
            yield _Target((*path, "name"), "Service", name, item.namespace, asked)
        elif path[-1] == "destination":
            name, _, rest = text(value.get("host")).partition(".")
            where = rest.partition(".")[0] or item.namespace
            asked = mapping(value.get("port")).get("number")
            yield _Target((*path, "host"), "Service", name, where, asked)


def _backend(item: Object, path: Path, row: Mapping[str, Any], default: str) -> _Target:
    kind = text(row.get("kind")) or default
    where = text(row.get("namespace")) or item.namespace
    port = row.get("port") if default == "Service" else None
    return _Target((*path, "name"), kind, text(row.get("name")), where, port)
