"""Training: from a dataset to weights, an ONNX model, its figures and a signed verdict."""
