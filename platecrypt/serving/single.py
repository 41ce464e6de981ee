"""One process for everything: it finds plates and seals them, for the edge and for bulk work.

The same core, the same wires and the same flags as the two containers; the network runs in the
process that protects, so that no picture travels between two.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from platecrypt.detection import Detections, Detector
from platecrypt.errors import BadInputError
from platecrypt.serving.predictor import add_detecting, load_detector
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.requests import largest_body
from platecrypt.serving.server import argument_parser, run
from platecrypt.serving.transformer import (
    Transformer,
    add_protecting,
    check_protecting,
    transformer,
)


class LocalDetector:
    """A network in this process, asked as the transformer asks a predictor."""

    def __init__(self, detector: Detector, version: str) -> None:
        self._detector = detector
        self._version = version

    def ready(self) -> bool:
        """It was loaded before anybody could ask."""
        return True

    def detect(
        self, pixels: NDArray[np.uint8], *, confidence: float | None, headers: Mapping[str, str]
    ) -> tuple[Detections, str]:
        """Boxes for a `(H, W, 3)` uint8 RGB image, and the version of the model that saw them.

        Raises:
            HttpError: 400, the image or the threshold is none.
        """
        try:
            return self._detector.detect(pixels, confidence=confidence), self._version
        except BadInputError as error:
            raise HttpError(400, str(error)) from None


def make(args: argparse.Namespace) -> Transformer:
    """Load the model and the keys.

    Raises:
        BadInputError: an argument, the model or the key file is wrong.
    """
    check_protecting(args)
    detector = LocalDetector(load_detector(args), args.model_version)
    return transformer(args, detector)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended; returns the exit code."""
    parser = argument_parser("platecrypt in one process")
    add_detecting(parser)
    add_protecting(parser)
    parser.set_defaults(enable_grpc=False)
    return run(make, parser, argv, max_body=lambda args: largest_body(args.max_bytes))


if __name__ == "__main__":
    raise SystemExit(main())
