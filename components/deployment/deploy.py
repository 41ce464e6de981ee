"""Start the new version beside the one that serves."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def deploy(
    version: str,
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    library: str,
) -> str:
    """Start the new version beside the one that serves.

    Args:
        version: Version in the registry.
        model: The registered model.
        verdict: Its passing verdict.
        library: Digest of the library; part of the cache key.

    Returns:
        URL of the new version.
    """
    from platecrypt.deployment.steps import deploy as work
    from platecrypt.settings import load

    return work(load(), version, model, verdict)
