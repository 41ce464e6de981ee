"""Commands of the endpoint: serve a model on this machine, make an INT8 copy of one."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from platecrypt.commands.shared import (
    AsJson,
    ensure_keys,
    load_keyring,
    load_settings,
    print_result,
)
from platecrypt.errors import BadInputError

if TYPE_CHECKING:
    from platecrypt.settings import Settings

MANIFESTS = {
    "collocated": "inference_service.yaml",
    "split": "inference_service_split.yaml",
    "single": "inference_service_single.yaml",
}
TOKENS = "TOKENS_FILE"  # variable of the containers that users call
Topology = Literal["collocated", "split", "single"]


def serve(
    topology: Annotated[
        Topology,
        typer.Option(help="Two processes as in one pod or in two, or one process for both."),
    ] = "collocated",
    model: Annotated[
        Path | None, typer.Option(help="Detector (ONNX), file or folder; default: what serves now.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="The keyring file.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of the endpoint.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of gRPC; default: a free one.")
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File of bearer tokens, one a line; default: as what serves now, else all may ask."
        ),
    ] = None,
    profiles: Annotated[
        bool | None, typer.Option(help="Look cameras up in the feature store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model in the background until `platecrypt stop`; returns when it is ready."""
    from platecrypt.deployment import InferenceService, LocalDeployer

    settings = load_settings(
        keys_file=keys, port=port, grpc_port=grpc_port, camera_profiles=profiles
    )
    file = _model_file(settings, model)
    if keys is None:
        ensure_keys(settings.keyring_path)
    else:
        load_keyring(keys)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = _kept(settings, file, digest)
    variables = {} if tokens is None else {TOKENS: str(tokens.absolute())}
    deployer = LocalDeployer(settings, variables)
    service = InferenceService.load(settings.root / "kserve" / MANIFESTS[topology])
    candidate = deployer.candidate(service, folder, _version(settings, digest), digest)
    try:
        served = deployer.promote(candidate)
    except BaseException:
        deployer.discard(candidate)
        raise
    asked = deployer.variables().get(TOKENS, "")
    result = {
        "url": served.url,
        "grpc": served.grpc,
        "topology": topology,
        "version": served.version,
        "digest": digest,
        "tokens": asked,
    }
    whoever = f"only who shows a token of {asked}" if asked else "everybody who reaches it"
    print_result(
        as_json,
        result,
        f"serving {digest[:12]} ({topology})\nendpoint: {served.url}\ngRPC:     {served.grpc}\n"
        f"for:      {whoever}\nuntil:    platecrypt stop",
    )


def quantize(
    model: Annotated[Path, typer.Argument(help="Detector (ONNX), file or folder.")],
    images: Annotated[Path, typer.Argument(help="Folder of pictures, best with YOLO labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The INT8 file to write.")],
    confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="That recall is judged at; default: the model's own."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Only so many pictures; 0 takes all.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make an INT8 copy of a detector; refuses one that loses more than half a point of recall."""
    from platecrypt.detection import find_model
    from platecrypt.detection.quantize import quantize as work
    from platecrypt.detection.quantize import read_folder

    file = find_model(model) if model.is_dir() else model
    if output.exists() and file.exists() and output.samefile(file):
        raise BadInputError(f"{output} is the original; it is never overwritten")
    report = work(file, read_folder(images, limit), output, confidence=confidence)
    result = {
        "output": str(output),
        "images": report.images,
        "plates": report.plates,
        "labelled": report.labelled,
        "recall_f32": round(report.recall_before, 4),
        "recall_int8": round(report.recall_after, 4),
    }
    truth = "labelled plates" if report.labelled else "plates that the original finds"
    print_result(
        as_json,
        result,
        f"{output} written: finds {report.recall_after:.1%} of {report.plates} {truth}, the "
        f"original {report.recall_before:.1%}",
    )


def _model_file(settings: "Settings", given: Path | None) -> Path:
    from platecrypt.deployment import LocalDeployer
    from platecrypt.detection import find_model

    if given is not None:
        if not given.exists():
            raise BadInputError(f"model {given} does not exist")
        return find_model(given) if given.is_dir() else given
    live = LocalDeployer(settings).live()
    if live is None:
        raise BadInputError("nothing serves now: name a model with --model, or `make run`")
    return find_model(settings.home / "models" / live.digest)


def _kept(settings: "Settings", file: Path, digest: str) -> Path:
    """The folder that holds the model as long as it serves."""
    from platecrypt.imaging.files import write_whole

    folder = settings.home / "models" / digest
    kept = folder / "model.onnx"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(kept, file.read_bytes())
    return folder


def _version(settings: "Settings", digest: str) -> str:
    """The version of what serves where it is the same model, else a name made of its digest."""
    from platecrypt.deployment import LocalDeployer

    live = LocalDeployer(settings).live()
    return live.version if live and live.digest == digest else digest[:12]
