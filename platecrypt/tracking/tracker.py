"""Runs and models over MLflow's API: SQLite and a folder on one machine, a server elsewhere.

MLflow takes seconds to import, so it is imported when a Tracker first talks to it. A run always
ends: finished, failed or killed; a model is registered once, however often the step is repeated.
"""

import contextlib
import hashlib
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError
from platecrypt.settings import Settings

logger = logging.getLogger(__name__)

CHALLENGER, CHAMPION = "challenger", "champion"
MODEL_DIGEST, DATASET_DIGEST, RUN_ID = "model_digest", "dataset_digest", "run_id"
PARENT = "mlflow.parentRunId"
# Tags of a run: the pipeline run that made it; of a training, the MLflow run of its search.
PIPELINE_RUN, TUNING_RUN = "pipeline_run", "tuning_run"
MODEL_PATH = "model"
# MLflow refuses longer texts; a parameter is for people, not for documents.
LONGEST_PARAM = 6000
# How long a request to a server may take in all, and how often it is repeated.
HTTP_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}

_api: list[Any] = []


@dataclass(frozen=True)
class ModelVersion:
    """A registered model.

    Attributes:
        name: of the registered model.
        version: counts from 1.
        run_id: the run that made it.
        source: URI of its files.
        tags: model and dataset digest and what else was given at registration.
        aliases: "challenger", "champion" or none.
    """

    name: str
    version: int
    run_id: str
    source: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    @property
    def model_digest(self) -> str:
        """SHA-256 of the ONNX file, hexadecimal."""
        return self.tags[MODEL_DIGEST]

    @property
    def dataset_digest(self) -> str:
        """The digest of the manifest it was trained from."""
        return self.tags[DATASET_DIGEST]


class Run:
    """A run that is open."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record parameters (6000 characters each); one that is set already cannot change."""
        from mlflow.entities import Param

        rows = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in params.items()]
        with _explained():
            self._client.log_batch(self.run_id, params=rows)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record figures at a step; several steps make a curve."""
        self.log_curve([metrics], first_step=step)

    def log_curve(self, rows: Sequence[Mapping[str, float]], *, first_step: int = 1) -> None:
        """Record one row of figures a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [
            Metric(name, float(value), now, step)
            for step, row in enumerate(rows, start=first_step)
            for name, value in row.items()
        ]
        with _explained():
            for start in range(0, len(found), 1000):  # MLflow's limit a request
                self._client.log_batch(self.run_id, metrics=found[start : start + 1000])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        with _explained():
            for name, value in tags.items():
                self._client.set_tag(self.run_id, name, value)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file, or a folder with all that is in it, under `folder` of the run."""
        if not path.exists():
            raise BadInputError(f"artifact {path} does not exist")
        with _explained():
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), folder or None)
            else:
                self._client.log_artifact(self.run_id, str(path), folder or None)


class Tracker:
    """MLflow with our names: one experiment, one registered model."""

    def __init__(self, settings: Settings) -> None:
        self.uri = settings.tracking_uri
        self.experiment = settings.mlflow_experiment
        self.model_name = settings.model_name
        self._every = {PIPELINE_RUN: settings.pipeline_run} if settings.pipeline_run else {}
        self._artifacts = (settings.home / "mlflow" / "artifacts").absolute()
        self._client: Any = None

    @contextlib.contextmanager
    def start_run(
        self,
        name: str,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
        *,
        must_close: bool = True,
    ) -> Iterator[Run]:
        """Open a run; it is closed whatever happens.

        An exception makes it FAILED; Ctrl-C, SIGTERM and an ordered exit make it KILLED. Where
        MLflow cannot be told that, it never hides what happened.

        Args:
            name: shown in the list of runs.
            tags: e.g. dataset digest, feature service, git commit.
            parent: run id of the run that this one belongs to.
            must_close: whether an MLflow that does not answer at the end is an error although all
                went well; False: a warning.
        """
        client = self._connect()
        every = self._every | dict(tags or {}) | ({PARENT: parent} if parent else {})
        with _explained():
            run_id = client.create_run(self._experiment_id(), run_name=name, tags=every)
            run_id = run_id.info.run_id
        status = "KILLED"
        try:
            with _term_raises():
                yield Run(client, run_id)
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            try:
                with _explained():
                    client.set_terminated(run_id, status)
            except PlatecryptError as error:
                if must_close and status == "FINISHED":
                    raise
                logger.warning("MLflow run %s stays open: %s", run_id, error)

    def resume(self, run_id: str) -> Run:
        """A run that exists, to record more in it (steps of one pipeline run share one)."""
        client = self._connect()
        with _explained():
            client.get_run(run_id)
        return Run(client, run_id)

    def begin(self, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Open a run that outlives this process; `end` closes it. Returns the run id."""
        client = self._connect()
        every = self._every | dict(tags or {})
        with _explained():
            run = client.create_run(self._experiment_id(), run_name=name, tags=every)
        return str(run.info.run_id)

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run that `begin` opened: "FINISHED", "FAILED" or "KILLED"."""
        client = self._connect()
        with _explained():
            client.set_terminated(run_id, status)

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """The newest run of the experiment with all these tags, or None."""
        return next(iter(self._search(tags, 1, "DESC")), None)

    def run_tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run.

        Raises:
            BadInputError: there is no such run.
        """
        from mlflow.exceptions import MlflowException

        client = self._connect()
        with _explained():
            try:
                return dict(client.get_run(run_id).data.tags)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise BadInputError(f"MLflow has no run {run_id!r}") from None
                raise

    def children(self, run_id: str) -> tuple[str, ...]:
        """The ids of the runs that belong to a run, oldest first (1000 at most)."""
        return self._search({PARENT: run_id}, 1000, "ASC")

    def read_artifact(self, run_id: str, path: str) -> bytes | None:
        """The bytes of a file among a run's artifacts, or None where it has no such file."""
        client = self._connect()
        folder = path.rpartition("/")[0]
        with _explained():
            if path not in (file.path for file in client.list_artifacts(run_id, folder or None)):
                return None
            with tempfile.TemporaryDirectory() as temporary:
                return Path(client.download_artifacts(run_id, path, temporary)).read_bytes()

    def run_status(self, run_id: str) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        client = self._connect()
        with _explained():
            return str(client.get_run(run_id).info.status)

    def register_model(self, run_id: str, model_dir: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Register the files of a model; the same model digest gives the version that is there.

        Args:
            run_id: the run that made it; its artifacts hold the files afterwards.
            model_dir: the model's files.
            tags: must hold `model_digest`, the SHA-256 of one of the files, and
                `dataset_digest`.

        Raises:
            BadInputError: a digest is missing in the tags, or the folder is empty.
            RefusedError: no file has that digest, or it is registered for another dataset.
        """
        for name in (MODEL_DIGEST, DATASET_DIGEST):
            if not tags.get(name):
                raise BadInputError(f"a model cannot be registered without the tag {name}")
        if not model_dir.is_dir() or not any(model_dir.iterdir()):
            raise BadInputError(f"{model_dir} holds no model files")
        if not _holds(model_dir, tags[MODEL_DIGEST]):
            raise RefusedError(f"no file in {model_dir} has the digest {tags[MODEL_DIGEST]}")
        known = self._find_digest(tags[MODEL_DIGEST], tags[DATASET_DIGEST])
        if known:
            return known
        client = self._connect()
        where = f"{MODEL_PATH}/{tags[MODEL_DIGEST]}"
        with _explained():
            client.log_artifacts(run_id, str(model_dir), where)
            root = client.get_run(run_id).info.artifact_uri
            self._ensure_model(client)
            made = client.create_model_version(
                self.model_name,
                source=f"{root}/{where}",
                run_id=run_id,
                tags={**tags, RUN_ID: run_id},
            )
        return self.version(int(made.version))

    def versions(self) -> tuple[ModelVersion, ...]:
        """Every registered version, newest first."""
        client = self._connect()
        with _explained():
            # The search leaves the aliases out; the model itself knows them.
            found = client.search_model_versions(f"name = '{_quoted(self.model_name)}'")
            aliases = self._aliases(client) if found else {}
        made = [self._version(row, aliases) for row in found]
        return tuple(sorted(made, key=lambda version: -version.version))

    def version(self, number: int) -> ModelVersion:
        """One version; BadInputError when there is none with that number."""
        for version in self.versions():
            if version.version == number:
                return version
        raise BadInputError(f"{self.model_name} has no version {number}")

    def set_alias(self, alias: str, version: int) -> None:
        """Point `challenger` or `champion` at a version; it leaves the one that had it.

        Raises:
            BadInputError: no such alias, or no such version.
        """
        if alias not in (CHALLENGER, CHAMPION):
            raise BadInputError(f"alias {alias!r} is neither {CHALLENGER} nor {CHAMPION}")
        self.version(version)
        client = self._connect()
        with _explained():
            client.set_registered_model_alias(self.model_name, alias, str(version))

    def remove_alias(self, alias: str) -> None:
        """Take an alias away from whichever version has it; none having it is no error."""
        if self.with_alias(alias):
            with _explained():
                self._connect().delete_registered_model_alias(self.model_name, alias)

    def with_alias(self, alias: str) -> ModelVersion | None:
        """The version that has the alias, or None."""
        return next((v for v in self.versions() if alias in v.aliases), None)

    def champion(self) -> ModelVersion | None:
        """The version that serves, or None."""
        return self.with_alias(CHAMPION)

    def challenger(self) -> ModelVersion | None:
        """The version that was registered last and passed the gate, or None."""
        return self.with_alias(CHALLENGER)

    def download_model(self, version: ModelVersion, folder: Path) -> Path:
        """A version's files in `folder`; what is there already is used if it is that version.

        It appears whole or not at all, and one of its files has the version's model digest.

        Raises:
            BadInputError: `folder` holds something else.
            RefusedError: the files in the registry do not have the digest that was registered.
            UnavailableError: the files are gone.
        """
        self._connect()
        import mlflow

        if folder.exists() and any(folder.iterdir()):
            if _holds(folder, version.model_digest):
                return folder
            raise BadInputError(
                f"{folder} holds something else than version {version.version}; remove it"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as temporary:
            with _explained():
                found = Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=version.source, dst_path=temporary, tracking_uri=self.uri
                    )
                )
            if not found.is_dir() or not any(found.iterdir()):
                raise UnavailableError(f"the files of version {version.version} are gone")
            if not _holds(found, version.model_digest):
                raise RefusedError(
                    f"no file of version {version.version} has the digest {version.model_digest}: "
                    "the registry's files were changed; register the model again"
                )
            if folder.exists():
                folder.rmdir()
            found.rename(folder)
        return folder

    def lineage(self, version: ModelVersion) -> dict[str, Any]:
        """What a version came from: its tags, its run with parameters and figures, the parent."""
        client = self._connect()
        runs: list[dict[str, Any]] = []
        following: str | None = version.run_id
        with _explained():
            while following and len(runs) < 8:
                run = client.get_run(following)
                tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
                runs.append(
                    {
                        "run_id": following,
                        "name": run.info.run_name,
                        "status": run.info.status,
                        "tags": tags,
                        "params": dict(run.data.params),
                        "metrics": dict(run.data.metrics),
                    }
                )
                following = run.data.tags.get(PARENT)
        return {
            "model": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "tags": version.tags,
            "runs": runs,
        }

    def _search(self, tags: Mapping[str, str], limit: int, order: str) -> tuple[str, ...]:
        """The ids of runs of the experiment with all these tags, by when they began."""
        client = self._connect()
        clauses = [f"tags.`{name}` = '{_quoted(value)}'" for name, value in tags.items()]
        with _explained():
            found = client.search_runs(
                [self._experiment_id()],
                " and ".join(clauses),
                max_results=limit,
                order_by=[f"attributes.start_time {order}"],
            )
        return tuple(str(run.info.run_id) for run in found)

    def _find_digest(self, model: str, dataset: str) -> ModelVersion | None:
        for version in self.versions():
            if version.tags.get(MODEL_DIGEST) == model:
                if version.tags.get(DATASET_DIGEST) != dataset:
                    raise RefusedError(
                        f"model {model} is registered as version {version.version} for dataset "
                        f"{version.tags.get(DATASET_DIGEST)}, not {dataset}"
                    )
                return version
        return None

    def _connect(self) -> Any:
        if self._client is None:
            mlflow = _mlflow()
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            with _explained():
                self._client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        client = self._connect()
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        # A server knows where its artifacts go; beside SQLite we say it.
        embedded = self.uri.startswith("sqlite:///")
        try:
            where = self._artifacts.as_uri() if embedded else None
            return str(client.create_experiment(self.experiment, artifact_location=where))
        except MlflowException:  # another process made it between the two calls
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def _ensure_model(self, client: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _aliases(self, client: Any) -> dict[str, str]:
        return dict(client.get_registered_model(self.model_name).aliases)

    def _version(self, row: Any, aliases: Mapping[str, str]) -> ModelVersion:
        return ModelVersion(
            name=self.model_name,
            version=int(row.version),
            run_id=str(row.run_id),
            source=str(row.source),
            tags=dict(row.tags),
            aliases=tuple(sorted(a for a, v in aliases.items() if str(v) == str(row.version))),
        )


def _mlflow() -> Any:
    if not _api:
        for name, value in HTTP_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow
        except ImportError:
            raise UnavailableError(
                "mlflow is not installed; install the extra: pip install 'platecrypt[train]'"
            ) from None
        # Hundreds of lines about database migrations tell a user nothing.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        _api.append(mlflow)
    return _api[0]


def _holds(folder: Path, digest: str) -> bool:
    return any(
        hashlib.sha256(path.read_bytes()).hexdigest() == digest
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def _quoted(value: str) -> str:
    if "'" in value or "\\" in value:
        raise BadInputError(f"{value!r} cannot be searched for: it holds a quote or a backslash")
    return value


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGTERM and Ctrl-C wait until a call is over; a second one does not.

    Cut off within a transaction a connection may be lost with it, and the database stays locked
    for this process: for the call, too, that would have told how the run ended.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def wait(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            _restore(before)
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not None:  # else it is not Python's
                before[number] = signal.signal(number, wait)
    try:
        yield
    finally:
        _restore(before)
        if came:
            signal.raise_signal(came[0])


def _restore(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what MLflow, its database and its HTTP client raise into one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _undisturbed():
            yield
    except PlatecryptError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnavailableError(
            f"MLflow: {first[:300]}; check PLATECRYPT_MLFLOW_TRACKING_URI"
        ) from error


@contextlib.contextmanager
def _term_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack like Ctrl-C, so that the run is closed."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread may; elsewhere it is the caller's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
