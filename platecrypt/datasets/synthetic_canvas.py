"""A picture one can draw on in metres: a pinhole camera, filled polygons, pasted textures."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from platecrypt.datasets.synthetic_plates import Colour, Picture

# cv2 takes polygon corners as fixed-point numbers with this many fractional bits.
SHIFT = 4
NEAR_M = 0.25


@dataclass(frozen=True)
class Pose:
    """Where a vehicle is: its turn (3, 3), the plate's middle in camera metres (3,), its yaw."""

    turn: NDArray[np.float64]
    centre: NDArray[np.float64]
    yaw: float


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """The turn by yaw about the vertical, then by the camera's pitch and roll, in radians."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


@dataclass(frozen=True)
class Canvas:
    """The picture, (H, W, 3) uint8 RGB, and the focal length in pixels."""

    pixels: Picture
    focal: float

    def project(self, pose: Pose, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels (N, 2) of points (N, 3) in metres from the plate's middle: right, down, away."""
        height, width = self.pixels.shape[:2]
        seen = points @ pose.turn.T + pose.centre
        depth = np.maximum(seen[:, 2:3], NEAR_M)
        return np.asarray(seen[:, :2] * self.focal / depth + [width / 2, height / 2])

    def fill(self, corners: NDArray[np.float64], colour: Colour) -> None:
        """Fill a polygon given in pixels, with smooth edges."""
        fixed = np.clip(corners * (1 << SHIFT), -(1 << 18), 1 << 18).round().astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], colour, cv2.LINE_AA, SHIFT)

    def face(self, pose: Pose, points: NDArray[np.float64], colour: Colour) -> None:
        """Fill a polygon given in metres."""
        self.fill(self.project(pose, points), colour)

    def panel(
        self, pose: Pose, corners: NDArray[np.float64], colour: Colour, top: float, bottom: float
    ) -> None:
        """Fill a four-cornered face (clockwise from the top left) that is lit unevenly.

        `top` and `bottom` multiply the colour at the upper and lower edge.
        """
        self.face(pose, corners, shade(colour, (top + bottom) / 2))
        strips = 10
        left = np.linspace(corners[0], corners[3], strips + 1)
        right = np.linspace(corners[1], corners[2], strips + 1)
        for i in range(strips):
            part = np.array([left[i], right[i], right[i + 1], left[i + 1]])
            self.face(pose, part, shade(colour, top + (bottom - top) * (i + 0.5) / strips))

    def paste(self, texture: Picture, quad: NDArray[np.float64]) -> None:
        """Lay a texture (H, W, 3) over four corners in pixels, clockwise from its top left."""
        height, width = self.pixels.shape[:2]
        x1, y1 = np.maximum(np.floor(quad.min(0)) - 1, 0).astype(int)
        x2, y2 = np.minimum(np.ceil(quad.max(0)) + 2, [width, height]).astype(int)
        if x2 - x1 < 2 or y2 - y1 < 2:
            return
        th, tw = texture.shape[:2]
        # Pixel centres lie at half numbers, corners at whole ones.
        source = np.array([[0, 0], [tw, 0], [tw, th], [0, th]], np.float32) - 0.5
        target = (quad - [x1, y1] - 0.5).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        size = (int(x2 - x1), int(y2 - y1))
        warped = cv2.warpPerspective(
            texture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        mask = np.zeros((size[1], size[0]), np.uint8)
        fixed = ((quad - [x1, y1] - 0.5) * (1 << SHIFT)).round().astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, SHIFT)
        part = self.pixels[y1:y2, x1:x2]
        weight = mask[..., None].astype(np.uint16)
        part[:] = ((part * (255 - weight) + warped * weight) // 255).astype(np.uint8)


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker or brighter."""
    r, g, b = (min(255, max(0, round(value * factor))) for value in colour)
    return (r, g, b)


def rectangle(x1: float, y1: float, x2: float, y2: float, z: float = 0.0) -> NDArray[np.float64]:
    """Four corners in metres, clockwise from the top left, at one depth."""
    return np.array([[x1, y1, z], [x2, y1, z], [x2, y2, z], [x1, y2, z]])


def ellipse(x: float, y: float, rx: float, ry: float, z: float = 0.0) -> NDArray[np.float64]:
    """Sixteen points of an ellipse in metres."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle), np.full(16, z)], axis=1)
