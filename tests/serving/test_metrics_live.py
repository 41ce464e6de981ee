"""What `/metrics` tells before anybody has asked for a picture, and after the keys have changed."""

import hashlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_limit_model_and_key_are_told_before_the_first_picture(
    alone: Callable[..., Any], stage: Any
) -> None:
    quiet = alone("--working=3", "--waiting=4", "--model_version=17")
    folder, digest = stage.model()
    assert digest == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert quiet.metric("platecrypt_requests_inside_limit") == 7
    assert quiet.metric("platecrypt_model_info", version="17", digest=digest, size="320") == 1
    made = datetime.fromisoformat(stage.keyring.newest.created).timestamp()
    assert quiet.metric("platecrypt_key_created_timestamp_seconds") == made
    stage.keyring.rotate()
    rotated = datetime.fromisoformat(stage.keyring.newest.created).timestamp()
    assert rotated > made
    # Kubernetes asks for readiness every few seconds; that is when the new key shows.
    assert httpx.get(f"{quiet.base}/v2/health/ready", trust_env=False).status_code == 200
    assert quiet.metric("platecrypt_key_created_timestamp_seconds") == rotated
    assert 0 <= quiet.metric("platecrypt_key_age_seconds") <= time.time() - rotated
