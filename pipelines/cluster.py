"""The cluster engine: compile the pipeline, upload it to Kubeflow Pipelines, start a run there."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.training import DEFAULT_IMAGES, NAME, Images, training_pipeline
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.settings import Settings, read_token

ANSWER_S = 10.0
COMPILED = Path("pipelines") / "compiled" / "training.yaml"


class Uploaded(NamedTuple):
    """A version of the pipeline on a Kubeflow Pipelines server."""

    pipeline_id: str
    version_id: str
    name: str
    version: str


def compile_training(images: Images = DEFAULT_IMAGES, *, gpu: bool = True) -> str:
    """The pipeline as KFP v2 IR YAML, the same text for the same source.

    Arguments as `training_pipeline`.
    The version of the compiler is left out: the file would change with every release of it.
    """
    import tempfile

    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(training_pipeline(images, gpu=gpu), str(path))
        text = path.read_text()
    return re.sub(r"^sdkVersion: .*$", "sdkVersion: kfp", text, flags=re.MULTILINE)


def upload(settings: Settings, package: Path, name: str = NAME, version: str = "") -> Uploaded:
    """Upload a compiled pipeline: as a new pipeline, or as a new version of the one of that name.

    Raises:
        BadInputError: no host is set, or the file is not there.
        UnavailableError: the server does not answer or refuses.
    """
    if not package.is_file():
        raise BadInputError(f"{package} does not exist; make it with `platecrypt compile`")
    with _client(settings) as client:
        pipeline_id = client.get_pipeline_id(name)
        if pipeline_id is None:
            made = client.upload_pipeline(str(package), pipeline_name=name)
            pipeline_id = made.pipeline_id
            versions = client.list_pipeline_versions(pipeline_id, page_size=1).pipeline_versions
            found = versions[0]
            if not version:
                return Uploaded(
                    pipeline_id, found.pipeline_version_id, name, found.display_name or name
                )
        version = version or _next_version(client, pipeline_id)
        found = client.upload_pipeline_version(
            str(package), pipeline_version_name=version, pipeline_id=pipeline_id
        )
        return Uploaded(pipeline_id, found.pipeline_version_id, name, version)


def find_or_upload(settings: Settings, package: Path, name: str, version: str) -> Uploaded:
    """The version of that name on the server; a new one where no name is given.

    Raises:
        BadInputError: the server has no such pipeline or version.
    """
    if not version:
        return upload(settings, package, name)
    with _client(settings) as client:
        pipeline_id = client.get_pipeline_id(name)
        if pipeline_id is None:
            raise BadInputError(f"{settings.kfp_host} has no pipeline {name}; upload it first")
        versions = _versions(client, pipeline_id)
        if version not in versions:
            known = ", ".join(sorted(versions)) or "none"
            raise BadInputError(f"pipeline {name} has no version {version}; it has {known}")
        return Uploaded(pipeline_id, versions[version], name, version)


def submit(
    settings: Settings, uploaded: Uploaded, parameters: dict[str, Any], experiment: str
) -> str:
    """Start a run of an uploaded version; returns the run's id."""
    with _client(settings) as client:
        made = client.create_experiment(experiment, namespace=settings.kfp_namespace)
        run = client.run_pipeline(
            made.experiment_id,
            job_name=f"{uploaded.name} {uploaded.version}",
            pipeline_id=uploaded.pipeline_id,
            version_id=uploaded.version_id,
            params=parameters,
            service_account=settings.kfp_service_account,
        )
        return str(run.run_id)


def _versions(client: Any, pipeline_id: str) -> dict[str, str]:
    """Name -> id of every version of a pipeline."""
    found: dict[str, str] = {}
    token = ""
    while True:
        page = client.list_pipeline_versions(pipeline_id, page_token=token, page_size=100)
        for item in page.pipeline_versions or []:
            found[item.display_name] = item.pipeline_version_id
        token = page.next_page_token
        if not token:
            return found


def _next_version(client: Any, pipeline_id: str) -> str:
    """'v2' after one version, and so on past whatever was taken by hand."""
    taken = _versions(client, pipeline_id)
    number = len(taken) + 1
    while f"v{number}" in taken:
        number += 1
    return f"v{number}"


@contextlib.contextmanager
def _client(settings: Settings) -> Iterator[Any]:
    """A KFP client whose failures are ours."""
    import httpx
    import kfp
    import kfp_server_api
    import urllib3

    if not settings.kfp_host:
        raise BadInputError(
            "no Kubeflow Pipelines host: give --host http://HOST:PORT or set PLATECRYPT_KFP_HOST"
        )
    token = read_token(settings.kfp_token_file) if settings.kfp_token_file else None
    try:
        # The client itself asks five times, five seconds apart, before it gives up.
        httpx.get(
            f"{settings.kfp_host}/apis/v2beta1/healthz",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=ANSWER_S,
        ).raise_for_status()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Its notebook links are for notebooks; a program prints its own.
            with contextlib.redirect_stdout(None):
                client = kfp.Client(host=settings.kfp_host, existing_token=token)
                yield client
    except kfp_server_api.ApiException as error:
        reason = " ".join(str(error.body or error.reason).split())[:300]
        raise UnavailableError(f"{settings.kfp_host} answered {error.status}: {reason}") from None
    except httpx.HTTPStatusError as error:
        raise UnavailableError(
            f"{settings.kfp_host} answered {error.response.status_code}: "
            f"{error.response.text[:300]}; check the address and PLATECRYPT_KFP_TOKEN_FILE"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, urllib3.exceptions.HTTPError, OSError) as error:
        raise UnavailableError(
            f"Kubeflow Pipelines at {settings.kfp_host} does not answer: {type(error).__name__}"
        ) from None
