"""Finding licence plates in an image: letterbox, the network, non-maximum suppression.

Importing this package is cheap; OpenCV, ONNX Runtime and OpenVINO are imported by the functions
that run.
"""

from platecrypt.detection.backends import Name, Precision
from platecrypt.detection.engine import CONFIDENCE_KEY, Detections, Detector, find_model
from platecrypt.detection.letterbox import Letterbox
from platecrypt.detection.nms import MAX_DETECTIONS, suppress

__all__ = [
    "CONFIDENCE_KEY",
    "MAX_DETECTIONS",
    "Detections",
    "Detector",
    "Letterbox",
    "Name",
    "Precision",
    "find_model",
    "suppress",
]
