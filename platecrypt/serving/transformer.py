"""The transformer container: a picture in, the same picture with its plates sealed out.

`POST /v1/models/plates:predict` with an image as the body, or JSON with base64; Open Inference
Protocol v2 over REST and gRPC with BYTES (encoded files) or UINT8 (pixels). With `Accept:
image/jpeg` (or png, webp) a v1 answer is the protected file, otherwise JSON. It fails closed: what
was not found, sealed and covered without a hitch does not leave.
"""

import argparse
import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from platecrypt import imaging
from platecrypt.errors import BadInputError
from platecrypt.machine import cores
from platecrypt.serving import metrics, oip
from platecrypt.serving.admission import Admission
from platecrypt.serving.answers import v1_reply, v2_reply
from platecrypt.serving.door import REQUEST_ID
from platecrypt.serving.profiles import LookUp, Profiles
from platecrypt.serving.protector import Limits, Outcome, Protector, open_keys, warm_up
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.remote import RemoteDetector
from platecrypt.serving.requests import (
    Format,
    Job,
    V1Body,
    cameras_filled,
    largest_body,
    v1_job,
    v2_job,
    wanted,
)
from platecrypt.serving.server import (
    HttpReply,
    ServedModel,
    argument_parser,
    grpc_options,
    optional_path,
    run,
)
from platecrypt.serving.tracing import TRACEPARENT, TRACESTATE

T = TypeVar("T")
PASSED_ON = (REQUEST_ID, TRACEPARENT, TRACESTATE)
WORKING = 2 * cores()  # while one waits for the predictor another decodes
WAITING = 64


class Transformer(ServedModel):
    """Translates between the wire and the protector, which works in threads.

    Args:
        name: of the model on the endpoint path.
        protector: the core.
        admission: how much is let in.
        working: threads; as many as the admission lets work beside each other.
    """

    def __init__(
        self, name: str, protector: Protector, *, admission: Admission, working: int = WORKING
    ) -> None:
        super().__init__(name)
        self._protector = protector
        self._admission = admission
        self._pool = ThreadPoolExecutor(working, "protect")
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """The v2 input: encoded files; UINT8 pixels are taken as well."""
        return [{"name": "image", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The v2 outputs for encoded files."""
        return [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "counts", "datatype": "INT32", "shape": [-1]},
            {"name": "boxes", "datatype": "INT32", "shape": [-1, 4]},
            {"name": "envelopes", "datatype": "BYTES", "shape": [-1]},
            {"name": "records", "datatype": "BYTES", "shape": [-1]},
            {"name": "detections", "datatype": "FP32", "shape": [-1, 5]},
            {"name": "detection_counts", "datatype": "INT32", "shape": [-1]},
        ]

    async def available(self) -> bool:
        """Whether the keys are there and the predictor is ready."""
        return bool(self.ready) and await asyncio.to_thread(self._protector.ready)

    async def predict(
        self,
        payload: Any,
        headers: Mapping[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """Protect the images of one request.

        Raises:
            HttpError: anything that keeps the answer from being a protected one.
        """
        asked = {name.lower(): value for name, value in (headers or {}).items()}
        work: Callable[[Any, Mapping[str, str], threading.Event], Any]
        if isinstance(payload, V1Body):
            work = self._v1
        elif isinstance(payload, oip.Request):
            work = self._v2
        else:
            raise HttpError(400, "ask with POST /v1/models/NAME:predict or /v2/models/NAME/infer")
        async with self._admission.enter():
            loop, given_up = asyncio.get_running_loop(), threading.Event()
            try:
                return await loop.run_in_executor(self._pool, work, payload, asked, given_up)
            finally:
                given_up.set()  # a thread cannot be ended: it looks before each picture

    def _v1(
        self, payload: V1Body, asked: Mapping[str, str], given_up: threading.Event
    ) -> HttpReply:
        form = wanted(asked.get("accept", ""))
        job = v1_job(payload, form, max_bytes=self._protector.limits.max_bytes)
        outcomes = self._protect(job, asked, form.format, given_up)
        with metrics.timed("answer"):
            return v1_reply(outcomes, form, job.options)

    def _v2(
        self, payload: oip.Request, asked: Mapping[str, str], given_up: threading.Event
    ) -> oip.Reply:
        limits = self._protector.limits
        job = v2_job(payload, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
        outcomes = self._protect(job, asked, None, given_up)
        with metrics.timed("answer"):
            return v2_reply(outcomes, payload, job.options)

    def _protect(
        self,
        job: Job,
        asked: Mapping[str, str],
        form: Format | None,
        given_up: threading.Event,
    ) -> list[Outcome]:
        headers = {name: asked[name] for name in PASSED_ON if name in asked}
        outcomes = []
        for picture in cameras_filled(job):
            if given_up.is_set():
                raise HttpError(503, "the request took too long")
            made = self._protector.protect(picture, job.options, headers=headers, form=form)
            outcomes.append(made)
        return outcomes


def make(args: argparse.Namespace) -> Transformer:
    """Read the keys, prepare the compiled cipher, name the predictor.

    Raises:
        BadInputError: an argument or the key file is wrong.
    """
    if not args.predictor_host or ":" not in args.predictor_host:
        raise BadInputError(f"--predictor_host is {args.predictor_host!r}; give host:port of gRPC")
    if args.predictor_protocol != "grpc-v2":
        raise BadInputError(
            f"--predictor_protocol is {args.predictor_protocol}; the predictor is asked by grpc-v2"
        )
    if args.predictor_use_ssl:
        raise BadInputError(
            "--predictor_use_ssl: the line to the predictor is plain gRPC; leave TLS to the mesh"
        )
    check_protecting(args)
    detector = RemoteDetector(
        args.predictor_host,
        model=args.model_name,
        timeout_s=args.predictor_request_timeout_seconds,
        options=grpc_options(args.max_pixels),
    )
    return transformer(args, detector)


def transformer(args: argparse.Namespace, finder: Any) -> Transformer:
    """A transformer with that finder, as the arguments want it."""
    protector = Protector(
        args.model_name,
        finder=finder,
        keys=open_keys(args.keys_file),
        limits=Limits(args.max_bytes, args.max_pixels),
        margin=args.margin,
        profiles=_profiles(args.feature_repo),
    )
    warm_up()
    admission = Admission(
        working=args.working, waiting=args.waiting, patience_s=args.request_seconds
    )
    return Transformer(args.model_name, protector, admission=admission, working=args.working)


def add_protecting(parser: argparse.ArgumentParser) -> None:
    """The flags of every server that protects."""
    parser.add_argument("--keys_file", type=Path, required=True, help="the keyring that seals")
    parser.add_argument("--margin", type=float, default=imaging.MARGIN, help="around a plate, 0..1")
    parser.add_argument("--working", type=int, default=WORKING, help="requests at once")
    parser.add_argument("--waiting", type=int, default=WAITING, help="requests that may wait")
    parser.add_argument("--request_seconds", type=float, default=30, help="for one request")
    parser.add_argument(
        "--feature_repo",
        type=optional_path,
        help="folder of the Feast repository whose online store knows the cameras; none: defaults",
    )


def check_protecting(args: argparse.Namespace) -> None:
    """Refuse flags that are out of range.

    Raises:
        BadInputError: the first of them, with its value.
    """
    if not 0 <= args.margin <= 1:
        raise BadInputError(f"--margin {args.margin} is not between 0 and 1")
    for name, least in (("working", 1), ("waiting", 0)):
        if getattr(args, name) < least:
            raise BadInputError(f"--{name} {getattr(args, name)} is less than {least}")


def _profiles(folder: Path | None) -> Profiles | None:
    if folder is None:
        return None

    def open_store() -> LookUp:
        from platecrypt.features.store import open_online

        return open_online(folder)

    return Profiles(open_store)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended; returns the exit code."""
    parser = argument_parser("platecrypt transformer")
    add_protecting(parser)
    parser.set_defaults(predictor_protocol="grpc-v2", enable_grpc=False)
    return run(make, parser, argv, max_body=lambda args: largest_body(args.max_bytes))


if __name__ == "__main__":
    raise SystemExit(main())
