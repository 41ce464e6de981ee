"""The letterbox: how an image of any size becomes the frame that the network looks at, and back.

A network of fixed shape looks at a square. One that takes any shape looks at the smallest rectangle
of whole strides that holds the scaled image: 640 x 384 instead of 640 x 640 for a 16:9 picture, two
fifths less work. The numbers are those of ultralytics (aspect kept, scaled up or down, bilinear,
grey 114, centred, the odd pixel of padding at the bottom and the right), because a network sees
best what it was trained on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY = 114  # ultralytics' padding value
TIE = 0.1  # ultralytics' way to give the odd pixel of padding to the far side


@dataclass(frozen=True)
class Letterbox:
    """The mapping between a source image and the network's frame.

    Attributes:
        width, height: of the source image, pixels, at least 1.
        size: longer side of the frame, pixels.
        stride: both sides of the frame are multiples of it, pixels; 0: the frame is the square.
    """

    width: int
    height: int
    size: int
    stride: int = 0

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the scaled image inside the frame, pixels, at least 1."""
        gain = min(self.size / self.height, self.size / self.width)
        return max(round(self.width * gain), 1), max(round(self.height * gain), 1)

    @property
    def frame(self) -> tuple[int, int]:
        """Width and height of what the network looks at, pixels."""
        if not self.stride:
            return self.size, self.size
        width, height = (-(-side // self.stride) * self.stride for side in self.inner)
        return width, height

    @property
    def offset(self) -> tuple[int, int]:
        """Left and top padding, pixels."""
        width, height = (outer - inner for outer, inner in zip(self.frame, self.inner, strict=True))
        return round(width / 2 - TIE), round(height / 2 - TIE)

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The source `(height, width, 3)` uint8 scaled to `inner`, without the padding.

        The letterbox of what this gives is the same frame, so a picture may be fitted in one
        process and padded in another.
        """
        import cv2

        if self.inner == (self.width, self.height):
            return pixels
        scaled: Any = cv2.resize(pixels, self.inner, interpolation=cv2.INTER_LINEAR)
        return np.asarray(scaled, np.uint8)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The source `(height, width, 3)` uint8 as the uint8 frame, `(*frame[::-1], 3)`."""
        scaled = self.fit(pixels)
        width, height = self.inner
        if (width, height) == self.frame:
            return np.ascontiguousarray(scaled)
        left, top = self.offset
        frame = np.full((*self.frame[::-1], 3), GREY, np.uint8)
        frame[top : top + height, left : left + width] = scaled
        return frame

    def to_source(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `(N, 4)` x1, y1, x2, y2 of the frame in source pixels, clipped to the image.

        The gain is taken per axis, so that the rounding of the inner size is undone exactly.
        """
        left, top = self.offset
        return self.from_fitted(boxes - np.array([left, top, left, top], np.float32))

    def from_fitted(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `(N, 4)` of the fitted image in source pixels, clipped to the image."""
        width, height = self.inner
        gain = np.array([width / self.width, height / self.height] * 2, np.float32)
        limit = np.array([self.width, self.height] * 2, np.float32)
        return np.asarray(np.clip(boxes / gain, 0, limit), np.float32)
