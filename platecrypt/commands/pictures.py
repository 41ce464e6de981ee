"""Commands on picture files: protect, recover, disclose, inspect, reseal."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from platecrypt.commands import videos
from platecrypt.commands.shared import (
    STANDARD,
    AsJson,
    load_keyring,
    load_settings,
    print_result,
    read_input,
    say,
)
from platecrypt.errors import BadInputError
from platecrypt.machine import cores

if TYPE_CHECKING:
    from platecrypt.imaging.boxes import BoxFile
    from platecrypt.imaging.bulk import Job, Options, Outcome, Worker

Keys = Annotated[Path | None, typer.Option(help="The keyring file.")]
Plate = Annotated[int | None, typer.Option(min=0, help="Only this plate, from 0.")]


def protect(
    files: Annotated[list[str], typer.Argument(help="Pictures or folders; - is standard input.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder, or file for one picture; - is stdout.")
    ],
    model: Annotated[
        Path | None, typer.Option(help="Detector (ONNX); default: the one that is served here.")
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="JSON: a list of boxes or quads, or an object of lists by file name."),
    ] = None,
    keys: Keys = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes beside each other.", show_default="cores")
    ] = cores(),
    sidecar: Annotated[bool, typer.Option("--sidecar", help="Seal into NAME.sle instead.")] = False,
    margin: Annotated[float, typer.Option(help="Around a plate, share of its size.")] = 0.08,
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Boxes above this score are plates.")
    ] = None,
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave out places, makers, serials, times.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what is protected already.")] = False,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Pictures as the endpoint does them: encoded again, without metadata, quicker.",
        ),
    ] = False,
    backend: Annotated[
        Literal["auto", "onnxruntime", "openvino", "tensorrt"],
        typer.Option(help="Who runs the detector; auto measures."),
    ] = "onnxruntime",
    precision: Annotated[
        Literal["auto", "f32", "bf16", "int8"],
        typer.Option(help="Of the detector's arithmetic; auto: the fastest."),
    ] = "f32",
    every: Annotated[
        int, typer.Option(min=1, max=250, help="Video: look at every N-th frame.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Lock away the plates in pictures and videos; pictures lose nothing outside of them."""
    from platecrypt.imaging.boxes import BoxFile
    from platecrypt.imaging.bulk import Options

    settings = load_settings(keys_file=keys)
    given = None if boxes is None else BoxFile.load(boxes)
    if model is None and given is None:
        model = _served_model()
    if fast and (sidecar or given is not None):
        raise BadInputError("--fast is the endpoint's way, which has no --sidecar and no --boxes")
    options = Options(
        keys=settings.keyring_path,
        model=model,
        margin=margin,
        confidence=confidence,
        sidecar=sidecar,
        strip_metadata=strip_metadata,
        force=force,
        backend=backend,
        precision=precision,
    )
    worker = _worker(fast=fast)
    if STANDARD in files or output == STANDARD:
        _protect_stream(files, output, worker(options), given, as_json)
        return
    jobs = _jobs([Path(file) for file in files], Path(output), given)
    stills = [job for job in jobs if not videos.is_video(job.source)]
    outcomes = _protect_jobs(stills, options, workers, worker) if stills else []
    outcomes += [
        videos.protect_one(job, options, every) for job in jobs if videos.is_video(job.source)
    ]
    _report(sorted(outcomes, key=lambda outcome: str(outcome.source)), as_json)


def _worker(*, fast: bool) -> "type[Worker]":
    """Who protects pictures: without loss, or as the endpoint does."""
    if not fast:
        from platecrypt.imaging.bulk import Worker

        return Worker
    from platecrypt.serving.bulk import EndpointWorker

    return EndpointWorker


def _served_model() -> Path:
    from platecrypt.deployment import LocalDeployer

    settings = load_settings()
    live = LocalDeployer(settings).live()
    if live is None:
        raise BadInputError("nothing says where plates are: give --model or --boxes, or `make run`")
    return settings.home / "models" / live.digest / "model.onnx"


def _jobs(sources: list[Path], output: Path, given: "BoxFile | None") -> "list[Job]":
    from dataclasses import replace

    from platecrypt.imaging.bulk import jobs_for
    from platecrypt.imaging.recover import FORMATS

    jobs = jobs_for(sources, output, (*FORMATS, *videos.SUFFIXES), videos.WRITTEN_AS)
    if given is None:
        return jobs
    held = {name: name for job in jobs for name in _names(job, output)}
    for name in given.names:
        if name not in held:
            raise BadInputError(f"{given.path} names {name}, which is none of the pictures")
    return [replace(job, boxes=given.of(_named(job, output, given))) for job in jobs]


def _names(job: "Job", output: Path) -> tuple[str, ...]:
    """How a box file may name a picture: by its path below the folder, or by its name."""
    inside = job.target.is_relative_to(output) and job.target != output
    name = job.source.name  # the target's may end otherwise
    below = job.target.relative_to(output).with_name(name).as_posix() if inside else name
    return (below, name)


def _named(job: "Job", output: Path, given: "BoxFile") -> str:
    below, name = _names(job, output)
    return below if below in given.names else name


def _protect_jobs(
    jobs: "Sequence[Job]", options: "Options", workers: int, worker: "type[Worker]"
) -> "list[Outcome]":
    from platecrypt.imaging.bulk import protect_all
    from platecrypt.progress import progress

    if len(jobs) == 1:
        return list(protect_all(jobs, options, worker=worker))
    outcomes = []
    with progress("protecting") as bar:
        for outcome in protect_all(jobs, options, workers=workers, worker=worker):
            outcomes.append(outcome)
            bar(len(outcomes), len(jobs))
    return outcomes


def _report(outcomes: "list[Outcome]", as_json: bool) -> None:
    rows = [
        {
            "input": str(outcome.source),
            "output": str(outcome.target),
            "state": outcome.state,
            "plates": outcome.plates,
            "notes": list(outcome.notes),
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if len(outcomes) == 1 and failed and not as_json:
        say(f"platecrypt: {failed[0].source}: {failed[0].error}")
        raise SystemExit(failed[0].exit_code)
    if as_json:
        print_result(True, rows, "")
    else:
        _report_lines(outcomes)
    if failed:
        raise SystemExit(failed[0].exit_code if len(outcomes) == 1 else 1)


def _report_lines(outcomes: "list[Outcome]") -> None:
    count = dict.fromkeys(("protected", "skipped", "failed"), 0)
    for outcome in outcomes:
        count[outcome.state] += 1
        for note in outcome.notes:
            say(f"{outcome.target}: {note}")
    plates = sum(outcome.plates for outcome in outcomes)
    if len(outcomes) == 1 and count["protected"]:
        typer.echo(f"{outcomes[0].target}: {plates} plates sealed")
        return
    typer.echo(
        f"{count['protected']} protected ({plates} plates sealed), {count['skipped']} done before, "
        f"{count['failed']} failed"
    )
    for outcome in outcomes:
        if outcome.state == "failed":
            say(f"failed: {outcome.source}: {outcome.error}")


def _protect_stream(
    files: list[str], output: str, worker: "Worker", given: "BoxFile | None", as_json: bool
) -> None:
    """One picture through a pipe, on one side or on both."""
    from platecrypt.imaging import sidecar_of, write_whole

    if len(files) != 1 or Path(files[0]).is_dir():
        raise BadInputError("standard input and output take exactly one picture")
    if output == STANDARD and (worker.options.sidecar or as_json):
        raise BadInputError("standard output takes the picture: no --sidecar and no --json with it")
    if output != STANDARD and files[0] != STANDARD:
        raise BadInputError("one of input and output must be -")
    target = Path(output)
    if output != STANDARD and target.is_dir():
        raise BadInputError(f"{output} is a folder; name the file that standard input becomes")
    boxes = None if given is None else given.of(Path(files[0]).name)
    done = worker.protect(read_input(files[0]), boxes)
    for note in done.notes:
        say(note)
    if output == STANDARD:
        sys.stdout.buffer.write(done.data)
        sys.stdout.buffer.flush()
        return
    if done.sidecar is not None:
        write_whole(sidecar_of(target), done.sidecar)
    write_whole(target, done.data)
    result = {"input": files[0], "output": output, "plates": len(done.regions)}
    print_result(as_json, result, f"{output}: {len(done.regions)} plates sealed")


def recover(
    file: Annotated[str, typer.Argument(help="A protected picture; - reads standard input.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="File to write: the input's format, or PNG; - stdout."),
    ],
    keys: Keys = None,
    token: Annotated[
        str | None, typer.Option(help="A disclosure token, or @FILE that holds one; no key needed.")
    ] = None,
    plate: Plate = None,
    track: Annotated[
        int | None, typer.Option(min=0, help="Of a video: write this plate's frames to a folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the plates back into a protected picture, with the key or a token."""
    from platecrypt.imaging import recover as work
    from platecrypt.imaging import write_whole
    from platecrypt.imaging.recover import FORMATS, recovered_bytes, suffix_of

    target = Path(output)
    if track is not None or videos.is_video(Path(file)):
        path = load_settings(keys_file=keys).keyring_path
        videos.recover_track(Path(file), path, track, target, as_json)
        return
    if file != STANDARD and target.exists() and target.samefile(file):
        raise BadInputError(f"{output} is the input; it is never overwritten")
    if output != STANDARD and target.suffix.lower() not in FORMATS:
        raise BadInputError(f"{output} must end in .png, or like the input")
    keyring = None if token else load_keyring(load_settings(keys_file=keys).keyring_path)
    found = work(
        read_input(file), keyring, plate=plate, token=_token(token), sidecar=_sidecar(file)
    )
    if output == STANDARD:
        own = suffix_of(found.format) if found.file is not None else ".png"
        sys.stdout.buffer.write(recovered_bytes(found, own))
        sys.stdout.buffer.flush()
        return
    data = recovered_bytes(found, target.suffix)
    write_whole(target, data)
    result = {"plates": found.count, "output": output}
    print_result(as_json, result, f"{output}: {found.count} plates recovered")


def disclose(
    file: Annotated[str, typer.Argument(help="A protected picture.")],
    plate: Annotated[int, typer.Option(min=0, help="Which plate, from 0; see `inspect`.")],
    reason: Annotated[str, typer.Option(help="Why; it goes into the audit log.")] = "",
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Print a token that opens one plate and nothing else; it is recorded in the audit log."""
    from platecrypt import audit
    from platecrypt.cipher import EnvelopeError, disclosure_token
    from platecrypt.imaging.recover import plate_of, sealed_in

    settings = load_settings(keys_file=keys)
    keyring = load_keyring(settings.keyring_path)
    item = plate_of(sealed_in(read_input(file), sidecar=_sidecar(file)), plate)
    if item.info.kid not in keyring.kids:
        raise BadInputError(
            f"none of the keys in {settings.keyring_path} opens this: sealed with key id "
            f"{item.info.kid}"
        )
    try:
        token = disclosure_token(item.envelope, keyring)
    except EnvelopeError:
        raise BadInputError(
            "the sealed data was tampered with or damaged; nothing is disclosed"
        ) from None
    # Recorded first: a token that nobody knows of must not exist.
    audit.record(
        audit.log_path(settings.home),
        event="disclose",
        kid=item.info.kid,
        nonce=item.info.nonce,
        file=file,
        reason=reason,
    )
    result = {"file": file, "plate": plate, "kid": item.info.kid, "token": token}
    print_result(as_json, result, token)


def inspect(
    file: Annotated[str, typer.Argument(help="A protected picture; - reads standard input.")],
    as_json: AsJson = False,
) -> None:
    """Show what is sealed in a picture; needs no key."""
    from platecrypt.imaging.recover import plates_of, sealed_in

    if videos.is_video(Path(file)):
        videos.inspect_tracks(Path(file), as_json)
        return
    items = sealed_in(read_input(file), sidecar=_sidecar(file))
    plates = plates_of(items)
    rows = [
        {
            "plate": number,
            "box": item.ctx.get("box"),
            "kid": item.info.kid,
            "nonce": item.info.nonce,
            "sealed_bytes": item.info.plaintext_bytes,
            "form": item.ctx.get("format", "pixels"),
        }
        for number, item in sorted(plates.items())
    ]
    shared = {
        name: items[0].ctx.get(name)
        for name in ("model", "model_version", "request_id", "source_sha256", "time")
    }
    others = len(items) - len(plates)
    lines = [f"{name:<14} {value}" for name, value in shared.items()]
    lines += [
        f"plate {row['plate']:<8} {row['box']!s:<26} key {row['kid']}  "
        f"{row['sealed_bytes']} bytes, {row['form']}"
        for row in rows
    ]
    lines.append(f"{others} more sealed (the record of what was found, parts of the file)")
    print_result(as_json, {**shared, "plates": rows, "others": others}, "\n".join(lines))


def reseal(
    files: Annotated[list[Path], typer.Argument(help="Protected pictures, or their sidecars.")],
    keys: Keys = None,
    as_json: AsJson = False,
) -> None:
    """Seal again with the newest key what an older key sealed, in place."""
    from platecrypt.errors import PlatecryptError

    keyring = load_keyring(load_settings(keys_file=keys).keyring_path)
    rows: list[dict[str, Any]] = []
    for file in files:
        row: dict[str, Any] = {"file": str(file), "state": "resealed", "error": ""}
        try:
            row["state"] = _reseal_one(file, keyring)
        except PlatecryptError as error:
            if len(files) == 1:
                raise
            row.update(state="failed", error=" ".join(str(error).split()))
        rows.append(row)
    lines = [f"{row['file']}: {row['error'] or row['state']}" for row in rows]
    print_result(as_json, rows, "\n".join(lines))
    if any(row["state"] == "failed" for row in rows):
        raise SystemExit(1)


def _reseal_one(file: Path, keyring: Any) -> str:
    from platecrypt.imaging import read_sealed, write_whole
    from platecrypt.imaging.files import SIDECAR
    from platecrypt.imaging.reseal import reseal_file, reseal_sidecar

    beside = _sidecar_path(str(file))
    if file.suffix == SIDECAR:
        beside = file
    data = read_input(str(file))
    if beside is not None and (beside == file or not read_sealed(data)):
        target, fresh = beside, reseal_sidecar(read_input(str(beside)), keyring)
    else:
        target, fresh = file, reseal_file(data, keyring)
    if fresh is None:
        return "sealed with the newest key already"
    write_whole(target, fresh)
    return "resealed"


def _token(token: str | None) -> str | None:
    """The token itself, or what the file after an @ holds (a command line is seen by others)."""
    if token is not None and token.startswith("@"):
        return read_input(token[1:]).decode("ascii", "replace").strip()
    return token


def _sidecar_path(file: str) -> Path | None:
    from platecrypt.imaging.files import SIDECAR

    path = Path(file)
    beside = (path.with_name(path.name + SIDECAR), path.with_suffix(SIDECAR))
    return next((found for found in beside if file != STANDARD and found.is_file()), None)


def _sidecar(file: str) -> bytes | None:
    found = _sidecar_path(file)
    return None if found is None else read_input(str(found))
