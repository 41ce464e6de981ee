"""Where a search may begin: with the results of an earlier one."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError
from platecrypt.settings import Settings
from platecrypt.tracking import Tracker
from platecrypt.tracking.tracker import PARENT, TUNING_RUN
from platecrypt.tuning import space
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.proposer import EarlierResult
from platecrypt.tuning.result import MEASURED, read_trial
from platecrypt.tuning.samplers import searched

RESULT = "result.json"
KEPT = f"search/{RESULT}"  # where an MLflow run keeps the search
_MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Earlier:
    """What an earlier search gives to a new one.

    Attributes:
        source: the file or the MLflow run that was read.
        results: those that lie in the new search's space.
        passed_over: how many do not.
    """

    source: str
    results: tuple[EarlierResult, ...]
    passed_over: int


def read_earlier(experiment: Experiment, run: str, settings: Settings) -> Earlier:
    """Read the results of an earlier search.

    Args:
        experiment: the new search.
        run: a work dir, the name of one under `home/tuning`, a `result.json`, what the pipeline's
            step `tune` wrote as `best`, or the id of an MLflow run: of a search, of one of its
            trials, or of a training that used it.
        settings: name the state folder and MLflow.

    Raises:
        BadInputError: there is no such search, or it had another objective.
        UnavailableError: MLflow does not answer.
    """
    source, text = _read(run, settings)
    try:
        document = json.loads(text)
        found = document.get("search", document)
        metric, trials = found["objective"], [read_trial(raw) for raw in found["trials"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError(f"--warm-start {source} is no result of a search") from None
    if metric != experiment.objective.metric:
        raise BadInputError(
            f"--warm-start {source} searched for {metric}, this one searches for "
            f"{experiment.objective.metric}: their results cannot be compared"
        )
    measured = [
        (trial.parameters, value)
        for trial in trials
        if trial.status in MEASURED[:1] and (value := trial.value(experiment)) is not None
    ]
    taken = tuple(
        EarlierResult(dict(parameters), value)
        for parameters, value in measured
        if _fits(experiment, parameters)
    )
    return Earlier(source, taken, len(measured) - len(taken))


def _fits(experiment: Experiment, parameters: Mapping[str, Any]) -> bool:
    try:
        for parameter in searched(experiment):
            value = space.from_text(parameter, parameters[parameter.name])
            if not space.holds(parameter, value):
                return False
    except (KeyError, ValueError):
        return False
    return True


def _read(run: str, settings: Settings) -> tuple[str, bytes]:
    """Where the result was found, and its bytes."""
    searches = settings.home / "tuning"
    for place in (Path(run), Path(run) / RESULT, searches / run / RESULT):
        if place.is_file():
            try:
                return str(place), place.read_bytes()
            except OSError as error:
                raise BadInputError(f"--warm-start {place}: {error.strerror}") from None
    if not _MLFLOW_RUN.fullmatch(run):
        raise BadInputError(
            f"--warm-start {run}: no search there; give its work dir, its {RESULT}, a name under "
            f"{searches}, or the id of an MLflow run"
        )
    tracker = Tracker(settings)
    tags = tracker.run_tags(run)
    for candidate in (run, tags.get(TUNING_RUN), tags.get(PARENT)):
        found = tracker.read_artifact(candidate, KEPT) if candidate else None
        if found is not None:
            return f"MLflow run {candidate}", found
    raise BadInputError(
        f"--warm-start {run}: that MLflow run is neither a search, nor one of its trials, nor a "
        "training that used one"
    )
