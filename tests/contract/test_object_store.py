"""What every S3 must do for us: the embedded one, and one of another make.

The other is moto's S3 server, unless TEST_S3_ENDPOINT, TEST_S3_ACCESS_KEY and TEST_S3_SECRET_KEY
point at a real one.
"""

import concurrent.futures
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.processes import Supervisor, free_port
from platecrypt.settings import Settings, StoreConfig, load
from platecrypt.storage import ObjectStore
from platecrypt.storage.embedded import NAME, ensure_store, start_embedded
from platecrypt.storage.objects import MissingObjectError


@pytest.fixture(scope="module", params=["embedded", "other"])
def any_store(request: pytest.FixtureRequest, settings: Settings) -> Iterator[ObjectStore]:
    if request.param == "embedded":
        yield ensure_store(settings)
        return
    server = None
    endpoint = os.environ.get("TEST_S3_ENDPOINT")
    if not endpoint:
        server = ThreadedMotoServer(port=free_port(), verbose=False)
        server.start()
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
    other = load(
        home=settings.home / "unused",
        s3_endpoint=endpoint,
        s3_access_key=os.environ.get("TEST_S3_ACCESS_KEY", "key"),
        s3_secret_key=os.environ.get("TEST_S3_SECRET_KEY", "secret"),
        s3_bucket=f"contract-{uuid.uuid4().hex[:8]}",
    )
    yield ensure_store(other)
    assert Supervisor(other.home).list() == [], "the embedded store was started all the same"
    if server:
        server.stop()


def test_what_is_put_comes_back(any_store: ObjectStore) -> None:
    data = bytes(range(256)) * 100
    any_store.put("a/b/ü c.bin", data)
    assert any_store.get("a/b/ü c.bin") == data
    assert any_store.get("a/b/ü c.bin", start=256, length=3) == b"\x00\x01\x02"
    assert any_store.get("a/b/ü c.bin", start=256, length=0) == b""
    found = any_store.stat("a/b/ü c.bin")
    assert found is not None
    assert found.size == len(data)


def test_an_empty_object_is_an_object(any_store: ObjectStore) -> None:
    any_store.put("empty", b"")
    assert any_store.get("empty") == b""


def test_a_later_put_replaces(any_store: ObjectStore) -> None:
    any_store.put("twice", b"first, longer")
    any_store.put("twice", b"second")
    assert any_store.get("twice") == b"second"


def test_listing_is_by_prefix_and_sorted(any_store: ObjectStore) -> None:
    for name in ("list/b", "list/a", "list/c/d", "listed"):
        any_store.put(name, b"x")
    assert [found.key for found in any_store.list("list/")] == ["list/a", "list/b", "list/c/d"]
    assert list(any_store.list("nothing-here/")) == []


def test_what_is_not_there_is_said_to_be_missing(any_store: ObjectStore) -> None:
    assert any_store.stat("nowhere") is None
    with pytest.raises(MissingObjectError, match="nowhere at .* does not exist"):
        any_store.get("nowhere")
    any_store.delete("nowhere")


def test_deleted_is_gone(any_store: ObjectStore) -> None:
    any_store.put("gone", b"x")
    any_store.delete("gone")
    assert any_store.stat("gone") is None


def test_a_large_file_goes_in_parts(any_store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1 << 20) * 20)
    any_store.put_file("large", path)
    back = tmp_path / "back"
    any_store.get_file("large", back)
    assert back.read_bytes() == path.read_bytes()


def test_wrong_credentials_are_refused(store: ObjectStore) -> None:
    wrong = ObjectStore(store.config._replace(secret_key="wrong"))
    with pytest.raises(UnavailableError, match="refused the credentials"):
        wrong.get("empty")


def test_data_outlives_the_server(settings: Settings, store: ObjectStore) -> None:
    store.put("kept", b"still here")
    assert Supervisor(settings.home).stop(NAME)
    with pytest.raises(UnavailableError, match="does not answer"):
        ObjectStore(store.config._replace(timeout_s=1.0)).get("kept")
    start_embedded(settings)
    assert store.get("kept") == b"still here"


def test_credentials_are_generated_for_their_owner_alone(
    settings: Settings, store: ObjectStore
) -> None:
    path = settings.store_credentials_path
    assert path.stat().st_mode & 0o777 == 0o600
    record = Supervisor(settings.home).find(NAME)
    assert record is not None
    assert store.config.secret_key not in " ".join(record.argv)


def test_an_endpoint_that_does_not_answer_is_given_up_in_bounded_time() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = StoreConfig(url, "a", "b", "bucket", "us-east-1", 1.0, False)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer"):
        ObjectStore(config).get("x")
    assert time.monotonic() - began < 10 * config.timeout_s


def test_who_comes_second_uses_what_the_first_has_started(tmp_path: Path) -> None:
    settings = load(home=tmp_path, s3_port=free_port())
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: start_embedded(settings), range(4)))
    try:
        assert len({record.pid for record in found}) == 1
        ObjectStore(settings.store()).put("a", b"b")
    finally:
        Supervisor(tmp_path).stop(NAME)


def test_a_taken_port_is_one_clear_line(settings: Settings, store: ObjectStore) -> None:
    other = load(home=settings.home / "other", s3_port=settings.s3_port)
    with pytest.raises(BadInputError, match=r"port \d+ on 127.0.0.1 is taken.*PLATECRYPT_S3_PORT"):
        start_embedded(other)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://x", "http://x/path", "http://"])
def test_an_endpoint_of_another_form_is_refused(endpoint: str) -> None:
    config = StoreConfig(endpoint, "a", "b", "bucket", "us-east-1", 1.0, False)
    with pytest.raises(BadInputError, match="is not of the form"):
        ObjectStore(config)
