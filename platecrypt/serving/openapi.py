"""The OpenAPI description of the endpoint: what the server really takes and answers."""

from collections.abc import Sequence
from typing import Any

from platecrypt import __version__
from platecrypt.serving.oip import HEADER_LENGTH
from platecrypt.serving.requests import MAX_IMAGES, MEDIA

_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_BINARY = {"type": "string", "format": "binary"}
_PIXEL = (  # the smallest picture there is: a PNG of one grey pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVQIHWOIiooCAAIgAQ92OisHAAAAAElFTkSuQmCC"
)
_CAMERA = {"type": "string", "pattern": "^[A-Za-z0-9._:/-]{0,128}$"}
_OPTIONS: dict[str, Any] = {
    "confidence": {**_SHARE, "description": "threshold of a detection"},
    "margin": {**_SHARE, "description": "around a plate, as a share of its size"},
    "detections": {"type": "string", "enum": ["sealed", "plain", "none"], "default": "sealed"},
    "image": {"type": "string", "enum": ["protected", "none"], "default": "protected"},
    "camera_id": {**_CAMERA, "description": "whose profile is looked up"},
}


def description(models: Sequence[str]) -> dict[str, Any]:
    """The document, OpenAPI 3.1; `models` are the names of what is served."""
    names = {**_TEXT, "enum": sorted(models)}
    model = {"name": "model_name", "in": "path", "required": True, "schema": names}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "platecrypt",
            "version": __version__,
            "description": "Pictures in, the same pictures with their licence plates sealed out.",
            "license": {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        },
        "paths": {
            "/v1/models/{model_name}:predict": {"post": _v1(model)},
            "/v1/models/{model_name}": {"get": _read("Whether the model is ready", model)},
            "/v2/models/{model_name}/infer": {"post": _v2(model)},
            "/v2/models/{model_name}": {"get": _read("The model's tensors", model)},
            "/v2/models/{model_name}/ready": {"get": _read("Whether the model is ready", model)},
            "/v2/health/live": {"get": _read("Whether the process lives")},
            "/v2/health/ready": {"get": _read("Whether a request would be answered now")},
            "/metrics": {"get": _read("Prometheus metrics", kind="text/plain")},
        },
        "components": {
            "schemas": {
                "Error": _object(["error", "request_id"], error=_TEXT, request_id=_TEXT),
                "V1Request": _v1_request(),
                "V1Answer": _v1_answer(),
                "V2Request": _v2_request(),
                "V2Answer": _v2_answer(),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _v1(model: dict[str, Any]) -> dict[str, Any]:
    files = {media: {"schema": _BINARY} for media in MEDIA}
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in _OPTIONS.items()]
    return {
        "operationId": "protect",
        "summary": "Protect a picture, or several as JSON",
        "parameters": [model, *query],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("V1Request"),
                    "example": {"instances": [{"image": {"b64": _PIXEL}}]},
                },
                **files,
            },
        },
        "responses": {
            "200": {
                "description": "The protected file where Accept names an image type, else JSON",
                "headers": {"x-platecrypt-plates": {"schema": _INTEGER}},
                "content": {"application/json": {"schema": _ref("V1Answer")}, **files},
            },
            **_errors(400, 401, 404, 406, 408, 413, 429, 500, 502, 503),
        },
    }


def _v2(model: dict[str, Any]) -> dict[str, Any]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    header = {
        "name": HEADER_LENGTH,
        "in": "header",
        "description": "bytes of JSON before the raw tensors, where there are any",
        "schema": {**_INTEGER, "minimum": 0},
    }
    return {
        "operationId": "infer",
        "summary": "Protect pictures given as tensors: BYTES (encoded files) or UINT8 (pixels)",
        "parameters": [model, header],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("V2Request"),
                    "example": {"inputs": [{**tensor, "data": [_PIXEL]}]},
                },
                "application/octet-stream": {"schema": _BINARY},
            },
        },
        "responses": {
            "200": {
                "description": "Tensors; raw behind the JSON where that was asked for",
                "content": {
                    "application/json": {"schema": _ref("V2Answer")},
                    "application/octet-stream": {"schema": _BINARY},
                },
            },
            **_errors(400, 401, 404, 408, 413, 429, 500, 502, 503),
        },
    }


def _read(
    summary: str, *parameters: dict[str, Any], kind: str = "application/json"
) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "Yes", "content": {kind: {}}},
            **_errors(404, 503),
        },
    }


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {
        str(status): {"description": "One sentence, without internals", "content": content}
        for status in statuses
    }


def _v1_request() -> dict[str, Any]:
    instance = _object(
        ["image"],
        image=_object(["b64"], b64=_BASE64),
        camera_id=_CAMERA,
        request_id={"type": "string", "pattern": "^[A-Za-z0-9._:-]{0,128}$"},
    )
    instances = {"type": "array", "items": instance, "minItems": 1, "maxItems": MAX_IMAGES}
    return _object(["instances"], instances=instances, parameters=_object([], **_OPTIONS))


def _v1_answer() -> dict[str, Any]:
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    prediction = _object(
        ["request_id"],
        request_id=_TEXT,
        image=_object(["b64"], b64=_BASE64),
        content_type={"type": "string", "enum": list(MEDIA)},
        plates={
            "type": "array",
            "items": _object(["box", "envelope"], box=box, envelope=_BASE64),
        },
        detections={
            "type": "array",
            "items": _object(["box", "score"], box=box, score=_SHARE),
        },
    )
    return _object(["predictions"], predictions={"type": "array", "items": prediction})


def _v2_request() -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string", "pattern": "^image(_[0-9]{1,4})?$"},
            "datatype": {"type": "string", "enum": ["BYTES", "UINT8"]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "data": {"type": "array", "description": "base64 texts, or values 0..255"},
            "parameters": {"type": "object"},
        },
    }
    parameters = _object([], **_OPTIONS, binary_data_output={"type": "boolean"})
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": _TEXT,
            "inputs": {"type": "array", "items": tensor, "minItems": 1},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            "parameters": parameters,
        },
    }


def _v2_answer() -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": _TEXT,
            "datatype": {"type": "string", "enum": ["BYTES", "UINT8", "INT32", "FP32"]},
            "shape": {"type": "array", "items": _INTEGER},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    return {
        "type": "object",
        "required": ["model_name", "id", "outputs"],
        "properties": {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _TEXT,
            "outputs": {"type": "array", "items": tensor},
        },
    }


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
