"""A live endpoint for these tests: the shipped InferenceService, run by the local engine."""

import hashlib
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
        self.isvc = InferenceService.load(ROOT / "kserve" / "inference_service.yaml")

    def model(self, name: str = "one", size: int = 320) -> tuple[Path, str]:
        """A model folder and the digest of its file."""
        folder = self.models / name
        folder.mkdir(parents=True, exist_ok=True)
        path = MARKER["build"](folder / "model.onnx", size)
        return folder, hashlib.sha256(path.read_bytes()).hexdigest()

    def deploy(self, version: str = "1", name: str = "one", size: int = 320) -> Endpoint:
        folder, digest = self.model(name, size)
        return self.deployer.promote(self.deployer.candidate(self.isvc, folder, version, digest))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("home with ümlaut"))
    yield made
    made.deployer.stop()


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
