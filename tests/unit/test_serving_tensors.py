"""The predictor reads an image where its bytes lie, and refuses one that is too large."""

import numpy as np
import pytest
from kserve import InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter, ModelInferRequest

from platecrypt.serving.predictor import confidence_of, image_of


def request(pixels: np.ndarray, **parameters: InferParameter) -> InferRequest:
    tensor = ModelInferRequest.InferInputTensor
    message = ModelInferRequest(
        inputs=[tensor(name="image", datatype="UINT8", shape=pixels.shape)],
        raw_input_contents=[pixels.tobytes()],
    )
    for name, value in parameters.items():
        message.parameters[name].CopyFrom(value)
    return InferRequest.from_grpc(message)


def test_raw_bytes_are_not_copied() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    made = request(pixels)
    found = image_of(made, 35)
    np.testing.assert_array_equal(found, pixels)
    received = np.frombuffer(made.inputs[0]._raw_data, np.uint8)
    assert np.shares_memory(found, received)


def test_one_pixel_more_than_allowed_is_refused() -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    with pytest.raises(InvalidInput, match="35 pixels; at most 34"):
        image_of(request(pixels), 34)


def test_a_threshold_comes_as_text_because_grpc_parameters_have_no_float() -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    assert confidence_of(request(pixels)) is None
    half = InferParameter(string_param="0.5")
    assert confidence_of(request(pixels, confidence=half)) == 0.5
    with pytest.raises(InvalidInput, match="no number"):
        confidence_of(request(pixels, confidence=InferParameter(string_param="high")))
