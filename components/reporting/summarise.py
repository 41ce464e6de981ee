"""Write the summary of a run, also of one that failed."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def summarise(
    status: dsl.PipelineTaskFinalStatus,
    dataset: str,
    library: str,
    summary: dsl.Output[dsl.HTML],
) -> None:
    """Write the summary of a run, also of one that failed.

    Args:
        status: How the steps ended.
        dataset: The source that was asked for.
        library: Digest of the library; part of the cache key.
        summary: A page.
    """
    from platecrypt.deployment.reporting import summarise as work
    from platecrypt.settings import load

    work(
        load(),
        status.pipeline_job_resource_name,
        status.state,
        status.error_message or "",
        dataset,
        summary,
    )
