"""A stand-in of the Kubernetes API with KServe's controller behind it.

It keeps InferenceServices as server-side apply leaves them, and moves the status of each one step
further at each look, as the controllers of both deployment modes do: Standard rolls pods over one
by one behind an address that always answers, Knative makes revisions and splits traffic.
"""

import copy
from typing import Any

from .kubernetes_api import KubernetesApi, failure

PREFIX = ["apis", "serving.kserve.io", "v1beta1", "namespaces"]
LOOKS = 2  # until a change is ready


class KServeApi(KubernetesApi):
    """The server.

    Attributes:
        services: name -> object, with the status that the next look will show.
        never_ready: versions that never become ready.
        answering: name -> the version that answers there now.
    """

    def __init__(self) -> None:
        super().__init__([])
        self.services: dict[str, dict[str, Any]] = {}
        self.never_ready: set[str] = set()
        self.answering: dict[str, str] = {}
        self.traffic: list[tuple[str, int | None]] = []
        self.admits = ""

    def served(self, base: str, model: str) -> str:
        """What `served_version` would hear at an address."""
        assert model == "plates"
        host = base.removeprefix("http://").split(".")[0]
        return self.answering.get(host.removesuffix("-predictor"), "")

    def answer(self, method: str, path: str, query: Any, body: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts[:4] != PREFIX or parts[5] != "inferenceservices":
            return 404, failure(404, "the server could not find the requested resource")
        assert parts[4] == "plates", "the namespace of the context"
        name = parts[6]
        if method == "PATCH":
            return self._apply(name, query, body)
        if name not in self.services:
            return 404, failure(404, f'inferenceservices "{name}" not found')
        if method == "DELETE":
            del self.services[name]
            self.answering.pop(name, None)
            return 200, {"kind": "Status", "status": "Success"}
        found = copy.deepcopy(self.services[name])
        self._step(name)
        return 200, found

    def _apply(self, name: str, query: Any, body: Any) -> tuple[int, Any]:
        wanted = {"fieldManager": ["platecrypt"], "fieldValidation": ["Strict"], "force": ["true"]}
        if query != wanted:
            return 400, failure(400, f"not a strict apply: {query}")
        if self.admits:
            return 400, failure(400, self.admits)
        assert "status" not in body
        assert set(body["metadata"]) <= {"name", "namespace", "labels", "annotations"}
        before = self.services.get(name, {})
        number = before.get("metadata", {}).get("generation", 0) + 1
        body["metadata"].update(generation=number, resourceVersion=str(number), uid="u")
        self.services[name] = {**body, "status": before.get("status", {}), "looks": 0}
        if name == "plates":
            self.traffic.append((version_of(body), percent_of(body)))
        return 200, body

    def _step(self, name: str) -> None:
        """What the controllers do between two looks."""
        service = self.services[name]
        service["looks"] += 1
        version, percent = version_of(service), percent_of(service)
        knative = mode_of(service) == "Knative"
        ready = service["looks"] >= LOOKS and version not in self.never_ready
        generation = service["metadata"]["generation"]
        created = f"{name}-predictor-{generation:05d}"
        before = service["status"].get("components", {}).get("predictor", {})
        first = not before
        part: dict[str, Any] = {**before, "latestCreatedRevision": created}
        if knative and ready:
            part["latestReadyRevision"] = created
        if ready and (percent is None or percent == 100 or first):
            self.answering[name] = version
        standard_address = f"http://{name}-predictor.plates.svc.cluster.local"
        address = f"http://{name}.plates.svc.cluster.local" if knative else standard_address
        # With Standard the old pods keep the service ready while new ones start.
        good = ready or (not knative and not first)
        service["status"] = {
            "conditions": [
                {"type": "PredictorReady", "status": "True" if good else "False",
                 **({} if good else {"reason": "MinimumReplicasUnavailable"})},
                {"type": "Ready", "status": "True" if good else "False"},
            ],
            "components": {"predictor": part if ready or before else {}},
            **({"address": {"url": address}, "url": f"http://{name}.example"} if good else {}),
        }  # fmt: skip


def version_of(document: dict[str, Any]) -> str:
    return variable(document, "MODEL_VERSION")


def variable(document: dict[str, Any], name: str) -> str:
    container = document["spec"]["predictor"]["containers"][0]
    return next(row["value"] for row in container["env"] if row["name"] == name)


def percent_of(document: dict[str, Any]) -> int | None:
    found: int | None = document["spec"]["predictor"].get("canaryTrafficPercent")
    return found


def mode_of(document: dict[str, Any]) -> str:
    return str(document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"])
