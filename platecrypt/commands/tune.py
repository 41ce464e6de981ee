"""`platecrypt tune`: run a Katib Experiment, check it, or say what it will cost."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platecrypt.commands.shared import AsJson, load_settings, print_result, say
from platecrypt.errors import BadInputError

if TYPE_CHECKING:
    from platecrypt.settings import Settings
    from platecrypt.tuning import Experiment, TuningResult
    from platecrypt.tuning.engines import Tuner
    from platecrypt.tuning.forecast import Forecast
    from platecrypt.tuning.proposer import EarlierResult

SECONDS_AN_HOUR = 3600


def tune(
    file: Annotated[Path, typer.Argument(help="The Experiment, e.g. katib/experiment.yaml.")],
    engine: Annotated[
        str | None, typer.Option(help="local or katib; default: the setting.")
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Memory of the search; the same one goes on with it.")
    ] = None,
    validate: Annotated[bool, typer.Option("--validate", help="Only check the file.")] = False,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Measure two trials, say what the rest will take.")
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="Of a device hour; default: the setting."),
    ] = None,
    max_device_hours: Annotated[
        float | None, typer.Option(min=0, help="End the search when so many are spent.")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(help="Begin with an earlier search: work dir or MLflow run."),
    ] = None,
    max_trials: Annotated[
        int | None, typer.Option(min=1, help="Instead of spec.maxTrialCount.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="At most so many at once on this machine.")
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a parameter that is not searched.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for every trial, e.g. in place of a secret."),
    ] = None,
    env_from: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: a secret or config map from lines NAME=VALUE."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Instead of metadata.name.")] = None,
    namespace: Annotated[str, typer.Option(help="Of the cluster; default: the context's.")] = "",
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds to wait for the cluster.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the Experiment from the cluster in the end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for parameters with a Katib Experiment, here or on a cluster.

    Exits with 0 only when the Experiment has Succeeded.
    """
    from platecrypt.tuning import Limits
    from platecrypt.tuning.display import watching
    from platecrypt.tuning.earlier import read_earlier

    settings = load_settings(tuning_engine=engine)
    if validate:
        _validate(file, settings.tuning_engine, as_json)
        return
    experiment = _experiment(file, name, max_trials, fix or [])
    folder = work_dir or settings.home / "tuning" / f"{experiment.name}-{experiment.digest[:12]}"
    variables, sources = _variables(env or [], env_from or [])
    if settings.tuning_engine == "katib" and (variables or parallel):
        raise BadInputError(
            "--env, --env-from and --parallel are for the local engine; on a cluster they stand "
            "in the trial template"
        )
    tuner = _tuner(settings, variables, sources, parallel, namespace, timeout, delete)
    taken = read_earlier(experiment, warm_start, settings) if warm_start else None
    if taken:
        say(f"{len(taken.results)} results of {taken.source}, {taken.passed_over} do not fit")
    earlier = taken.results if taken else ()
    if forecast:
        price = settings.device_hour_price if price is None else price
        made = _forecast(tuner, experiment, folder, earlier, price, parallel, max_device_hours)
        print_result(as_json, asdict(made), "\n".join(made.lines()))
        return
    with watching(experiment) as on_event:
        limits = Limits(device_hours=max_device_hours)
        found = tuner.run(experiment, folder, on_event, earlier=earlier, limits=limits)
    _write_report(found, folder)
    print_result(as_json, found.to_document(), _summary(found, folder))
    if not found.succeeded:
        raise SystemExit(1)


def _experiment(file: Path, name: str | None, max_trials: int | None, fix: Sequence[str]) -> Any:
    from platecrypt.tuning import load_experiment

    experiment = load_experiment(file)
    if fix:
        experiment = experiment.with_fixed(dict(_pair(text, "--fix") for text in fix))
    if max_trials is not None:
        experiment = experiment.with_counts(max_trials=max_trials)
    return experiment.with_name(name) if name else experiment


def _validate(file: Path, engine: str, as_json: bool) -> None:
    """Print every mistake on a line of its own; exit 2 where there is one."""
    from platecrypt.tuning import load_experiment
    from platecrypt.tuning.experiment import InvalidExperimentError
    from platecrypt.tuning.proposer import unsupported

    problems: list[str] = []
    try:
        experiment = load_experiment(file)
        if engine == "local":
            problems = list(unsupported(experiment))
    except InvalidExperimentError as error:
        problems = list(error.problems)
    document = {"valid": not problems, "problems": problems}
    print_result(as_json, document, "\n".join(problems) or f"{file} is valid")
    if problems:
        raise SystemExit(2)


def _tuner(
    settings: "Settings",
    variables: dict[str, str],
    sources: Sequence[str],
    parallel: int | None,
    namespace: str,
    timeout: float | None,
    delete: bool,
) -> "Tuner":
    if settings.tuning_engine == "katib":
        from platecrypt.tuning.katib import KatibTuner

        return KatibTuner(namespace=namespace, timeout_s=timeout, keep=not delete)
    from platecrypt.tuning import LocalTuner

    environment = {**settings.as_environment(), **variables}
    return LocalTuner(environment, sources=sources, parallel=parallel)


def _forecast(
    tuner: "Tuner",
    experiment: "Experiment",
    folder: Path,
    earlier: "Sequence[EarlierResult]",
    price: float | None,
    parallel: int | None,
    device_hours: float | None,
) -> "Forecast":
    """Run what is missing for a forecast; it stays in the work dir as part of the search."""
    from platecrypt.tuning import Limits, LocalTuner
    from platecrypt.tuning.display import watching
    from platecrypt.tuning.forecast import CALIBRATION_TRIALS, forecast
    from platecrypt.tuning.result import MEASURED

    if not isinstance(tuner, LocalTuner):
        raise BadInputError("--forecast measures trials here: take --engine local")
    found = tuner.run(experiment, folder, earlier=earlier, limits=Limits(trials=0))
    known = sum(trial.status in MEASURED for trial in found.trials)
    if known < CALIBRATION_TRIALS and not found.ended_for_good:
        say(f"measuring {CALIBRATION_TRIALS - known} trials; they are part of the search")
        with watching(experiment) as on_event:
            limits = Limits(device_hours, CALIBRATION_TRIALS - known)
            found = tuner.run(experiment, folder, on_event, earlier=earlier, limits=limits)
    at_once = min(experiment.parallel_trials, parallel or experiment.parallel_trials)
    return forecast(experiment, found.trials, price=price, at_once=at_once)


def _write_report(found: "TuningResult", folder: Path) -> None:
    from platecrypt.tuning.report import page, trials_csv

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trials.csv").write_text(trials_csv(found))
    (folder / "report.html").write_text(page(found, folder))


def _summary(found: "TuningResult", folder: Path) -> str:
    last = found.conditions[-1]
    lines = [f"{last.type}: {last.message} ({last.reason})"]
    if found.best is not None and found.best_value is not None:
        metric = found.experiment.objective.metric
        lines.append(f"best: {found.best.name} with {metric} {found.best_value:.6g}")
        lines += [f"  {name} = {value}" for name, value in found.best_parameters.items()]
    hours = found.device_seconds / SECONDS_AN_HOUR
    lines.append(f"{len(found.trials)} trials, {hours:.3g} device hours; report: {folder}")
    return "\n".join(lines)


def _variables(env: Sequence[str], env_from: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Variables for the trials, and the names of the secrets and config maps among them."""
    found: dict[str, str] = {}
    sources = []
    for text in env_from:
        source, file = _pair(text, "--env-from")
        sources.append(source)
        try:
            lines = Path(file).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError(f"--env-from {source}: {file} cannot be read ({error})") from None
        kept = [line for line in lines if line.strip() and not line.startswith("#")]
        found.update(_pair(line, f"--env-from {source}: a line") for line in kept)
    found.update(_pair(text, "--env") for text in env)
    return found, sources


def _pair(text: str, what: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        # The text may hold a secret: only the part before the sign is ever shown.
        raise BadInputError(f"{what} {name!r} is not of the form NAME=VALUE")
    return name, value
