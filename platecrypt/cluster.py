"""Asking a Kubernetes API for custom resources, again and again while there is hope.

Everything that it may answer on the way is expected: a server that restarts, throttles, or refuses
a token that has expired. What cannot be waited out is told.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError

T = TypeVar("T")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
REQUEST_TIMEOUT_S = (10.0, 30.0)  # to connect, to answer
PATIENCE_S = 300.0  # a control plane that is upgraded is away for minutes
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, THROTTLED = 401, 403, 404, 409, 429
BAD_REQUESTS = (400, 413, 422)
FIELD_MANAGER = "platecrypt"


class Cluster:
    """Requests to the custom objects of one namespace.

    Args:
        kubeconfig: None takes KUBECONFIG or ~/.kube/config, or inside of a pod its account.
        namespace: "" takes the one of the kubeconfig's context, or the pod's own.
        patience_s: how long a server that does not answer is asked again.
        note: told of each repetition.

    Attributes:
        end: of the monotonic clock, after which nothing is asked again; None: there is none.

    Raises:
        BadInputError: no cluster is configured.
    """

    def __init__(
        self,
        kubeconfig: Path | None = None,
        namespace: str = "",
        patience_s: float = PATIENCE_S,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._patience_s = patience_s
        self._note = note
        self.end: float | None = None
        self._api, of_context = _connect(kubeconfig)
        self.namespace = namespace or of_context

    def create(self, kind: tuple[str, str, str], body: dict[str, Any]) -> None:
        """Create an object; unknown fields are refused.

        Args:
            kind: group, version, plural.
            body: the object.

        Raises:
            AnswerError: the answer is an error that does not pass.
            UnavailableError: patience ended.
        """
        self._ask(
            lambda api: api.create_namespaced_custom_object(
                *self._of(kind), body, field_validation="Strict", _request_timeout=REQUEST_TIMEOUT_S
            )
        )

    def get(self, kind: tuple[str, str, str], name: str) -> dict[str, Any] | None:
        """The object as it is now; None when there is none. Raises as `create`."""
        try:
            found: dict[str, Any] = self._ask(
                lambda api: api.get_namespaced_custom_object(
                    *self._of(kind), name, _request_timeout=REQUEST_TIMEOUT_S
                )
            )
        except AnswerError as answer:
            if answer.code == NOT_FOUND:
                return None
            raise
        return found

    def list(self, kind: tuple[str, str, str], selector: str) -> list[dict[str, Any]]:
        """The objects whose labels match a selector. Raises as `create`."""
        found = self._ask(
            lambda api: api.list_namespaced_custom_object(
                *self._of(kind), label_selector=selector, _request_timeout=REQUEST_TIMEOUT_S
            )
        )
        items: list[dict[str, Any]] = found.get("items") or []
        return items

    def apply(self, kind: tuple[str, str, str], body: dict[str, Any]) -> dict[str, Any]:
        """Make an object what `body` says (server-side apply); returns it as it is then.

        Raises as `create`.
        """
        group, version, namespace, plural = self._of(kind)
        name = body["metadata"]["name"]
        path = f"/apis/{group}/{version}/namespaces/{namespace}/{plural}/{name}"
        # The typed method of this client cannot send the content type of an apply.
        found: dict[str, Any] = self._ask(
            lambda api: api.api_client.call_api(
                path,
                "PATCH",
                query_params=[
                    ("fieldManager", FIELD_MANAGER),
                    ("force", "true"),
                    ("fieldValidation", "Strict"),
                ],
                header_params={
                    "Content-Type": "application/apply-patch+yaml",
                    "Accept": "application/json",
                },
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=REQUEST_TIMEOUT_S,
            )
        )
        return found

    def delete(self, kind: tuple[str, str, str], name: str) -> None:
        """Delete an object with what it owns; none being there is no error. Raises as `create`."""
        try:
            self._ask(
                lambda api: api.delete_namespaced_custom_object(
                    *self._of(kind),
                    name,
                    propagation_policy="Foreground",
                    _request_timeout=REQUEST_TIMEOUT_S,
                )
            )
        except AnswerError as answer:
            if answer.code != NOT_FOUND:
                raise

    def _of(self, kind: tuple[str, str, str]) -> tuple[str, str, str, str]:
        group, version, plural = kind
        return group, version, self.namespace, plural

    def _ask(self, request: Callable[[Any], T]) -> T:
        """Make a request, again and again while the server may recover."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        began, wait = time.monotonic(), SHORTEST_WAIT_S
        while True:
            pause = wait
            try:
                return request(self._api)
            except ApiException as error:
                answer = AnswerError(error)
                if not answer.passing:
                    raise answer from None
                reason = str(answer)
                if answer.code == UNAUTHORIZED:  # the token may have been renewed meanwhile
                    self._api, _ = _connect(self._kubeconfig)
                pause = answer.retry_after or wait
            except HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            now = time.monotonic()
            patience = self._patience_s
            if self.end is not None:
                patience = min(patience, max(0.0, self.end - began))
            left = began + patience - now
            if left <= 0:
                raise UnavailableError(
                    f"the cluster did not answer within {patience:.3g} s ({reason})"
                ) from None
            pause = min(pause, left)
            self._note(f"asking again in {pause:.1f} s: {reason}")
            time.sleep(pause)
            wait = min(wait * 2, LONGEST_WAIT_S)


class AnswerError(Exception):
    """An answer of Kubernetes that is an error and does not pass by waiting.

    Attributes:
        code: the HTTP status.
    """

    def __init__(self, error: Any) -> None:
        try:
            text = str(json.loads(error.body or "{}").get("message") or error.reason)
        except (ValueError, AttributeError):
            text = str(error.reason)
        super().__init__(f"{error.status} {' '.join(text.split())[:2000]}")
        self.code = int(error.status or 0)
        header = (error.headers or {}).get("Retry-After", "")
        self.retry_after = min(float(header), LONGEST_WAIT_S) if header.isdigit() else 0.0

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered a moment later."""
        return self.code in (UNAUTHORIZED, THROTTLED) or self.code == 0 or self.code >= 500

    def explained(self, kind: str, platform: str) -> PlatecryptError:
        """The error for a person: about an object of that kind, which that platform brings."""
        if self.code in BAD_REQUESTS:
            return BadInputError(f"the cluster refuses the {kind}: {self}")
        if self.code == FORBIDDEN:
            return RefusedError(f"the account may not do this on the cluster: {self}")
        if self.code == NOT_FOUND:
            return UnavailableError(f"{self}; is {platform} installed on this cluster?")
        return UnavailableError(f"the cluster answers {self}")


def model_of(kind: str) -> Any:
    """The Kubernetes client's model of that name, which tells its fields and types; or None."""
    from kubernetes import client

    found = getattr(client, kind, None)
    return found if hasattr(found, "attribute_map") else None


def _connect(kubeconfig: Path | None) -> tuple[Any, str]:
    """The custom objects API of the cluster in force, and the namespace of its context."""
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = False  # we repeat ourselves, with bounds
    in_pod = kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        if in_pod:
            config.load_incluster_config(client_configuration=configuration)
            namespace = NAMESPACE_FILE.read_text().strip()
        else:
            file = str(kubeconfig) if kubeconfig else None
            config.load_kube_config(file, client_configuration=configuration)
            _, active = config.list_kube_config_contexts(file)
            namespace = active["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise BadInputError(
            f"no cluster is configured ({error}); set KUBECONFIG, or take the local engine"
        ) from None
    return client.CustomObjectsApi(client.ApiClient(configuration)), namespace
