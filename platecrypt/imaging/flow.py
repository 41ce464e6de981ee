"""Where a box goes from one frame to the next: optical flow on the corners within it.

Pyramidal Lucas-Kanade with a check forwards and backwards (Bouguet 2000; Kalal et al. 2010).
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from platecrypt.imaging.regions import Region
from platecrypt.imaging.tracking import Box

Gray = npt.NDArray[np.uint8]
Patch = Callable[[int, Region], Gray]
"""(frame, region) -> (H, W) uint8: the brightness within a region of the upright picture."""

CORNERS = 60
FEWEST = 6
"""Corners that must be found again, else the box counts as lost."""
MOST_ERROR = 0.7
"""Pixels between a corner and itself, followed forwards and back."""
REACH = 1.0
"""How far around the box is looked, in its width and height; at least LEAST_REACH pixels."""
LEAST_REACH = 24
MOST_SIDE = 360
"""Larger patches are scaled down: a plate needs no more to be followed."""
MOST_SCALE = 1.1
"""A plate grows or shrinks by no more than that factor from frame to frame."""


def follow(patch: Patch, width: int, height: int, box: Box, start: int, stop: int) -> list[Box]:
    """Follow `box` from frame `start` to frame `stop`, forwards or backwards.

    Args:
        patch: gives the brightness of a frame.
        width: of the upright picture, pixels.
        height: of the upright picture, pixels.
        box: in frame `start`.
        start: a frame.
        stop: another.

    Returns:
        The boxes in the frames after `start`, up to and with `stop`; fewer if it was lost.
    """
    step = 1 if stop > start else -1
    found: list[Box] = []
    for frame in range(start + step, stop + step, step):
        around = _around(box, width, height)
        if around is None:
            break
        moved = _step(patch(frame - step, around), patch(frame, around), box, around)
        if moved is None:
            break
        box = moved
        found.append(box)
    return found


def _around(box: Box, width: int, height: int) -> Region | None:
    """The part of the picture that is looked at; None where the box has left it."""
    dx = max(LEAST_REACH, REACH * box.width)
    dy = max(LEAST_REACH, REACH * box.height)
    region = Region(
        max(0, math.floor(box.x1 - dx)),
        max(0, math.floor(box.y1 - dy)),
        min(width, math.ceil(box.x2 + dx)),
        min(height, math.ceil(box.y2 + dy)),
    )
    inside = box.x1 < width and box.y1 < height and box.x2 > 0 and box.y2 > 0
    return region if inside else None


def _step(before: Gray, after: Gray, box: Box, around: Region) -> Box | None:
    import cv2

    scale = min(1.0, MOST_SIDE / max(before.shape))
    if scale < 1:
        size = (round(before.shape[1] * scale), round(before.shape[0] * scale))
        before, after = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (before, after))
    left, top = around.x1, around.y1
    inner = [(box.x1 - left), (box.y1 - top), (box.x2 - left), (box.y2 - top)]
    x1, y1, x2, y2 = (round(value * scale) for value in inner)
    mask = np.zeros(before.shape, np.uint8)
    mask[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = 255
    corners = cv2.goodFeaturesToTrack(before, CORNERS, 0.02, 3, mask=mask)
    if corners is None or len(corners) < FEWEST:
        return None
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None)
    error = np.linalg.norm((back - corners).reshape(-1, 2), axis=1)
    good = (found.ravel() == 1) & (again.ravel() == 1) & (error < MOST_ERROR)
    if good.sum() < max(FEWEST, len(corners) / 3):
        return None
    return _moved(box, corners.reshape(-1, 2)[good] / scale, there.reshape(-1, 2)[good] / scale)


def _moved(box: Box, was: npt.NDArray[np.floating], now: npt.NDArray[np.floating]) -> Box | None:
    """The box, moved and scaled as most of its corners were."""
    shift = np.median(now - was, axis=0)
    stray = np.linalg.norm(now - was - shift, axis=1)
    agree = stray <= 1.5 + 0.1 * math.hypot(box.width, box.height)
    if agree.sum() < len(was) / 2:
        return None
    was, now = was[agree], now[agree]
    radius = np.linalg.norm(was - np.median(was, axis=0), axis=1)
    spread = np.linalg.norm(now - np.median(now, axis=0), axis=1)
    wide = radius > 3
    scale = float(np.median(spread[wide] / radius[wide])) if wide.sum() >= FEWEST else 1.0
    scale = min(MOST_SCALE, max(1 / MOST_SCALE, scale))
    return box.moved(float(shift[0]), float(shift[1])).grown((scale - 1) / 2)
