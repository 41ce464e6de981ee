"""Measure image quality once an image; register the features and bring them online."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def build_features(
    manifest: dsl.Input[dsl.Dataset],
    library: str,
    features: dsl.Output[dsl.Dataset],
) -> None:
    """Measure image quality once an image; register the features and bring them online.

    Args:
        manifest: The dataset.
        library: Digest of the library; part of the cache key.
        features: Parquet, one row an image.
    """
    from platecrypt.features.steps import build_features as work
    from platecrypt.settings import load

    work(load(), manifest, features)
