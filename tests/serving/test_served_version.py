"""The cluster engine learns from the endpoint itself which version answers."""

import pytest

from platecrypt.deployment import Endpoint
from platecrypt.deployment.kserve import served_version
from platecrypt.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_an_endpoint_tells_its_version(endpoint: Endpoint) -> None:
    assert served_version(endpoint.url.split("/v1/")[0], "plates") == endpoint.version
    assert served_version(endpoint.url.split("/v1/")[0], "cars") == ""


def test_where_nobody_answers_there_is_no_version() -> None:
    assert served_version(f"http://127.0.0.1:{free_port()}", "plates") == ""
