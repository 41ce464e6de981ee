"""What can be told of an image without a model: brightness, contrast, sharpness, saturation."""

import math
from dataclasses import dataclass

from platecrypt.datasets.manifest import ImageRecord
from platecrypt.errors import BadInputError

# Sharpness is comparable between images only at one scale: the longer side is brought to this.
SHARPNESS_SIDE = 640
# Mean luma of the exposure classes. Of the dashcam photographs that this was set on, those taken
# at night have a median of 54, those taken by day of 79 to 118; shade and night overlap.
DARK_BELOW = 60.0
BRIGHT_FROM = 190.0


@dataclass(frozen=True)
class Quality:
    """Image-quality features of one image.

    Attributes:
        brightness: mean luma, 0 to 255.
        contrast: standard deviation of luma, 0 to 127.5.
        sharpness: variance of the Laplacian of luma at SHARPNESS_SIDE pixels, >= 0.
        saturation: mean HSV saturation, 0 to 255.
        plate_count: labelled plates.
        smallest_plate: width of the narrowest labelled plate in pixels, 0 where there is none.
    """

    brightness: float
    contrast: float
    sharpness: float
    saturation: float
    plate_count: int
    smallest_plate: float


def measure(data: bytes, image: ImageRecord) -> Quality:
    """Measure one image.

    Args:
        data: the encoded image.
        image: its record, for the labels.

    Raises:
        BadInputError: the bytes cannot be decoded.
    """
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise BadInputError(f"image {image.name} cannot be decoded")
    luma = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    scale = min(1.0, SHARPNESS_SIDE / max(luma.shape))
    small = cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mean, deviation = cv2.meanStdDev(luma)
    return Quality(
        brightness=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        sharpness=float(cv2.Laplacian(small, cv2.CV_32F).var()),
        saturation=float(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)[..., 1].mean()),
        plate_count=len(image.plates),
        smallest_plate=min((plate.box[2] - plate.box[0] for plate in image.plates), default=0.0),
    )


def exposure(brightness: float | None) -> str:
    """The exposure class of a mean luma: 'dark', 'normal', 'bright', or 'unknown' without one."""
    if brightness is None or math.isnan(brightness):
        return "unknown"
    if brightness < DARK_BELOW:
        return "dark"
    return "bright" if brightness >= BRIGHT_FROM else "normal"
