"""What is not in a set and yet exists, because somebody says so.

The annotation `platecrypt.dev/external` lists it on the object that refers to it, or on the
Namespace (or Profile) for every object there: `Secret/plates-keys, Service/kubeflow/ml-pipeline,
Pod/app=gateway, Pod/pipelines.kubeflow.org/v2_component, Port/8012`. As a part of the object it
comes and goes with the component that needs it.
"""

import re
from collections.abc import Iterator, Mapping

from platecrypt.manifests.model import Finding, ManifestSet, Object

ANNOTATION = "platecrypt.dev/external"
ENTRY = re.compile(r"(?P<kind>[A-Z]\w+)/(?:(?P<namespace>[a-z0-9.-]+)/)?(?P<name>[^/\s,]+)")
PODS = re.compile(r"Pod/(?P<key>[^=\s,]+)(?:=(?P<value>[^=\s,]+))?")
PORT = "Port"
CLUSTER = ("Namespace", "ClusterRole", "ClusterSecretStore", "StorageClass", "PriorityClass")


def is_external(group: ManifestSet, item: Object, kind: str, namespace: str, name: str) -> bool:
    """Whether that object is declared, by the one that refers to it or by its namespace."""
    for holder, entry in _entries(group, item):
        found = ENTRY.fullmatch(entry)
        if found is None or found["kind"] != kind or found["name"] != name:
            continue
        where = "" if kind in CLUSTER else found["namespace"] or item.namespace
        if where == namespace:
            group.needed.add((holder.title, entry))
            return True
    return False


def has_external_pods(group: ManifestSet, item: Object, labels: Mapping[str, str]) -> bool:
    """Whether pods of somebody else with one of those labels are declared.

    `Pod/KEY` and `Pod/KEY=*` stand for a selector that takes any value of it.
    """
    for holder, entry in _entries(group, item):
        found = PODS.fullmatch(entry)
        wanted = (found["value"] or "").removesuffix("*") if found else ""
        if found and labels.get(found["key"]) == wanted:
            group.needed.add((holder.title, entry))
            return True
    return False


def declarations(group: ManifestSet) -> Iterator[Finding]:
    """Declarations that are wrong, or that nothing needs: to be asked after all the other rules."""
    for item in group.objects:
        for entry in _split(item):
            if not (ENTRY.fullmatch(entry) or PODS.fullmatch(entry)):
                message = f"{entry!r}: Kind/name, Kind/namespace/name or Pod/KEY=VALUE"
                yield item.finding(("metadata", "annotations", ANNOTATION), "external", message)
            elif (item.title, entry) not in group.needed:
                message = f"{entry}: nothing needs this declaration; take it out"
                yield item.finding(("metadata", "annotations", ANNOTATION), "external", message)


def _entries(group: ManifestSet, item: Object) -> Iterator[tuple[Object, str]]:
    holders = [item]
    for kind in ("Namespace", "Profile"):
        found = group.find(kind, "", item.namespace)
        if found and found is not item:
            holders.append(found)
    return ((holder, entry) for holder in holders for entry in _split(holder))


def _split(item: Object) -> list[str]:
    parts = item.annotations.get(ANNOTATION, "").split(",")
    return [part.strip() for part in parts if part.strip()]
