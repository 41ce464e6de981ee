"""The cluster engine: hands InferenceServices to KServe and moves the endpoint to a new version.

The InferenceService in the cluster is the definition: what an operator set there (image, resources,
autoscaling) stays, and only version, place and digest of the model change. A new version is tried
in an InferenceService of its own beside the live one. Promoting it changes the live one: where
KServe splits traffic (Knative) by a share first, else by a rolling update. Where that fails the
previous version serves again.
"""

import base64
import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from platecrypt.cluster import PATIENCE_S, AnswerError, Cluster
from platecrypt.deployment.inference_service import (
    API_VERSION,
    KIND,
    MODE_ANNOTATION,
    PREDICTOR,
    InferenceService,
)
from platecrypt.deployment.local import Endpoint
from platecrypt.errors import PlatecryptError, RefusedError, UnavailableError
from platecrypt.settings import Settings
from platecrypt.steps import say

GROUP, VERSION = API_VERSION.split("/")
SERVICES = (GROUP, VERSION, "inferenceservices")
DIGEST = "platecrypt.dev/model-digest"
SUFFIX = "-candidate"
VERSION_VARIABLE = "MODEL_VERSION"
# What of the live object's metadata makes sense on a candidate: settings of KServe, its autoscaler
# and the mesh. Marks of who applied it (Argo CD, kubectl) would get the candidate deleted.
KEPT_ANNOTATIONS = ("serving.kserve.io/", "autoscaling.", "sidecar.istio.io/", "traffic.")
FOREIGN_LABELS = ("app.kubernetes.io/instance", "argocd.argoproj.io/")
CANARY_PERCENT = 10
SHORTEST_POLL_S, LONGEST_POLL_S = 1.0, 10.0
READY_TIMEOUT_S = 900.0  # a node may have to be started, an image pulled, a model fetched
# A rolling update replaces pod after pod: so many answers of the new version in a row are believed.
AGREEING = 5
SIDE = 32  # of the picture without a plate that a version is asked with, pixels
ANSWER_S = 10.0


class KServeDeployer:
    """Runs versions of the model on a cluster that has KServe.

    Args:
        settings: the model's name is the name of the InferenceService.
        namespace: "" takes the one of the kubeconfig's context, or the pod's own.
        kubeconfig: None takes KUBECONFIG or ~/.kube/config, or inside of a pod its account.
        timeout_s: how long a version may take to become ready.
        patience_s: how long an API server that does not answer is asked again.
        poll_s: the shortest and the longest time between two looks, seconds.
        served: tells which version answers at a URL; replaced where no pod runs. By default the
            endpoint is asked, with the token of `settings.endpoint_token_file` if it is set.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        namespace: str = "",
        kubeconfig: Path | None = None,
        timeout_s: float = READY_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        poll_s: tuple[float, float] = (SHORTEST_POLL_S, LONGEST_POLL_S),
        served: Callable[[str, str], str] | None = None,
    ) -> None:
        self._name = settings.model_name
        self._cluster = Cluster(kubeconfig, namespace, patience_s, say)
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        # The token is read at each use: it may change while a version starts.
        self._served = served or (
            lambda base, model: served_version(base, model, token=settings.endpoint_token)
        )

    def live(self) -> Endpoint | None:
        """The version that users call, if it is ready and a pipeline put it there."""
        return self._ready_endpoint(self._name)

    def waiting(self) -> Endpoint | None:
        """The candidate that waits to be promoted or discarded, if it is ready."""
        return self._ready_endpoint(self._name + SUFFIX)

    def candidate(
        self, isvc: InferenceService, location: str, version: str, digest: str
    ) -> Endpoint:
        """Start a version beside the live one and wait until it is ready.

        The same version with the same digest, live and ready, is returned as it is. A candidate
        that an earlier run left is ended.

        Args:
            isvc: the service, where the cluster has none yet.
            location: URI of the folder that holds exactly one `.onnx` file.
            version: of the model.
            digest: SHA-256 of that file, hexadecimal.

        Raises:
            BadInputError: the cluster refuses it.
            RefusedError: the account may not do this.
            UnavailableError: it did not become ready and was deleted again.
        """
        live = self.live()
        if live and (live.version, live.digest) == (version, digest):
            self._delete(self._name + SUFFIX)
            return live
        definition = self._get(self._name) or isvc.document
        document = _candidate_of(definition, self._name)
        try:
            self._apply(_with_model(document, location, version, digest))
            self._wait(self._name + SUFFIX, version)
            endpoint = self._ready_endpoint(self._name + SUFFIX)
            if endpoint is None:
                raise UnavailableError(f"candidate {version} ended as soon as it was ready")
        except BaseException:
            self._delete(self._name + SUFFIX)
            raise
        return endpoint

    def promote(self, endpoint: Endpoint) -> Endpoint:
        """Let users reach a candidate's version instead of the previous one.

        The live service answers all the time. With Knative the new version gets a share of the
        traffic first.

        Raises:
            UnavailableError: the candidate is gone, or its version does not become ready as the
                live one; the previous version serves again.
        """
        if endpoint.live:
            return endpoint
        tried = self._get(self._name + SUFFIX)
        if tried is None or _endpoint(tried, self._name, live=False) != endpoint:
            raise UnavailableError(
                f"candidate {endpoint.version} at {endpoint.url} is gone; deploy it again"
            )
        before = self._get(self._name)
        after = _applied(before) if before else _renamed(tried, self._name)
        after = _with_model(after, _location(tried), endpoint.version, endpoint.digest)
        try:
            if before and _mode(after) == "Knative":
                self._apply(_with_traffic(after, CANARY_PERCENT))
                self._wait(self._name)
            self._apply(_with_traffic(after, None))
            self._wait(self._name, endpoint.version)
            served = self.live()
            if served is None:
                raise UnavailableError(f"{endpoint.version} ended as soon as it was promoted")
        except BaseException as error:
            self._put_back(before, after, error)
            raise
        self._delete(self._name + SUFFIX)
        return served

    def discard(self, endpoint: Endpoint) -> None:
        """Delete a candidate; a live endpoint is left alone."""
        if not endpoint.live:
            self._delete(self._name + SUFFIX)

    def _put_back(
        self, before: dict[str, Any] | None, after: dict[str, Any], cause: BaseException
    ) -> None:
        """Serve what served before the promotion."""
        try:
            if before is None:
                self._delete(self._name)  # nothing served before
                return
            if _mode(after) == "Knative":
                # At once: 0 percent is KServe's word for the revision that served last.
                self._apply(_with_traffic(after, 0))
            self._apply(_applied(before))
        except PlatecryptError as second:
            raise UnavailableError(
                f"{cause}; and the previous version could not be put back: {second}"
            ) from cause

    def _wait(self, name: str, version: str = "") -> None:
        """Wait until a service is ready and, where a version is named, that one answers."""
        began, (pause, longest) = time.monotonic(), self._poll_s
        agreed, seen = 0, "nothing yet"
        while True:
            found = self._get(name)
            if found is None:
                raise UnavailableError(f"{KIND} {name} was deleted while it started")
            ready, seen = _readiness(found)
            if ready and version:
                answering = self._served(_base(found), self._name)
                agreed = agreed + 1 if answering == version else 0
                seen = f"version {answering or '?'} answers, not {version}"
            if ready and (not version or agreed >= AGREEING):
                return
            if time.monotonic() - began + pause > self._timeout_s:
                raise UnavailableError(
                    f"{KIND} {name} was not ready within {self._timeout_s:g} s: {seen}"
                )
            time.sleep(self._poll_s[0] if agreed else pause)
            pause = min(pause * 1.5, longest)

    def _ready_endpoint(self, name: str) -> Endpoint | None:
        found = self._get(name)
        if found is None or not _readiness(found)[0]:
            return None
        return _endpoint(found, self._name, live=name == self._name)

    def _get(self, name: str) -> dict[str, Any] | None:
        try:
            return self._cluster.get(SERVICES, name)
        except AnswerError as answer:
            raise _explained(answer) from None

    def _apply(self, document: dict[str, Any]) -> None:
        document["metadata"]["namespace"] = self._cluster.namespace
        try:
            self._cluster.apply(SERVICES, document)
        except AnswerError as answer:
            raise _explained(answer) from None

    def _delete(self, name: str) -> None:
        try:
            self._cluster.delete(SERVICES, name)
        except AnswerError as answer:
            raise _explained(answer) from None


def served_version(base: str, model: str, *, token: str | None = None) -> str:
    """Which version of the model answers there; "" where none does.

    Args:
        base: URL of the service.
        model: name of the model.
        token: bearer token, where the endpoint wants one.

    Raises:
        RefusedError: the endpoint does not let us in; waiting would not help.
    """
    import httpx
    import numpy as np

    from platecrypt import imaging

    image = base64.b64encode(imaging.encode(np.zeros((SIDE, SIDE, 3), np.uint8), "png")).decode()
    inputs = [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [image]}]
    url = f"{base}/v2/models/{model}/infer"
    try:
        # An address inside of the cluster is not behind a proxy.
        answer = httpx.post(
            url,
            json={"inputs": inputs},
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=ANSWER_S,
            trust_env=False,
        )
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise RefusedError(
                f"{base} does not take the token of endpoint_token_file"
                if token
                else f"{base} wants a bearer token; set endpoint_token_file to a file with one"
            )
        return str(answer.json().get("model_version") or "") if answer.is_success else ""
    except (httpx.HTTPError, ValueError):
        return ""


def _explained(answer: AnswerError) -> PlatecryptError:
    return answer.explained(KIND, "KServe")


def _applied(found: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody said of an object, without what the server says of it."""
    metadata = found["metadata"]
    kept = {name: metadata[name] for name in ("name", "labels", "annotations") if name in metadata}
    spec = copy.deepcopy(found["spec"])
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": copy.deepcopy(kept),
        "spec": spec,
    }


def _renamed(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same under another name; containers that ask its predictor by name ask the new one."""
    document = _applied(found)
    old = document["metadata"]["name"]
    document["metadata"]["name"] = name
    for part in document["spec"].values():
        for container in part.get("containers", []) if isinstance(part, dict) else []:
            container["args"] = [
                word.replace(f"{old}-predictor", f"{name}-predictor")
                for word in container.get("args", [])
            ]
    return document


def _candidate_of(definition: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The service that a version is tried in: one pod a part, and no share of anybody's traffic."""
    document = _renamed(definition, name + SUFFIX)
    metadata = document["metadata"]
    metadata["labels"] = {
        key: value
        for key, value in metadata.get("labels", {}).items()
        if not key.startswith(FOREIGN_LABELS)
    }
    metadata["annotations"] = {
        key: value
        for key, value in metadata.get("annotations", {}).items()
        if key.startswith(KEPT_ANNOTATIONS)
    }
    for part in document["spec"].values():
        if isinstance(part, dict):
            part.update(minReplicas=1, maxReplicas=1)
            part.pop("canaryTrafficPercent", None)
    document["spec"].pop("canary", None)
    return document


def _with_model(
    document: Mapping[str, Any], location: str, version: str, digest: str
) -> dict[str, Any]:
    changed = InferenceService(document).with_model(version=version, storage_uri=location).document
    changed["metadata"].setdefault("annotations", {})[DIGEST] = digest
    return changed


def _with_traffic(document: Mapping[str, Any], percent: int | None) -> dict[str, Any]:
    """A copy whose newest revision gets that share of the traffic; None: all of it."""
    changed = copy.deepcopy(dict(document))
    for part in changed["spec"].values():
        if isinstance(part, dict):
            part.pop("canaryTrafficPercent", None)
            if percent is not None:
                part["canaryTrafficPercent"] = percent
    return changed


def _location(found: Mapping[str, Any]) -> str:
    return _variable(found, "STORAGE_URI")


def _variable(found: Mapping[str, Any], name: str) -> str:
    for container in found["spec"]["predictor"].get("containers", []):
        if container["name"] == PREDICTOR:
            for row in container.get("env", []):
                if row["name"] == name:
                    return str(row.get("value", ""))
    return ""


def _mode(document: Mapping[str, Any]) -> str:
    return str(document["metadata"].get("annotations", {}).get(MODE_ANNOTATION, ""))


def _readiness(found: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether KServe calls a service ready, and its reason where it does not."""
    status = found.get("status") or {}
    conditions = {row["type"]: row for row in status.get("conditions") or []}
    ready = conditions.get("Ready", {})
    broken = [row for row in conditions.values() if row.get("status") == "False"] or [ready]
    words = (broken[0].get("type"), broken[0].get("reason"), broken[0].get("message"))
    reason = " ".join(str(word) for word in words if word) or "no condition yet"
    settled = all(
        part.get("latestCreatedRevision") == part.get("latestReadyRevision")
        for part in (status.get("components") or {}).values()
        if part.get("latestReadyRevision")  # only Knative has revisions that become ready
    )
    return ready.get("status") == "True" and settled and bool(_base(found)), reason


def _base(found: Mapping[str, Any]) -> str:
    """The service's address inside of the cluster, where it has one, else its public one."""
    status = found.get("status") or {}
    address = (status.get("address") or {}).get("url") or status.get("url") or ""
    return str(address).split("/v1/models/")[0].rstrip("/")


def _endpoint(found: Mapping[str, Any], model: str, *, live: bool) -> Endpoint | None:
    digest = (found["metadata"].get("annotations") or {}).get(DIGEST, "")
    if not digest:  # applied by hand: no pipeline knows what it serves
        return None
    return Endpoint(
        url=f"{_base(found)}/v1/models/{model}:predict",
        version=_variable(found, VERSION_VARIABLE),
        digest=digest,
        live=live,
    )
