"""The endpoint: a predictor that finds plates, a transformer that seals them, a client.

`python -m platecrypt.serving.predictor` and `python -m platecrypt.serving.transformer` are the
two containers of `kserve/inference_service.yaml`. Importing this package is cheap; the two
modules import KServe.
"""

from platecrypt.serving.client import (
    AsyncClient,
    Client,
    Prediction,
    ProtectedFile,
    SealedPlate,
)

__all__ = ["AsyncClient", "Client", "Prediction", "ProtectedFile", "SealedPlate"]
