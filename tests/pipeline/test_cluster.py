"""Upload and submit, against a server that speaks the part of KFP's v2beta1 API that they use.

The stand-in checks each request as it comes (method, path, parameters, body) and keeps what it
was told, so that a second upload sees the first.
"""

import json
import re
import threading
from collections.abc import Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from pipelines import cluster
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.processes import free_port
from platecrypt.settings import load

API = "/apis/v2beta1"
NAME = "safelicensing-training"
PACKAGE = Path(__file__).resolve().parents[2] / cluster.COMPILED


class KubeflowPipelines(ThreadingHTTPServer):
    """The state of the stand-in."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str]] = []
        self.pipelines: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.packages: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.refuse: int | None = None


class Handler(BaseHTTPRequestHandler):
    server: KubeflowPipelines

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        path, query = self._begin()
        if path == f"{API}/healthz":
            self._answer({"multi_user": False})
        elif path == f"{API}/pipelines":
            (clause,) = json.loads(query["filter"])["predicates"]
            assert clause["operation"] == 1, "1 is EQUALS in the API"
            assert clause["key"] in ("name", "display_name")
            found = [n for n in self.server.pipelines if n == clause["stringValue"]]
            self._answer({"pipelines": [self._pipeline(n) for n in found]})
        elif found := re.fullmatch(rf"{API}/pipelines/([\w-]+)/versions", path):
            versions = self.server.versions[found.group(1)]
            self._answer(
                {"pipeline_versions": [self._version(found.group(1), n) for n in versions]}
            )
        elif path.startswith(f"{API}/experiments"):
            self._answer({"experiments": []})
        else:
            self._answer({"error": f"no GET {path}"}, 404)

    def do_POST(self) -> None:
        path, query = self._begin()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == f"{API}/pipelines/upload":
            self.server.packages.append(self._package(body))
            pipeline_id = f"p{len(self.server.pipelines)}"
            self.server.pipelines[query["name"]] = pipeline_id
            self.server.versions[pipeline_id] = {query["name"]: f"{pipeline_id}-0"}
            self._answer(self._pipeline(query["name"]))
        elif path == f"{API}/pipelines/upload_version":
            self.server.packages.append(self._package(body))
            versions = self.server.versions[query["pipelineid"]]
            if query["name"] in versions:
                self._answer({"error": f"version {query['name']} exists"}, 409)
                return
            versions[query["name"]] = f"{query['pipelineid']}-{len(versions)}"
            self._answer(self._version(query["pipelineid"], query["name"]))
        elif path == f"{API}/experiments":
            self.server.experiments.append(json.loads(body))
            self._answer({"experiment_id": "e1", **json.loads(body)})
        elif path == f"{API}/runs":
            self.server.runs.append(json.loads(body))
            self._answer({"run_id": "r1"})
        else:
            self._answer({"error": f"no POST {path}"}, 404)

    def _begin(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        self.server.requests.append((self.command, url.path.removeprefix(API)))
        self.server.tokens.append(self.headers.get("Authorization"))
        return url.path, {name: values[0] for name, values in parse_qs(url.query).items()}

    def _package(self, body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = message_from_bytes(head + body).get_payload()
        assert part.get_param("name", header="content-disposition") == "uploadfile"
        return next(yaml.safe_load_all(part.get_payload(decode=True)))

    def _pipeline(self, name: str) -> dict[str, str]:
        return {"pipeline_id": self.server.pipelines[name], "display_name": name, "name": name}

    def _version(self, pipeline_id: str, name: str) -> dict[str, str]:
        version_id = self.server.versions[pipeline_id][name]
        return {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": version_id,
            "display_name": name,
            "name": name,
        }

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        if self.server.refuse:
            status, value = self.server.refuse, {"error": "refused"}
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server() -> Iterator[KubeflowPipelines]:
    made = KubeflowPipelines()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def settings_for(server: KubeflowPipelines, **more: Any) -> Any:
    return load(kfp_host=f"http://127.0.0.1:{server.server_port}", **more)


def test_the_first_upload_makes_a_pipeline_and_the_next_a_version(
    server: KubeflowPipelines,
) -> None:
    settings = settings_for(server)
    first = cluster.upload(settings, PACKAGE)
    assert (first.pipeline_id, first.version_id) == ("p0", "p0-0")
    second = cluster.upload(settings, PACKAGE)
    assert (second.pipeline_id, second.version, second.version_id) == ("p0", "v2", "p0-1")
    named = cluster.upload(settings, PACKAGE, NAME, "august")
    assert (named.version, named.version_id) == ("august", "p0-2")
    uploads = [path for method, path in server.requests if method == "POST"]
    assert uploads == [
        "/pipelines/upload",
        "/pipelines/upload_version",
        "/pipelines/upload_version",
    ]
    assert {package["pipelineInfo"]["name"] for package in server.packages} == {NAME}


def test_submit_starts_a_run_of_that_version_with_these_parameters(
    server: KubeflowPipelines,
) -> None:
    settings = settings_for(server)
    cluster.upload(settings, PACKAGE)
    made = cluster.find_or_upload(settings, PACKAGE, NAME, NAME)
    run_id = cluster.submit(settings, made, {"dataset": "s3://b/p", "trials": 5}, "plates")
    assert run_id == "r1"
    (run,) = server.runs
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "p0",
        "pipeline_version_id": "p0-0",
    }
    assert run["runtime_config"]["parameters"] == {"dataset": "s3://b/p", "trials": 5}
    assert run["experiment_id"] == "e1"


def test_a_run_goes_into_the_namespace_and_under_the_account_that_are_set(
    server: KubeflowPipelines,
) -> None:
    settings = settings_for(
        server, kfp_namespace="plates", kfp_service_account="platecrypt-pipeline"
    )
    made = cluster.upload(settings, PACKAGE)
    cluster.submit(settings, made, {}, "plates")
    ((experiment,), (run,)) = server.experiments, server.runs
    assert experiment["namespace"] == "plates"
    assert run["service_account"] == "platecrypt-pipeline"


def test_a_version_that_is_not_there_is_named_with_those_that_are(
    server: KubeflowPipelines,
) -> None:
    settings = settings_for(server)
    with pytest.raises(BadInputError, match="has no pipeline"):
        cluster.find_or_upload(settings, PACKAGE, NAME, "v9")
    cluster.upload(settings, PACKAGE)
    with pytest.raises(BadInputError, match=f"no version v9; it has {NAME}"):
        cluster.find_or_upload(settings, PACKAGE, NAME, "v9")


def test_a_version_that_exists_is_the_servers_own_refusal(server: KubeflowPipelines) -> None:
    settings = settings_for(server)
    cluster.upload(settings, PACKAGE)
    cluster.upload(settings, PACKAGE, NAME, "august")
    with pytest.raises(UnavailableError, match="answered 409.*version august exists"):
        cluster.upload(settings, PACKAGE, NAME, "august")


def test_the_token_goes_with_every_request(server: KubeflowPipelines, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    cluster.upload(settings_for(server, kfp_token_file=token), PACKAGE)
    assert set(server.tokens) == {"Bearer abc"}


def test_a_token_file_that_is_not_there_is_named(server: KubeflowPipelines, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"token file {tmp_path}/token: No such file"):
        cluster.upload(settings_for(server, kfp_token_file=tmp_path / "token"), PACKAGE)
    assert not server.tokens


def test_a_server_that_refuses_or_is_not_there_is_one_line(server: KubeflowPipelines) -> None:
    server.refuse = 403
    with pytest.raises(UnavailableError, match="answered 403"):
        cluster.upload(settings_for(server), PACKAGE)
    with pytest.raises(UnavailableError, match="does not answer"):
        cluster.upload(load(kfp_host=f"http://127.0.0.1:{free_port()}"), PACKAGE)


def test_without_a_host_or_a_package_nothing_is_sent(
    server: KubeflowPipelines, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="--host"):
        cluster.upload(load(), PACKAGE)
    with pytest.raises(BadInputError, match="platecrypt compile"):
        cluster.upload(settings_for(server), tmp_path / "none.yaml")
    assert server.requests == []
