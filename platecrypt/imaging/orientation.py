"""EXIF orientation: between the picture as it is stored and as a viewer shows it.

Source of the eight cases: EXIF 2.32, tag 0x0112.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from platecrypt.imaging.regions import Region

TURNED = (5, 6, 7, 8)
"""Those in which width and height change places."""


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Stored pixels, (H, W) or (H, W, C), as a viewer shows them.

    Args:
        pixels: as stored.
        orientation: 1..8.
    """
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height as a viewer shows them, from those stored."""
    return (height, width) if orientation in TURNED else (width, height)


def stored_region(region: Region, width: int, height: int, orientation: int) -> Region:
    """A region of the upright picture, in the stored one of `width` x `height` pixels."""
    across, down = upright_size(width, height, orientation)
    x1, y1, x2, y2 = region
    if orientation in (2, 3, 6, 7):
        x1, x2 = across - x2, across - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = down - y2, down - y1
    if orientation in TURNED:
        x1, y1, x2, y2 = y1, x1, y2, x2
    return Region(x1, y1, x2, y2)


def upright_region(region: Region, width: int, height: int, orientation: int) -> Region:
    """A region of the stored picture of `width` x `height` pixels, in the upright one."""
    across, down = upright_size(width, height, orientation)
    x1, y1, x2, y2 = region
    if orientation in TURNED:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if orientation in (2, 3, 6, 7):
        x1, x2 = across - x2, across - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = down - y2, down - y1
    return Region(x1, y1, x2, y2)
