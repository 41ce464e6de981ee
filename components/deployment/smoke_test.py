"""Send a held-out image to the new version; check that the plates are gone and come back."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def smoke_test(
    url: str,
    manifest: dsl.Input[dsl.Dataset],
    library: str,
    report: dsl.Output[dsl.HTML],
) -> None:
    """Send a held-out image to the new version; check that the plates are gone and come back.

    Args:
        url: URL of the new version.
        manifest: The dataset.
        library: Digest of the library; part of the cache key.
        report: The picture that was sent and the one that came back.
    """
    from platecrypt.deployment.steps import smoke_test as work
    from platecrypt.settings import load

    work(load(), url, manifest, report)
