"""An InferenceService of `kserve/` as a typed object.

It reads what an engine needs to know of the containers and checks what KServe would only notice
in the cluster. Everything else of the document is kept as it is, for the engine that applies it.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from platecrypt.errors import BadInputError

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
PREDICTOR = "kserve-container"
TRANSFORMER = "transformer-container"
MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
MODES = ("Standard", "Knative")
SINGLE_MODULE = "platecrypt.serving.single"  # what a pod with one container must run
Topology = Literal["collocated", "split", "single"]
REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.\-][A-Za-z0-9_.\-]*)\)")


@dataclass(frozen=True)
class Variable:
    """An environment variable: its value, or where the cluster would take it from."""

    name: str
    value: str
    source: str = ""


@dataclass(frozen=True)
class Mount:
    """A folder of a container: where it is mounted, and what kind of volume lies there.

    Attributes:
        path: inside the container.
        kind: the volume's field in the pod, e.g. "secret" or "emptyDir".
    """

    path: str
    kind: str


@dataclass(frozen=True)
class Probe:
    """An HTTP probe: path and port inside the container."""

    path: str
    port: int


@dataclass(frozen=True)
class Container:
    """One container of the service.

    Attributes:
        name: `kserve-container` or `transformer-container`.
        command, args: as written; `$(NAME)` is not expanded yet.
        environment: in the order in which it is written.
        ports: name -> port inside the container.
        mounts: its volumes.
        readiness: the probe that says that it can serve; with Knative only one container has it.
    """

    name: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: tuple[Variable, ...]
    ports: Mapping[str, int]
    mounts: tuple[Mount, ...]
    readiness: Probe | None

    def resolved_environment(self) -> dict[str, str]:
        """The environment with `$(NAME)` expanded as Kubernetes does it.

        Raises:
            BadInputError: a variable comes from somewhere only a cluster has.
        """
        values: dict[str, str] = {}
        for variable in self.environment:
            if variable.source:
                raise BadInputError(
                    f"{self.name}: {variable.name} comes from {variable.source}, which only a "
                    "cluster has; give it a value to run on this machine"
                )
            values[variable.name] = expand(variable.value, values)
        return values

    def with_values(self, values: Mapping[str, str]) -> "Container":
        """A copy in which the variables that it has are set to other values."""
        changed = tuple(
            Variable(variable.name, values[variable.name]) if variable.name in values else variable
            for variable in self.environment
        )
        return replace(self, environment=changed)

    def argv(self) -> list[str]:
        """Command and arguments with `$(NAME)` expanded."""
        environment = self.resolved_environment()
        return [expand(word, environment) for word in (*self.command, *self.args)]


class InferenceService:
    """A validated InferenceService document.

    Attributes:
        name: of the service, and of the model.
        topology: "collocated" (both containers in one pod), "split" (a pod each), or "single" (one
            container that does both).
        predictor: the container that finds plates.
        transformer: the container that users call; with "single" the same one.
    """

    topology: Topology

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read a document.

        Raises:
            BadInputError: it is no InferenceService of a kind that we serve.
        """
        self.document: dict[str, Any] = copy.deepcopy(dict(document))
        try:
            self._read()
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise BadInputError(f"no {KIND} that we can read: {error!r}") from None

    @classmethod
    def load(cls, path: Path) -> "InferenceService":
        """Read a YAML file.

        Raises:
            BadInputError: the file is missing or no such document; the message names it.
        """
        from platecrypt import strict_yaml

        try:
            document = strict_yaml.document(path.read_bytes(), path)
        except OSError as error:
            raise BadInputError(f"{path}: {error.strerror}") from None
        if not isinstance(document, dict):
            raise BadInputError(f"{path} holds no {KIND}")
        try:
            return cls(document)
        except BadInputError as error:
            raise BadInputError(f"{path}: {error}") from None

    def with_model(self, *, version: str, storage_uri: str | None = None) -> "InferenceService":
        """A copy that serves another version of the model, from `storage_uri` where given."""
        changed = InferenceService(self.document)
        values = {"MODEL_VERSION": version}
        if storage_uri is not None:
            values["STORAGE_URI"] = storage_uri
        pods = [pod for pod in changed.document["spec"].values() if "containers" in pod]
        for container in (container for pod in pods for container in pod["containers"]):
            for variable in container.get("env", []):
                if variable["name"] in values:
                    variable["value"] = values[variable["name"]]
        return InferenceService(changed.document)

    def to_yaml(self) -> str:
        """The document as YAML."""
        import yaml

        return str(yaml.safe_dump(self.document, sort_keys=False))

    def _read(self) -> None:
        document = self.document
        found = (document.get("apiVersion"), document.get("kind"))
        if found != (API_VERSION, KIND):
            raise BadInputError(f"it is a {found[0]} {found[1]}, not a {API_VERSION} {KIND}")
        self.name = str(document["metadata"]["name"])
        mode = document["metadata"].get("annotations", {}).get(MODE_ANNOTATION)
        if mode not in MODES:
            raise BadInputError(
                f"annotation {MODE_ANNOTATION} is {mode!r}; set it to one of {', '.join(MODES)}: "
                "it cannot be changed later"
            )
        knative = mode == "Knative"
        containers = _containers(document["spec"]["predictor"], knative=knative)
        names = [container.name for container in containers]
        if "transformer" in document["spec"]:
            asking = _containers(document["spec"]["transformer"], knative=knative)
            if names != [PREDICTOR] or [container.name for container in asking] != [PREDICTOR]:
                raise BadInputError(
                    f"predictor and transformer in pods of their own have one container each, "
                    f"{PREDICTOR}"
                )
            self.topology, self.predictor, self.transformer = "split", containers[0], asking[0]
        elif names == [PREDICTOR] and SINGLE_MODULE in containers[0].command:
            self.topology = "single"
            self.predictor = self.transformer = containers[0]
        elif sorted(names) == [PREDICTOR, TRANSFORMER]:
            self.topology = "collocated"
            by_name = {container.name: container for container in containers}
            self.predictor, self.transformer = by_name[PREDICTOR], by_name[TRANSFORMER]
        else:
            raise BadInputError(
                f"its containers are {', '.join(names) or 'none'}; expected {PREDICTOR} and "
                f"{TRANSFORMER}, or one that runs {SINGLE_MODULE}"
            )


def _containers(pod: Mapping[str, Any], *, knative: bool) -> list[Container]:
    volumes = {volume["name"]: _kind(volume) for volume in pod.get("volumes", [])}
    return [_container(raw, volumes, knative=knative) for raw in pod.get("containers", [])]


def expand(text: str, values: Mapping[str, str]) -> str:
    """Expand `$(NAME)`; `$$` is a dollar, an unknown name stays, as in Kubernetes."""

    def one(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return values.get(match.group(1), match.group(0))

    return REFERENCE.sub(one, text)


def _container(raw: Mapping[str, Any], volumes: Mapping[str, str], *, knative: bool) -> Container:
    name = str(raw["name"])
    if not raw.get("command"):
        raise BadInputError(f"container {name} names no command")
    ports = {str(port["name"]): int(port["containerPort"]) for port in raw.get("ports", [])}
    mounts = []
    for mount in raw.get("volumeMounts", []):
        if mount["name"] not in volumes:
            raise BadInputError(f"container {name} mounts {mount['name']}, which is no volume")
        mounts.append(Mount(str(mount["mountPath"]), volumes[mount["name"]]))
    probe = raw.get("readinessProbe", {}).get("httpGet")
    # Knative lets one container of a pod have ports; the others have no probes.
    if (ports or not knative) and (not probe or int(probe["port"]) not in ports.values()):
        raise BadInputError(f"container {name} has no HTTP readiness probe on one of its ports")
    return Container(
        name=name,
        command=tuple(map(str, raw["command"])),
        args=tuple(map(str, raw.get("args", []))),
        environment=tuple(_variable(entry) for entry in raw.get("env", [])),
        ports=ports,
        mounts=tuple(mounts),
        readiness=Probe(str(probe["path"]), int(probe["port"])) if probe else None,
    )


def _variable(raw: Mapping[str, Any]) -> Variable:
    source = next(iter(raw.get("valueFrom", {})), "")
    return Variable(str(raw["name"]), str(raw.get("value", "")), source)


def _kind(volume: Mapping[str, Any]) -> str:
    return next(field for field in volume if field != "name")
