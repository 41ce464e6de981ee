"""The pipeline steps that build features and select the training set with them."""

from pathlib import Path

from platecrypt.artifacts import Artifact, describe
from platecrypt.datasets.steps import DATASET, load_manifest
from platecrypt.datasets.training_set import training_set_key
from platecrypt.features.build import build, event_time, to_parquet
from platecrypt.features.selection import describe as describe_selection
from platecrypt.features.selection import select
from platecrypt.features.store import FeatureRepository
from platecrypt.progress import progress
from platecrypt.settings import Settings
from platecrypt.steps import say, step
from platecrypt.storage import ObjectStore


@step
def build_features(settings: Settings, manifest: Artifact, features: Artifact) -> None:
    """Measure the images that were not measured yet; register and materialise the features."""
    dataset = load_manifest(manifest)
    store = ObjectStore(settings.store())
    with progress("measuring") as bar:
        rows = build(store, dataset, progress=bar)
    repository = FeatureRepository(settings)
    repository.register()
    repository.materialise()
    Path(features.path).write_bytes(to_parquet(rows))
    describe(features, {DATASET: dataset.digest, "rows": len(rows)})
    say(f"{len(rows)} feature rows, registered and online")


@step
def select_training_set(
    settings: Settings, manifest: Artifact, features: Artifact, training_set: Artifact
) -> None:
    """Join features to labels in time, and decide what is trained on."""
    dataset = load_manifest(manifest)
    images = dataset.split("train")
    repository = FeatureRepository(settings)
    joined = repository.training_features(
        [image.image_id for image in images], [event_time(image) for image in images]
    )
    selected = select(dataset, joined)
    data = selected.to_bytes()
    ObjectStore(settings.store()).put(training_set_key(selected.digest), data)
    Path(training_set.path).write_bytes(data)
    describe(
        training_set,
        {
            DATASET: dataset.digest,
            "feature_service": selected.feature_service,
            "features": features.metadata.get("sha256", ""),
            "training_set_digest": selected.digest,
        },
        objects={training_set_key(selected.digest): selected.digest},
    )
    say(describe_selection(selected))
