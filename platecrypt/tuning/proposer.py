"""Who proposes parameters: Optuna behind Katib's names, with its study in SQLite.

The study is the memory of a search: parameters, states and what was measured.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.tuning import space
from platecrypt.tuning.algorithms import unsupported_settings
from platecrypt.tuning.command import mentions
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.result import Trial, read_trial
from platecrypt.tuning.samplers import budget, make_sampler, missing_packages, searched
from platecrypt.tuning.stopping import unjudged

EARLIER_DIGEST = "earlier_digest"
RECORD, DIGEST, REPEATS, EARLIER = "record", "experiment_digest", "repeats", "earlier"
COLLECTORS = ("StdOut", "File")
GRID_POINT = ("search_space", "grid_id")  # where Optuna's GridSampler keeps which point it took


@dataclass(frozen=True)
class EarlierResult:
    """A result of another search: parameter -> value as text, and the objective."""

    parameters: dict[str, str]
    value: float


def refuse_unsupported(experiment: Experiment) -> None:
    """Raise BadInputError for what the local engine would have to ignore."""
    problems = list(unsupported(experiment))
    if problems:
        raise BadInputError(f"experiment {experiment.name}: {'; '.join(problems)}")


def unsupported(experiment: Experiment) -> Iterator[str]:
    """What the local engine would have to ignore, one text a thing."""
    yield from unsupported_settings(experiment.algorithm, experiment.algorithm_settings)
    if package := missing_packages(experiment.algorithm):
        yield f"algorithm {experiment.algorithm} needs the package {package}; pip install {package}"
    collector = experiment.collector
    if collector.kind not in COLLECTORS:
        yield f"collector {collector.kind}: the local engine reads {' and '.join(COLLECTORS)}"
    elif collector.path and not mentions(experiment, collector.path):
        yield (
            f"collector File: each trial gets its own file in place of {collector.path}, so the "
            "path must stand in command, args or env of the container"
        )
    yield from unjudged(experiment)
    if experiment.early_stopping and experiment.algorithm == "hyperband":
        yield "hyperband ends trials itself; take earlyStopping out, or another algorithm"
    endless = experiment.max_trials is None and experiment.objective.goal is None
    if endless and experiment.algorithm != "grid":
        yield "neither maxTrialCount nor a goal: the search would never end"


def _storage(path: Path) -> Any:
    """SQLite with a write-ahead log: a commit costs no flush, and survives a killed process."""
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    storage = RDBStorage(f"sqlite:///{path}")

    def prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(storage.engine, "connect", prepare)
    storage.engine.dispose()  # the connection that made the tables was not prepared
    return storage


class Proposer:
    """The study of one work dir.

    Args:
        experiment: what is searched.
        work_dir: holds `study.db`.
        earlier: results that a new search begins with.

    Raises:
        BadInputError: the work dir holds another search, or this one began without them.
        UnavailableError: the study cannot be read or written.
    """

    def __init__(
        self, experiment: Experiment, work_dir: Path, earlier: Sequence[EarlierResult] = ()
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._experiment = experiment
        self._searched = searched(experiment)
        self._space = {p.name: space.distribution(p) for p in self._searched}
        self._path = (work_dir / "study.db").absolute()
        with self._explained():
            storage = _storage(self._path)
            for name in optuna.get_all_study_names(storage):
                if name != experiment.name:
                    raise BadInputError(
                        f"{work_dir} holds the search {name}, this is {experiment.name}; use "
                        "another work dir"
                    )
            self.study = optuna.create_study(
                storage=storage,
                study_name=experiment.name,
                direction=experiment.objective.type,
                load_if_exists=True,
            )
            self._claim(work_dir)
            self.earlier = self._begin_with(earlier)

    def _claim(self, work_dir: Path) -> None:
        before = self.study.user_attrs.get(DIGEST)
        if before is None:
            self.study.set_user_attr(DIGEST, self._experiment.digest)
        elif before != self._experiment.digest:
            raise BadInputError(
                f"{work_dir} holds the search of another experiment ({before[:12]}, this is "
                f"{self._experiment.digest[:12]}); use another work dir"
            )

    def _begin_with(self, earlier: Sequence[EarlierResult]) -> int:
        """Add results of an earlier search, once; returns how many this search has."""
        text = json.dumps([asdict(result) for result in earlier], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = self.study.user_attrs.get(EARLIER)
        if known is not None:
            if earlier and not known:
                raise BadInputError("this search began without earlier results; use a new work dir")
            if earlier and self.study.user_attrs.get(EARLIER_DIGEST, digest) != digest:
                raise BadInputError(
                    "this search began with other earlier results; go on without --warm-start, or "
                    "use a new work dir"
                )
            return int(known)
        # Killed in the middle of this, a search begins with those that are missing.
        there = len(self.study.get_trials(deepcopy=False))
        for result in earlier[there:]:
            self.study.add_trial(
                self._optuna.trial.create_trial(
                    value=result.value,
                    params={
                        p.name: space.from_text(p, result.parameters[p.name])
                        for p in self._searched
                    },
                    distributions=self._space,
                    user_attrs={EARLIER: True},
                )
            )
        self.study.set_user_attr(EARLIER_DIGEST, digest)
        self.study.set_user_attr(EARLIER, len(earlier))
        return len(earlier)

    def recall(self, name: str) -> Any:
        """What `remember` kept, or None."""
        return self.study.user_attrs.get(name)

    def remember(self, name: str, value: Any) -> None:
        """Keep a fact about the search (anything that JSON holds)."""
        with self._explained():
            self.study.set_user_attr(name, value)

    def recover(self) -> None:
        """Settle trials that ran when a search was killed; they will be proposed again.

        It may itself be killed at any point and run again.
        """
        states = self._optuna.trial.TrialState
        with self._explained():
            for found in self.study.get_trials(deepcopy=False, states=[states.RUNNING]):
                record = found.user_attrs.get(RECORD)
                if record:  # it had ended; only the last word was missing
                    handle = self._optuna.trial.Trial(self.study, found._trial_id)
                    self._tell(handle, read_trial(json.loads(record)))
                else:
                    self.study.tell(found.number, state=states.FAIL)
            every = self.study.get_trials(deepcopy=False)
            repeated = {found.user_attrs.get(REPEATS) for found in every}
            for found in every:
                if found.state == states.FAIL and found.number not in repeated:
                    record = found.user_attrs.get(RECORD)
                    if record is None or json.loads(record)["status"] == "Killed":
                        self._repeat(found)

    def _repeat(self, found: Any) -> None:
        """Propose once more what was killed, also where not every parameter was written yet."""
        point = {n: found.system_attrs[n] for n in GRID_POINT if n in found.system_attrs}
        params = found.system_attrs.get("fixed_params", found.params)
        if point:  # as Optuna's own RetryFailedTrialCallback does it
            trial = self._optuna.trial.create_trial(
                state=self._optuna.trial.TrialState.WAITING,
                system_attrs=point,
                user_attrs={REPEATS: found.number},
            )
            self.study.add_trial(trial)
        elif params.keys() == self._space.keys():
            self.study.enqueue_trial(params, {REPEATS: found.number})

    def ask(self) -> tuple[Any, Trial]:
        """The next proposal: Optuna's handle and the trial as it will be run."""
        with self._explained():
            count = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = make_sampler(self._experiment, count)
            handle = self.study.ask(self._space)
        return handle, self._trial(handle.number, handle.params, "Running")

    def ended(self, handle: Any, trial: Trial) -> None:
        """Remember how a trial ended."""
        with self._explained():
            handle.set_user_attr(RECORD, json.dumps(asdict(trial)))
            self._tell(handle, trial)

    def trials(self) -> list[Trial]:
        """Every trial that ended, in the order of proposal."""
        states = self._optuna.trial.TrialState
        ended = [states.COMPLETE, states.PRUNED, states.FAIL]
        found = self.study.get_trials(deepcopy=False, states=ended)
        return [self._read(one) for one in found if EARLIER not in one.user_attrs]

    def _read(self, found: Any) -> Trial:
        record = found.user_attrs.get(RECORD)
        if record:
            return read_trial(json.loads(record))
        return self._trial(found.number, found.params, "Killed", "the engine was killed")

    def _trial(self, number: int, params: dict[str, Any], status: Any, message: str = "") -> Trial:
        """A trial as it stands on a command line; numbers leave out the earlier results."""
        texts = {
            p.name: space.to_text(p, params[p.name]) for p in self._searched if p.name in params
        }
        own = number - self.earlier
        name = f"{self._experiment.name}-{own:04d}"
        parameters = {**texts, **budget(self._experiment)}
        return Trial(own, name, parameters, status, message=message)

    def _tell(self, handle: Any, trial: Trial) -> None:
        states = self._optuna.trial.TrialState
        value = trial.value(self._experiment)
        if trial.status == "Succeeded" and value is not None:
            self.study.tell(handle.number, value)
        elif trial.status == "EarlyStopped" and value is not None:
            handle.report(value, len(trial.history))
            self.study.tell(handle.number, state=states.PRUNED)
        else:
            self.study.tell(handle.number, state=states.FAIL)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the database raises into one line."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ or error
            first = str(getattr(cause, "orig", None) or cause).split("\n")[0]
            raise UnavailableError(
                f"{self._path} cannot be used ({first}); is the disk full? Make room and run it "
                "again, or remove the file to search anew"
            ) from error
