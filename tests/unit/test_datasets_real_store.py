"""Datasets go through the real embedded object store as they go through memory."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from platecrypt.datasets.importing import import_dataset
from platecrypt.datasets.manifest import manifest_key, parse_manifest
from platecrypt.datasets.synthetic import generate
from platecrypt.datasets.validation import validate
from platecrypt.errors import PlatecryptError
from platecrypt.processes import Supervisor
from platecrypt.settings import Settings
from platecrypt.storage.embedded import NAME, ensure_store
from platecrypt.storage.objects import ObjectStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(home=home, s3_port=port)
    try:
        yield ensure_store(settings)
    finally:
        Supervisor(home).stop(NAME)


def test_what_is_imported_lies_in_the_store_and_passes_validation(store: ObjectStore) -> None:
    manifest = import_dataset(store, "synthetic://?images=24&seed=8")
    stored = store.get(manifest_key(manifest.digest))
    assert parse_manifest(stored, expected_digest=manifest.digest) == manifest
    assert validate(store, manifest).ok
    before = [(info.key, info.etag) for info in store.list()]
    assert import_dataset(store, "synthetic://?images=24&seed=8") == manifest
    assert [(info.key, info.etag) for info in store.list()] == before


def test_another_bucket_of_the_same_s3_can_be_the_source(
    store: ObjectStore, tmp_path: Path
) -> None:
    source = ObjectStore(store.config._replace(bucket="incoming"))
    source.ensure_bucket()
    for image in generate(8, seed=4):
        lines = [
            "0 " + " ".join(f"{v / 320:.6f}" for point in plate.quad or () for v in point) + "\n"
            for plate in image.plates
        ]
        label = Path(image.name).with_suffix(".txt").name
        for name, data in ((image.name, image.data), (label, "".join(lines).encode())):
            source.put(f"my pictures/ä/{name}", data)
            (tmp_path / name).write_bytes(data)
    manifest = import_dataset(store, "s3://incoming/my pictures/ä")
    assert manifest == import_dataset(store, str(tmp_path))
    assert all(plate.quad for image in manifest.images for plate in image.plates)


def test_a_bucket_that_is_not_there_leaves_nothing(store: ObjectStore) -> None:
    before = [info.key for info in store.list()]
    with pytest.raises(PlatecryptError, match="nowhere"):
        import_dataset(store, "s3://nowhere/x")
    assert [info.key for info in store.list()] == before
