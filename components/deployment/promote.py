"""Let the new version serve in place of the previous one, and make it the champion."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def promote(
    version: str,
    library: str,
) -> str:
    """Let the new version serve in place of the previous one, and make it the champion.

    Args:
        version: Version in the registry.
        library: Digest of the library; part of the cache key.

    Returns:
        URL of the endpoint.
    """
    from platecrypt.deployment.steps import promote as work
    from platecrypt.settings import load

    return work(load(), version)
