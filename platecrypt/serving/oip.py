"""The Open Inference Protocol v2 as bytes: a request is read where it lies, an answer written once.

KServe's own decoder reads BYTES as UTF-8 (a picture is none) and turns every UINT8 value into a
Python integer. Here a raw tensor stays a view of the received bytes. In JSON an element of BYTES is
base64 text, in the binary extension and over gRPC it is four bytes of length (little-endian) and
the bytes themselves.
"""

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from platecrypt.serving.protobuf import put_in, take_out
from platecrypt.serving.refusals import HttpError

Values = NDArray[Any] | tuple[bytes, ...]
Wire = Literal["v2-json", "v2-binary", "v2-grpc"]

SERVICE = "inference.GRPCInferenceService"
HEADER_LENGTH = "inference-header-content-length"
MAX_TENSORS = 64
MAX_AXES = 8
MAX_ELEMENTS = 1024  # of one BYTES tensor
MAX_ID = 256
# Of a request in JSON or in typed contents; a 1080p picture has 6 million.
MAX_VALUES = 2**23
# What the JSON of a request may have: each becomes an object, of up to some hundred bytes.
MAX_PARTS = {b",": MAX_VALUES, b"[": MAX_VALUES // 2, b"{": 2048, b'"': 16384}
MAX_TYPED = 48 * 2**20  # bytes of a gRPC message beside its raw tensors
SLOW = 2**16  # bytes of JSON or of typed contents
TYPES: dict[str, Any] = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}
_NUMBERED = re.compile(r"image_[0-9]{1,4}")
NO_MESSAGE = "the message is no ModelInferRequest"
_CONTENTS = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "FP32": "fp32_contents",
}
_KINDS = {"UINT8": "iu", "INT32": "iu", "FP32": "iuf"}  # NumPy kinds that a JSON list may have


@dataclass(frozen=True)
class Tensor:
    """One tensor: an array of `shape`, or the elements of BYTES in their order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values = field(repr=False)


@dataclass(frozen=True)
class Request:
    """An inference request, whatever wire it came on.

    Attributes:
        id: the client's name for it, or "".
        inputs: the tensors.
        parameters: of the request; numbers, texts and truth values.
        outputs: names of the outputs that are wanted, all where it is empty.
        binary: names of the outputs wanted as raw bytes; None: all of them.
        wire: how it came.
        typed: gRPC only: the values came in `contents`, so they go back there.
    """

    id: str
    inputs: tuple[Tensor, ...]
    parameters: Mapping[str, Any]
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] | None = frozenset()
    wire: Wire = "v2-json"
    typed: bool = False

    def check_outputs(self, known: Iterable[str]) -> None:
        """Refuse names of outputs that there never are.

        Args:
            known: names; of an `image` there may be several, `image_0`, ...

        Raises:
            HttpError: 400.
        """
        there = sorted(known)
        for name in self.outputs:
            if name not in there and _NUMBERED.fullmatch(name) is None:
                raise HttpError(400, f"no output {name[:40]}; there are {', '.join(there)}")

    def sends_raw(self, name: str) -> bool:
        """Whether that output goes out as raw bytes, over REST."""
        return self.binary is None or name in self.binary

    def asks_for(self, name: str) -> bool:
        """Whether the output of that name is wanted."""
        return not self.outputs or name in self.outputs


@dataclass(frozen=True)
class Reply:
    """What a model answers: tensors, the version that made them, parameters of the response."""

    outputs: tuple[Tensor, ...]
    version: str
    parameters: Mapping[str, int | str] = field(default_factory=dict)


def tensor(name: str, values: Any) -> Tensor:
    """A tensor from an array of UINT8, INT32 or FP32, or from elements of BYTES."""
    if isinstance(values, np.ndarray):
        kind = next(k for k, v in TYPES.items() if v == values.dtype)
        array = np.ascontiguousarray(values)
        return Tensor(name, kind, array.shape, array)
    elements = tuple(values)
    return Tensor(name, "BYTES", (len(elements),), elements)


def read_rest(body: bytes | bytearray, header_length: str | None) -> Request:
    """Read a REST request, JSON alone or JSON and the raw tensors behind it.

    Args:
        body: of the HTTP request.
        header_length: the header `Inference-Header-Content-Length`, where there is one.

    Raises:
        HttpError: 400, it has not the form of the protocol.
    """
    head, tail = memoryview(body), memoryview(b"")
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
            raise HttpError(400, f"{HEADER_LENGTH} is no number")
        length = int(header_length)
        if length > len(body):
            raise HttpError(400, f"{HEADER_LENGTH} is {length} but the body has {len(body)} bytes")
        head, tail = head[:length], head[length:]
    _check_parts(body, len(head))
    document = _json(head)
    inputs = _objects(document.get("inputs"), "inputs")
    if not inputs:
        raise HttpError(400, "inputs is missing or empty")
    outputs = _objects(document.get("outputs"), "outputs")
    raw = _Tail(tail)
    tensors = tuple(_rest_tensor(item, raw) for item in inputs)
    raw.finish()
    parameters = _parameters(document.get("parameters"), "parameters")
    return Request(
        id=_id(document.get("id")),
        inputs=tensors,
        binary=_binary_outputs(parameters.pop("binary_data_output", False), outputs),
        parameters=parameters,
        outputs=tuple(_name(item, "outputs") for item in outputs),
        wire="v2-json" if header_length is None else "v2-binary",
    )


def write_rest(
    reply: Reply, request: Request, model: str, request_id: str
) -> tuple[list[bytes | memoryview], int | None]:
    """The body of a REST answer in pieces, and the length of its JSON where raw tensors follow."""
    import orjson

    outputs, tails = [], list[bytes | memoryview]()
    for made in reply.outputs:
        if not request.asks_for(made.name):
            continue
        item: dict[str, Any] = {"name": made.name, "datatype": made.datatype}
        item["shape"] = list(made.shape)
        if request.sends_raw(made.name):
            raw = raw_bytes(made)
            item["parameters"] = {"binary_data_size": len(raw)}
            tails.append(raw)
        else:
            item["data"] = _json_values(made)
        outputs.append(item)
    document: dict[str, Any] = {
        "model_name": model,
        "model_version": reply.version,
        "id": request.id or request_id,
        "outputs": outputs,
    }
    if reply.parameters:
        document["parameters"] = dict(reply.parameters)
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return [head, *tails], len(head) if tails else None


@dataclass(frozen=True)
class Parts:
    """A gRPC message in parts: `rest` is what is no raw tensor, `raw` are views of these."""

    rest: bytes
    raw: tuple[memoryview, ...] = ()

    @property
    def slow(self) -> bool:
        """Whether reading it takes so long that others should be served meanwhile."""
        return len(self.rest) > SLOW


@dataclass(frozen=True)
class Message:
    """A gRPC message: `head` is the protobuf message without its raw tensors, `raw` is these."""

    head: Any
    raw: tuple[memoryview, ...] = ()


def split_grpc(data: bytes) -> Parts:
    """A serialised `ModelInferRequest`, whose raw tensors are not copied.

    Raises:
        HttpError: 400, it is none; 413, there is too much beside the raw tensors.
    """
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest

    try:
        rest, raw = take_out(data, ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER)
    except ValueError:
        raise HttpError(400, NO_MESSAGE) from None
    if len(rest) > MAX_TYPED:
        raise HttpError(413, f"contents have at most {MAX_TYPED} bytes; send raw_input_contents")
    return Parts(rest, tuple(raw))


def open_grpc(parts: Parts) -> Message:
    """The message of its parts.

    Raises:
        HttpError: 400, it is none.
    """
    from google.protobuf.message import DecodeError
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest

    try:
        return Message(ModelInferRequest.FromString(parts.rest), parts.raw)
    except (ValueError, DecodeError):
        raise HttpError(400, NO_MESSAGE) from None


def read_grpc(message: Message) -> Request:
    """Read an inference request that came over gRPC.

    Raises:
        HttpError: 400, it has not the form of the protocol.
    """
    head, raw = message.head, message.raw
    if len(head.inputs) > MAX_TENSORS:
        raise HttpError(400, f"{len(head.inputs)} tensors; at most {MAX_TENSORS} are taken")
    if not head.inputs:
        raise HttpError(400, "inputs is missing or empty")
    if raw and len(raw) != len(head.inputs):
        raise HttpError(400, f"{len(head.inputs)} inputs but {len(raw)} raw contents")
    tensors = []
    for index, item in enumerate(head.inputs):
        if raw and item.HasField("contents"):
            raise HttpError(400, f"input {item.name[:40]} has contents and raw contents")
        shape = _shape(list(item.shape), item.name)
        data = raw[index] if raw else _typed(item)
        tensors.append(_raw_tensor(item.name, item.datatype, shape, data))
    parameters = {name: _choice(value) for name, value in head.parameters.items()}
    parameters.pop("binary_data_output", None)
    return Request(
        id=_id(head.id),
        inputs=tuple(tensors),
        parameters=parameters,
        outputs=tuple(item.name for item in head.outputs),
        wire="v2-grpc",
        typed=not raw,
    )


def write_grpc(reply: Reply, request: Request, model: str, request_id: str) -> bytes:
    """A serialised `ModelInferResponse` in the form in which the request came."""
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse

    made = [item for item in reply.outputs if request.asks_for(item.name)]
    answer = ModelInferResponse(
        model_name=model, model_version=reply.version, id=request.id or request_id
    )
    raw = []
    for item in made:
        output = answer.outputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
        if request.typed:
            values = item.values
            elements = values.ravel().tolist() if isinstance(values, np.ndarray) else values
            getattr(output.contents, _CONTENTS[item.datatype]).extend(elements)
        else:
            raw.append(raw_bytes(item))
    for name, value in reply.parameters.items():
        if isinstance(value, str):
            answer.parameters[name].string_param = value
        else:
            answer.parameters[name].int64_param = value
    field_number = ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
    return put_in(answer.SerializeToString(), field_number, raw)


def raw_bytes(item: Tensor) -> bytes | memoryview:
    """A tensor as the binary extension and gRPC carry it."""
    if isinstance(item.values, np.ndarray):
        array = np.ascontiguousarray(item.values)
        return array.data.cast("B") if array.size else b""
    return b"".join(part for e in item.values for part in (struct.pack("<I", len(e)), e))


def elements_of(data: memoryview | bytes) -> tuple[bytes, ...]:
    """The elements of a raw BYTES tensor.

    Raises:
        HttpError: 400, a length leads beyond the end, or there are too many.
    """
    view, at = memoryview(data), 0
    found: list[bytes] = []
    while at < len(view):
        if len(view) - at < 4 or len(found) == MAX_ELEMENTS:
            raise HttpError(400, "a BYTES tensor is cut short or has too many elements")
        (length,) = struct.unpack_from("<I", view, at)
        at += 4
        if length > len(view) - at:
            raise HttpError(400, "a BYTES tensor is cut short")
        found.append(bytes(view[at : at + length]))
        at += length
    return tuple(found)


class _Tail:
    """The raw tensors behind the JSON of a request, taken one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, size: Any, name: str) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise HttpError(400, f"binary_data_size of {name} is no number of bytes")
        if size > len(self._data) - self._at:
            raise HttpError(400, f"binary_data_size of {name} leads beyond the body")
        self._at += size
        return self._data[self._at - size : self._at]

    def finish(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise HttpError(400, f"{left} bytes of the body belong to no input")


def _rest_tensor(item: Mapping[str, Any], raw: _Tail) -> Tensor:
    name = _name(item, "inputs")
    datatype = item.get("datatype")
    if not isinstance(datatype, str):
        raise HttpError(400, f"datatype of {name} is missing or no text")
    shape = _shape(item.get("shape"), name)
    parameters = _parameters(item.get("parameters"), f"parameters of {name}")
    if "binary_data_size" in parameters:
        if item.get("data") is not None:
            raise HttpError(400, f"{name} has data and binary_data_size")
        return _raw_tensor(name, datatype, shape, raw.take(parameters["binary_data_size"], name))
    data = item.get("data")
    if not isinstance(data, list):
        raise HttpError(400, f"data of {name} is missing or no list")
    if datatype == "BYTES":
        return _raw_tensor(name, datatype, shape, _decoded(data, name))
    if datatype not in TYPES:
        raise _unknown_type(name, datatype)
    return _raw_tensor(name, datatype, shape, _numbers(data, name, datatype))


def _raw_tensor(
    name: str, datatype: str, shape: tuple[int, ...], data: memoryview | NDArray[Any] | list[Any]
) -> Tensor:
    count = math.prod(shape)
    values: Values
    if datatype == "BYTES":
        values = elements_of(data) if isinstance(data, memoryview) else tuple(data)
    elif datatype not in TYPES:
        raise _unknown_type(name, datatype)
    elif isinstance(data, memoryview):
        if len(data) != count * np.dtype(TYPES[datatype]).itemsize:
            raise HttpError(400, f"{name} of shape {list(shape)} has {len(data)} bytes")
        values = np.frombuffer(data, TYPES[datatype])
    else:
        values = _numbers(data, name, datatype)
    if len(values) != count:
        raise HttpError(400, f"{name} of shape {list(shape)} has {len(values)} values")
    if isinstance(values, np.ndarray):
        try:
            values = values.reshape(shape)
        except ValueError:  # no values, and axes beside the empty one that no array can have
            raise HttpError(400, f"shape of {name[:40]} is no list of sizes") from None
    return Tensor(name, datatype, shape, values)


def _numbers(data: Any, name: str, datatype: str) -> NDArray[Any]:
    if isinstance(data, np.ndarray):
        return data
    flat = _flat(data, name)
    # NumPy would make every value as wide as the longest text among them.
    if not set(map(type, flat)) <= {int, float}:
        raise HttpError(400, f"{name} holds something that is no number")
    try:
        found = np.asarray(flat) if flat else np.zeros(0, np.int64)
    except OverflowError:
        raise HttpError(400, f"{name} holds something that is no number") from None
    if found.dtype.kind not in _KINDS[datatype]:
        raise HttpError(400, f"{name} holds something that is no {datatype}")
    if datatype != "FP32" and found.size:
        limits = np.iinfo(TYPES[datatype])
        if found.min() < limits.min or found.max() > limits.max:
            raise HttpError(400, f"{name} holds values outside {limits.min}..{limits.max}")
    return found.astype(TYPES[datatype])


def _flat(data: Any, name: str) -> list[Any]:
    """The values of lists within lists, which must be of one length on each level."""
    values = list(data)
    for _ in range(MAX_AXES):
        if not values or type(values[0]) is not list:
            return values
        if set(map(type, values)) != {list} or len(set(map(len, values))) != 1:
            break
        values = list(chain.from_iterable(values))
    raise HttpError(400, f"{name} holds lists of different lengths, or too deep ones")


def _decoded(data: Iterable[Any], name: str) -> list[bytes]:
    found = []
    for element in data:
        if not isinstance(element, str):
            raise HttpError(400, f"{name} holds something that is no base64 text")
        found.append(from_base64(element, name))
    return found


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a base64 text; `name` is for the message.

    Raises:
        HttpError: 400, it is none.
    """
    import pybase64

    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        raise HttpError(400, f"{name} is no base64") from None


def _typed(item: Any) -> list[Any]:
    kind = _CONTENTS.get(item.datatype)
    if kind is None:
        raise _unknown_type(item.name, item.datatype)
    values = getattr(item.contents, kind)
    if len(values) > MAX_VALUES:
        raise HttpError(400, f"{item.name[:40]} has more than {MAX_VALUES} values; send raw ones")
    return list(values)


def _json_values(made: Tensor) -> Any:
    if isinstance(made.values, np.ndarray):
        return made.values.ravel()
    import pybase64

    return [pybase64.b64encode_as_string(element) for element in made.values]


def _check_parts(body: bytes | bytearray, length: int) -> None:
    """Refuse JSON of so many parts that reading it alone would fill the memory."""
    for mark, most in MAX_PARTS.items():
        if body.count(mark, 0, length) > most:
            raise HttpError(
                400, f"the JSON has more than {most} of {mark.decode()}; send tensors as bytes"
            )


def is_slow(body: bytes | bytearray, header_length: str | None) -> bool:
    """Whether reading a REST request takes so long that others should be served meanwhile."""
    if header_length is None or not header_length.isascii() or not header_length.isdigit():
        return len(body) > SLOW
    return int(header_length[:12]) > SLOW


def is_slow_reply(reply: Reply, request: Request) -> bool:
    """The same of writing an answer: it has many values as JSON or as typed contents."""
    return any(
        isinstance(item.values, np.ndarray)
        and item.values.nbytes > SLOW
        and (request.typed if request.wire == "v2-grpc" else not request.sends_raw(item.name))
        for item in reply.outputs
    )


def _json(head: memoryview) -> dict[str, Any]:
    import orjson

    try:
        document = orjson.loads(head)
    except ValueError:
        raise HttpError(400, "the body is no JSON") from None
    if not isinstance(document, dict):
        raise HttpError(400, 'expected {"inputs": [...]}')
    return document


def _objects(raw: Any, what: str) -> list[dict[str, Any]]:
    if raw is None:
        return []
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise HttpError(400, f"{what} is no list of objects")
    if len(raw) > MAX_TENSORS:
        raise HttpError(400, f"{len(raw)} {what}; at most {MAX_TENSORS} are taken")
    return raw


def _name(item: Mapping[str, Any], what: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        raise HttpError(400, f"one of the {what} has no name")
    return name


def _shape(raw: Any, name: str) -> tuple[int, ...]:
    fits = isinstance(raw, list) and len(raw) <= MAX_AXES
    if not fits or not all(type(axis) is int and 0 <= axis < 2**31 for axis in raw):
        raise HttpError(400, f"shape of {name[:40]} is no list of sizes")
    return tuple(raw)


def _id(raw: Any) -> str:
    if raw is None:
        return ""
    if not isinstance(raw, str) or len(raw) > MAX_ID:
        raise HttpError(400, f"id is no text of at most {MAX_ID} characters")
    return raw


def _parameters(raw: Any, what: str) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise HttpError(400, f"{what} is no object")
    return dict(raw)


def _binary_outputs(every: Any, outputs: Iterable[Mapping[str, Any]]) -> frozenset[str] | None:
    named = {}
    for item in outputs:
        parameters = _parameters(item.get("parameters"), "parameters of an output")
        named[str(item.get("name"))] = parameters.get("binary_data", every)
    if any(not isinstance(value, bool) for value in (every, *named.values())):
        raise HttpError(400, "binary_data_output and binary_data are true or false")
    if every and not named:
        return None
    return frozenset(name for name, value in named.items() if value)


def _choice(value: Any) -> Any:
    return getattr(value, value.WhichOneof("parameter_choice") or "", None)


def _unknown_type(name: str, datatype: str) -> HttpError:
    known = ", ".join(["BYTES", *TYPES])
    return HttpError(400, f"datatype of {name[:40]} is {datatype[:20]}; {known} are known")
