"""What a client of the transformer may send, and the form in which it wants its answer."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Literal

from platecrypt.serving.door import HttpError

Format = Literal["jpeg", "png", "webp"]
MAX_IMAGES = 16
JSON_OVERHEAD = 64 * 1024
MEDIA: dict[str, Format] = {"image/jpeg": "jpeg", "image/png": "png", "image/webp": "webp"}


@dataclass(frozen=True)
class Wanted:
    """The form of the answer.

    Attributes:
        file: True for the protected file itself, False for JSON.
        format: of the protected image; None: as it came.
    """

    file: bool
    format: Format | None = None


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


def images_of(payload: Any, content_type: str, *, max_bytes: int) -> list[bytes]:
    """The encoded images of a v1 request: a raw body, or JSON with base64.

    Args:
        payload: bytes, or what KServe parsed of JSON.
        content_type: the request's header.
        max_bytes: of one encoded image.

    Raises:
        HttpError: 400 malformed, 413 an image that is too large.
    """
    if isinstance(payload, bytes):
        if content_type.split(";")[0].strip().lower() != "application/json":
            return [_checked(payload, max_bytes)]
        try:  # KServe parses JSON only where the header carries no charset
            payload = json.loads(payload)
        except (ValueError, RecursionError):
            raise HttpError(400, "the body is no JSON") from None
    instances = payload.get("instances") if isinstance(payload, dict) else None
    if not isinstance(instances, list) or not instances:
        raise HttpError(400, 'expected {"instances": [{"image": {"b64": "..."}}]}, or an image')
    if len(instances) > MAX_IMAGES:
        raise HttpError(400, f"{len(instances)} images in one call; at most {MAX_IMAGES} are taken")
    return [_image(index, instance, max_bytes) for index, instance in enumerate(instances)]


def _image(index: int, instance: Any, max_bytes: int) -> bytes:
    where = f"instances[{index}]"
    image: Any = instance.get("image") if isinstance(instance, dict) else None
    text = image.get("b64") if isinstance(image, dict) else None
    if not isinstance(text, str):
        raise HttpError(400, f"{where}.image.b64 is missing or no text")
    unknown = sorted(set(instance) - {"image"}) + sorted(set(image) - {"b64"})
    if unknown:
        raise HttpError(400, f"{where} has an unknown field: {unknown[0][:40]}")
    try:
        return _checked(base64.b64decode(text, validate=True), max_bytes)
    except binascii.Error:
        raise HttpError(400, f"{where}.image.b64 is no base64") from None


def _checked(data: bytes, max_bytes: int) -> bytes:
    if not data:
        raise HttpError(400, "the image is empty")
    if len(data) > max_bytes:
        raise HttpError(413, f"the image has {len(data)} bytes; at most {max_bytes} are taken")
    return data


def largest_body(max_bytes: int) -> int:
    """Bytes of the largest body: as many images as a call may hold would be too generous."""
    return max_bytes * 4 // 3 + JSON_OVERHEAD
