"""The letterbox: how an image of any size becomes the square that the network wants, and back.

The numbers are those of ultralytics' validation transform (aspect kept, scaled up or down,
bilinear, grey 114, centred, the odd pixel of padding at the bottom and the right), because a
network sees best what it was trained on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GREY = 114  # ultralytics' padding value
TIE = 0.1  # ultralytics' way to give the odd pixel of padding to the far side


@dataclass(frozen=True)
class Letterbox:
    """The mapping between a source image and the network's square.

    Attributes:
        width, height: of the source image, pixels, at least 1.
        size: side of the square, pixels.
    """

    width: int
    height: int
    size: int

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the scaled image inside the square, pixels, at least 1."""
        gain = min(self.size / self.height, self.size / self.width)
        return max(round(self.width * gain), 1), max(round(self.height * gain), 1)

    @property
    def offset(self) -> tuple[int, int]:
        """Left and top padding, pixels."""
        width, height = self.inner
        return round((self.size - width) / 2 - TIE), round((self.size - height) / 2 - TIE)

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The source `(height, width, 3)` uint8 scaled to `inner`, without the padding.

        The letterbox of what this gives is the same square, so a picture may be fitted in one
        process and padded in another.
        """
        import cv2

        if self.inner == (self.width, self.height):
            return pixels
        scaled: Any = cv2.resize(pixels, self.inner, interpolation=cv2.INTER_LINEAR)
        return np.asarray(scaled, np.uint8)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The source `(height, width, 3)` uint8 as a `(size, size, 3)` uint8 square."""
        scaled = self.fit(pixels)
        width, height = self.inner
        if (width, height) == (self.size, self.size):
            return np.ascontiguousarray(scaled)
        left, top = self.offset
        square = np.full((self.size, self.size, 3), GREY, np.uint8)
        square[top : top + height, left : left + width] = scaled
        return square

    def to_source(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `(N, 4)` x1, y1, x2, y2 of the square in source pixels, clipped to the image.

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
