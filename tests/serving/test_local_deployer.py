"""A new version starts beside the live one and takes its place only when it serves."""

import copy
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from platecrypt import imaging
from platecrypt.cipher import inspect
from platecrypt.deployment import Endpoint, InferenceService, LocalDeployer
from platecrypt.deployment import local as local_engine
from platecrypt.errors import BadInputError, RefusedError, UnavailableError
from platecrypt.processes import Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Encoded = Callable[..., bytes]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stage(stages: Any) -> Any:
    """A stage of our own, where nothing serves yet."""
    return stages()


def version_of(url: str, body: bytes) -> str:
    headers = {"content-type": "image/jpeg", "accept": "image/jpeg"}
    answer = httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False)
    (first, *_) = imaging.read_sealed(answer.raise_for_status().content)
    return str(json.loads(inspect(first).ctx)["model_version"])


def names(stage: Any) -> list[str]:
    return [record.name for record in stage.supervisor.list()]


def serving_processes(stage: Any) -> set[int]:
    """Every process of this stage, recorded or not."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "platecrypt.serving" in line and str(stage.settings.home) in line:
            found.add(process.pid)
    return found


@pytest.fixture
def squatter(stage: Any) -> Iterator[None]:
    """Somebody else on the endpoint's port."""
    server = http.server.HTTPServer(
        ("127.0.0.1", stage.settings.port), http.server.SimpleHTTPRequestHandler
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def test_a_taken_port_is_said_before_anything_is_started(stage: Any, squatter: None) -> None:
    folder, digest = stage.model()
    with pytest.raises(BadInputError, match=rf"port {stage.settings.port}.*PLATECRYPT_PORT"):
        stage.deployer.candidate(stage.isvc, folder, "1", digest)
    assert names(stage) == []


def test_another_file_than_the_released_one_is_refused(stage: Any) -> None:
    folder, _ = stage.model()
    with pytest.raises(RefusedError, match="not the model that was released"):
        stage.deployer.candidate(stage.isvc, folder, "1", "0" * 64)
    with pytest.raises(BadInputError, match="does not exist"):
        stage.deployer.candidate(stage.isvc, folder / "nowhere", "1", "0" * 64)
    assert names(stage) == []


def test_a_model_that_does_not_load_leaves_no_process(stage: Any) -> None:
    folder = stage.models / "damaged"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UnavailableError, match="cannot be loaded"):
        stage.deployer.candidate(stage.isvc, folder, "1", hashlib.sha256(b"no model").hexdigest())
    assert names(stage) == []
    assert serving_processes(stage) == set()


def test_the_first_version_goes_live(stage: Any, encoded: Encoded) -> None:
    folder, digest = stage.model()
    candidate = stage.deployer.candidate(stage.isvc, folder, "1", digest)
    assert not candidate.live
    assert names(stage) == ["candidate-predictor", "candidate-transformer"]
    assert version_of(candidate.url, encoded()) == "1"
    served = stage.deployer.promote(candidate)
    assert served.url == f"http://127.0.0.1:{stage.settings.port}/v1/models/plates:predict"
    assert served == stage.deployer.live()
    assert served == Endpoint(served.url, "1", digest, live=True, grpc=served.grpc)
    assert names(stage) == ["predictor", "transformer"]
    assert len(serving_processes(stage)) == 2
    assert version_of(served.url, encoded()) == "1"


def test_the_same_version_is_not_started_twice(stage: Any) -> None:
    before = serving_processes(stage)
    folder, digest = stage.model()
    same = stage.deployer.candidate(stage.isvc, folder, "1", digest)
    assert same.live
    assert stage.deployer.promote(same) == same
    stage.deployer.discard(same)
    assert serving_processes(stage) == before


def test_a_discarded_candidate_leaves_the_live_version_alone(stage: Any, encoded: Encoded) -> None:
    live = stage.deployer.live()
    before = serving_processes(stage)
    folder, digest = stage.model("two", 64)
    candidate = stage.deployer.candidate(stage.isvc, folder, "2", digest)
    assert (version_of(candidate.url, encoded()), version_of(live.url, encoded())) == ("2", "1")
    stage.deployer.discard(candidate)
    assert serving_processes(stage) == before
    with pytest.raises(UnavailableError, match="gone"):
        stage.deployer.promote(candidate)
    assert version_of(live.url, encoded()) == "1"


def test_an_interrupt_while_a_candidate_starts_leaves_no_orphan(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = serving_processes(stage)
    folder, digest = stage.model("two", 64)
    real = local_engine._probe

    def interrupted(url: str) -> Callable[[], bool]:
        probe = real(url)

        def ready() -> bool:
            serving = probe()
            if serving and "candidate-transformer" in names(stage):
                raise KeyboardInterrupt
            return serving

        return ready

    monkeypatch.setattr(local_engine, "_probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage.deployer.candidate(stage.isvc, folder, "2", digest)
    assert serving_processes(stage) == before


def test_a_promotion_that_fails_puts_the_previous_version_back(
    stage: Any, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = stage.deployer.live()
    folder, digest = stage.model("two", 64)
    split = stage.manifest("inference_service_split.yaml")
    candidate = stage.deployer.candidate(split, folder, "2", digest)
    real = Supervisor.launch
    starts = []

    def fails_once(self: Supervisor, name: str, argv: Any, **rest: Any) -> Any:
        starts.append(name)
        if len(starts) == 1:
            argv = [*argv[:3], "--no_such_flag"]
        return real(self, name, argv, **rest)

    monkeypatch.setattr(Supervisor, "launch", fails_once)
    with pytest.raises(UnavailableError, match="ended with code 2"):
        stage.deployer.promote(candidate)
    assert starts == ["transformer", "transformer"]
    assert stage.deployer.live() == live
    assert version_of(live.url, encoded()) == "1"
    assert stage.deployer.waiting() == candidate


def test_the_next_version_takes_the_place_in_another_topology(stage: Any, encoded: Encoded) -> None:
    served = stage.deployer.promote(stage.deployer.waiting())
    assert (served.version, served.live) == ("2", True)
    assert served.url == f"http://127.0.0.1:{stage.settings.port}/v1/models/plates:predict"
    assert version_of(served.url, encoded()) == "2"
    assert names(stage) == ["predictor", "transformer"]
    assert len(serving_processes(stage)) == 2


def test_it_listens_on_loopback_only(stage: Any) -> None:
    ours = serving_processes(stage)
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("inet")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 4
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_what_only_a_cluster_has_is_refused(stage: Any) -> None:
    document = copy.deepcopy(stage.isvc.document)
    document["spec"]["predictor"]["containers"][0]["env"].append(
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    )
    folder, digest = stage.model("one")
    before = serving_processes(stage)
    with pytest.raises(BadInputError, match="TOKEN"):
        stage.deployer.candidate(InferenceService(document), folder, "3", digest)
    assert serving_processes(stage) == before


def test_missing_keys_are_said_before_anything_is_started(stage: Any) -> None:
    folder, digest = stage.model("one")
    path: Path = stage.settings.keyring_path
    kept = path.rename(path.with_name("kept.json"))
    try:
        with pytest.raises(BadInputError, match="key file"):
            stage.deployer.candidate(stage.isvc, folder, "3", digest)
    finally:
        kept.rename(path)


def test_the_command_serves_in_place_of_what_served(stage: Any, encoded: Encoded) -> None:
    """What `platecrypt serve` does, in a process of its own; one process replaces two."""
    folder, digest = stage.model("one")
    port = stage.settings.port
    code = "import sys, typer; from platecrypt.commands.serve import serve; typer.run(serve)"
    words = ["--topology", "single", "--model", str(folder / "model.onnx"), "--port", str(port)]
    variables = {"PLATECRYPT_HOME": str(stage.settings.home), "PLATECRYPT_ROOT": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["url"] == f"http://127.0.0.1:{port}/v1/models/plates:predict"
    assert (result["digest"], result["topology"], result["tokens"]) == (digest, "single", "")
    assert result["grpc"].startswith("127.0.0.1:")
    assert version_of(result["url"], encoded()) == result["version"] == digest[:12]
    assert names(stage) == ["transformer"]
    assert len(serving_processes(stage)) == 1


def test_tokens_are_asked_for_at_once_and_by_every_later_version(
    stage: Any, encoded: Encoded, tmp_path: Path
) -> None:
    """The same model serves already, and the next one is deployed by who knows of no tokens."""
    token = "a-token-of-some-length"
    tokens = tmp_path / "tokens"
    tokens.write_text(token)
    single = stage.manifest("inference_service_single.yaml")
    live = stage.deployer.live()
    folder, digest = stage.model("one")
    guard = LocalDeployer(stage.settings, {"TOKENS_FILE": str(tokens)})
    guard.promote(guard.candidate(single, folder, live.version, digest))

    def status(**headers: str) -> int:
        headers["content-type"] = "image/jpeg"
        return httpx.post(live.url, content=encoded(), headers=headers, trust_env=False).status_code

    shown = {"authorization": f"Bearer {token}"}
    assert (status(), status(**shown)) == (401, 200)
    folder, digest = stage.model("two", 64)
    served = stage.deployer.promote(stage.deployer.candidate(single, folder, "2", digest))
    assert (served.version, status(), status(**shown)) == ("2", 401, 200)
    assert stage.deployer.variables() == {"TOKENS_FILE": str(tokens)}
    before = serving_processes(stage)
    assert stage.deployer.candidate(single, folder, "2", digest) == served
    assert serving_processes(stage) == before
    (process,) = before
    psutil.Process(process).kill()
    psutil.Process(process).wait(10)
    stage.deployer.promote(stage.deployer.candidate(single, folder, "2", digest))
    assert (status(), status(**shown)) == (401, 200), "also after a crash"


def test_stopping_leaves_nothing(stage: Any) -> None:
    stage.deployer.stop()
    assert stage.deployer.live() is None
    assert names(stage) == []
    assert serving_processes(stage) == set()
