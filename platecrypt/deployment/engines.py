"""Which engine runs the endpoint; every other part of the library knows only `Deployer`."""

import hashlib
import os
from pathlib import Path
from typing import Protocol

from platecrypt.deployment.inference_service import InferenceService
from platecrypt.deployment.kserve import KServeDeployer
from platecrypt.deployment.local import Endpoint, LocalDeployer
from platecrypt.errors import RefusedError
from platecrypt.settings import Settings
from platecrypt.storage import ObjectStore


class Deployer(Protocol):
    """Puts versions of the model into service."""

    def live(self) -> Endpoint | None:
        """The version that users call."""
        ...

    def waiting(self) -> Endpoint | None:
        """The candidate that waits to be promoted or discarded."""
        ...

    def start(
        self, isvc: InferenceService, store: ObjectStore, key: str, version: str, digest: str
    ) -> Endpoint:
        """Start a version beside the live one; its ONNX file lies in the store under `key`."""
        ...

    def promote(self, endpoint: Endpoint) -> Endpoint:
        """Let users reach a candidate instead of the previous version."""
        ...

    def discard(self, endpoint: Endpoint) -> None:
        """End a candidate."""
        ...


class _Local(LocalDeployer):
    """Processes of this machine; the model is brought here first."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._models = settings.home / "models"

    def start(
        self, isvc: InferenceService, store: ObjectStore, key: str, version: str, digest: str
    ) -> Endpoint:
        folder = self._models / digest
        _fetch(store, key, folder / Path(key).name)
        return self.candidate(isvc, folder, version, digest)


class _OnCluster(KServeDeployer):
    """KServe fetches the model itself; only its digest is looked at here."""

    def start(
        self, isvc: InferenceService, store: ObjectStore, key: str, version: str, digest: str
    ) -> Endpoint:
        found = hashlib.sha256(store.get(key)).hexdigest()
        if found != digest:
            raise RefusedError(
                f"s3://{store.bucket}/{key} has the digest {found}, not {digest}: it is not the "
                "model that was released"
            )
        location = f"s3://{store.bucket}/{Path(key).parent}"
        return self.candidate(isvc, location, version, digest)


def choose_deployer(settings: Settings) -> Deployer:
    """The engine of the settings, `deployment_engine`."""
    return _OnCluster(settings) if settings.deployment_engine == "kserve" else _Local(settings)


def _fetch(store: ObjectStore, key: str, path: Path) -> None:
    """Bring the model to this machine; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(store.get(key))
    temporary.replace(path)
