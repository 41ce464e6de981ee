"""Finding licence plates in an image: letterbox, the network, non-maximum suppression.

Importing this package is cheap; OpenCV and ONNX Runtime are imported by the functions that run.
"""

from platecrypt.detection.engine import Detections, Detector, find_model
from platecrypt.detection.letterbox import Letterbox
from platecrypt.detection.nms import suppress

__all__ = ["Detections", "Detector", "Letterbox", "find_model", "suppress"]
