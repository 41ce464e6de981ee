"""From plates to regions: the rectangles of pixels that are taken out of a picture."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from platecrypt.errors import BadInputError

MARGIN = 0.08
"""How much of a box's width and height is added at each side."""
MAX_BOXES = 2_000
"""More plates than that in one picture are a mistake, and merging them would take long."""

Boxes = npt.ArrayLike


class Region(NamedTuple):
    """A rectangle of whole pixels: columns x1 <= x < x2, rows y1 <= y < y2."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        """Pixels across."""
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        """Pixels down."""
        return self.y2 - self.y1

    def overlaps(self, other: "Region") -> bool:
        """Whether the two share a pixel."""
        across = self.x1 < other.x2 and other.x1 < self.x2
        return across and self.y1 < other.y2 and other.y1 < self.y2

    def union(self, other: "Region") -> "Region":
        """The smallest rectangle that holds both."""
        return Region(
            min(self.x1, other.x1),
            min(self.y1, other.y1),
            max(self.x2, other.x2),
            max(self.y2, other.y2),
        )


def hull_boxes(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Boxes (N, 4) as they are, quads (N, 4, 2) as the boxes around them: (N, 4) float64.

    Raises:
        BadInputError: another shape, no numbers, too many, infinite, or a box without area.
    """
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInputError("boxes must be numbers: N rows x1, y1, x2, y2, or N quads") from None
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim == 3 and array.shape[1:] == (4, 2):
        array = np.concatenate((array.min(axis=1), array.max(axis=1)), axis=1)
    if array.ndim != 2 or array.shape[1] != 4:
        raise BadInputError(f"boxes have shape {array.shape}, not (N, 4) or (N, 4, 2)")
    if len(array) > MAX_BOXES:
        raise BadInputError(
            f"{len(array)} boxes are more than the {MAX_BOXES} one picture may have"
        )
    bad = ~(np.isfinite(array).all(axis=1) & (array[:, :2] < array[:, 2:]).all(axis=1))
    if bad.any():
        index = int(bad.argmax())
        raise BadInputError(
            f"box {index} is {array[index].tolist()}: it needs finite x1 < x2 and y1 < y2"
        )
    return array


def regions(boxes: Boxes, width: int, height: int, *, margin: float = MARGIN) -> tuple[Region, ...]:
    """The regions of a picture: boxes with a margin, clipped, those that overlap made one.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 or (N, 4, 2) corners, pixels; a quad counts as its hull box.
        width: of the picture, pixels.
        height: of the picture, pixels.
        margin: share of a box's own width and height added at each side, 0..1.

    Returns:
        Regions that share no pixel, sorted from top to bottom, then from left to right.

    Raises:
        BadInputError: see `hull_boxes`; a box outside the picture; a margin out of range.
    """
    return merged(grown(boxes, width, height, margin=margin))


def merged(parts: Sequence[Region]) -> tuple[Region, ...]:
    """Regions that share no pixel: those that overlap made one, from top to bottom, left to right.

    Args:
        parts: in any order.
    """
    done: list[Region] = []
    for region in parts:
        current, rest = region, done
        # A union may reach regions that neither part touched: go on until nothing is left over.
        while hit := [other for other in rest if other.overlaps(current)]:
            rest = [other for other in rest if not other.overlaps(current)]
            for other in hit:
                current = current.union(other)
        done = [*rest, current]
    return tuple(sorted(done, key=lambda r: (r.y1, r.x1)))


def grown(boxes: Boxes, width: int, height: int, *, margin: float = MARGIN) -> list[Region]:
    """One clipped region for each box, in their order, before any are merged."""
    if not 0 <= margin <= 1:
        raise BadInputError(f"margin {margin} is not within 0..1 (0.08 is 8 % at each side)")
    found = []
    for index, (x1, y1, x2, y2) in enumerate(hull_boxes(boxes).tolist()):
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            raise BadInputError(
                f"box {index} is {[x1, y1, x2, y2]}: outside the picture of {width} x {height}"
            )
        dx, dy = margin * (x2 - x1), margin * (y2 - y1)
        found.append(
            Region(
                math.floor(max(0.0, x1 - dx)),
                math.floor(max(0.0, y1 - dy)),
                math.ceil(min(float(width), x2 + dx)),
                math.ceil(min(float(height), y2 + dy)),
            )
        )
    return found


def region_of(part: Region, found: Sequence[Region]) -> int:
    """The index of the region in `found` that holds `part` (one always does)."""
    return next(index for index, region in enumerate(found) if region.overlaps(part))
