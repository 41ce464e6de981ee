"""Where a search may begin: with the results of an earlier one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError
from platecrypt.tuning import space
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.proposer import EarlierResult
from platecrypt.tuning.result import MEASURED, read_trial
from platecrypt.tuning.samplers import searched

RESULT = "result.json"


@dataclass(frozen=True)
class Earlier:
    """What an earlier search gives to a new one.

    Attributes:
        source: the file that was read.
        results: those that lie in the new search's space.
        passed_over: how many do not.
    """

    source: Path
    results: tuple[EarlierResult, ...]
    passed_over: int


def read_earlier(experiment: Experiment, run: str, searches: Path) -> Earlier:
    """Read the results of an earlier search.

    Args:
        experiment: the new search.
        run: a work dir, the name of one under `searches`, a `result.json`, or what the pipeline's
            step `tune` wrote as `best`.
        searches: folder of the pipeline's work dirs.

    Raises:
        BadInputError: there is no such search, or it had another objective.
    """
    places = [Path(run), Path(run) / RESULT, searches / run / RESULT]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BadInputError(
            f"--warm-start {run}: no search there; give its work dir, its {RESULT}, or a name "
            f"under {searches}"
        )
    try:
        document = json.loads(path.read_text())
        found = document.get("search", document)
        metric, trials = found["objective"], [read_trial(raw) for raw in found["trials"]]
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise BadInputError(f"--warm-start {path} is no result of a search") from None
    if metric != experiment.objective.metric:
        raise BadInputError(
            f"--warm-start {path} searched for {metric}, this one searches for "
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
    return Earlier(path, taken, len(measured) - len(taken))


def _fits(experiment: Experiment, parameters: Mapping[str, Any]) -> bool:
    try:
        for parameter in searched(experiment):
            space.from_text(parameter, parameters[parameter.name])
    except (KeyError, ValueError):
        return False
    return True
