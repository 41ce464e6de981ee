"""Runs every rule over every set, and says each thing once."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from platecrypt.manifests import names, ports, references, security, server
from platecrypt.manifests.external import declarations
from platecrypt.manifests.images import images, images_built
from platecrypt.manifests.model import Finding, ManifestSet
from platecrypt.manifests.schemas import Schemas
from platecrypt.manifests.webhooks import webhooks

RULES = (
    names.names,
    names.duplicates,
    names.namespaces,
    names.placeholders,
    names.port_names,
    names.pod_names,
    security.pod_security,
    security.namespaces_enforce,
    security.resources,
    server.api_server,
    references.references,
    references.addresses,
    references.roles,
    references.others,
    ports.services,
    ports.selectors,
    ports.monitors,
    ports.probes,
    ports.policies,
)


@dataclass(frozen=True)
class Report:
    """What came of a check.

    Attributes:
        sets: that were checked.
        findings: each once, in the order of the files.
        unchecked: kinds that no schema was given for.
        seconds: of the rules, without building.
    """

    sets: tuple[ManifestSet, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]
    seconds: float


def check(sets: Sequence[ManifestSet], schemas: Schemas, root: Path) -> Report:
    """Every finding in those sets.

    Args:
        sets: each what is applied together.
        schemas: of Kubernetes, and of custom resources.
        root: the checkout: its Dockerfiles are the images that we build.
    """
    began = time.perf_counter()
    built = images_built(root)
    where: dict[Finding, list[str]] = {}
    for group in sets:
        # One thing is told once; a field that the schema refuses, by the schema.
        seen: set[tuple[str, str, str]] = set()
        for finding in _findings(group, schemas, built):
            key = (finding.file + finding.object, finding.field, finding.message)
            if key not in seen:
                seen.add(key)
                where.setdefault(finding, []).append(group.name)
    findings = sorted(replace(finding, sets=tuple(names)) for finding, names in where.items())
    seconds = time.perf_counter() - began
    return Report(tuple(sets), tuple(findings), tuple(sorted(schemas.unchecked)), seconds)


def _findings(group: ManifestSet, schemas: Schemas, built: frozenset[str]) -> Iterator[Finding]:
    for item in group.objects:
        yield from schemas.problems(item)
    yield from webhooks(group, schemas)
    yield from images(group, built)
    for rule in RULES:
        yield from rule(group)
    yield from declarations(group)
