"""Register a model that has a passing verdict, as the challenger."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def register(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    library: str,
) -> str:
    """Register a model that has a passing verdict, as the challenger.

    Args:
        model: The model.
        verdict: What evaluate wrote.
        library: Digest of the library; part of the cache key.

    Returns:
        The version in the registry.
    """
    from platecrypt.settings import load
    from platecrypt.training.steps import register as work

    return work(load(), model, verdict)
