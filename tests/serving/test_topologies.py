"""Every topology runs the same code: each is asked on every wire."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from platecrypt import imaging
from platecrypt.commands.serve import MANIFESTS
from platecrypt.deployment import Endpoint
from platecrypt.serving import oip

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Encoded = Callable[..., bytes]
Image = np.ndarray[Any, Any]
PROCESSES = {
    "collocated": ["predictor", "transformer"],
    "split": ["predictor", "transformer"],
    "single": ["transformer"],
}


@pytest.fixture(scope="module", params=list(MANIFESTS))
def served(stage: Any, endpoint: Endpoint, request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """The endpoint that all share is collocated; the others start beside it, as candidates do."""
    if request.param == "collocated":
        assert running(stage, "") == PROCESSES["collocated"]
        yield endpoint
        return
    folder, digest = stage.model()
    service = stage.manifest(MANIFESTS[request.param])
    candidate = stage.deployer.candidate(service, folder, request.param, digest)
    assert running(stage, "candidate-") == PROCESSES[request.param]
    yield candidate
    stage.deployer.discard(candidate)


def running(stage: Any, prefix: str) -> list[str]:
    """Names of the processes of the live endpoint or of the candidate."""
    every = [record.name for record in stage.supervisor.list()]
    others = ("candidate-", "alone-", "deceived")
    if prefix:
        return [name.removeprefix(prefix) for name in every if name.startswith(prefix)]
    return [name for name in every if not name.startswith(others)]


def assert_protected(file: bytes, source: bytes, stage: Any) -> None:
    before, back = imaging.decode(source), imaging.recover(file, stage.keyring)
    assert back.count == 2
    for x1, y1, x2, y2 in back.regions:
        area = np.s_[y1:y2, x1:x2]
        np.testing.assert_array_equal(back.pixels[area], before.pixels[area])
        assert (imaging.decode(file).pixels[area] != before.pixels[area]).any(axis=2).mean() > 0.5


def base(served: Endpoint) -> str:
    return served.url.split("/v1")[0]


def infer_rest(served: Endpoint, body: bytes, length: int | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"}
    if length is not None:
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(length),
        }
    return httpx.post(
        f"{base(served)}/v2/models/plates/infer",
        content=body,
        headers=headers,
        timeout=30,
        trust_env=False,
    )


def infer_grpc(served: Endpoint, message: Any, **metadata: str) -> Any:
    with grpc.insecure_channel(served.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(message, timeout=20, metadata=tuple(metadata.items()))


def outputs_of(answer: Any) -> dict[str, Any]:
    return {
        output.name: (list(output.shape), raw)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


def head(shape: list[int], datatype: str, **more: Any) -> dict[str, Any]:
    return {"name": "image", "shape": shape, "datatype": datatype, **more}


def bytes_message(*files: bytes, **parameters: str) -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor
    made = pb.ModelInferRequest(
        id="ride-7",
        model_name="plates",
        inputs=[tensor(name="image", datatype="BYTES", shape=[len(files)])],
        raw_input_contents=[oip.raw_bytes(oip.tensor("image", files))],
    )
    for name, value in parameters.items():
        made.parameters[name].string_param = value
    return made


def test_v1_file(served: Endpoint, stage: Any, encoded: Encoded) -> None:
    headers = {"content-type": "image/jpeg", "accept": "image/jpeg"}
    answer = httpx.post(served.url, content=encoded(), headers=headers, trust_env=False)
    assert (answer.status_code, answer.headers["x-platecrypt-plates"]) == (200, "2")
    assert_protected(answer.content, encoded(), stage)


def test_v2_json_bytes(served: Endpoint, stage: Any, encoded: Encoded) -> None:
    files = [encoded("png"), encoded("jpeg")]
    data = [base64.b64encode(file).decode() for file in files]
    body = {"id": "ride-7", "inputs": [head([2], "BYTES", data=data)]}
    answer = infer_rest(served, json.dumps(body).encode()).raise_for_status().json()
    assert (answer["id"], answer["model_name"]) == ("ride-7", "plates")
    found = {output["name"]: output for output in answer["outputs"]}
    assert set(found) == {"image", "counts", "boxes", "envelopes", "records"}
    assert found["counts"]["data"] == [2, 2]
    assert (found["boxes"]["shape"], found["envelopes"]["shape"]) == ([4, 4], [4])
    for source, text in zip(files, found["image"]["data"], strict=True):
        assert_protected(base64.b64decode(text), source, stage)


def test_v2_binary_bytes_in_and_out(served: Endpoint, stage: Any, encoded: Encoded) -> None:
    raw = bytes(oip.raw_bytes(oip.tensor("image", [encoded("webp")])))
    inputs = [head([1], "BYTES", parameters={"binary_data_size": len(raw)})]
    document = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    answer = infer_rest(served, document + raw, len(document)).raise_for_status()
    length = int(answer.headers["inference-header-content-length"])
    parsed = json.loads(answer.content[:length])
    assert parsed["id"] == answer.headers["x-request-id"]
    (image, *_) = parsed["outputs"]
    size = image["parameters"]["binary_data_size"]
    (file,) = oip.elements_of(answer.content[length : length + size])
    assert_protected(file, encoded("webp"), stage)


def test_v2_binary_pixels_in_and_out(served: Endpoint, stage: Any, street: Image) -> None:
    inputs = [head(list(street.shape), "UINT8", parameters={"binary_data_size": street.nbytes})]
    document = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    answer = infer_rest(served, document + street.tobytes(), len(document)).raise_for_status()
    length = int(answer.headers["inference-header-content-length"])
    found = {output["name"]: output for output in json.loads(answer.content[:length])["outputs"]}
    assert found["image"]["shape"] == list(street.shape)
    covered = np.frombuffer(answer.content, np.uint8, street.size, length).reshape(street.shape)
    at = length + street.size
    raws = {}
    for name in ("counts", "boxes", "envelopes", "records"):
        size = found[name]["parameters"]["binary_data_size"]
        raws[name], at = answer.content[at : at + size], at + size
    sealed = oip.elements_of(raws["envelopes"]) + oip.elements_of(raws["records"])
    file = imaging.embed(imaging.encode(covered, "png"), sealed)
    assert_protected(file, imaging.encode(street, "png"), stage)
    boxes = np.frombuffer(raws["boxes"], np.int32).reshape(-1, 4)
    outside = np.ones(street.shape[:2], bool)
    for x1, y1, x2, y2 in boxes:
        outside[y1:y2, x1:x2] = False
    np.testing.assert_array_equal(covered[outside], street[outside])


def test_v2_grpc_bytes(served: Endpoint, stage: Any, encoded: Encoded) -> None:
    answer = infer_grpc(served, bytes_message(encoded("png")))
    assert (answer.id, answer.model_version) == ("ride-7", served.version)
    (file,) = oip.elements_of(outputs_of(answer)["image"][1])
    assert_protected(file, encoded("png"), stage)
    context = json.loads(imaging_context(file))
    assert (context["request_id"], context["model_version"]) == ("ride-7", served.version)


def imaging_context(file: bytes) -> bytes:
    from platecrypt.cipher import inspect

    return bytes(inspect(imaging.read_sealed(file)[0]).ctx)


def test_v2_grpc_pixels_and_typed_contents(served: Endpoint, street: Image) -> None:
    small = np.ascontiguousarray(street[::4, ::4])
    tensor = pb.ModelInferRequest.InferInputTensor
    message = pb.ModelInferRequest(
        model_name="plates", inputs=[tensor(name="image", datatype="UINT8", shape=small.shape)]
    )
    message.inputs[0].contents.uint_contents.extend(small.ravel().tolist())
    typed = {output.name: output.contents for output in infer_grpc(served, message).outputs}
    assert list(typed["counts"].int_contents) == [2]
    assert len(typed["image"].uint_contents) == small.size
    assert len(typed["envelopes"].bytes_contents) == 2


def test_v2_several_pixel_images_of_different_sizes(served: Endpoint, street: Image) -> None:
    other = np.ascontiguousarray(street[:, :320])
    tensor = pb.ModelInferRequest.InferInputTensor
    message = pb.ModelInferRequest(
        model_name="plates",
        inputs=[
            tensor(name="image_0", datatype="UINT8", shape=street.shape),
            tensor(name="image_1", datatype="UINT8", shape=other.shape),
        ],
        raw_input_contents=[street.tobytes(), other.tobytes()],
    )
    found = outputs_of(infer_grpc(served, message))
    assert found["image_0"][0] == list(street.shape)
    assert found["image_1"][0] == list(other.shape)
    assert np.frombuffer(found["counts"][1], np.int32).tolist() == [2, 1]


def test_options_on_every_wire(served: Endpoint, encoded: Encoded) -> None:
    message = bytes_message(encoded(), image="none", detections="plain", confidence="0.5")
    found = outputs_of(infer_grpc(served, message))
    assert "image" not in found
    rows = np.frombuffer(found["detections"][1], np.float32).reshape(-1, 5)
    assert rows.shape == (2, 5)
    np.testing.assert_allclose(rows[:, 4], 0.9, atol=1e-3)
    none = infer_grpc(served, bytes_message(encoded(), confidence="0.95"))
    assert np.frombuffer(outputs_of(none)["counts"][1], np.int32).tolist() == [0]
    query = {"image": "none", "detections": "plain", "margin": "0"}
    post = {"headers": {"content-type": "image/jpeg"}, "trust_env": False}
    (one,) = httpx.post(served.url, content=encoded(), params=query, **post).json()["predictions"]
    assert set(one) == {"request_id", "plates", "detections"}
    narrow = {tuple(plate["box"]) for plate in one["plates"]}
    query["margin"] = "0.5"
    (two,) = httpx.post(served.url, content=encoded(), params=query, **post).json()["predictions"]
    wide = {tuple(plate["box"]) for plate in two["plates"]}
    assert sum(x2 - x1 for x1, _, x2, _ in wide) > 1.5 * sum(x2 - x1 for x1, _, x2, _ in narrow)
    answer = httpx.post(served.url, content=encoded(), params={"detections": "none"}, **post)
    assert set(answer.json()["predictions"][0]) == {"request_id", "image", "content_type"}
    assert "x-platecrypt-plates" not in answer.headers


def test_the_default_answer_says_nothing_of_scores(served: Endpoint, encoded: Encoded) -> None:
    answer = infer_grpc(served, bytes_message(encoded()))
    assert "detections" not in outputs_of(answer)
    assert b"score" not in answer.SerializeToString()


WRONG: dict[str, Callable[[], Any]] = {
    "name": lambda: (
        {"inputs": [head([1], "BYTES", data=["aGk="]) | {"name": "picture"}]},
        "inputs are image",
    ),
    "type": lambda: ({"inputs": [head([1], "FP32", data=[1.0])]}, "inputs are image"),
    "shape": lambda: ({"inputs": [head([1, 1], "UINT8", data=[1])]}, "expected [H, W, 3]"),
    "no picture": lambda: ({"inputs": [head([1], "BYTES", data=["aGk="])]}, "image"),
    "empty": lambda: ({"inputs": [head([0], "BYTES", data=[])]}, "0 images"),
    "many": lambda: ({"inputs": [head([17], "BYTES", data=["aGk="] * 17)]}, "17 images"),
    "option": lambda: (
        {"inputs": [head([1], "BYTES", data=["aGk="])], "parameters": {"speed": 1}},
        "unknown option",
    ),
    "nothing left": lambda: (
        {
            "inputs": [head([1], "BYTES", data=["aGk="])],
            "parameters": {"image": "none", "detections": "none"},
        },
        "nothing is left",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_the_clients_fault(served: Endpoint, name: str) -> None:
    body, sentence = WRONG[name]()
    answer = infer_rest(served, json.dumps(body).encode())
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    message = bytes_message(b"hi", speed="1")
    with pytest.raises(grpc.RpcError) as caught:
        infer_grpc(served, message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "unknown option" in caught.value.details()


def test_kserves_own_clients_are_answered(served: Endpoint, stage: Any, street: Image) -> None:
    async def ask() -> tuple[Any, Any]:
        tensor = InferInput("image", list(street.shape), "UINT8")
        tensor.set_data_from_numpy(street, binary_data=True)
        tensor.parameters = None
        async with InferenceGRPCClient(served.grpc, timeout=20, retries=0) as client:
            assert await client.is_model_ready("plates")
            remote = await client.infer(InferRequest("plates", [tensor]))
        files = InferInput("image", [1], "BYTES")
        files.set_data_from_numpy(
            np.array([imaging.encode(street, "png")], object), binary_data=True
        )
        rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20, retries=0))
        answer = await rest.infer(
            base(served), InferRequest("plates", [files]), model_name="plates"
        )
        await rest.close()
        return remote, answer

    remote, rest = asyncio.run(ask())
    named = {output.name: output for output in remote.outputs}
    assert named["image"].as_numpy().shape == street.shape
    assert named["counts"].as_numpy().tolist() == [2]
    (text,) = next(output.data for output in rest.outputs if output.name == "image")
    assert_protected(base64.b64decode(text), imaging.encode(street, "png"), stage)
