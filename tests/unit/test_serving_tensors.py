"""The codec of the Open Inference Protocol: what is written is read back, the rest is refused."""

import base64
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)

from platecrypt.serving import oip
from platecrypt.serving.predictor import confidence_of, images_of
from platecrypt.serving.protobuf import put_in, take_out
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.requests import v2_job

LIMITS = {"max_bytes": 1000, "max_pixels": 10_000}
PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)


def message(pixels: np.ndarray[Any, Any], **parameters: InferParameter) -> Any:
    tensor = ModelInferRequest.InferInputTensor
    made = ModelInferRequest(
        inputs=[tensor(name="image", datatype="UINT8", shape=pixels.shape)],
        raw_input_contents=[pixels.tobytes()],
    )
    for name, value in parameters.items():
        made.parameters[name].CopyFrom(value)
    return made


def read(made: Any) -> oip.Request:
    return oip.read_grpc(oip.open_grpc(oip.split_grpc(made.SerializeToString())))


def rest(inputs: Any, tail: bytes = b"", **more: Any) -> tuple[bytes, str]:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + tail, str(len(head))


def raw_input(size: int, **change: Any) -> dict[str, Any]:
    made = {"name": "image", "datatype": "UINT8", "shape": list(PIXELS.shape)}
    return {**made, "parameters": {"binary_data_size": size}, **change}


def test_raw_pixels_are_not_copied() -> None:
    body, length = rest([raw_input(PIXELS.nbytes)], PIXELS.tobytes())
    (found,) = images_of(oip.read_rest(body, length), 35)
    np.testing.assert_array_equal(found, PIXELS)
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))


def test_one_pixel_more_than_allowed_is_refused() -> None:
    with pytest.raises(HttpError, match="35 pixels; at most 34"):
        images_of(read(message(PIXELS)), 34)


def test_a_threshold_comes_as_text_because_grpc_parameters_have_no_float() -> None:
    assert confidence_of(read(message(PIXELS))) is None
    half = InferParameter(string_param="0.5")
    assert confidence_of(read(message(PIXELS, confidence=half))) == 0.5
    for name, value in (("confidence", "high"), ("speed", "1")):
        wrong = message(PIXELS, **{name: InferParameter(string_param=value)})
        with pytest.raises(HttpError):
            confidence_of(read(wrong))


def test_several_images_of_different_sizes_in_one_request() -> None:
    other = np.zeros((2, 4, 6, 3), np.uint8)
    body, length = rest(
        [
            raw_input(PIXELS.nbytes, name="image_0"),
            raw_input(other.nbytes, name="image_1", shape=list(other.shape)),
        ],
        PIXELS.tobytes() + other.tobytes(),
    )
    found = images_of(oip.read_rest(body, length), 35)
    assert [image.shape for image in found] == [(5, 7, 3), (4, 6, 3), (4, 6, 3)]
    np.testing.assert_array_equal(found[0], PIXELS)


TENSORS = st.one_of(
    hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=5)),
    hnp.arrays(np.int32, hnp.array_shapes(max_dims=2, max_side=5)),
    hnp.arrays(np.float32, hnp.array_shapes(max_side=5), elements=st.floats(-9, 9, width=32)),
    st.lists(st.binary(max_size=20), max_size=5),
)


@settings(deadline=None)
@given(values=st.lists(TENSORS, min_size=1, max_size=3), binary=st.sampled_from([None, (), "0"]))
def test_what_is_written_is_read_back_on_every_wire(values: list[Any], binary: Any) -> None:
    tensors = tuple(oip.tensor(str(i), value) for i, value in enumerate(values))
    reply = oip.Reply(tensors, "1", {"size": 320})
    asked = oip.Request("r", (), {}, binary=None if binary is None else frozenset(binary))
    pieces, length = oip.write_rest(reply, asked, "plates", "")
    body = b"".join(pieces)
    document = json.loads(body if length is None else body[:length])
    again = rest(document["outputs"], b"" if length is None else body[length:])
    assert_same(oip.read_rest(*again), tensors)
    for typed in (False, True):
        written = oip.write_grpc(reply, oip.Request("r", (), {}, typed=typed), "plates", "")
        answer = ModelInferResponse.FromString(written)
        back = ModelInferRequest(raw_input_contents=answer.raw_output_contents)
        for output in answer.outputs:
            item = back.inputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            if typed:
                item.contents.CopyFrom(output.contents)
        if typed or any(answer.raw_output_contents):
            assert_same(read(back), tensors)


def assert_same(found: oip.Request, expected: tuple[oip.Tensor, ...]) -> None:
    for one, other in zip(found.inputs, expected, strict=True):
        assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
        if isinstance(other.values, tuple):
            assert one.values == other.values
        else:
            np.testing.assert_array_equal(one.values, other.values)


def test_kserves_own_writer_and_reader_agree_with_ours() -> None:
    pixels, files = InferInput("image", [5, 7, 3], "UINT8"), InferInput("image_1", [2], "BYTES")
    pixels.set_data_from_numpy(PIXELS, binary_data=True)
    files.set_data_from_numpy(np.array([b"\xff\xd8a", b""], object), binary_data=True)
    body, size = InferRequest("plates", [pixels, files]).to_rest()
    found = oip.read_rest(body, str(size))
    np.testing.assert_array_equal(found.inputs[0].values, PIXELS)
    assert found.inputs[1].values == (b"\xff\xd8a", b"")
    # Its reader takes BYTES for UTF-8, so a picture comes back to it as pixels, or as base64.
    reply = oip.Reply((oip.tensor("image", PIXELS), oip.tensor("e", [b"\x00\xff"])), "1")
    asked = oip.Request("", (), {}, binary=frozenset({"image"}))
    pieces, length = oip.write_rest(reply, asked, "plates", "r1")
    body = b"".join(pieces)
    theirs = InferResponse.from_bytes(body, length)
    np.testing.assert_array_equal(theirs.outputs[0].as_numpy(), PIXELS)
    assert (theirs.id, theirs.outputs[1].data) == ("r1", ["AP8="])


def test_only_the_outputs_that_were_asked_for_are_written() -> None:
    wanted = [{"name": "b", "parameters": {"binary_data": True}}]
    body, length = rest([raw_input(PIXELS.nbytes)], PIXELS.tobytes(), outputs=wanted)
    request = oip.read_rest(body, length)
    reply = oip.Reply((oip.tensor("a", [b"1"]), oip.tensor("b", [b"2"])), "1")
    pieces, size = oip.write_rest(reply, request, "plates", "")
    body = b"".join(pieces)
    assert size is not None
    assert [item["name"] for item in json.loads(body[:size])["outputs"]] == ["b"]
    assert body[size:] == b"\x01\0\0\x002"


WRONG: dict[str, tuple[Any, bytes]] = {
    "size beyond the body": ([raw_input(106)], bytes(105)),
    "size too small": ([raw_input(104)], bytes(104)),
    "bytes left over": ([raw_input(105)], bytes(106)),
    "negative size": ([raw_input(-1)], b""),
    "size no number": ([raw_input(105, parameters={"binary_data_size": "105"})], bytes(105)),
    "size true": ([raw_input(105, parameters={"binary_data_size": True})], b"1"),
    "data twice": ([raw_input(105, data=[1])], bytes(105)),
    "huge shape": ([raw_input(105, shape=[2**31, 1, 1])], bytes(105)),
    "shape of texts": ([raw_input(105, shape=["5", 7, 3])], bytes(105)),
    "shape true": ([raw_input(1, shape=[True])], bytes(1)),
    "no name": ([{"datatype": "UINT8", "shape": [1], "data": [1]}], b""),
    "type unknown": ([raw_input(105, datatype="PIXELS")], bytes(105)),
    "type no text": ([raw_input(105, datatype=8)], bytes(105)),
    "bytes cut": ([raw_input(6, datatype="BYTES", shape=[1])], struct.pack("<I", 9) + b"ab"),
    "bytes odd": ([raw_input(3, datatype="BYTES", shape=[1])], b"\0\0\0"),
    "bytes count": ([raw_input(4, datatype="BYTES", shape=[2])], bytes(4)),
    "bytes many": ([raw_input(8000, datatype="BYTES", shape=[2000])], bytes(8000)),
    "no base64": ([raw_input(0, datatype="BYTES", shape=[1], data=["*"], parameters={})], b""),
    "ragged": ([raw_input(0, data=[[1], 2], parameters={})], b""),
    "fraction": ([raw_input(0, shape=[1], data=[1.5], parameters={})], b""),
    "truth": ([raw_input(0, shape=[1], data=[True], parameters={})], b""),
    "too large": ([raw_input(0, shape=[1], data=[256], parameters={})], b""),
    "far too large": ([raw_input(0, shape=[1], data=[2**70], parameters={})], b""),
    "text among numbers": (
        [raw_input(0, shape=[1, 1, 3], data=["A" * 1000, "", ""], parameters={})],
        b"",
    ),
    "lists of two lengths": (
        [raw_input(0, shape=[1, 1, 3], data=[[1, 2], [3]], parameters={})],
        b"",
    ),
    "lists too deep": ([raw_input(0, shape=[1], data=[[[[[[[[[[1]]]]]]]]]], parameters={})], b""),
    "no array has it": ([raw_input(0, shape=[0, *[2**31 - 1] * 3])], b""),
    "no array of values has it": (
        [raw_input(0, shape=[0, *[2**31 - 1] * 3], data=[], parameters={})],
        b"",
    ),
    "no inputs": ([], b""),
    "inputs no list": ({"name": "image"}, b""),
    "many": ([raw_input(0, shape=[0])] * 65, b""),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_message_is_refused_in_one_sentence(name: str) -> None:
    inputs, tail = WRONG[name]
    with pytest.raises(HttpError) as caught:
        oip.read_rest(*rest(inputs, tail))
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "99999", "", "٣"])
def test_a_length_of_the_json_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(HttpError):
        oip.read_rest(b'{"inputs": []}', length)


def outcome(read: Any) -> int:
    """The status that a request would get before its pictures are decoded."""
    try:
        job = v2_job(read(), **LIMITS)
    except HttpError as error:
        return error.status
    return 200 if job.pictures else 0


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "name", "shape", "datatype", "data", "parameters", "binary_data_size"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
TENSORISH = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "image_1", "x"]),
        "datatype": st.sampled_from(["UINT8", "BYTES", "INT32", "FP32"]),
        "shape": st.lists(st.integers(-1, 5), max_size=5),
    },
    optional={
        "data": ANY,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}),
    },
)


@settings(deadline=None, max_examples=300)
@given(
    document=ANY | st.fixed_dictionaries({"inputs": st.lists(TENSORISH, max_size=3)}),
    tail=st.binary(max_size=60),
    cut=st.integers(0, 3),
)
def test_whatever_is_sent_it_is_a_job_or_a_refusal(document: Any, tail: bytes, cut: int) -> None:
    head = json.dumps(document).encode()
    for length in (None, str(len(head) - cut)):
        assert outcome(lambda: oip.read_rest(head + tail, length)) in (200, 400, 413)  # noqa: B023


@settings(deadline=None, max_examples=300)
@given(raw=st.binary(max_size=200))
def test_any_bytes_over_grpc_are_a_job_or_a_refusal(raw: bytes) -> None:
    made = message(PIXELS)
    made.raw_input_contents[0] = raw
    made.inputs[0].datatype = "BYTES"
    made.inputs[0].shape[:] = [1]
    assert outcome(lambda: read(made)) in (200, 400, 413)


@settings(deadline=None, max_examples=500)
@given(raw=st.binary(max_size=60), at=st.integers(0, 200), cut=st.integers(0, 200))
def test_a_damaged_message_is_a_job_or_a_refusal(raw: bytes, at: int, cut: int) -> None:
    whole = message(PIXELS).SerializeToString()
    data = whole[:at] + raw + whole[at + cut :]

    def job() -> Any:
        return oip.read_grpc(oip.open_grpc(oip.split_grpc(data)))

    assert outcome(job) in (200, 400, 413)


@settings(deadline=None)
@given(parts=st.lists(st.binary(max_size=300), max_size=5), first=st.booleans())
def test_raw_tensors_are_taken_out_wherever_they_stand(parts: list[bytes], first: bool) -> None:
    """As protobuf itself reads them; and what is put in, it reads."""
    head = ModelInferRequest(model_name="plates", id="7", raw_input_contents=parts)
    bare = ModelInferRequest(model_name="plates", id="7").SerializeToString()
    mine = put_in(b"", 7, parts) + bare if first else put_in(bare, 7, parts)
    assert ModelInferRequest.FromString(mine) == head
    for data in (mine, head.SerializeToString()):
        rest, found = take_out(data, 7)
        assert (rest, [bytes(part) for part in found]) == (bare, parts)
        assert all(
            np.shares_memory(np.frombuffer(part, np.uint8), np.frombuffer(data, np.uint8))
            for part in found
            if part
        )


def test_a_message_of_countless_fields_is_refused_at_once() -> None:
    for data in (b"\x3a\x00" * 10_000, b"\x08\x01" * 10_000, b"\xff" * 10_000, b"\x0b\x0c"):
        with pytest.raises(HttpError, match="no ModelInferRequest"):
            oip.split_grpc(data)


@given(st.binary(max_size=40))
def test_base64_is_read_as_it_is_written(data: bytes) -> None:
    assert oip.from_base64(base64.b64encode(data).decode(), "x") == data


@given(
    st.text("AZaz09+/=", max_size=12)
    | st.text("AZ= \n-_é*", max_size=12)
    | st.tuples(st.binary(max_size=9), st.integers(0, 12), st.sampled_from("=*\n A")).map(
        lambda t: (s := base64.b64encode(t[0]).decode())[: t[1]] + t[2] + s[t[1] :]
    )
)
def test_what_the_strict_reader_refuses_is_refused(text: str) -> None:
    try:
        expected = base64.b64decode(text, validate=True)
        if len(text) % 4:  # which the library takes, with one = too many
            raise ValueError
    except ValueError:
        with pytest.raises(HttpError, match="no base64"):
            oip.from_base64(text, "x")
    else:
        assert oip.from_base64(text, "x") == expected


def test_a_long_text_among_numbers_takes_no_memory() -> None:
    """NumPy would make a thousand values as wide as it."""
    body, _ = rest([raw_input(0, data=["A" * 1_000_000, *[""] * 1000], parameters={})])
    tracemalloc.start()
    try:
        with pytest.raises(HttpError, match="no number"):
            oip.read_rest(body, None)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", [b"[{}],", b"[],", b'"",', b"1,"])
def test_json_of_countless_parts_is_refused_unread(part: bytes) -> None:
    body = b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1],"data":[0]}],"x":['
    with pytest.raises(HttpError, match=r"more than \d+ of"):
        oip.read_rest(body + part * (oip.MAX_VALUES + 1) + b"0]}", None)


def test_a_picture_of_1080p_fits_into_json() -> None:
    pixels = np.full((1080, 1920, 3), 200, np.uint8)
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        item = raw_input(0, shape=list(pixels.shape), data=data, parameters={})
        (found,) = images_of(oip.read_rest(rest([item])[0], None), 10**7)
        np.testing.assert_array_equal(found, pixels)


def test_typed_contents_have_a_limit_and_raw_ones_need_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = message(PIXELS)
    del made.raw_input_contents[:]
    made.inputs[0].contents.uint_contents.extend(PIXELS.ravel().tolist())
    (found,) = images_of(read(made), 35)
    np.testing.assert_array_equal(found, PIXELS)
    monkeypatch.setattr(oip, "MAX_VALUES", 104)
    with pytest.raises(HttpError, match="more than 104 values"):
        read(made)
    monkeypatch.setattr(oip, "MAX_TYPED", 100)
    with pytest.raises(HttpError, match="at most 100 bytes"):
        read(made)
    assert images_of(read(message(PIXELS)), 35)


def test_what_takes_long_is_known_before() -> None:
    pixels = np.zeros((200, 200, 3), np.uint8)
    raw = message(pixels)
    assert not oip.split_grpc(raw.SerializeToString()).slow
    typed = message(pixels)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.uint_contents.extend(pixels.ravel().tolist())
    assert oip.split_grpc(typed.SerializeToString()).slow
    body = bytes(100_000)
    for length, slow in ((None, True), ("100", False), ("100000", True), ("x", True)):
        assert oip.is_slow(body, length) is slow
    reply = oip.Reply((oip.tensor("image", pixels),), "1")
    assert not oip.is_slow_reply(reply, read(raw))
    assert oip.is_slow_reply(reply, read(typed))
    for binary in (False, True):
        parameters = {"binary_data_output": binary}
        asked = oip.read_rest(
            *rest([raw_input(PIXELS.nbytes)], PIXELS.tobytes(), parameters=parameters)
        )
        assert oip.is_slow_reply(reply, asked) is not binary


def test_an_output_that_there_is_not_is_refused() -> None:
    body, length = rest([raw_input(PIXELS.nbytes)], PIXELS.tobytes(), outputs=[{"name": "b"}])
    with pytest.raises(HttpError, match="no output b; there are a, image"):
        oip.read_rest(body, length).check_outputs(["image", "a"])
    made = message(PIXELS)
    made.outputs.add(name="a")
    made.outputs.add(name="image_7")
    read(made).check_outputs(["image", "a"])
