"""The feature store, for real: parquet in the embedded S3, Feast with registry and online store.

Not marked slow although Feast takes seconds to import: the point-in-time join is what keeps the
future out of training, so it is tested on every change.
"""

import dataclasses
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate
from platecrypt.errors import BadInputError
from platecrypt.features.build import build, event_time
from platecrypt.features.layout import QUALITY_PREFIX, UNDATED
from platecrypt.features.store import FeatureRepository, _repo_config
from platecrypt.settings import Settings
from platecrypt.storage import ObjectStore

ROOT = Path(__file__).resolve().parents[2]
COUNT = 6
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def dataset(store: ObjectStore) -> Manifest:
    images = []
    for number in range(COUNT):
        pixels = np.full((60, 80, 3), 20 + 40 * number, np.uint8)
        pixels[::2, ::3] //= 2
        data = bytes(cv2.imencode(".png", pixels)[1])
        digest = hashlib.sha256(data).hexdigest()
        store.put(f"images/{digest}.png", data)
        taken = START + timedelta(hours=number) if number else None
        images.append(
            ImageRecord(
                image_id=digest,
                key=f"images/{digest}.png",
                name=f"{number}.png",
                size=len(data),
                width=80,
                height=60,
                plates=(Plate((1, 1, 20, 10)),),
                camera=f"camera-{number % 2}",
                group="g",
                time=taken.isoformat().replace("+00:00", "Z") if taken else None,
                split="train",
            )
        )
    return Manifest(tuple(images), "voc", "ride")


@pytest.fixture(scope="module")
def repository(settings: Settings, store: ObjectStore, dataset: Manifest) -> FeatureRepository:
    build(store, dataset)
    made = FeatureRepository(settings)
    made.register()
    made.materialise()
    return made


def joined(repository: FeatureRepository, image: ImageRecord, label_time: datetime) -> float:
    found = repository.training_features([image.image_id], [label_time])
    assert len(found) == 1
    return float(found["brightness"].iloc[0])


def test_a_row_known_before_the_label_is_joined(
    repository: FeatureRepository, dataset: Manifest
) -> None:
    image = dataset.images[3]
    assert joined(repository, image, event_time(image) + timedelta(hours=1)) > 0
    assert joined(repository, image, event_time(image)) > 0


def test_a_row_dated_after_the_label_is_not_joined(
    repository: FeatureRepository, dataset: Manifest
) -> None:
    image = dataset.images[3]
    assert np.isnan(joined(repository, image, event_time(image) - timedelta(seconds=1)))


def test_an_image_without_a_time_is_always_known(
    repository: FeatureRepository, dataset: Manifest
) -> None:
    image = dataset.images[0]
    assert event_time(image) == datetime.fromisoformat(UNDATED)
    assert joined(repository, image, START) > 0


def test_the_exposure_class_comes_with_the_features(
    repository: FeatureRepository, dataset: Manifest
) -> None:
    found = repository.training_features(
        [image.image_id for image in dataset.images],
        [event_time(image) for image in dataset.images],
    )
    by_id = dict(zip(found["image_id"], found["exposure"], strict=True))
    assert by_id[dataset.images[0].image_id] == "dark"
    assert by_id[dataset.images[-1].image_id] in ("normal", "bright")


def test_a_camera_has_a_profile_online(repository: FeatureRepository) -> None:
    profile = repository.camera_profile("camera-1")
    assert profile["images"] == COUNT // 2
    assert profile["policy"] == "protect"
    assert 0 < profile["confidence"] < 1
    assert repository.camera_profile("nobody")["policy"] is None


def test_an_image_is_measured_once(
    store: ObjectStore, dataset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [found.key for found in store.list(QUALITY_PREFIX)]
    measured: list[str] = []
    from platecrypt.features import build as module

    original = module.measure
    monkeypatch.setattr(
        module, "measure", lambda data, image: measured.append(image.name) or original(data, image)
    )
    build(store, dataset)
    assert measured == []
    assert [found.key for found in store.list(QUALITY_PREFIX)] == before
    relabelled = dataclasses.replace(dataset.images[1], plates=(Plate((2, 2, 9, 9)),))
    rows = build(store, dataclasses.replace(dataset, images=(dataset.images[0], relabelled)))
    assert measured == ["1.png"]
    assert sorted(rows["smallest_plate"]) == [7.0, 19.0]


def test_the_settings_of_the_process_stay_what_they_were(
    repository: FeatureRepository,
) -> None:
    before = {name for name in os.environ if name.startswith("PLATECRYPT_")}
    repository.register()
    assert {name for name in os.environ if name.startswith("PLATECRYPT_")} == before
    assert "PLATECRYPT_S3_BUCKET" not in before


def test_another_configuration_of_feast_takes_the_place_of_ours(tmp_path: Path) -> None:
    """On a cluster a mounted file names Feast's servers."""
    file = tmp_path / "feature_store.yaml"
    ours = (ROOT / "feature_repo" / "feature_store.yaml").read_text()
    file.write_text(ours.replace("project: ", "project: another_"))
    settings = Settings(home=tmp_path / "home", root=ROOT, feast_config=str(file))
    assert _repo_config(ROOT / "feature_repo", settings).project.startswith("another_")
    file.unlink()
    with pytest.raises(BadInputError, match="PLATECRYPT_FEAST_CONFIG"):
        _repo_config(ROOT / "feature_repo", settings)
