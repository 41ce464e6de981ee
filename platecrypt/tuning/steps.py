"""The pipeline step that searches for parameters."""

import hashlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from platecrypt.artifacts import Artifact, describe, write_metrics, write_page
from platecrypt.datasets.steps import DATASET, load_manifest
from platecrypt.datasets.training_set import training_set_key
from platecrypt.errors import UnavailableError
from platecrypt.settings import Settings
from platecrypt.steps import say, step
from platecrypt.tracking import Tracker
from platecrypt.tracking.tracker import TUNING_RUN
from platecrypt.training.recipe import Recipe
from platecrypt.training.steps import load_training_set
from platecrypt.tuning.earlier import KEPT, RESULT, read_earlier
from platecrypt.tuning.engines import choose_tuner
from platecrypt.tuning.experiment import Experiment, load_experiment
from platecrypt.tuning.proposer import EarlierResult
from platecrypt.tuning.report import page, trials_csv
from platecrypt.tuning.result import TuningEvent, TuningResult

SHOWN_KINDS = ("ended", "finished", "note")
# So few trials cannot search many dimensions: they vary what matters most, at the default size.
FEW, SHORT = 10, ("lr0", "scale", "mosaic")
# Share of its epochs before which a trial is not judged (benchmarks/tuning_early_stopping.py).
UNJUDGED = 1 / 6


@step
def tune(
    settings: Settings,
    manifest: Artifact,
    training_set: Artifact,
    trials: int,
    trial_steps: int,
    warm_start: str,
    seed: int,
    best: Artifact,
    trials_table: Artifact,
    metrics: Artifact,
) -> None:
    """Run the Experiment of `katib/experiment.yaml` with so many trials; 0 keeps the defaults.

    `warm_start` names an earlier search (see `read_earlier`); "" begins with none.
    """
    dataset, selected = load_manifest(manifest), load_training_set(training_set)
    origin = {DATASET: dataset.digest, "training_set_digest": selected.digest}
    if trials == 0:
        say("no trials: the default recipe is used")
        _finish(best, {}, origin)
        write_page(settings, trials_table, "tuning", "<!doctype html>No trials.", origin)
        write_metrics(metrics, {"trials": 0.0})
        return
    patch = Path(settings.experiment_patch) if settings.experiment_patch else None
    whole = load_experiment(settings.root / "katib" / "experiment.yaml", patch)
    experiment = narrowed(whole, trials)
    epochs = replace(Recipe(), steps=trial_steps).epochs(sum(selected.weights.values()))
    experiment = experiment.judged_from(first_judged(epochs))
    experiment = experiment.with_algorithm_settings({"random_state": str(seed)})
    experiment = experiment.with_counts(max_trials=trials).with_environment(
        {
            "TRIAL_DATASET": dataset.digest,
            "TRIAL_TRAINING_SET": training_set_key(selected.digest),
            "TRIAL_STEPS": str(trial_steps),
            "TRIAL_SEED": str(seed),
        }
    )
    # One folder for one question: asked again after an interruption, the search goes on.
    work_dir = settings.home / "tuning" / f"{dataset.digest[:12]}-{experiment.digest[:12]}"
    earlier: tuple[EarlierResult, ...] = ()
    if warm_start:
        taken = read_earlier(experiment, warm_start, settings)
        say(f"{len(taken.results)} results of {taken.source}, {taken.passed_over} do not fit")
        earlier = taken.results
        begun = hashlib.sha256(repr(earlier).encode()).hexdigest()
        work_dir = work_dir.with_name(f"{work_dir.name}-{begun[:8]}")
    result, run_id = search(settings, experiment, work_dir, origin, earlier)
    if result.best is None or result.best_value is None:
        last = result.trials[-1].message if result.trials else "there was no trial"
        raise UnavailableError(f"no trial gave a result: {result.conditions[-1].message}; {last}")
    values = {trial.value(experiment) for trial in result.trials}
    parameters = result.best_parameters
    if len(result.trials) > 1 and len(values) == 1:
        say(f"all trials gave {result.best_value}, which tells nothing: the default recipe is used")
        parameters = {}
    _finish(best, parameters, {**origin, TUNING_RUN: run_id}, result)
    (work_dir / "trials.csv").write_text(trials_csv(result))
    write_page(settings, trials_table, "tuning", page(result, work_dir), origin)
    write_metrics(metrics, {"trials": float(len(result.trials)), "best": result.best_value})


def narrowed(experiment: Experiment, trials: int) -> Experiment:
    """The Experiment with a space that so many trials can search."""
    if trials >= FEW:
        return experiment
    defaults = Recipe()
    return experiment.with_fixed(
        {
            parameter.name: str(getattr(defaults, parameter.name))
            for parameter in experiment.parameters
            if parameter.name not in SHORT
        }
    )


def first_judged(epochs: int) -> int:
    """The epoch from which a trial of so many may be stopped early."""
    return max(1, math.ceil(epochs * UNJUDGED))


def search(
    settings: Settings,
    experiment: Experiment,
    work_dir: Path,
    origin: dict[str, str],
    earlier: Sequence[EarlierResult] = (),
) -> tuple[TuningResult, str]:
    """Run it on the engine of the settings; returns the result and its MLflow run.

    On a cluster the trials report to MLflow themselves; here the step does it for all of them
    afterwards, because each process would need seconds to import MLflow.
    """
    tuner = choose_tuner(settings.tuning_engine, settings.as_environment())
    tracker = Tracker(settings)
    tags = {**origin, "tuning_search": work_dir.name, "experiment_digest": experiment.digest}
    # Asked again after an interruption, the step finds its run, and so the same Experiment.
    known = tracker.find_run(tags)
    parent = known or tracker.begin(f"tune-{experiment.name}", tags)
    status = "FAILED"
    try:
        if settings.tuning_engine == "local":
            result = tuner.run(experiment, work_dir, _report, earlier=earlier)
            if known is None or tracker.run_status(known) != "FINISHED":
                _track_trials(tracker, result, parent)
        else:
            named = experiment.with_name(f"{experiment.name}-{experiment.digest[:12]}")
            named = named.with_environment({"TRIAL_PARENT_RUN": parent})
            result = tuner.run(named, work_dir, _report, earlier=earlier)
        _track(tracker, result, parent)
        status = "FINISHED"
    finally:
        tracker.end(parent, status)
    return result, parent


def _finish(
    best: Artifact,
    parameters: dict[str, str],
    origin: dict[str, str],
    result: TuningResult | None = None,
) -> None:
    document = {
        "parameters": parameters,
        "search": json.loads(result.to_json()) if result else None,
    }
    Path(best.path).write_text(json.dumps(document, indent=1))
    describe(best, origin)


def _report(event: TuningEvent) -> None:
    if event.kind in SHOWN_KINDS:
        say(event.message)


def _track(tracker: Tracker, result: TuningResult, run_id: str) -> None:
    """Keep the whole search in its MLflow run: a later one may begin with it."""
    run = tracker.resume(run_id)
    run.log_metrics({"best": result.best_value or 0.0, "trials": float(len(result.trials))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RESULT
        path.write_text(result.to_json())
        run.log_artifact(path, KEPT.rpartition("/")[0])


def _track_trials(tracker: Tracker, result: TuningResult, parent: str) -> None:
    """Keep each trial as a child of the search."""
    metric = result.experiment.objective.metric
    for trial in result.trials:
        with tracker.start_run(trial.name, parent=parent) as run:
            run.log_params(trial.parameters)
            run.set_tags({"status": trial.status, "trial": trial.name})
            run.log_curve([{metric: value} for value in trial.history])
