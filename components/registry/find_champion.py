"""Say which model the new one must beat."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def find_champion(
    model: dsl.Input[dsl.Model],
    library: str,
) -> str:
    """Say which model the new one must beat.

    Args:
        model: The new model.
        library: Digest of the library; part of the cache key.

    Returns:
        The champion's version, or '' where there is none or the new model is the champion itself.
    """
    from platecrypt.settings import load
    from platecrypt.training.steps import find_champion as work

    return work(load(), model)
