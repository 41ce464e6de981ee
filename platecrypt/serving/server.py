"""What both containers share: KServe's endpoints in a server that we can bind, limit and drain.

KServe's own `ModelServer` listens on every address, has no limit on a body, answers an unexpected
error with its text, and lets anybody unload the model over HTTP. So its published pieces (data
plane, v1 and v2 routes, gRPC servicer) are put together here; nothing of it is patched.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

import grpc  # type: ignore[import-untyped]
import kserve
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
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
from platecrypt.serving.door import REQUEST_ID, Door, HttpError, configure_logging

LOOPBACK = "127.0.0.1"
GRACE_S = 30  # in-flight requests get this long to finish after SIGTERM
KEEP_ALIVE_S = 65  # longer than the idle timeout of common proxies
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
GRPC_OVERHEAD = 64 * 1024
UNPROCESSABLE = (400, "the request has not the form of the protocol")

logger = logging.getLogger("platecrypt.serving")


class ServedModel(kserve.Model):  # type: ignore[misc]
    """A `kserve.Model` that can say whether it could answer a request now."""

    async def available(self) -> bool:
        """Whether a request sent now would be answered; asked by readiness probes."""
        return bool(self.ready)


class _Plane(DataPlane):  # type: ignore[misc]
    """KServe's data plane with a readiness that means it."""

    async def ready(self) -> bool:
        models = self.model_registry.get_models().values()
        return all([await model.available() for model in models])

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        model = self.model_registry.get_model(model_name)
        if model is None:
            raise kserve_errors.ModelNotFound(model_name)
        if disable_predictor_health_check:  # on the way to a prediction: that finds out itself
            return bool(model.ready)
        return bool(await model.available())


class _FixedRepository(ModelRepositoryExtension):  # type: ignore[misc]
    """The repository extension, refusing: which model is served is not a client's decision."""

    async def load(self, model_name: str) -> None:
        raise kserve_errors.InvalidInput("models are loaded by the deployment, not by request")

    async def unload(self, model_name: str) -> None:
        raise kserve_errors.InvalidInput("models are unloaded by the deployment, not by request")


def argument_parser(description: str) -> argparse.ArgumentParser:
    """KServe's own flags plus those that both containers add."""
    parser = argparse.ArgumentParser(description=description, parents=[kserve_parser])
    parser.add_argument("--host", default=LOOPBACK, help="address to bind; 0.0.0.0 in a pod")
    parser.add_argument("--confidence", type=float, default=0.25, help="threshold, 0..1")
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, help="largest image")
    parser.add_argument("--max_bytes", type=int, default=MAX_BYTES, help="largest encoded image")
    parser.set_defaults(model_name="plates", predictor_request_timeout_seconds=10)
    return parser


def grpc_options(max_pixels: int) -> list[tuple[str, int]]:
    """Message limits for an image of `max_pixels`, and one owner a port."""
    limit = 3 * max_pixels + GRPC_OVERHEAD
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
        model = make(args)
        asyncio.run(_serve(model, args, max_body(args)))
    except PlatecryptError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


async def _serve(model: ServedModel, args: argparse.Namespace, max_body: int) -> None:
    import uvicorn

    registry = kserve.ModelRepository()
    registry.update(model)
    plane = _Plane(model_registry=registry)
    repository = _FixedRepository(model_registry=registry)
    config = uvicorn.Config(
        Door(application(plane, repository), max_body=max_body),
        host=args.host,
        port=args.http_port,
        log_config=None,
        access_log=False,
        server_header=False,
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
            server = await _grpc_server(plane, repository, args)
            stack.push_async_callback(server.stop, GRACE_S)
        logger.info(
            "serving",
            extra={"fields": {"model": model.name, "host": args.host, "port": args.http_port}},
        )
        await uvicorn.Server(config).serve()
    model.stop()


def application(plane: DataPlane, repository: ModelRepositoryExtension) -> FastAPI:
    """KServe's REST endpoints, its metrics, and our answers to errors."""
    app = FastAPI(title="platecrypt", docs_url=None, redoc_url=None)
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


async def _grpc_server(
    plane: DataPlane, repository: ModelRepositoryExtension, args: argparse.Namespace
) -> Any:
    server = grpc.aio.server(
        interceptors=(ExceptionToStatusInterceptor(),), options=grpc_options(args.max_pixels)
    )
    grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        InferenceServicer(plane, repository), server
    )
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

    encoder, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
    return Response(encoder(REGISTRY), headers={"content-type": content_type})


def _answer(request: Request, status: int, sentence: str) -> JSONResponse:
    body = {"error": sentence, "request_id": request.headers.get(REQUEST_ID, "")}
    headers = {"retry-after": "1"} if status == 503 else None
    return JSONResponse(body, status, headers)


def _answer_with(status: int) -> Callable[[Request, Exception], Any]:
    async def handler(request: Request, error: Exception) -> JSONResponse:
        return _answer(request, status, str(error))

    return handler


async def _http_error(request: Request, error: Any) -> JSONResponse:
    return _answer(request, error.status, str(error))


async def _starlette_error(request: Request, error: Any) -> JSONResponse:
    return _answer(request, error.status_code, str(error.detail))


async def _unprocessable(request: Request, error: Exception) -> JSONResponse:
    # FastAPI's own answer quotes the input, which may be an image.
    return _answer(request, *UNPROCESSABLE)


async def _not_offered(request: Request, error: Exception) -> JSONResponse:
    return _answer(request, 501, "this server does not offer that")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # The error goes on to the door, which logs it; its text is not for the client.
    return _answer(request, 500, "internal error")
