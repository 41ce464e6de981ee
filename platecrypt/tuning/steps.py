"""The pipeline step that searches for parameters."""

import base64
import html
import json
from pathlib import Path

from platecrypt.artifacts import Artifact, describe, write_metrics, write_page
from platecrypt.datasets.steps import DATASET, load_manifest
from platecrypt.datasets.training_set import training_set_key
from platecrypt.errors import UnavailableError
from platecrypt.settings import Settings
from platecrypt.steps import say, step
from platecrypt.tracking import Tracker
from platecrypt.training.steps import load_training_set
from platecrypt.tuning.experiment import Experiment, load_experiment
from platecrypt.tuning.local import LocalTuner
from platecrypt.tuning.pictures import draw_history
from platecrypt.tuning.result import TuningEvent, TuningResult

SHOWN_KINDS = ("ended", "finished")


@step
def tune(
    settings: Settings,
    manifest: Artifact,
    training_set: Artifact,
    trials: int,
    trial_steps: int,
    seed: int,
    best: Artifact,
    trials_table: Artifact,
    metrics: Artifact,
) -> None:
    """Run the Experiment of `katib/experiment.yaml` with so many trials; 0 keeps the defaults."""
    dataset, selected = load_manifest(manifest), load_training_set(training_set)
    origin = {DATASET: dataset.digest, "training_set_digest": selected.digest}
    if trials == 0:
        say("no trials: the default recipe is used")
        _finish(best, {}, origin)
        write_page(settings, trials_table, "tuning", "<!doctype html>No trials.", origin)
        write_metrics(metrics, {"trials": 0.0})
        return
    experiment = load_experiment(settings.root / "katib" / "experiment.yaml")
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
    result = LocalTuner().run(experiment, work_dir, _report)
    if result.best is None or result.best_value is None:
        raise UnavailableError(
            f"no trial gave a result: {result.conditions[-1].message}; {result.trials[-1].message}"
        )
    values = {trial.value(experiment) for trial in result.trials}
    parameters = result.best_parameters
    if len(result.trials) > 1 and len(values) == 1:
        say(f"all trials gave {result.best_value}, which tells nothing: the default recipe is used")
        parameters = {}
    _finish(best, parameters, origin, result)
    picture = draw_history(result, work_dir / "history.png")
    write_page(settings, trials_table, "tuning", _page(result, picture.read_bytes()), origin)
    write_metrics(metrics, {"trials": float(len(result.trials)), "best": result.best_value})
    _track(settings, result, {**origin, "tuning": best.metadata["sha256"]})


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


def _track(settings: Settings, result: TuningResult, tags: dict[str, str]) -> None:
    """Keep the search as an MLflow run, and each trial as a child of it."""
    tracker = Tracker(settings)
    with tracker.start_run(f"tune-{result.experiment.name}", tags=tags) as parent:
        parent.log_metrics({"best": result.best_value or 0.0, "trials": float(len(result.trials))})
        for trial in result.trials:
            with tracker.start_run(trial.name, parent=parent.run_id) as run:
                run.log_params(trial.parameters)
                run.set_tags({"status": trial.status})
                run.log_curve([{result.experiment.objective.metric: v} for v in trial.history])


def _page(result: TuningResult, picture: bytes) -> str:
    experiment: Experiment = result.experiment
    names = [parameter.name for parameter in experiment.parameters]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("trial", *names, "value", "ended"))
    rows = []
    for trial in result.trials:
        value = trial.value(experiment)
        cells = (
            trial.name,
            *(trial.parameters.get(name, "") for name in names),
            "-" if value is None else f"{value:.4f}",
            f"{trial.status}, {trial.seconds:.0f} s",
        )
        mark = ' style="font-weight:bold"' if trial is result.best else ""
        shown = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr{mark}>{shown}</tr>")
    text = base64.b64encode(picture).decode()
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tuning</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem}"
        "th,td{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}</style>"
        f"<h1>Tuning: {html.escape(experiment.name)}</h1>"
        f"<p>{html.escape(result.conditions[-1].message)}</p>"
        f'<img alt="history" style="max-width:100%" src="data:image/png;base64,{text}">'
        f"<table><tr>{head}</tr>{''.join(rows)}</table></html>"
    )
