"""Where manifests come from: overlays that kustomize builds, and plain YAML files."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from platecrypt import strict_yaml
from platecrypt.errors import BadInputError
from platecrypt.manifests.model import ManifestSet, Object
from platecrypt.tuning.fields import items, mapping, text

KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
SUFFIXES = (".yaml", ".yml")
OVERLAYS = "overlays"
ORIGIN = "config.kubernetes.io/origin"
BUILD_TIMEOUT_S = 60.0


def read(
    paths: Sequence[Path], overlays: Sequence[str] = (), *, origins: bool = True
) -> list[ManifestSet]:
    """The sets that those paths stand for, each what is applied together.

    Args:
        paths: a folder with a kustomization (built), a folder with `overlays/` (each of them is
            built), a folder of YAML files, or a YAML file.
        overlays: only these of a folder with `overlays/`; all where none is named.
        origins: each object of an overlay knows its file; kustomize takes four times as long.

    Raises:
        BadInputError: a path is none of these, an overlay is unknown or does not build, a file is
            no YAML of Kubernetes objects.
    """
    sources = [source for path in paths for source in _sources(path, overlays)]
    unused = set(overlays) - {source.name for source in sources}
    if unused:
        raise BadInputError(f"overlay {', '.join(sorted(unused))}: no folder given has {OVERLAYS}/")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # each is a process of its own
        return list(pool.map(partial(_read, origins=origins), sources))


def load_yaml(content: str, source: str) -> list[dict[str, Any]]:
    """The objects of a YAML text, lists of objects taken apart.

    Raises:
        BadInputError: it is no YAML, or holds something that is no object.
    """
    found: list[dict[str, Any]] = []
    for number, document in enumerate(strict_yaml.documents(content, source), 1):
        if document is None:
            continue
        if not isinstance(document, dict) or not text(document.get("kind")):
            raise BadInputError(
                f"{source}: document {number} is no Kubernetes object: it has no kind"
            )
        if document["kind"] == "List":
            found += [row for row in items(document.get("items")) if isinstance(row, dict)]
        else:
            found.append(document)
    return found


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files of a folder, not of those below it."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _sources(path: Path, overlays: Sequence[str]) -> Iterator[Path]:
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        hint = f"; {path.parent} has {', '.join(beside)}" if beside else ""
        raise BadInputError(f"{path} does not exist{hint}")
    below = path / OVERLAYS
    if not below.is_dir():
        yield path
        return
    known = sorted(p.name for p in below.iterdir() if _kustomization(p))
    for name in overlays or known:
        if name not in known:
            raise BadInputError(f"{below} has no overlay {name}; there are {', '.join(known)}")
        yield below / name


def _kustomization(folder: Path) -> Path | None:
    files = (folder / name for name in KUSTOMIZATIONS)
    return next((file for file in files if file.is_file()), None)


def _read(path: Path, *, origins: bool) -> ManifestSet:
    began = time.perf_counter()
    to_build = path.is_dir() and _kustomization(path)
    objects = _built(path, origins=origins) if to_build else list(_plain(path))
    return ManifestSet(str(path), objects, time.perf_counter() - began)


def _plain(path: Path) -> Iterator[Object]:
    files = yaml_files(path) if path.is_dir() else [path]
    if not files:
        raise BadInputError(f"{path} has neither a kustomization.yaml nor YAML files")
    for file in files:
        try:
            content = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"{file}: {error}") from None
        for document in load_yaml(content, str(file)):
            yield Object(document, str(file))


def _built(overlay: Path, *, origins: bool) -> list[Object]:
    """What kustomize makes of an overlay; with `origins` each object knows its file."""
    if not origins:
        documents = load_yaml(_kustomize(overlay, overlay), str(overlay))
        return [Object(document, str(overlay)) for document in documents]
    with tempfile.TemporaryDirectory(prefix="platecrypt-") as folder:
        # A kustomization around the overlay asks for the origin of each object. Kustomize takes
        # relative paths only, counted from where the folder really is.
        outer = Path(folder).resolve()
        relative = os.path.relpath(overlay.resolve(), outer)
        document = {"resources": [relative], "buildMetadata": ["originAnnotations"]}
        (outer / KUSTOMIZATIONS[0]).write_text(yaml.safe_dump(document))
        output = _kustomize(outer, overlay)
        documents = load_yaml(output, str(overlay))
    return [Object(document, _origin(document, overlay, outer)) for document in documents]


def _kustomize(folder: Path, overlay: Path) -> str:
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize", str(folder)]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build", str(folder)]
    else:
        raise BadInputError(
            f"{overlay} is built by kustomize, and neither kubectl (1.28 or newer) nor kustomize "
            "is installed"
        )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BadInputError(f"{overlay}: not built within {BUILD_TIMEOUT_S:g} s") from None
    if done.returncode or done.stderr.strip():  # a warning is a finding too
        said = done.stderr.replace(str(folder), str(overlay)).strip()
        raise BadInputError(f"{overlay} does not build: {' '.join(said.split())}")
    return done.stdout


def _origin(document: dict[str, Any], overlay: Path, outer: Path) -> str:
    """Take the origin out of an object; returns the file, relative to here where it can be."""
    annotations = mapping(mapping(document.get("metadata")).get("annotations"))
    written = annotations.pop(ORIGIN, None)
    if not annotations:
        mapping(document.get("metadata")).pop("annotations", None)
    origin = mapping(yaml.safe_load(written)) if isinstance(written, str) else {}
    path = text(origin.get("path") or origin.get("configuredIn"))
    if not path or "://" in path:
        return str(overlay)
    file = (outer / path).resolve()
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
