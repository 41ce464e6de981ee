"""What every kind of test shares: a state folder of its own, and an object store that is real."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from platecrypt.processes import Supervisor, free_port
from platecrypt.settings import Settings, load
from platecrypt.storage import ObjectStore
from platecrypt.storage.embedded import ensure_store

ROOT = Path(__file__).resolve().parents[1]


# A shell that runs the tests in the background makes them, and what they start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    """No setting of the person who runs the tests reaches them."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("PLATECRYPT_"):
            del os.environ[name]
    os.environ["PLATECRYPT_CONFIG"] = "/nonexistent/platecrypt.toml"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a state folder with free ports; whatever was started there is stopped."""
    home = tmp_path_factory.mktemp("state")
    made = load(home=home, root=ROOT, s3_port=free_port(), port=free_port())
    yield made
    supervisor = Supervisor(made.home)
    for record in supervisor.list():
        supervisor.stop(record.name)


@pytest.fixture(scope="module")
def store(settings: Settings) -> ObjectStore:
    """The embedded object store, running."""
    return ensure_store(settings)
