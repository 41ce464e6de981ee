"""What is checked and what is found: objects, the set that is applied together, findings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from platecrypt.tuning.fields import items, mapping, rows, text

# Kinds of Kubernetes itself that live in no namespace; those of custom resources say it themselves.
CLUSTER_KINDS = frozenset(
    {
        "APIService",
        "ClusterRole",
        "ClusterRoleBinding",
        "CSIDriver",
        "CustomResourceDefinition",
        "FlowSchema",
        "IngressClass",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "PriorityLevelConfiguration",
        "RuntimeClass",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
        "VolumeAttachment",
        # Custom resources that our manifests use.
        "ClusterExternalSecret",
        "ClusterIssuer",
        "ClusterSecretStore",
        "ClusterServingRuntime",
        "ClusterStorageContainer",
        "ClusterTrainingRuntime",
        "GatewayClass",
        "Profile",
    }
)
Path = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        file: where the object is written, relative to the working directory where it can be.
        object: "Kind namespace/name".
        field: path in the object, e.g. `spec.template.spec.containers[0].image`.
        rule: short name of the rule, e.g. "schema".
        message: what is wrong, with the value, and what to write instead.
        sets: the overlays (or folders) in which it is so.
    """

    file: str
    object: str
    field: str
    rule: str
    message: str
    sets: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for a person."""
        where = ", ".join(name for name in self.sets if name != self.file)
        place = f"{self.file}: {self.object}" + (f": {self.field}" if self.field else "")
        return f"{place}: {self.message} [{self.rule}]" + (f" (in {where})" if where else "")


@dataclass(frozen=True, eq=False)
class Object:
    """One Kubernetes object.

    Attributes:
        document: as it is applied.
        file: where it is written.
    """

    document: dict[str, Any]
    file: str

    @property
    def kind(self) -> str:
        """E.g. "Deployment"."""
        return text(self.document.get("kind"))

    @property
    def api_version(self) -> str:
        """E.g. "apps/v1"."""
        return text(self.document.get("apiVersion"))

    @property
    def group(self) -> str:
        """E.g. "apps"; "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata, {} where it has none."""
        return mapping(self.document.get("metadata"))

    @property
    def name(self) -> str:
        """Its name, "" where it has none."""
        return text(self.metadata.get("name"))

    @property
    def namespace(self) -> str:
        """Its namespace, "" where it names none or lives in none."""
        return text(self.metadata.get("namespace"))

    @property
    def labels(self) -> dict[str, str]:
        """Its own labels."""
        return strings(self.metadata.get("labels"))

    @property
    def annotations(self) -> dict[str, str]:
        """Its own annotations."""
        return strings(self.metadata.get("annotations"))

    @property
    def spec(self) -> dict[str, Any]:
        """Its spec, {} where it has none."""
        return mapping(self.document.get("spec"))

    @property
    def namespaced(self) -> bool:
        """Whether objects of its kind live in a namespace."""
        return self.kind not in CLUSTER_KINDS

    @property
    def title(self) -> str:
        """Kind, namespace and name for a message."""
        name = self.name or "(no name)"
        return f"{self.kind} {self.namespace}/{name}" if self.namespace else f"{self.kind} {name}"

    def finding(self, path: Path | str, rule: str, message: str) -> Finding:
        """A finding about this object."""
        return Finding(
            self.file, self.title, path if isinstance(path, str) else dotted(path), rule, message
        )


@dataclass(frozen=True, eq=False)
class Pod:
    """A pod that an object describes.

    Attributes:
        owner: the object.
        path: of the pod's spec in it.
        spec: the pod's spec.
        labels: that its pods will have.
    """

    owner: Object
    path: Path
    spec: dict[str, Any]
    labels: Mapping[str, str]

    @property
    def namespace(self) -> str:
        """Where it will run."""
        return self.owner.namespace

    def containers(self, *fields: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Path and document of its containers: of those lists, or of all."""
        for name in fields or ("initContainers", "containers", "ephemeralContainers"):
            for index, container in rows(self.spec.get(name)):
                yield (*self.path, name, index), container
        # KServe's predictor.model is a container whose image the serving runtime gives.
        if not fields and isinstance(self.spec.get("model"), dict):
            yield (*self.path, "model"), self.spec["model"]

    def ports(self) -> dict[str | int, int]:
        """Port by name and by number, of all containers."""
        found: dict[str | int, int] = {}
        for _, container in self.containers():
            for _, port in rows(container.get("ports")):
                number = port.get("containerPort")
                if isinstance(number, int):
                    found[number] = number
                    if text(port.get("name")):
                        found[port["name"]] = number
        return found


@dataclass(eq=False)
class ManifestSet:
    """The objects that are applied together.

    Attributes:
        name: of the overlay or folder, for messages.
        objects: in the order of the source.
        seconds: that building it took.
    """

    name: str
    objects: list[Object]
    seconds: float = 0.0
    needed: set[tuple[str, str]] = field(default_factory=set)

    @cached_property
    def by_kind(self) -> dict[str, list[Object]]:
        """The objects of each kind."""
        found: dict[str, list[Object]] = {}
        for item in self.objects:
            found.setdefault(item.kind, []).append(item)
        return found

    def of(self, *kinds: str) -> Iterator[Object]:
        """The objects of those kinds."""
        return (item for kind in kinds for item in self.by_kind.get(kind, ()))

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object of that name, or None."""
        return self._index.get((kind, namespace, name))

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Object]:
        return {(item.kind, item.namespace, item.name): item for item in self.objects}

    @cached_property
    def pods(self) -> list[Pod]:
        """Every pod that an object describes, whatever the kind of the object."""
        return [pod for item in self.objects for pod in pods_of(item)]

    def pods_with(self, namespace: str, matches: Callable[[Mapping[str, str]], bool]) -> list[Pod]:
        """The pods of a namespace whose labels match."""
        return [pod for pod in self.pods if pod.namespace == namespace and matches(pod.labels)]


def pods_of(item: Object) -> Iterator[Pod]:
    """The pods that an object describes: wherever a list of containers stands."""
    for path, value in walk(item.document):
        if isinstance(value, dict) and _is_pod(item, path, value):
            yield Pod(item, path, value, _labels(item, path))


def _is_pod(item: Object, path: Path, value: dict[str, Any]) -> bool:
    listed = items(value.get("containers"))
    if listed and all(isinstance(row, dict) and "name" in row for row in listed):
        return True
    return (
        item.kind == "InferenceService" and len(path) == 2 and isinstance(value.get("model"), dict)
    )


def _labels(item: Object, path: Path) -> dict[str, str]:
    """The labels of the pods: those of the template, and those that a controller adds."""
    if item.kind == "Pod":
        return item.labels
    template = mapping(at(item.document, path[:-1]))
    found = strings(mapping(template.get("metadata")).get("labels"))
    if item.kind == "InferenceService" and len(path) == 2:
        part = str(path[1])
        own = strings(mapping(at(item.document, path)).get("labels"))
        # From KServe's reconcilers of raw deployments and of Knative services.
        return {
            **item.labels,
            **own,
            "serving.kserve.io/inferenceservice": item.name,
            "component": part,
            "app": f"isvc.{item.name}-{part}",
        }
    if item.kind == "Experiment":
        found["katib.kubeflow.org/experiment"] = item.name
    if item.kind == "Job" or (item.kind == "CronJob" and not found):
        found.setdefault("job-name", item.name)
        found.setdefault("batch.kubernetes.io/job-name", item.name)
    return found


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value of a document with its path, outside in."""
    yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from walk(inner, (*path, str(name)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, index))


def at(document: Any, path: Path) -> Any:
    """The value at a path, None where there is none."""
    for part in path:
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        else:
            return None
    return document


def dotted(path: Path) -> str:
    """A path as people write it; a key with dots stands in brackets."""
    made = ""
    for part in path:
        if isinstance(part, int) or "." in part or "/" in part:
            made += f"[{part}]"
        else:
            made += f".{part}" if made else part
    return made


def strings(value: object) -> dict[str, str]:
    """The entries of a mapping whose values are text."""
    return {str(name): inner for name, inner in mapping(value).items() if isinstance(inner, str)}
