"""The predictor answers v2 over gRPC and REST, to KServe's own client among others."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from platecrypt.deployment import Endpoint

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Image = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def http(endpoint: Endpoint, stage: Any) -> str:
    return str(stage.supervisor.find("predictor").url)


@pytest.fixture(scope="module")
def target(endpoint: Endpoint, stage: Any) -> str:
    argv = stage.supervisor.find("transformer").argv
    return next(word.split("=")[1] for word in argv if word.startswith("--predictor_host="))


def request(image: Image, shape: list[int] | None = None, **parameters: Any) -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor
    made = pb.ModelInferRequest(
        id="r1",
        model_name="plates",
        inputs=[tensor(name="image", datatype="UINT8", shape=shape or image.shape)],
        raw_input_contents=[image.tobytes()],
    )
    for name, value in parameters.items():
        made.parameters[name].CopyFrom(value)
    return made


def infer(target: str, message: Any) -> Any:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(target, options=options) as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=20)


def boxes_of(answer: Any) -> Image:
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(-1, 4)


def assert_the_plates(boxes: Image) -> None:
    expected = np.array([[40, 60, 120, 100], [400, 200, 520, 240]])
    assert boxes.shape == (2, 4)
    np.testing.assert_allclose(boxes[boxes[:, 0].argsort()], expected, atol=4)


def test_grpc_raw_bytes(target: str, street: Image) -> None:
    answer = infer(target, request(street))
    assert (answer.id, answer.model_name, answer.model_version) == ("r1", "plates", "1")
    assert [output.name for output in answer.outputs] == ["boxes", "scores"]
    assert_the_plates(boxes_of(answer))
    batch_of_one = infer(target, request(street, [1, *street.shape]))
    np.testing.assert_array_equal(boxes_of(batch_of_one), boxes_of(answer))


@pytest.mark.parametrize("data", [b"\xff" * 40, b"\x3a\x05abc", b"\x3a\x00" * 5000])
def test_what_is_no_message_is_the_clients_fault(target: str, data: bytes) -> None:
    with grpc.insecure_channel(target) as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            ask(data, timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the message is no ModelInferRequest"


def test_grpc_takes_a_picture_larger_than_the_stock_limit_of_8_mib(
    target: str, street: Image
) -> None:
    large = np.ascontiguousarray(street.repeat(4, axis=0).repeat(4, axis=1))
    assert large.nbytes > 8 * 2**20
    assert_the_plates(boxes_of(infer(target, request(large))) / 4)


def test_the_threshold_travels_as_a_parameter(target: str, http: str, street: Image) -> None:
    high = request(street, confidence=pb.InferParameter(string_param="0.95"))
    assert len(boxes_of(infer(target, high))) == 0
    body = tensor_json(street)
    body["parameters"] = {"confidence": 0.95}
    answer = httpx.post(f"{http}/v2/models/plates/infer", json=body, trust_env=False)
    assert answer.json()["outputs"][0]["shape"] == [0, 4]


def test_kserves_own_client_understands_it(target: str, street: Image) -> None:
    async def ask() -> Any:
        tensor = InferInput("image", list(street.shape), "UINT8")
        tensor.set_data_from_numpy(street, binary_data=True)
        tensor.parameters = None
        async with InferenceGRPCClient(target, timeout=20, retries=0) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("plates")
            return await client.infer(InferRequest("plates", [tensor]))

    answer = asyncio.run(ask())
    assert_the_plates(answer.outputs[0].as_numpy())


def tensor_json(image: Image) -> dict[str, Any]:
    tensor = {"name": "image", "shape": list(image.shape), "datatype": "UINT8"}
    return {"inputs": [{**tensor, "data": image.ravel().tolist()}]}


def test_rest_json(http: str, street: Image) -> None:
    small = np.ascontiguousarray(street[::4, ::4])
    answer = httpx.post(
        f"{http}/v2/models/plates/infer", json=tensor_json(small), trust_env=False, timeout=30
    )
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert outputs["boxes"]["datatype"] == "FP32"
    boxes = np.array(outputs["boxes"]["data"]).reshape(outputs["boxes"]["shape"])
    assert_the_plates(boxes * 4)
    assert len(outputs["scores"]["data"]) == 2


def test_rest_binary(http: str, street: Image) -> None:
    tensor = {"name": "image", "shape": list(street.shape), "datatype": "UINT8"}
    head = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": street.nbytes}}]}
    ).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(head)),
    }
    answer = httpx.post(
        f"{http}/v2/models/plates/infer",
        content=head + street.tobytes(),
        headers=headers,
        trust_env=False,
        timeout=30,
    )
    (boxes,) = [out for out in answer.json()["outputs"] if out["name"] == "boxes"]
    assert_the_plates(np.array(boxes["data"]).reshape(boxes["shape"]))


def renamed(message: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(message.inputs[0], name, value)
    return message


GREY = np.zeros((4, 6, 3), np.uint8)
WRONG: dict[str, Callable[[], Any]] = {
    "name": lambda: renamed(request(GREY), name="picture"),
    "type": lambda: renamed(request(GREY), datatype="INT8"),
    "no such type": lambda: renamed(request(GREY), datatype="PIXELS"),
    "two axes": lambda: request(GREY, [24, 3]),
    "four channels": lambda: request(GREY, [3, 6, 4]),
    "five axes": lambda: request(GREY, [1, 1, 4, 6, 3]),
    "negative": lambda: request(GREY, [-4, -6, 3]),
    "too few bytes": lambda: request(GREY, [5, 6, 3]),
    "too many bytes": lambda: request(GREY, [3, 6, 3]),
    "far too large": lambda: request(GREY, [2**31, 2**31, 3]),
    "no input": lambda: pb.ModelInferRequest(model_name="plates"),
    "confidence": lambda: request(GREY, confidence=pb.InferParameter(string_param="high")),
    "confidence 2": lambda: request(GREY, confidence=pb.InferParameter(int64_param=2)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tensor_is_the_clients_fault(target: str, name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(target, WRONG[name]())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": []},
        {"inputs": [{"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": ["a"] * 3}]},
        {"inputs": [{"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [1, 2]}]},
        {
            "inputs": [
                {"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [0, 1, 256]}
            ]
        },
        {
            "inputs": [
                {"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [[1], 2, 3]}
            ]
        },
        {"inputs": "image"},
        [],
    ],
)
def test_a_wrong_body_is_the_clients_fault(http: str, body: Any) -> None:
    answer = httpx.post(f"{http}/v2/models/plates/infer", json=body, trust_env=False)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "request_id"}


def test_nobody_unloads_the_model_over_the_wire(target: str, street: Image) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="plates"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert_the_plates(boxes_of(infer(target, request(street))))
