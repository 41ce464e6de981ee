"""The `platecrypt` command: thin. It reads settings, calls one function, prints what came of it.

Exit codes: 0 done, 1 failed, 2 bad input. Heavy libraries are imported inside the commands, so
that help answers at once.
"""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from platecrypt import __version__
from platecrypt.commands import audit, keys, manifests, pictures, serve, tune
from platecrypt.commands.shared import (
    AsJson,
    ensure_keys,
    load_settings,
    print_result,
    read_input,
    say,
)
from platecrypt.errors import BadInputError, PlatecryptError

app = typer.Typer(
    name="platecrypt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finds licence plates in pictures and locks them away; the key holder gets them back.",
)
INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command; expected errors become one line and an exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
        # Typer turns Ctrl-C into this code, and hands it back as if all were well.
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except PlatecryptError as error:
        if debug:
            raise
        _complain(" ".join(str(error).split()))
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; what was finished is kept, run it again to go on")
        raise SystemExit(1) from None
    except TyperException as error:
        _complain(f"{getattr(error, 'format_message', error.__str__)()} (--help lists the options)")
        raise SystemExit(2) from None
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error} (a defect; --debug shows where)")
        raise SystemExit(1) from None
    raise SystemExit(code or 0)


@app.command("run")
def run_pipeline(
    dataset: Annotated[
        str | None,
        typer.Option(help="Folder, zip, s3://bucket/prefix, or synthetic://?images=N&seed=S."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a pipeline parameter; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the training pipeline on this machine; leaves the endpoint running."""
    from pipelines.local import run_training
    from platecrypt.storage.embedded import ensure_store

    settings = load_settings()
    parameters = _parameters(set_ or [], dataset=dataset)
    ensure_keys(settings.keyring_path)
    store = ensure_store(settings)
    report = run_training(settings, store, parameters)
    url = f"http://{settings.host}:{settings.port}/v1/models/{settings.model_name}:predict"
    steps = {step.name: {"state": step.state, "seconds": step.seconds} for step in report.steps}
    result = {
        "run": report.run_id,
        "seconds": round(report.seconds, 1),
        "steps": steps,
        "summary": str(report.folder),
        "endpoint": url,
    }
    cached = sum(step.state == "cached" for step in report.steps)
    print_result(
        as_json,
        result,
        f"run {report.run_id} finished in {report.seconds:.0f} s "
        f"({len(report.steps)} steps, {cached} cached)\n"
        f"pages:    {settings.home / 'reports'}/\nendpoint: {url}\n"
        f"try it:   curl -H 'Content-Type: image/jpeg' -H 'Accept: image/jpeg' "
        f"--data-binary @car.jpg {url} -o protected.jpg",
    )


@app.command("import")
def import_dataset(
    source: Annotated[str, typer.Argument(help="Folder, zip, s3://bucket/prefix, synthetic://?…")],
    limit: Annotated[int, typer.Option(min=0, help="Only so many images; 0 takes all.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Import a dataset into the object store and print its digest."""
    from platecrypt.datasets.importing import import_dataset as work
    from platecrypt.datasets.manifest import manifest_key
    from platecrypt.progress import progress
    from platecrypt.storage.embedded import ensure_store

    store = ensure_store(load_settings())
    with progress("importing") as bar:
        manifest = work(store, source, progress=bar, limit=limit)
    splits = {name: len(manifest.split(name)) for name in ("train", "val", "test")}
    result = {
        "digest": manifest.digest,
        "form": manifest.form,
        "images": len(manifest.images),
        "plates": sum(len(image.plates) for image in manifest.images),
        "splits": splits,
        "grouping": manifest.grouping,
        "manifest": f"s3://{store.bucket}/{manifest_key(manifest.digest)}",
    }
    print_result(as_json, result, "\n".join(f"{name:<9} {value}" for name, value in result.items()))


app.command()(pictures.protect)
app.command()(pictures.recover)
app.command()(pictures.disclose)
app.command()(pictures.inspect)
app.command()(pictures.reseal)
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.command()(tune.tune)
app.command()(serve.serve)
app.command()(serve.quantize)
app.command()(manifests.check_manifests)


@app.command()
def predict(
    url: Annotated[str, typer.Argument(help="http://host:port/v1/models/plates:predict")],
    files: Annotated[list[Path], typer.Argument(help="Pictures or folders.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder, or file for one picture.")
    ] = Path("protected"),
    token_file: Annotated[
        Path | None,
        typer.Option(help="File that begins with a bearer token; default: as the settings say."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send pictures to an endpoint and keep the protected ones.

    What the endpoint refuses is told, and the others go on; exits with 1 then.
    """
    from platecrypt.imaging.bulk import jobs_for
    from platecrypt.imaging.files import write_whole
    from platecrypt.progress import progress
    from platecrypt.serving.client import Client, NoAnswerError
    from platecrypt.settings import read_token

    token = read_token(token_file) if token_file else load_settings().endpoint_token
    jobs = jobs_for(files, output, (".jpg", ".jpeg", ".png", ".webp"))
    rows: list[dict[str, Any]] = []
    with Client(url, token=token) as client, progress("protecting") as bar:
        for job in jobs:
            row: dict[str, Any] = {"input": str(job.source), "output": str(job.target)}
            row |= {"plates": None, "error": ""}
            rows.append(row)
            try:
                answer = client.protect(read_input(str(job.source)))
                job.target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(job.target, answer.data)
                row["plates"] = answer.plates
            except PlatecryptError as error:
                if len(jobs) == 1:
                    raise
                row["error"] = " ".join(str(error).split())
                if isinstance(error, NoAnswerError):  # nor would there be one for the others
                    break
            bar(len(rows), len(jobs))
    done = [f"{row['output']}: {row['plates']} plates" for row in rows if not row["error"]]
    print_result(as_json, rows, "\n".join(done))
    for row in rows:
        if row["error"]:
            say(f"failed: {row['input']}: {row['error']}")
    if len(rows) < len(jobs):
        say(f"{len(jobs) - len(rows)} pictures were not sent")
    if any(row["error"] for row in rows):
        raise SystemExit(1)


@app.command()
def sample(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "car.jpg"
    ),
) -> None:
    """Write a held-out picture of the dataset behind the endpoint, to try things with."""
    from platecrypt.deployment.reporting import sample_image
    from platecrypt.imaging.files import write_whole

    write_whole(output, sample_image(load_settings()))
    say(f"{output} written")


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(help="Model version; default: the champion.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print the chain from the endpoint back to the images."""
    from platecrypt.deployment.reporting import lineage as work

    chain = work(load_settings(), version)
    print_result(as_json, chain, "\n".join(f"{name:<18} {value}" for name, value in chain.items()))


@app.command("compile")
def compile_pipeline(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    registry: Annotated[str | None, typer.Option(help="Registry of the step images.")] = None,
    tag: Annotated[str, typer.Option(help="Tag of the step images.")] = __version__,
    gpu: Annotated[bool, typer.Option(help="Train on a GPU node.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it is stale.")] = False,
) -> None:
    """Compile the training pipeline to the YAML that Kubeflow Pipelines takes."""
    from pipelines.cluster import COMPILED, compile_training
    from pipelines.objects import OBJECTS, pipeline_objects
    from pipelines.training import DEFAULT_IMAGES, images

    text = compile_training(images(registry, tag) if registry else DEFAULT_IMAGES, gpu=gpu)
    files = {output or COMPILED: text}
    if output is None:  # the same as objects of Kubernetes, for the overlays
        files[OBJECTS] = pipeline_objects(text)
    for path, content in files.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        elif not path.exists() or path.read_text() != content:
            raise BadInputError(f"{path} is stale; write it anew with `make compile`")
        say(f"{path} {'is up to date' if check else 'written'}")


@app.command()
def upload(
    host: Annotated[str | None, typer.Option(help="URL of Kubeflow Pipelines.")] = None,
    name: Annotated[str, typer.Option(help="Name of the pipeline.")] = "safelicensing-training",
    version: Annotated[str, typer.Option(help="Name of the version; default: the next vN.")] = "",
    package: Annotated[Path | None, typer.Option(help="Compiled pipeline to upload.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload the compiled pipeline to Kubeflow Pipelines."""
    from pipelines import cluster

    settings = load_settings(kfp_host=host)
    made = cluster.upload(settings, package or cluster.COMPILED, name, version)
    print_result(
        as_json, made._asdict(), f"{made.name} {made.version} is pipeline {made.pipeline_id}"
    )


@app.command()
def submit(
    host: Annotated[str | None, typer.Option(help="URL of Kubeflow Pipelines.")] = None,
    name: Annotated[str, typer.Option(help="Name of the pipeline.")] = "safelicensing-training",
    version: Annotated[str, typer.Option(help="Version to run; default: upload a new one.")] = "",
    experiment: Annotated[str, typer.Option(help="Experiment of the run.")] = "plates",
    namespace: Annotated[str | None, typer.Option(help="Namespace of the run.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE of a pipeline parameter.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run of the pipeline on Kubeflow Pipelines."""
    from pipelines import cluster

    settings = load_settings(kfp_host=host, kfp_namespace=namespace)
    parameters = _parameters(set_ or [])
    made = cluster.find_or_upload(settings, cluster.COMPILED, name, version)
    run_id = cluster.submit(settings, made, parameters, experiment)
    result = {"run_id": run_id, **made._asdict()}
    print_result(as_json, result, f"run {run_id} of {made.name} {made.version} started")


@app.command()
def up() -> None:
    """Start the embedded services that are not running."""
    from platecrypt.storage.embedded import ensure_store

    settings = load_settings()
    ensure_store(settings)
    say(f"object store: {settings.s3_url}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """List the processes that were left running; exits 1 when one has crashed."""
    from platecrypt.processes import Supervisor

    records = Supervisor(load_settings().home).list()
    rows = [
        {
            "name": record.name,
            "state": record.state,
            "pid": record.pid,
            "url": record.url,
            "uptime_s": round(record.uptime_s) if record.state == "running" else None,
            "log": record.log,
        }
        for record in records
    ]
    lines = [
        f"{row['name']:<14} {row['state']:<8} pid {row['pid']:<8} {row['url']:<56} "
        f"{_duration(row['uptime_s']):<9} {row['log']}"
        for row in rows
    ]
    print_result(as_json, rows, "\n".join(lines) or "nothing is running")
    if any(row["state"] == "crashed" for row in rows):
        raise SystemExit(1)


@app.command()
def stop() -> None:
    """End the processes that were left running."""
    from platecrypt.processes import Supervisor

    supervisor = Supervisor(load_settings().home)
    records = supervisor.list()
    # Who asks before who is asked, or answers under way are lost.
    order = ("transformer", "candidate-transformer")
    last = "object-store"
    for record in sorted(records, key=lambda r: (r.name == last, r.name not in order)):
        was_running = supervisor.stop(record.name)
        say(f"{record.name}: {'stopped' if was_running else 'had crashed; forgotten'}")
    if not records:
        say("nothing was running")


@app.command()
def config(as_json: AsJson = False) -> None:
    """Print the settings in force, and where each comes from."""
    from platecrypt.settings import sources, without_secrets

    settings = load_settings()
    whence = sources()
    rows = {}
    for name, value in settings:
        shown = None if value is None else without_secrets(name, str(value))
        rows[name] = {"value": shown, "from": whence.get(name, "default")}
    lines = [f"{name:<20} {row['value'] or '-':<32} {row['from']}" for name, row in rows.items()]
    print_result(as_json, rows, "\n".join(lines))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _parameters(pairs: list[str], **given: str | None) -> dict[str, Any]:
    """NAME=VALUE pairs and flags, as the pipeline's own types."""
    from pipelines.parameters import read_parameters

    found = {name: text for name, text in given.items() if text is not None}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise BadInputError(f"--set {pair!r} is not of the form NAME=VALUE")
        found[name] = text
    return read_parameters(found)


def _duration(seconds: Any) -> str:
    return "" if seconds is None else time.strftime("%H:%M:%S", time.gmtime(seconds))


def _complain(line: str) -> None:
    typer.echo(f"platecrypt: {line}", err=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
