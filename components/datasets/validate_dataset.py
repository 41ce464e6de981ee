"""Refuse a dataset that would poison training, and say which images and why."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def validate_dataset(
    manifest: dsl.Input[dsl.Dataset],
    library: str,
    report: dsl.Output[dsl.HTML],
    findings: dsl.Output[dsl.Artifact],
) -> None:
    """Refuse a dataset that would poison training, and say which images and why.

    Args:
        manifest: The dataset.
        library: Digest of the library; part of the cache key.
        report: A page with thumbnails.
        findings: The same as JSON.
    """
    from platecrypt.datasets.steps import validate_dataset as work
    from platecrypt.settings import load

    work(load(), manifest, report, findings)
