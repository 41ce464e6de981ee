"""Greedy non-maximum suppression for one class, in NumPy: of boxes that overlap the best stays."""

import numpy as np
from numpy.typing import NDArray

MAX_DETECTIONS = 300  # ultralytics' max_det, for what is compared with it
MAX_BOXES = 2001  # one more than `imaging.regions` takes: a plate too many is refused, not left out


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    iou: float,
    limit: int = MAX_BOXES,
) -> NDArray[np.intp]:
    """Indices of the boxes that stay, best score first.

    Args:
        boxes: `(N, 4)` x1, y1, x2, y2, pixels.
        scores: `(N,)`.
        iou: a box goes when its intersection over union with a better one that stays is greater
            than this (0..1), as in torchvision and ultralytics.
        limit: at most so many stay.
    """
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while order.size and len(kept) < limit:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        # Multiplied out, so that two boxes without area need no division by zero.
        order = rest[common <= iou * (area[best] + area[rest] - common)]
    return np.array(kept, np.intp)
