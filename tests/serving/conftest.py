"""A live endpoint for these tests: the shipped InferenceService, run by the local engine.

Starting one takes seconds, so all modules share one, and leave it as they found it.
"""

import hashlib
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from platecrypt import imaging
from platecrypt.cipher import Keyring
from platecrypt.deployment import Endpoint, InferenceService, LocalDeployer
from platecrypt.processes import Supervisor, free_port
from platecrypt.settings import Settings

ROOT = Path(__file__).parents[2]
MARKER = runpy.run_path(str(ROOT / "tests" / "support" / "marker_model.py"))
PLATES = ((40, 60, 120, 100), (400, 200, 520, 240))


class Stage:
    """One state directory with a model, keys and a deployer."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, port=free_port(), ready_timeout_s=90)
        self.keyring = Keyring.create(self.settings.keyring_path)
        self.models = home / "models"
        self.deployer = LocalDeployer(self.settings)
        self.supervisor = Supervisor(home)
        self.isvc = self.manifest("inference_service.yaml")

    def manifest(self, name: str) -> InferenceService:
        """A shipped manifest, less patient with a predictor that hangs."""
        found = InferenceService.load(ROOT / "kserve" / name)
        text = json.dumps(found.document)
        patience = '"--predictor_request_timeout_seconds=10"'
        return InferenceService(json.loads(text.replace(patience, patience.replace("10", "3"))))

    def model(self, name: str = "one", size: int = 320) -> tuple[Path, str]:
        """A model folder and the digest of its file."""
        folder = self.models / name
        folder.mkdir(parents=True, exist_ok=True)
        path = MARKER["build"](folder / "model.onnx", size)
        return folder, hashlib.sha256(path.read_bytes()).hexdigest()

    def deploy(self, version: str = "1", name: str = "one", size: int = 320) -> Endpoint:
        folder, digest = self.model(name, size)
        return self.deployer.promote(self.deployer.candidate(self.isvc, folder, version, digest))


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Stage]]:
    """Make stages; what they started ends with the session."""
    made: list[Stage] = []

    def make() -> Stage:
        made.append(Stage(tmp_path_factory.mktemp("home with ümlaut")))
        return made[-1]

    yield make
    for one in made:
        one.deployer.stop()


@pytest.fixture(scope="session")
def stage(stages: Callable[[], Stage]) -> Stage:
    """The stage of the endpoint that all share."""
    return stages()


@pytest.fixture(scope="module")
def endpoint(stage: Stage) -> Endpoint:
    return stage.deployer.live() or stage.deploy()


@pytest.fixture(scope="session")
def street() -> np.ndarray[Any, Any]:
    """A picture with two plates."""
    return MARKER["picture"](640, 360, *PLATES)


@pytest.fixture(scope="session")
def encoded(street: np.ndarray[Any, Any]) -> Callable[..., bytes]:
    """The street as a file of a format."""

    def make(form: imaging.Format = "jpeg") -> bytes:
        return imaging.encode(street, form, quality=95, lossless=True)

    return make


class Alone:
    """An endpoint in one process, with flags of its own."""

    def __init__(self, stage: Stage, name: str, *flags: str, **environment: str) -> None:
        self._stage, self._name = stage, name
        self.port, self.grpc_port = free_port(), free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.base}/v1/models/plates:predict"
        folder, _ = stage.model("one")
        argv = [sys.executable, "-m", "platecrypt.serving.single", f"--http_port={self.port}"]
        argv += [f"--grpc_port={self.grpc_port}", "--enable_grpc=true", f"--model_dir={folder}"]
        argv += [f"--keys_file={stage.settings.keyring_path}", "--backend=onnxruntime", *flags]
        self.record = stage.supervisor.start(
            name, argv, env=environment, ready=self.ready, timeout_s=90
        )

    def ready(self) -> bool:
        try:
            found = httpx.get(f"{self.base}/v2/health/ready", trust_env=False, timeout=5)
        except httpx.HTTPError:
            return False
        return found.status_code == 200

    def post(self, body: bytes, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"content-type": "image/jpeg", "accept": "image/jpeg", **named}
        return httpx.post(self.url, content=body, headers=sent, timeout=60, trust_env=False)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample on `/metrics`; 0 where it is not there yet."""
        text = httpx.get(f"{self.base}/metrics", trust_env=False).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def stop(self) -> None:
        self._stage.supervisor.stop(self._name)


@pytest.fixture(scope="module")
def alone(stage: Stage) -> Iterator[Callable[..., Alone]]:
    """Start endpoints of one process; they end with the module."""
    made: list[Alone] = []

    def start(*flags: str, **environment: str) -> Alone:
        made.append(Alone(stage, f"alone-{len(made)}", *flags, **environment))
        return made[-1]

    yield start
    for one in made:
        one.stop()
