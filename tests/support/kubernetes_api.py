"""A stand-in of the Kubernetes API over HTTP, as far as Katib's Experiments and Trials need it.

It plays a life: the states that an Experiment and its Trials go through, one further at each look
at the Experiment. Faults are answers that it gives instead, each once.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NOW = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:05:35Z"
Life = list[dict[str, Any]]


def condition(kind: str, reason: str, message: str = "", status: str = "True") -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": NOW,
        "lastTransitionTime": NOW,
    }


def trial(
    name: str,
    parameters: dict[str, str],
    state: str = "",
    *,
    metrics: dict[str, tuple[str, str, str]] | None = None,
    message: str = "",
) -> dict[str, Any]:
    """A Trial as Katib's controller writes it: metrics are (min, max, latest)."""
    states = ["Created", *(["Running"] if state else []), *([state] if state != "Running" else [])]
    kinds = [kind for kind in states if kind]
    rows = [
        condition(
            kind,
            f"Trial{kind}",
            message if kind == state else "",
            "False" if kind == "Running" and state not in ("", "Running") else "True",
        )
        for kind in kinds
    ]
    status: dict[str, Any] = {"startTime": NOW, "conditions": rows}
    if state not in ("", "Running"):
        status["completionTime"] = LATER
    if metrics:
        names = ("min", "max", "latest")
        status["observation"] = {
            "metrics": [
                {"name": key, **dict(zip(names, values, strict=True))}
                for key, values in metrics.items()
            ]
        }
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Trial",
        "metadata": {"name": name, "creationTimestamp": NOW},
        "spec": {"parameterAssignments": [{"name": k, "value": v} for k, v in parameters.items()]},
        "status": status,
    }


def frame(trials: list[dict[str, Any]], *conditions: dict[str, str]) -> dict[str, Any]:
    return {"trials": trials, "conditions": list(conditions)}


class KubernetesApi:
    """The server.

    Attributes:
        life: frames that are played; the last one stays.
        faults: (method, code, headers) given instead of the next answers to that method; code 0
            closes the connection without one.
        token: the bearer token that is accepted; None accepts any.
        seen: (method, path, query, body) of each request that was answered.
    """

    def __init__(self, life: Life) -> None:
        self.life = life
        self.frame = 0
        self.experiment: dict[str, Any] | None = None
        self.faults: list[tuple[str, int, dict[str, str]]] = []
        self.token: str | None = None
        self.seen: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.refuses = ""
        self.server: ThreadingHTTPServer | None = None

    @contextmanager
    def serving(self, port: int = 0) -> Iterator["KubernetesApi"]:
        """Answer on 127.0.0.1."""
        api = self

        class Handler(_Handler):
            kubernetes = api

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    @property
    def port(self) -> int:
        assert self.server
        return int(self.server.server_address[1])

    def kubeconfig(self, path: Path, *, token: str = "t", port: int = 0) -> Path:  # noqa: S107
        """Write a kubeconfig that leads here."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [
                {"name": "k", "cluster": {"server": f"http://127.0.0.1:{port or self.port}"}}
            ],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [
                {"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "plates"}}
            ],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def answer(self, method: str, path: str, query: Any, body: Any) -> tuple[int, Any]:
        """Code and document."""
        parts = path.strip("/").split("/")
        if parts[:4] != ["apis", "kubeflow.org", "v1beta1", "namespaces"]:
            return 404, failure(404, "the server could not find the requested resource")
        kind, name = parts[5], parts[6] if len(parts) > 6 else ""
        if kind == "trials" and method == "GET":
            return 200, {"items": self.life[min(self.frame, len(self.life) - 1)]["trials"]}
        if kind != "experiments":
            return 404, failure(404, "no such kind")
        if method == "POST":
            return self._create(query, body)
        if self.experiment is None or self.experiment["metadata"]["name"] != name:
            return 404, failure(404, f'experiments.kubeflow.org "{name}" not found')
        if method == "DELETE":
            self.experiment = None
            return 200, {"kind": "Status", "status": "Success"}
        if method == "PATCH":
            return self._apply(query, body)
        return self._look()

    def _apply(self, query: Any, body: Any) -> tuple[int, Any]:
        """What Katib's webhook lets change of an Experiment: its counts."""
        assert self.experiment is not None
        wanted = {"fieldManager": ["platecrypt"], "fieldValidation": ["Strict"], "force": ["true"]}
        counts = {"maxTrialCount", "maxFailedTrialCount", "parallelTrialCount"}
        if query != wanted or not set(body["spec"]) <= counts:
            return 400, failure(400, "only the counts are editable")
        ran = len(self.life[min(self.frame, len(self.life) - 1)]["trials"])
        if body["spec"].get("maxTrialCount", self.experiment["spec"]["maxTrialCount"]) <= ran:
            return 400, failure(
                400, f"maxTrialCount must be greater than status.trials count: {ran}"
            )
        self.experiment["spec"] = {**self.experiment["spec"], **body["spec"]}
        return 200, self.experiment

    def _create(self, query: Any, body: Any) -> tuple[int, Any]:
        if query.get("fieldValidation") != ["Strict"]:
            return 500, failure(500, "unknown fields would be dropped")
        if self.refuses:
            return 400, failure(400, self.refuses)
        if self.experiment is not None:
            return 409, failure(409, f'"{body["metadata"]["name"]}" already exists')
        self.experiment = {**body, "status": {}}
        self.experiment["metadata"]["creationTimestamp"] = NOW
        return 201, self.experiment

    def _look(self) -> tuple[int, Any]:
        assert self.experiment is not None
        current = self.life[min(self.frame, len(self.life) - 1)]
        if current.get("deleted"):
            self.experiment = None
            return 404, failure(404, "not found")
        self.frame += 1
        following = self.life[min(self.frame, len(self.life) - 1)]
        self.experiment["status"] = {
            "startTime": NOW,
            "trials": len(following.get("trials", [])),
            "conditions": following.get("conditions", []),
        }
        return 200, self.experiment


def failure(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


class _Handler(BaseHTTPRequestHandler):
    kubernetes: KubernetesApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def _serve(self) -> None:
        api = self.kubernetes
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        for index, (method, code, headers) in enumerate(api.faults):
            if method == self.command:
                del api.faults[index]
                if code == 0:
                    self.close_connection = True
                    self.connection.close()
                    return
                self._send(code, failure(code, f"fault {code}"), headers)
                return
        if api.token is not None and self.headers.get("Authorization") != f"Bearer {api.token}":
            self._send(401, failure(401, "Unauthorized"), {})
            return
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        api.seen.append((self.command, url.path, query, body))
        code, document = api.answer(self.command, url.path, query, body)
        self._send(code, document, {})

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _send(self, code: int, document: Any, headers: dict[str, str]) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""
