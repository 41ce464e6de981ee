"""Import a dataset into the object store and write its manifest."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def import_dataset(
    source: str,
    limit: int,
    library: str,
    manifest: dsl.Output[dsl.Dataset],
) -> None:
    """Import a dataset into the object store and write its manifest.

    Args:
        source: Folder, zip, s3://bucket/prefix, or synthetic://?images=N&seed=S.
        limit: Take only so many images, spread over the rides; 0 takes all.
        library: Digest of the library; part of the cache key.
        manifest: JSON lines: one image a line, content-addressed.
    """
    from platecrypt.datasets.steps import import_dataset as work
    from platecrypt.settings import load

    work(load(), source, limit, manifest)
