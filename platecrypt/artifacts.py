"""What a pipeline step hands on: files whose bytes, and whose origin, are written beside them.

A step gets its outputs from the pipeline engine as objects with a `path` and a `metadata`
dictionary. `describe` writes the digest of the bytes there, with what they were made from. A
cached artifact is used again only while `is_intact` holds.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from platecrypt.settings import Settings
from platecrypt.storage.objects import ObjectStore

DIGEST = "sha256"
OBJECTS = "objects"


class Artifact(Protocol):
    """The part of a pipeline artifact that the library uses."""

    path: str
    metadata: dict[str, Any]


def describe(
    artifact: Artifact,
    origin: Mapping[str, object],
    *,
    objects: Mapping[str, str] | None = None,
) -> None:
    """Record the digest of an artifact's bytes, and what it came from.

    Args:
        artifact: written already.
        origin: names and digests of its sources.
        objects: key -> SHA-256 of objects in the store that the artifact stands for.
    """
    artifact.metadata.update(origin)
    artifact.metadata[DIGEST] = digest_of(Path(artifact.path))
    if objects:
        # As one string: a nested structure comes back from the engine with its numbers as floats.
        artifact.metadata[OBJECTS] = json.dumps(dict(objects), sort_keys=True)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files of a folder; '' if it is gone."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if path.is_dir():
        total = hashlib.sha256()
        for member in sorted(path.rglob("*")):
            if member.is_file():
                line = f"{member.relative_to(path).as_posix()}\0{digest_of(member)}\n"
                total.update(line.encode())
        return total.hexdigest()
    return ""


def is_intact(path: Path, metadata: Mapping[str, Any], store: ObjectStore) -> bool:
    """Whether an artifact's bytes, and the objects that it stands for, are what was recorded."""
    if metadata.get(DIGEST) != digest_of(path):
        return False
    objects: dict[str, str] = json.loads(metadata.get(OBJECTS, "{}"))
    return all(object_is_intact(store, key, digest) for key, digest in objects.items())


def object_is_intact(store: ObjectStore, key: str, digest: str) -> bool:
    """Whether the object is there with that SHA-256."""
    if store.stat(key) is None:
        return False
    return hashlib.sha256(store.get(key)).hexdigest() == digest


def write_page(
    settings: Settings, artifact: Artifact, name: str, html: str, origin: Mapping[str, object]
) -> None:
    """Write a page that people look at: the artifact, and the newest of its name under home."""
    Path(artifact.path).write_text(html)
    describe(artifact, origin)
    latest = settings.home / "reports" / f"{name}.html"
    latest.parent.mkdir(parents=True, exist_ok=True)
    temporary = latest.with_suffix(".tmp")
    temporary.write_text(html)
    temporary.replace(latest)


def write_metrics(artifact: Artifact, metrics: Mapping[str, float]) -> None:
    """Write figures where the dashboard shows them, and into the artifact's file.

    The dashboard reads the metadata. The file must not be empty: the engine takes an artifact
    without bytes for one that was never made.
    """
    Path(artifact.path).write_text(json.dumps(dict(metrics), indent=1, sort_keys=True))
    artifact.metadata.update(metrics)
    artifact.metadata[DIGEST] = digest_of(Path(artifact.path))
