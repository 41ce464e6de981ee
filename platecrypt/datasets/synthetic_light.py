"""What light and camera do to a picture: day and night, glare, blur, noise, JPEG."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from platecrypt.datasets.synthetic_plates import Picture

Spot = tuple[float, float, float]
# Light changes slowly, so it is computed on a coarse grid.
COARSE = 8
# Red, green, blue.
MOONLIGHT = np.array([0.85, 0.92, 1.15], np.float32)
TAIL_LAMP = np.array([255, 40, 30], np.float32)
HEADLAMP = np.array([250, 240, 210], np.float32)
STREET_LAMP = np.array([255, 214, 140], np.float32)


@dataclass(frozen=True)
class Lens:
    """What the pictures of one ride share: colour cast (3,), noise in grey levels, vignette."""

    cast: NDArray[np.float32]
    noise: float
    vignette: float

    @classmethod
    def of_ride(cls, rng: np.random.Generator, full: bool) -> "Lens":
        """A camera at random."""
        cast = rng.normal(1.0, 0.04, 3).astype(np.float32)
        return cls(cast, float(rng.uniform(1, 7 if full else 3)), float(rng.uniform(0, 0.35)))


def expose(
    rng: np.random.Generator,
    picture: Picture,
    night: bool,
    lamps: Sequence[Spot],
    plates: Sequence[Spot],
    full: bool,
) -> Picture:
    """Light the picture: by day a gain and shadows, at night lamps, headlights and glare.

    `lamps` and `plates` are (x, y, size) in pixels; a lamp's size is negative where it is red.
    """
    height, width = picture.shape[:2]
    shape = (height // COARSE + 1, width // COARSE + 1)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) * COARSE
    glow = np.zeros((*shape, 3), np.float32)

    def blob(x: float, y: float, radius: float) -> NDArray[np.float32]:
        far = ((columns - x) ** 2 + (rows - y) ** 2) / (2 * max(radius, 1.0) ** 2)
        return np.asarray(np.exp(-far), dtype=np.float32)

    if night:
        gain = np.full((*shape, 3), rng.uniform(0.1, 0.22), np.float32) * MOONLIGHT
        strength = rng.uniform(0.35, 0.8) if full else rng.uniform(0.6, 0.9)
        # Our own headlights on the road before us.
        pool = blob(rng.uniform(0.4, 0.6) * width, 0.85 * height, 0.3 * width)
        gain += rng.uniform(0.0, 0.35) * pool[..., None]
        for x, y, size in plates:
            # Headlights reach what is before them; plates throw their light straight back.
            gain += strength * 0.25 * blob(x, y, 1.2 * size)[..., None]
            gain += strength * 0.7 * blob(x, y, 0.5 * size)[..., None]
        for x, y, size in lamps:
            tint = TAIL_LAMP if size < 0 else HEADLAMP
            power = rng.uniform(0.4, 0.9) if size < 0 else rng.uniform(0.3, 0.9 if full else 0.6)
            glow += power * blob(x, y, 0.9 * abs(size))[..., None] * tint
        for _ in range(int(rng.integers(0, 5))):
            x, y, size = rng.uniform((0, 0, 0.01), (1, 0.4, 0.04)) * (width, height, width)
            glow += rng.uniform(0.3, 1.0) * blob(x, y, size)[..., None] * STREET_LAMP
    else:
        gain = np.full((*shape, 3), rng.uniform(0.75 if full else 0.95, 1.2), np.float32)
        if rng.random() < 0.4:
            gain *= _cast_shadow(rng, columns, rows, width, height)[..., None]
    if plates and rng.random() < (0.15 if full else 0.03):
        x, y, size = plates[-1]
        offset = rng.normal(0, size, 2)
        glare = blob(x + offset[0], y + offset[1], rng.uniform(0.4, 1.2) * size)
        glow += rng.uniform(60, 190 if full else 110) * glare[..., None]
    lit = picture * cv2.resize(gain, (width, height)) + cv2.resize(glow, (width, height))
    return np.asarray(np.clip(lit, 0, 255).astype(np.uint8))


def photograph(
    rng: np.random.Generator, picture: Picture, lens: Lens, night: bool, plate_px: float, full: bool
) -> Picture:
    """Blur, vignette, colour cast and noise; `plate_px`, the narrowest plate, bounds the blur."""
    height, width = picture.shape[:2]
    if rng.random() < (0.45 if full else 0.15):
        length = int(min(rng.uniform(2, 14) * width / 1280 + 1, 0.16 * plate_px + 1))
        if length >= 2:
            picture = np.asarray(cv2.filter2D(picture, -1, _motion(length, rng.uniform(0, np.pi))))
    focus = min(rng.uniform(0.2, 2.2 if full else 0.8), 0.05 * plate_px)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.2, focus)))
    y, x = np.mgrid[-1:1:33j, -1:1:33j].astype(np.float32)
    fall = cv2.resize(1 - lens.vignette * (x * x + y * y) / 2, (width, height))
    noise = lens.noise * (2.0 if night else 1.0)
    grain = rng.standard_normal((height, width), np.float32) * noise
    seen = picture * (fall[..., None] * lens.cast) + grain[..., None]
    return np.asarray(np.clip(seen, 0, 255).astype(np.uint8))


def encode(picture: Picture, quality: int) -> bytes:
    """JPEG bytes of an RGB picture."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"the JPEG encoder refused a picture of {picture.shape}")
    return bytes(data.tobytes())


def _motion(length: int, angle: float) -> NDArray[np.float32]:
    """The kernel of a movement by `length` pixels."""
    side = length | 1
    kernel = np.zeros((side, side), np.float32)
    reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    a, b = side // 2 - reach, side // 2 + reach
    cv2.line(
        kernel, tuple(a.round().astype(int).tolist()), tuple(b.round().astype(int).tolist()), 1.0, 1
    )
    return np.asarray(kernel / kernel.sum())


def _cast_shadow(
    rng: np.random.Generator,
    columns: NDArray[np.float32],
    rows: NDArray[np.float32],
    width: int,
    height: int,
) -> NDArray[np.float32]:
    """The shadow of a house or tree across the scene: a soft diagonal edge."""
    angle = rng.uniform(0, 2 * np.pi)
    across = np.cos(angle) * (columns / width - 0.5) + np.sin(angle) * (rows / height - 0.5)
    edge = 1 / (1 + np.exp(-30 * (across - rng.normal(0, 0.2))))
    return np.asarray(1 - rng.uniform(0.2, 0.55) * edge, dtype=np.float32)
