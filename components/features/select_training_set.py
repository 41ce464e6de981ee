"""Join features to labels in time and select what is trained on."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def select_training_set(
    manifest: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    library: str,
    training_set: dsl.Output[dsl.Dataset],
) -> None:
    """Join features to labels in time and select what is trained on.

    Args:
        manifest: The dataset.
        features: What build_features made: the join reads the same rows from Feast.
        library: Digest of the library; part of the cache key.
        training_set: JSON: each image of the train split, its weight and the reason.
    """
    from platecrypt.features.steps import select_training_set as work
    from platecrypt.settings import load

    work(load(), manifest, features, training_set)
