"""Picture files to pixels and back: sizes are checked before a pixel is decoded.

Pixels are upright: an EXIF orientation is applied on decoding, so boxes, regions and recovered
pixels all mean the picture as a viewer shows it. What is encoded again carries no orientation and
none of the source's metadata; depth is 8 bit, grey and CMYK become RGB, an alpha channel is dropped
(its colours stay visible).
"""

import hashlib
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt

from platecrypt.errors import BadInputError
from platecrypt.imaging.containers import SAMPLINGS, Format, Header, read_header
from platecrypt.imaging.orientation import upright

Pixels = npt.NDArray[np.uint8]

MAX_BYTES = 64 * 1024 * 1024
"""Default limit of a file, bytes."""
MAX_PIXELS = 100_000_000
"""Default limit of a picture, pixels: about 300 MB decoded."""
QUALITY = 92
"""Of what is encoded where the source names no quality of its own."""
SAMPLING = "4:2:0"
"""Of a JPEG's colours where the source names none: what nearly all cameras write."""

_SUFFIX: dict[Format, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tiff"}
_WEBP_LOSSLESS = 101


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, upright.
        format: 'jpeg', 'png' or 'webp'.
        lossless: the file kept every pixel (PNG, lossless WebP).
        source: the bytes it was decoded from.
        sha256: of `source`, hexadecimal.
        sealed: the envelopes the file carries.
        quality, sampling: of a JPEG, see `Header`; 0 and "" where they cannot be told.
    """

    pixels: Pixels = field(repr=False)
    format: Format
    lossless: bool
    source: bytes = field(repr=False)
    sha256: str
    sealed: tuple[bytes, ...] = field(repr=False)
    quality: int = 0
    sampling: str = ""

    @property
    def width(self) -> int:
        """Pixels across, upright."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels down, upright."""
        return int(self.pixels.shape[0])


def decode(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode a JPEG, PNG or WebP file.

    Args:
        data: the file.
        max_bytes: longest file accepted.
        max_pixels: largest width * height accepted, checked before anything is allocated.

    Raises:
        BadInputError: too long, too large, animated, truncated, damaged, or not such an image.
    """
    import cv2

    if len(data) > max_bytes:
        raise BadInputError(f"the image has {len(data)} bytes, more than the {max_bytes} allowed")
    header = read_header(data)
    check_size(header, max_pixels)
    if header.format == "tiff":
        raise BadInputError("TIFF is for files, not taken here; give a JPEG, PNG or WebP image")
    options = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), options)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise BadInputError(f"the {header.format} image is damaged or cut short; fetch it again")
    digest = hashlib.sha256(data).hexdigest()
    # Turned by the same reading of EXIF that regions of a file are turned back with.
    pixels = upright(pixels, header.orientation)
    sampling = header.sampling
    if header.orientation > 4:  # it lies on its side: across becomes down
        sampling = {"4:2:2": "4:4:0", "4:4:0": "4:2:2", "4:1:1": ""}.get(sampling, sampling)
    sealed, quality = header.sealed, header.quality
    return Image(pixels, header.format, header.lossless, data, digest, sealed, quality, sampling)


def check_size(header: Header, max_pixels: int) -> None:
    """Refuse what must not be decoded.

    Raises:
        BadInputError: no pixels, too many, or more than one picture.
    """
    if header.width < 1 or header.height < 1:
        raise BadInputError(f"the image is {header.width} x {header.height} pixels: nothing to see")
    if header.width * header.height > max_pixels:
        raise BadInputError(
            f"the image is {header.width} x {header.height} pixels, more than the {max_pixels} "
            "allowed; scale it down"
        )
    if header.animated:
        raise BadInputError("the image is animated, or has pages; give its pictures one by one")


def encode(
    pixels: Pixels,
    format: Format,  # noqa: A002
    *,
    quality: int = QUALITY,
    sampling: str = SAMPLING,
    lossless: bool = False,
) -> bytes:
    """Encode pixels as a file without metadata.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        format: 'jpeg', 'png', 'webp' or 'tiff'.
        quality: 1..100, for JPEG and lossy WebP.
        sampling: of a JPEG's colours, one of SAMPLINGS.
        lossless: WebP keeps every pixel (PNG always does, JPEG never).

    Raises:
        BadInputError: an unknown format or sampling, a quality out of range, or a picture that the
            format cannot hold (more than 65535 pixels a side in JPEG, 16383 in WebP).
        ValueError: `pixels` has another shape or type.
    """
    return encode_bgr(
        swapped(pixels), format, quality=quality, sampling=sampling, lossless=lossless
    )


def swapped(pixels: Pixels) -> Pixels:
    """A copy of (H, W, 3) uint8 pixels with red and blue exchanged: RGB as BGR, and back.

    Raises:
        ValueError: `pixels` has another shape or type.
    """
    import cv2

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)


def encode_bgr(
    pixels: Pixels,
    format: Format,  # noqa: A002
    *,
    quality: int = QUALITY,
    sampling: str = SAMPLING,
    lossless: bool = False,
) -> bytes:
    """The same for BGR, which is OpenCV's order: spares a pass over the picture."""
    import cv2

    if format not in get_args(Format):
        raise BadInputError(f"format {format!r} is none of {', '.join(get_args(Format))}")
    if not 1 <= quality <= 100:
        raise BadInputError(f"quality {quality} is not within 1..100")
    if sampling not in SAMPLINGS:
        raise BadInputError(f"sampling {sampling!r} is none of {', '.join(SAMPLINGS)}")
    options: list[int] = []
    if format == "jpeg":
        factors = SAMPLINGS[sampling] << 16 | 0x1111
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors]
    elif format == "webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS if lossless else quality]
    try:
        done, data = cv2.imencode(_SUFFIX[format], pixels, options)
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise BadInputError(f"{width} x {height} pixels cannot be written as {format}")
    return bytes(data)
