"""Who proposes parameters: Optuna behind Katib's names, with its study in SQLite.

The study is the memory of a search: parameters, states and what was measured. A sampler is made
anew for each proposal, seeded by the search's seed and the trial's number, so a search that was
interrupted goes on as if it had not been.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.tuning.experiment import Experiment, Parameter
from platecrypt.tuning.result import Observed, Trial

# Katib's algorithm -> the settings of it that are honoured here.
SUPPORTED: dict[str, tuple[str, ...]] = {
    "random": ("random_state",),
    "tpe": ("random_state", "n_initial_points"),
}
RECORD, DIGEST, PROCESS = "record", "experiment_digest", "process"


def refuse_unsupported(experiment: Experiment) -> None:
    """Raise BadInputError for what the local engine would have to ignore."""
    problems = [*_unsupported_algorithm(experiment), *_unsupported_space(experiment)]
    spec = experiment.document["spec"]
    if spec.get("earlyStopping"):
        problems.append("earlyStopping is not run by the local engine; take it out")
    collector = (spec.get("metricsCollectorSpec") or {}).get("collector") or {}
    if (kind := collector.get("kind", "StdOut")) != "StdOut":
        problems.append(f"collector {kind}: the local engine reads StdOut")
    if experiment.max_trials is None and experiment.objective.goal is None:
        problems.append("neither maxTrialCount nor a goal: the search would never end")
    if problems:
        raise BadInputError(f"experiment {experiment.name}: {'; '.join(problems)}")


def _unsupported_algorithm(experiment: Experiment) -> Iterator[str]:
    known = SUPPORTED.get(experiment.algorithm)
    if known is None:
        yield f"algorithm {experiment.algorithm}: the local engine runs {', '.join(SUPPORTED)}"
        return
    for name, value in experiment.algorithm_settings.items():
        if name not in known:
            yield (
                f"algorithm setting {name}: of {experiment.algorithm} the local engine honours "
                f"{', '.join(known)}"
            )
        elif not value.isdigit():
            yield f"algorithm setting {name} {value!r}: a whole number from 0"


def _unsupported_space(experiment: Experiment) -> Iterator[str]:
    for parameter in experiment.parameters:
        if parameter.distribution in ("normal", "logNormal"):
            yield f"parameter {parameter.name}: {parameter.distribution} is not run here"
        if parameter.distribution == "logUniform" and parameter.step is not None:
            yield f"parameter {parameter.name}: a logarithmic range has no step here"


class Proposer:
    """The study of one work dir."""

    def __init__(self, experiment: Experiment, work_dir: Path) -> None:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._experiment = experiment
        self._space = {p.name: _distribution(optuna, p) for p in experiment.parameters}
        path = (work_dir / "study.db").absolute()
        try:
            self._study = optuna.create_study(
                storage=f"sqlite:///{path}",
                study_name=experiment.name,
                direction=experiment.objective.type,
                load_if_exists=True,
            )
            before = self._study.user_attrs.get(DIGEST)
            if before is None:
                self._study.set_user_attr(DIGEST, experiment.digest)
        except SQLAlchemyError as error:
            raise UnavailableError(
                f"{path} cannot be used ({type(error).__name__}); remove it to search anew"
            ) from error
        if before not in (None, experiment.digest):
            raise BadInputError(
                f"{work_dir} holds the search of another experiment ({before[:12]}, this is "
                f"{experiment.digest[:12]}); use another work dir"
            )

    def recover(self) -> list[Mapping[str, Any]]:
        """Settle trials that ran when a search was killed; they will be proposed again.

        Returns:
            The processes (pid, created) that may have survived it.
        """
        orphans: list[Mapping[str, Any]] = []
        running = self._study.get_trials(states=[self._optuna.trial.TrialState.RUNNING])
        for found in running:
            record = found.user_attrs.get(RECORD)
            if record:  # it had ended; only the last word was missing
                self._tell(found.number, _read(record))
                continue
            if PROCESS in found.user_attrs:
                orphans.append(found.user_attrs[PROCESS])
            if found.params:
                self._study.enqueue_trial(found.params)
            self._study.tell(found.number, state=self._optuna.trial.TrialState.FAIL)
        return orphans

    def ask(self) -> tuple[Any, Trial]:
        """The next proposal: Optuna's handle and the trial as it will be run."""
        self._study.sampler = self._sampler(len(self._study.get_trials(deepcopy=False)))
        handle = self._study.ask(self._space)
        parameters = {
            parameter.name: _text(parameter, handle.params[parameter.name])
            for parameter in self._experiment.parameters
        }
        name = f"{self._experiment.name}-{handle.number:04d}"
        return handle, Trial(handle.number, name, parameters, "Running")

    def started(self, handle: Any, pid: int, created: float) -> None:
        """Remember the process of a trial, to find it again after a crash."""
        handle.set_user_attr(PROCESS, {"pid": pid, "created": created})

    def ended(self, handle: Any, trial: Trial) -> None:
        """Remember how a trial ended; a killed one is proposed again."""
        handle.set_user_attr(RECORD, json.dumps(asdict(trial)))
        if trial.status == "Killed":
            self._study.enqueue_trial(handle.params)
        self._tell(handle.number, trial)

    def trials(self) -> list[Trial]:
        """Every trial that ended, in the order of proposal."""
        states = self._optuna.trial.TrialState
        found = self._study.get_trials(deepcopy=False, states=[states.COMPLETE, states.FAIL])
        return [self._trial(one) for one in found]

    def _trial(self, found: Any) -> Trial:
        record = found.user_attrs.get(RECORD)
        if record:
            return _read(record)
        parameters = {
            p.name: _text(p, found.params[p.name])
            for p in self._experiment.parameters
            if p.name in found.params
        }
        name = f"{self._experiment.name}-{found.number:04d}"
        return Trial(found.number, name, parameters, "Killed", message="the engine was killed")

    def _tell(self, number: int, trial: Trial) -> None:
        value = trial.value(self._experiment)
        if trial.status == "Succeeded" and value is not None:
            self._study.tell(number, value)
        else:
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def _sampler(self, count: int) -> Any:
        import numpy as np

        settings = self._experiment.algorithm_settings
        seed = None
        if "random_state" in settings:
            sequence = np.random.SeedSequence([int(settings["random_state"]), count])
            seed = int(sequence.generate_state(1)[0])
        if self._experiment.algorithm == "random":
            return self._optuna.samplers.RandomSampler(seed=seed)
        return self._optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=int(settings.get("n_initial_points", 10)),
            constant_liar=self._experiment.parallel_trials > 1,
        )


def _distribution(optuna: Any, parameter: Parameter) -> Any:
    if parameter.choices:
        return optuna.distributions.CategoricalDistribution(parameter.choices)
    logarithmic = parameter.distribution == "logUniform"
    if parameter.type == "int":
        return optuna.distributions.IntDistribution(
            int(parameter.low), int(parameter.high), log=logarithmic, step=int(parameter.step or 1)
        )
    return optuna.distributions.FloatDistribution(
        parameter.low, parameter.high, log=logarithmic, step=parameter.step
    )


def _text(parameter: Parameter, value: object) -> str:
    """A value as it stands on a command line; a double keeps every digit."""
    return repr(float(str(value))) if parameter.type == "double" else str(value)


def _read(record: str) -> Trial:
    raw = json.loads(record)
    raw["metrics"] = {name: Observed(**values) for name, values in raw["metrics"].items()}
    raw["history"] = tuple(raw["history"])
    return Trial(**raw)
