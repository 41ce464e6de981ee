"""What every server shares: KServe's endpoints in a server that we can bind, limit and drain.

KServe's own `ModelServer` listens on every address, has no limit on a body, answers an unexpected
error with its text, and lets anybody unload the model over HTTP. So its published pieces (data
plane, v1 and v2 routes, gRPC servicer) are put together here; nothing of it is patched. Requests
for work are read by our own codec (`oip`), in front of KServe's routes.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
import kserve
import uvicorn
import uvloop
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from grpc_interceptor.exceptions import GrpcException
from kserve import errors as kserve_errors
from kserve.model_server import parser as kserve_parser
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.exceptions import HTTPException

from platecrypt.errors import BadInputError, PlatecryptError
from platecrypt.serving import oip
from platecrypt.serving.connections import connection_class
from platecrypt.serving.door import (
    MAX_HELD,
    REQUEST_ID,
    Door,
    Drain,
    configure_logging,
    error_headers,
    log_request,
    request_id_of,
)
from platecrypt.serving.openapi import description
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.requests import V1Body
from platecrypt.serving.tokens import Tokens
from platecrypt.serving.tracing import trace_of

LOOPBACK = "127.0.0.1"
GRACE_S = 30  # in-flight requests get this long to finish after SIGTERM
KEEP_ALIVE_S = 65  # longer than the idle timeout of common proxies
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
GRPC_OVERHEAD = 64 * 1024
MAX_RPCS = 128  # beside each other; more than are let in to work or wait
CLIENT_LEFT = 499  # nginx's number for who did not wait for the answer
UNPROCESSABLE = (400, "the request has not the form of the protocol")
# KServe's own handlers would read the body first, some of them with errors of their own.
NOT_OFFERED = (
    "/v1/models/{model_name}:explain",
    "/v2/models/{model_name}/versions/{model_version}/infer",
)
STATUS_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}

# One at a time: each may take some hundred megabytes.
SLOW_CODEC, SLOW_TURN = ThreadPoolExecutor(1, "codec"), asyncio.Semaphore(1)

T = TypeVar("T")

logger = logging.getLogger("platecrypt.serving")


@dataclass(frozen=True)
class HttpReply:
    """A v1 answer as it goes out."""

    body: bytes = field(repr=False)
    content_type: str
    headers: Mapping[str, str]


class ServedModel(kserve.Model):  # type: ignore[misc]
    """A `kserve.Model` that can say whether it could answer a request now.

    `predict` is called with a `V1Body` and answers an `HttpReply`, or with an `oip.Request` and
    answers an `oip.Reply`.
    """

    async def available(self) -> bool:
        """Whether a request sent now would be answered; asked by readiness probes."""
        return bool(self.ready)


class _Plane(DataPlane):  # type: ignore[misc]
    """KServe's data plane with a readiness that means it."""

    def __init__(
        self, model_registry: kserve.ModelRepository, drain: Drain, tokens: Tokens | None = None
    ) -> None:
        super().__init__(model_registry=model_registry)
        self._drain = drain
        self._tokens = tokens

    def _open(self) -> bool:
        """Whether anybody could be let in."""
        return not self._drain.began and (self._tokens is None or self._tokens.usable())

    async def ready(self) -> bool:
        if not self._open():
            return False
        models = self.model_registry.get_models().values()
        return all([await model.available() for model in models])

    def check_outputs(self, model_name: str, call: oip.Request) -> None:
        """Refuse an output that the model never has, before the work; see `oip.Request`."""
        model = self.model_registry.get_model(model_name)
        if call.outputs and model is not None:
            call.check_outputs(item["name"] for item in model.get_output_types())

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        model = self.model_registry.get_model(model_name)
        if model is None:
            raise kserve_errors.ModelNotFound(model_name)
        if disable_predictor_health_check:  # on the way to a prediction: that finds out itself
            return bool(model.ready)
        return self._open() and bool(await model.available())


class _FixedRepository(ModelRepositoryExtension):  # type: ignore[misc]
    """The repository extension, refusing: which model is served is not a client's decision."""

    async def load(self, model_name: str) -> None:
        raise kserve_errors.InvalidInput("models are loaded by the deployment, not by request")

    async def unload(self, model_name: str) -> None:
        raise kserve_errors.InvalidInput("models are unloaded by the deployment, not by request")


class _Servicer(InferenceServicer):  # type: ignore[misc]
    """KServe's gRPC servicer with our codec, our door and our log line."""

    def __init__(
        self,
        plane: _Plane,
        repository: ModelRepositoryExtension,
        check: Callable[[str], None] | None,
    ) -> None:
        super().__init__(plane, repository)
        self._plane = plane
        self._check = check
        self._held = 0

    async def infer(self, data: bytes, context: Any) -> bytes:
        """One inference, serialised; errors carry the sentence of the HTTP answer."""
        metadata = {str(key).lower(): value for key, value in context.invocation_metadata()}
        given = {key: value for key, value in metadata.items() if isinstance(value, str)}
        request_id = request_id_of(given.get(REQUEST_ID, ""))
        trace = trace_of(given)
        status, began = 500, time.perf_counter()
        self._held += len(data)
        try:
            if self._held > max(MAX_HELD, len(data)):
                raise HttpError(429, "too much is on its way in; try again")
            if self._check is not None:
                self._check(given.get("authorization", ""))
            parts = oip.split_grpc(data)
            message = await _codec(parts.slow, oip.open_grpc, parts)
            request_id = request_id_of(given.get(REQUEST_ID, "") or message.head.id)
            answer = await self._infer(message, request_id, dict(trace.headers()), slow=parts.slow)
            status = 200
            return answer
        except asyncio.CancelledError:
            status = CLIENT_LEFT
            raise
        except HttpError as error:
            status = error.status
            context.set_trailing_metadata(((REQUEST_ID, request_id),))
            code = STATUS_CODES.get(status, grpc.StatusCode.INTERNAL)
            raise GrpcException(str(error), code) from None
        except kserve_errors.ModelNotFound as error:
            status = 404
            raise GrpcException(error.reason, grpc.StatusCode.NOT_FOUND) from None
        finally:
            self._held -= len(data)
            names = {"request_id": request_id, "trace_id": trace.trace_id}
            log_request(
                "v2-grpc",
                status,
                time.perf_counter() - began,
                quiet=False,
                fields={**names, "span_id": trace.span_id, "bytes": len(data)},
            )

    async def _infer(
        self, message: oip.Message, request_id: str, trace: Mapping[str, str], *, slow: bool
    ) -> bytes:
        call, name = await _codec(slow, oip.read_grpc, message), message.head.model_name
        self._plane.check_outputs(name, call)
        headers = {REQUEST_ID: request_id, **trace}
        reply, _ = await self._plane.infer(name, call, headers)
        slow = oip.is_slow_reply(reply, call)
        return await _codec(slow, oip.write_grpc, reply, call, name, request_id)


class _Server(uvicorn.Server):
    """uvicorn that is unready for a while before it stops listening, so that nobody is cut off."""

    def __init__(self, config: uvicorn.Config, drain: Drain, seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: Any = None) -> None:
        """Serve until a signal ends it."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first signal ends readiness, and listening after the delay; the second listening."""
        again, self._drain.began = self._drain.began, True
        if again or not self._seconds or self._loop is None:
            super().handle_exit(sig, frame)
            return
        logger.info("draining", extra={"fields": {"seconds": self._seconds}})
        self._loop.call_soon_threadsafe(
            self._loop.call_later, self._seconds, super().handle_exit, signal.SIGTERM, None
        )


def argument_parser(description: str) -> argparse.ArgumentParser:
    """KServe's own flags plus those that every server adds."""
    parser = argparse.ArgumentParser(description=description, parents=[kserve_parser])
    parser.add_argument("--host", default=LOOPBACK, help="address to bind; 0.0.0.0 in a pod")
    parser.add_argument(
        "--confidence", type=float, help="threshold, 0..1; default: the one in the model file"
    )
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, help="largest image")
    parser.add_argument("--max_bytes", type=int, default=MAX_BYTES, help="largest encoded image")
    parser.add_argument(
        "--drain_seconds", type=float, default=0, help="unready but serving, after SIGTERM"
    )
    parser.add_argument("--headers_seconds", type=float, default=10, help="for headers to arrive")
    parser.add_argument(
        "--body_seconds", type=float, default=30, help="for a body to arrive, or an answer to go on"
    )
    parser.add_argument("--tokens_file", type=optional_path, help="bearer tokens, one a line")
    parser.set_defaults(model_name="plates", predictor_request_timeout_seconds=10)
    return parser


def optional_path(text: str) -> Path | None:
    """A path, or None for the empty text that an unset variable of a manifest becomes."""
    return Path(text) if text else None


def grpc_options(max_pixels: int, max_bytes: int = 0) -> list[tuple[str, int]]:
    """Message limits for an image of `max_pixels` or `max_bytes`, and one owner a port."""
    limit = max(3 * max_pixels, max_bytes) + GRPC_OVERHEAD
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.so_reuseport", 0),  # else two servers share a port and neither is told
    ]


def run(
    make: Callable[[argparse.Namespace], ServedModel],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    max_body: Callable[[argparse.Namespace], int],
) -> int:
    """Parse, load, serve until SIGTERM or SIGINT; returns the exit code."""
    args = parser.parse_args(argv)
    configure_logging()
    try:
        if args.enable_grpc and args.ssl_certfile:
            raise BadInputError(
                "--ssl_certfile is for HTTP: gRPC would answer in the clear beside it; leave that "
                "to the mesh, or give --enable_grpc=false"
            )
        tokens = Tokens(args.tokens_file) if args.tokens_file else None
        model = make(args)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(model, args, max_body(args), tokens))
    except PlatecryptError as error:
        logger.error("%s", error)
        return error.exit_code
    finally:
        _let_go_of_full_disks()
    return 0


def _let_go_of_full_disks() -> None:
    """A log that cannot be written is lost; the interpreter would end with 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


async def _serve(
    model: ServedModel, args: argparse.Namespace, max_body: int, tokens: Tokens | None
) -> None:
    drain = Drain()
    check = tokens.check if tokens else None
    registry = kserve.ModelRepository()
    registry.update(model)
    plane = _Plane(registry, drain, tokens)
    repository = _FixedRepository(model_registry=registry)
    door = Door(
        application(plane, repository),
        max_body=max_body,
        body_s=args.body_seconds,
        check=check,
        drain=drain,
    )
    config = uvicorn.Config(
        door,
        host=args.host,
        port=args.http_port,
        http=connection_class(args.headers_seconds, args.body_seconds, door.held, door.max_held),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nobody here asks who the client is
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
    )
    # uvicorn drains on these signals and then raises them again: by then there is nothing to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    async with contextlib.AsyncExitStack() as stack:
        if args.enable_grpc:
            server = await _grpc_server(_Servicer(plane, repository, check), args)
            stack.push_async_callback(server.stop, GRACE_S)
        logger.info(
            "serving",
            extra={"fields": {"model": model.name, "host": args.host, "port": args.http_port}},
        )
        await _Server(config, drain, args.drain_seconds).serve()
    model.stop()


def application(plane: _Plane, repository: ModelRepositoryExtension) -> FastAPI:
    """Our routes for work, KServe's other endpoints, metrics, and our answers to errors."""
    app = FastAPI(title="platecrypt", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_route("/v1/models/{model_name}:predict", _v1(plane), methods=["POST"])
    app.add_route("/v2/models/{model_name}/infer", _v2(plane), methods=["POST"])
    for path in NOT_OFFERED:
        app.add_route(path, _not_offered, methods=["POST"])
    app.add_route("/openapi.json", _openapi(plane), methods=["GET"])
    app.add_api_route("/", plane.live)
    app.add_api_route("/metrics", _metrics, methods=["GET"])
    register_v1_endpoints(app, plane, repository)
    register_v2_endpoints(app, plane, repository)
    answers: dict[type[Exception], int] = {
        kserve_errors.InvalidInput: 400,
        kserve_errors.InferenceError: 400,
        BadInputError: 400,
        kserve_errors.ModelNotFound: 404,
        kserve_errors.UnsupportedProtocol: 501,
        kserve_errors.ModelNotReady: 503,
        kserve_errors.ServerNotReady: 503,
    }
    for kind, status in answers.items():
        app.add_exception_handler(kind, _answer_with(status))
    app.add_exception_handler(HttpError, _http_error)
    app.add_exception_handler(HTTPException, _starlette_error)
    app.add_exception_handler(RequestValidationError, _unprocessable)
    app.add_exception_handler(NotImplementedError, _not_offered)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _v1(plane: DataPlane) -> Callable[[Request], Any]:
    async def predict(request: Request) -> Response:
        headers = dict(request.headers)
        call = V1Body(
            await request.body(), headers.get("content-type", ""), request.url.query or ""
        )
        reply, _ = await plane.infer(request.path_params["model_name"], call, headers)
        return Response(reply.body, media_type=reply.content_type, headers=dict(reply.headers))

    return predict


def _v2(plane: _Plane) -> Callable[[Request], Any]:
    async def infer(request: Request) -> Response:
        name, headers = request.path_params["model_name"], dict(request.headers)
        if await plane.model_ready(name, True) is False:
            raise kserve_errors.ModelNotReady(name)
        body, head = await _body_of(request), headers.get(oip.HEADER_LENGTH)
        call = await _codec(oip.is_slow(body, head), oip.read_rest, body, head)
        plane.check_outputs(name, call)
        reply, _ = await plane.infer(name, call, headers)
        request_id = headers.get(REQUEST_ID, "")
        slow = oip.is_slow_reply(reply, call)
        pieces, length = await _codec(slow, oip.write_rest, reply, call, name, request_id)
        if length is None:
            return Response(pieces[0], media_type="application/json")
        more = {oip.HEADER_LENGTH: str(length)}
        return _InPieces(pieces, media_type="application/octet-stream", headers=more)

    return infer


async def _codec(slow: bool, work: Callable[..., T], *arguments: Any) -> T:
    """Do it here, or, where it takes long, in the one thread for that: others are served."""
    if not slow:
        return work(*arguments)
    # Whoever waits here goes with what he brought, where he is cancelled; a pool would keep it.
    async with SLOW_TURN:
        return await asyncio.get_running_loop().run_in_executor(SLOW_CODEC, work, *arguments)


async def _body_of(request: Request) -> bytes | bytearray:
    """The body; not copied where it came in one piece, as most do."""
    pieces = [piece async for piece in request.stream() if piece]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _InPieces(Response):
    """A body that is sent as it lies in memory, piece by piece."""

    def __init__(
        self, pieces: Sequence[bytes | memoryview], *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        length = {"content-length": str(sum(map(len, pieces)))}
        super().__init__(media_type=media_type, headers={**headers, **length})
        self._pieces = pieces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        *others, last = self._pieces
        for piece in others:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": last})


async def _grpc_server(servicer: _Servicer, args: argparse.Namespace) -> Any:
    server = grpc.aio.server(
        interceptors=(ExceptionToStatusInterceptor(),),
        options=grpc_options(args.max_pixels, args.max_bytes),
        maximum_concurrent_rpcs=MAX_RPCS,
    )
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    # In place of KServe's own: inference gets and gives serialised messages.
    infer = grpc.unary_unary_rpc_method_handler(servicer.infer)
    server.add_registered_method_handlers(oip.SERVICE, {"ModelInfer": infer})
    try:
        server.add_insecure_port(f"{args.host}:{args.grpc_port}")
    except RuntimeError:
        raise BadInputError(
            f"gRPC port {args.grpc_port} on {args.host} is taken; stop its owner or set --grpc_port"
        ) from None
    await server.start()
    return server


def _metrics(request: Request) -> Response:
    from prometheus_client import REGISTRY, exposition

    try:
        encoder, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
    except Exception:  # noqa: BLE001 - it stumbles in many ways over what is no version
        encoder, content_type = exposition.choose_encoder("")
    return Response(encoder(REGISTRY), headers={"content-type": content_type})


def _openapi(plane: DataPlane) -> Callable[[Request], Any]:
    async def describe(request: Request) -> Response:
        return JSONResponse(description(list(plane.model_registry.get_models())))

    return describe


def _answer(
    request: Request, status: int, sentence: str, retry_after: int | None = None
) -> JSONResponse:
    body = {"error": sentence, "request_id": request.headers.get(REQUEST_ID, "")}
    return JSONResponse(body, status, error_headers(status, retry_after))


def _answer_with(status: int) -> Callable[[Request, Exception], Any]:
    async def handler(request: Request, error: Exception) -> JSONResponse:
        return _answer(request, status, str(error))

    return handler


async def _http_error(request: Request, error: Any) -> JSONResponse:
    return _answer(request, error.status, str(error), error.retry_after)


async def _starlette_error(request: Request, error: Any) -> JSONResponse:
    answer = _answer(request, error.status_code, str(error.detail))
    for name, value in (error.headers or {}).items():
        answer.headers.setdefault(name, value)  # a 405 says what is allowed
    return answer


async def _unprocessable(request: Request, error: Exception) -> JSONResponse:
    # FastAPI's own answer quotes the input, which may be an image.
    return _answer(request, *UNPROCESSABLE)


async def _not_offered(request: Request, error: Exception | None = None) -> JSONResponse:
    return _answer(request, 501, "this server does not offer that")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # The error goes on to the door, which logs it; its text is not for the client.
    return _answer(request, 500, "internal error")
