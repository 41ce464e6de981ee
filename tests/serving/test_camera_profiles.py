"""A camera's profile in Feast's online store decides how a live endpoint treats its pictures."""

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from platecrypt.errors import BadInputError
from platecrypt.features.store import FeatureRepository, open_online
from platecrypt.settings import Settings
from platecrypt.storage import ObjectStore

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Encoded = Callable[..., bytes]
ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "feature_repo"
CAMERAS = {"blind": (0.99, 0.08), "generous": (0.25, 0.5)}


@pytest.fixture(scope="module")
def online(settings: Settings, store: ObjectStore) -> dict[str, str]:
    """An online store that knows two cameras; the variables that say where it is."""
    import pandas as pd

    repository = FeatureRepository(settings)
    repository.register()
    now = datetime.now(UTC)
    rows = [
        {
            "camera_id": camera,
            "confidence": confidence,
            "margin": margin,
            "policy": "protect",
            "mean_brightness": 90.0,
            "images": 1,
            "event_timestamp": now,
            "created_timestamp": now,
        }
        for camera, (confidence, margin) in CAMERAS.items()
    ]
    repository._store.write_to_online_store("camera_profile", pd.DataFrame(rows))
    home = settings.home / "feast"
    return {
        "FEAST_REGISTRY": str((home / "registry.db").absolute()),
        "FEAST_ONLINE_STORE": str((home / "online.db").absolute()),
    }


def test_the_reader_needs_the_online_store_alone(online: dict[str, str]) -> None:
    look_up = open_online(REPOSITORY, online)
    assert (look_up("blind")["confidence"], look_up("generous")["margin"]) == (0.99, 0.5)
    assert look_up("nobody")["confidence"] is None


def test_a_reader_without_a_store_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="FEAST_REGISTRY is not set"):
        open_online(REPOSITORY, {})
    values = {"FEAST_REGISTRY": "a", "FEAST_ONLINE_STORE": "b"}
    with pytest.raises(BadInputError, match="feature_store.yaml: No such file"):
        open_online(tmp_path, values)


@pytest.fixture(scope="module")
def server(alone: Any, online: dict[str, str]) -> Iterator[Any]:
    return alone(f"--feature_repo={REPOSITORY}", **online)


def ask(server: Any, body: bytes, camera: str, **options: str) -> Any:
    answer = httpx.post(
        server.url,
        content=body,
        params={"camera_id": camera, **options},
        headers={"content-type": "image/jpeg"},
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]["plates"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_a_camera_has_its_own_threshold_and_margin(server: Any, encoded: Encoded) -> None:
    body = encoded()
    # Until the store is open, and whenever it is late, a camera has the default.
    until(lambda: ask(server, body, "blind") == [])
    assert len(ask(server, body, "blind", confidence="0.25")) == 2
    usual = ask(server, body, "nobody")
    until(lambda: ask(server, body, "generous") != usual)
    wide = ask(server, body, "generous")
    assert wide[0]["box"][0] < usual[0]["box"][0]
    assert server.metric("platecrypt_profile_lookups_total", outcome="cached") > 0


def test_a_store_that_goes_away_fails_no_request(
    server: Any, encoded: Encoded, online: dict[str, str], tmp_path: Path
) -> None:
    path = Path(online["FEAST_ONLINE_STORE"])
    shutil.copy(path, tmp_path / "kept.db")
    path.write_bytes(b"this is no database" * 100)
    try:
        for number in range(20):
            assert len(ask(server, encoded(), f"new-{number}")) == 2
        assert ask(server, encoded(), "blind") == []  # known from before
    finally:
        shutil.copy(tmp_path / "kept.db", path)
