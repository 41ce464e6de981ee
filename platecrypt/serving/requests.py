"""What a client may send, and the form in which it wants its answer: every wire becomes a `Job`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from platecrypt.serving import oip
from platecrypt.serving.refusals import HttpError

Format = Literal["jpeg", "png", "webp"]
MAX_IMAGES = 16
JSON_OVERHEAD = 64 * 1024
MAX_COMMAS = 1000  # of a v1 body; base64 has none
MEDIA: dict[str, Format] = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}
IMAGE = re.compile(r"image(_[0-9]{1,4})?")  # names of v2 tensors that hold pictures
CAMERA = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CHOICES: dict[str, tuple[str, ...]] = {
    "detections": ("sealed", "plain", "none"),
    "image": ("protected", "none"),
}


@dataclass(frozen=True)
class V1Body:
    """A v1 request as it came: the body, its media type, the query of the URL."""

    body: bytes = field(repr=False)
    content_type: str = ""
    query: str = ""


@dataclass(frozen=True)
class Wanted:
    """The form of a v1 answer.

    Attributes:
        file: True for the protected file itself, False for JSON.
        format: of the protected image; None: as it came.
    """

    file: bool
    format: Format | None = None


@dataclass(frozen=True)
class Options:
    """What a request may set.

    Attributes:
        confidence: threshold of a detection, 0..1; None: the camera's, else the server's.
        margin: around a plate, 0..1 of its size; None: the camera's, else the server's.
        detections: whether the answer has the sealed plates, boxes and scores in the clear as
            well, or nothing but the picture.
        image: whether the protected picture is part of the answer.
        camera_id: whose profile is looked up, or "".
    """

    confidence: float | None = None
    margin: float | None = None
    detections: Literal["sealed", "plain", "none"] = "sealed"
    image: Literal["protected", "none"] = "protected"
    camera_id: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture of a call: an encoded file, or pixels `(H, W, 3)` uint8 RGB.

    Attributes:
        request_id: the client's name for it, or "": the call's.
    """

    source: bytes | NDArray[np.uint8] = field(repr=False)
    camera_id: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class Job:
    """The pictures of one call and what is wanted of them."""

    pictures: tuple[Picture, ...]
    options: Options


def wanted(accept: str) -> Wanted:
    """Read an Accept header: the first media type that we speak; JSON where it names none.

    Raises:
        HttpError: 406, it names only types that we do not speak.
    """
    types = [part.split(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    for name in types:
        if name in MEDIA:
            return Wanted(file=True, format=MEDIA[name])
        if name == "image/*":
            return Wanted(file=True)
        if name in ("application/json", "application/*", "*/*"):
            return Wanted(file=False)
    if not types:
        return Wanted(file=False)
    raise HttpError(406, f"Accept may be application/json, image/*, {', '.join(MEDIA)}")


def options_of(raw: Mapping[str, Any]) -> Options:
    """Read options by name; numbers may come as text, since URLs and gRPC have no others.

    Raises:
        HttpError: 400, an unknown name, a wrong type or value, or nothing left to answer.
    """
    unknown = sorted(set(raw) - {"confidence", "margin", "camera_id", *CHOICES})
    if unknown:
        raise HttpError(400, f"unknown option: {str(unknown[0])[:40]}")
    for name, choices in CHOICES.items():
        if name in raw and raw[name] not in choices:
            raise HttpError(400, f"{name} may be {', '.join(choices)}")
    found = Options(
        confidence=_share("confidence", raw.get("confidence")),
        margin=_share("margin", raw.get("margin")),
        detections=raw.get("detections", "sealed"),
        image=raw.get("image", "protected"),
        camera_id=_text("camera_id", raw.get("camera_id", ""), CAMERA),
    )
    if found.image == found.detections == "none":
        raise HttpError(400, "image and detections are none: nothing is left to answer")
    return found


def v1_job(request: V1Body, form: Wanted, *, max_bytes: int) -> Job:
    """Read a v1 request: a raw body, or JSON with base64.

    Args:
        request: as it came.
        form: of the answer.
        max_bytes: of one encoded image.

    Raises:
        HttpError: 400 malformed, 413 an image that is too large.
    """
    options = query_options(request.query)
    if _media_type(request.content_type) != "application/json":
        pictures: tuple[Picture, ...] = (Picture(_checked(request.body, max_bytes)),)
    else:
        pictures, parameters = _instances(request.body, max_bytes)
        twice = sorted(set(options) & set(parameters))
        if twice:
            raise HttpError(400, f"{twice[0]} stands in the URL and in the body")
        options |= parameters
    job = Job(pictures, options_of(options))
    if form.file and len(pictures) != 1:
        raise HttpError(400, f"{len(pictures)} images do not fit in one image file; accept JSON")
    if form.file and job.options.image == "none":
        raise HttpError(400, "image=none leaves no image to answer with; accept JSON")
    if form.file and job.options.detections == "plain":
        raise HttpError(400, "an image file has no place for plain detections; accept JSON")
    return job


def query_options(query: str) -> dict[str, Any]:
    """The options in a URL.

    Raises:
        HttpError: 400, it is no query, or names an option twice.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=16)
    except ValueError:
        raise HttpError(400, "the query of the URL is malformed") from None
    if len(dict(pairs)) != len(pairs):
        raise HttpError(400, "the query of the URL names an option twice")
    return dict(pairs)


def v2_job(request: oip.Request, *, max_bytes: int, max_pixels: int) -> Job:
    """Read a v2 request: `image` tensors of encoded files (BYTES) or of pixels (UINT8).

    Raises:
        HttpError: 400 malformed, 413 an image that is too large.
    """
    options = options_of(request.parameters)
    sources: list[bytes | NDArray[np.uint8]] = []
    for item in image_tensors(request, ("BYTES", "UINT8")):
        if item.datatype == "UINT8":
            sources += pixels_of(item, max_pixels)
        else:
            sources += [_checked(bytes(element), max_bytes) for element in item.values]
    if not 0 < len(sources) <= MAX_IMAGES:
        raise HttpError(400, f"{len(sources)} images in one call; 1 to {MAX_IMAGES} are taken")
    return Job(tuple(Picture(source, options.camera_id) for source in sources), options)


def image_tensors(request: oip.Request, datatypes: tuple[str, ...]) -> tuple[oip.Tensor, ...]:
    """The inputs of a request, which must all be pictures of one of those types.

    Raises:
        HttpError: 400, a name or a type is wrong, or a name stands twice.
    """
    names = [item.name for item in request.inputs]
    kinds = {item.datatype for item in request.inputs}
    known = all(IMAGE.fullmatch(name) for name in names) and len(set(names)) == len(names)
    if not known or not kinds <= set(datatypes) or len(kinds) != 1:
        found = ", ".join(f"{item.name[:40]} {item.datatype}" for item in request.inputs[:4])
        raise HttpError(
            400,
            f"inputs are image (or image_0, image_1, ...) {' or '.join(datatypes)}, not: {found}",
        )
    return request.inputs


def pixels_of(item: oip.Tensor, max_pixels: int) -> list[NDArray[np.uint8]]:
    """The pictures of a UINT8 tensor `[H, W, 3]` or `[N, H, W, 3]`; views, no copies.

    Raises:
        HttpError: 400, the shape is another one, or there are too many pictures or pixels.
    """
    shape = item.shape if len(item.shape) == 4 else (1, *item.shape)
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise HttpError(
            400, f"image has shape {list(item.shape)}; expected [H, W, 3] or [N, H, W, 3]"
        )
    if shape[0] > MAX_IMAGES:
        raise HttpError(400, f"{shape[0]} images in one call; at most {MAX_IMAGES} are taken")
    if shape[1] * shape[2] > max_pixels:
        raise HttpError(
            400, f"image has {shape[1] * shape[2]} pixels; at most {max_pixels} are taken"
        )
    return list(np.asarray(item.values).reshape(shape))


def largest_body(max_bytes: int) -> int:
    """Bytes of the largest body: as many images as a call may hold would be too generous."""
    return max_bytes * 4 // 3 + JSON_OVERHEAD


def _instances(body: bytes, max_bytes: int) -> tuple[tuple[Picture, ...], dict[str, Any]]:
    import orjson

    # Nothing that is meant here has many parts, and each would become a Python object.
    if body.count(b",") > MAX_COMMAS:
        raise HttpError(400, f"the body has more parts than {MAX_IMAGES} images need")
    try:
        payload = orjson.loads(body)
    except ValueError:
        raise HttpError(400, "the body is no JSON") from None
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not instances:
        raise HttpError(400, 'expected {"instances": [{"image": {"b64": "..."}}]}, or an image')
    _no_more("the body", payload, {"instances", "parameters"})
    if len(instances) > MAX_IMAGES:
        raise HttpError(400, f"{len(instances)} images in one call; at most {MAX_IMAGES} are taken")
    parameters = payload.get("parameters", {})
    if not isinstance(parameters, dict):
        raise HttpError(400, "parameters is no object")
    return tuple(_instance(i, item, max_bytes) for i, item in enumerate(instances)), parameters


def _instance(index: int, instance: Any, max_bytes: int) -> Picture:
    where = f"instances[{index}]"
    image: Any = instance.get("image") if isinstance(instance, dict) else None
    text = image.get("b64") if isinstance(image, dict) else None
    if not isinstance(text, str):
        raise HttpError(400, f"{where}.image.b64 is missing or no text")
    _no_more(where, instance, {"image", "camera_id", "request_id"})
    _no_more(where, image, {"b64"})
    return Picture(
        _checked(oip.from_base64(text, f"{where}.image.b64"), max_bytes),
        camera_id=_text(f"{where}.camera_id", instance.get("camera_id", ""), CAMERA),
        request_id=_text(f"{where}.request_id", instance.get("request_id", ""), NAME),
    )


def cameras_filled(job: Job) -> tuple[Picture, ...]:
    """The pictures of a job, each with its own camera or the call's."""
    camera = job.options.camera_id
    return tuple(p if p.camera_id else replace(p, camera_id=camera) for p in job.pictures)


def _no_more(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise HttpError(400, f"{where} has an unknown field: {unknown[0][:40]}")


def _checked(data: bytes, max_bytes: int) -> bytes:
    if not data:
        raise HttpError(400, "the image is empty")
    if len(data) > max_bytes:
        raise HttpError(413, f"the image has {len(data)} bytes; at most {max_bytes} are taken")
    return data


def _share(name: str, raw: Any) -> float | None:
    if raw is None:
        return None
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError, OverflowError):
        raise HttpError(400, f"{name} is no number") from None
    if not 0 <= value <= 1:
        raise HttpError(400, f"{name} is not between 0 and 1")
    return value


def _text(name: str, raw: Any, form: re.Pattern[str]) -> str:
    if raw == "":
        return ""
    if not isinstance(raw, str) or not form.fullmatch(raw):
        raise HttpError(400, f"{name} is no name of at most 128 plain characters")
    return raw


def _media_type(content_type: str) -> str:
    return content_type.split(";")[0].strip().lower()
