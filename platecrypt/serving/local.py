"""A network in this process, asked as the transformer asks a predictor."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection import Detections, Detector
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.serving.batching import Batcher
from platecrypt.serving.refusals import HttpError


class LocalDetector:
    """Finds plates with a network of its own.

    Args:
        finder: the loaded detector, or a batcher around it.
        version: of the model.
    """

    def __init__(self, finder: Detector | Batcher, version: str) -> None:
        self._finder = finder
        self._version = version

    def ready(self) -> bool:
        """It was loaded before anybody could ask."""
        return True

    def detect(
        self, pixels: NDArray[np.uint8], *, confidence: float | None, headers: Mapping[str, str]
    ) -> tuple[Detections, str]:
        """Boxes for a `(H, W, 3)` uint8 RGB image, and the version of the model that saw them.

        Raises:
            HttpError: 400, the image or the threshold is none; 502, the network's answer is none.
        """
        try:
            return self._finder.detect_all([pixels], [confidence])[0], self._version
        except BadInputError as error:
            raise HttpError(400, str(error)) from None
        except UnavailableError as error:
            raise HttpError(502, str(error)) from None
