"""Draws what is behind the vehicles: sky, houses, trees, road, and signs that are no plates."""

import cv2
import numpy as np

from platecrypt.datasets.synthetic_canvas import Canvas, shade
from platecrypt.datasets.synthetic_plates import Colour, Picture, characters, lettering

SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((96, 148, 214), (206, 222, 236)),
    ((176, 182, 190), (216, 218, 220)),
    ((126, 132, 144), (186, 186, 184)),
    ((90, 110, 160), (240, 196, 150)),
)
WALLS: tuple[Colour, ...] = (
    (176, 160, 138), (150, 96, 80), (196, 192, 184),
    (120, 122, 126), (206, 186, 130), (88, 92, 100),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = ((58, 84, 40), (84, 108, 52), (112, 104, 48), (44, 64, 44))
ASPHALT: tuple[Colour, ...] = ((92, 92, 94), (116, 114, 110), (74, 76, 80), (132, 126, 118))
SIGN_TEXTS = (
    "STOP",
    "EXIT 00",
    "AA 00",
    "A 000",
    "00",
    "CENTRE",
    "PARK AA",
    "00 km",
    "OPEN",
    "AAA-000",
)


def paint(rng: np.random.Generator, canvas: Canvas, horizon: float, night: bool) -> None:
    """Fill the whole picture with a street whose horizon is at that row (it may lie outside)."""
    height, width = canvas.pixels.shape[:2]
    row = int(np.clip(horizon, 0.05 * height, 0.75 * height))
    top, low = SKIES[int(rng.integers(len(SKIES)))]
    canvas.pixels[:] = _blend(top, low, height)[:, None]
    _houses(rng, canvas, row, night)
    _trees(rng, canvas, row)
    _road(rng, canvas, row)
    texture = rng.normal(0, rng.uniform(3, 9), (height // 6 + 1, width // 6 + 1)).astype(np.float32)
    grain = cv2.resize(texture, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas.pixels[:] = cv2.add(canvas.pixels, cv2.merge([grain] * 3), dtype=cv2.CV_8U)


def paint_signs(rng: np.random.Generator, canvas: Canvas, horizon: float, count: int) -> None:
    """Boards with text, on poles and on walls, that a detector must learn to leave alone."""
    height, width = canvas.pixels.shape[:2]
    for _ in range(count):
        wide = rng.uniform(0.05, 0.16) * width
        # Signs hang over the street or stand beside it; where one sees mostly road, at its edges.
        y = rng.uniform(0.0, 0.9) * max(horizon - wide, 0.12 * height)
        x = rng.uniform(0, width - wide)
        if y + wide > horizon:
            x = (rng.uniform(0, 0.12) + (0.72 if rng.random() < 0.5 else 0.0)) * width
        text = characters(rng, SIGN_TEXTS[int(rng.integers(len(SIGN_TEXTS)))])
        paper, ink = (((238, 238, 234), (30, 30, 34)), ((30, 80, 160), (240, 240, 240)),
                      ((40, 110, 70), (240, 240, 240)), ((240, 200, 40), (20, 20, 20)),
                      ((180, 30, 34), (244, 244, 244)))[int(rng.integers(5))]  # fmt: skip
        pole = int(x + wide / 2)
        if rng.random() < 0.7:
            foot = (pole, int(max(horizon, y) + 0.15 * height))
            cv2.line(canvas.pixels, (pole, int(y)), foot, (120, 122, 124), max(1, width // 200))
        if rng.random() < 0.3:
            centre = (pole, int(y + wide / 2))
            cv2.circle(canvas.pixels, centre, int(wide / 2), (188, 30, 34), -1, cv2.LINE_AA)
            cv2.circle(canvas.pixels, centre, int(wide * 0.38), (240, 240, 236), -1, cv2.LINE_AA)
            paper, ink = (240, 240, 236), (20, 20, 20)
            x, wide = x + wide * 0.25, wide * 0.5
            y += wide * 0.6
        board = lettering(rng, text, paper, ink, int(2 * wide))
        tall = wide * board.shape[0] / board.shape[1]
        skew = rng.normal(0, 0.06) * wide
        quad = np.array([[x, y], [x + wide, y + skew], [x + wide, y + tall + skew], [x, y + tall]])
        canvas.paste(board, quad)


def _blend(top: Colour, low: Colour, rows: int) -> Picture:
    share = np.linspace(0, 1, rows)[:, None]
    return np.asarray((np.array(top) * (1 - share) + np.array(low) * share).astype(np.uint8))


def _houses(rng: np.random.Generator, canvas: Canvas, row: int, night: bool) -> None:
    height, width = canvas.pixels.shape[:2]
    x = int(-0.1 * width)
    while x < width:
        wide = int(rng.uniform(0.1, 0.35) * width)
        if rng.random() < 0.75:
            top = int(row - rng.uniform(0.1, 0.6) * height)
            wall = shade(WALLS[int(rng.integers(len(WALLS)))], rng.uniform(0.7, 1.1))
            cv2.rectangle(canvas.pixels, (x, top), (x + wide, row + 2), wall, -1)
            _windows(rng, canvas, (x, top, x + wide, row), wall, night)
        x += wide + int(rng.uniform(0, 0.06) * width)


def _windows(
    rng: np.random.Generator,
    canvas: Canvas,
    wall_box: tuple[int, int, int, int],
    wall: Colour,
    night: bool,
) -> None:
    x1, y1, x2, y2 = wall_box
    step = max(8, int(rng.uniform(0.04, 0.08) * canvas.pixels.shape[1]))
    for y in range(y1 + step // 3, y2 - step // 2, step):
        for x in range(x1 + step // 3, x2 - step // 2, step):
            lit = rng.random() < (0.3 if night else 0.05)
            glass: Colour = (255, 232, 170) if lit else shade(wall, 0.45)
            cv2.rectangle(canvas.pixels, (x, y), (x + step // 2, y + step // 2), glass, -1)


def _trees(rng: np.random.Generator, canvas: Canvas, row: int) -> None:
    height, width = canvas.pixels.shape[:2]
    for _ in range(int(rng.integers(0, 5))):
        x, size = rng.uniform(0, width), rng.uniform(0.05, 0.16) * height
        leaf = LEAVES[int(rng.integers(len(LEAVES)))]
        cv2.line(
            canvas.pixels,
            (int(x), int(row - size)),
            (int(x), row + 4),
            (64, 50, 38),
            max(1, width // 120),
        )
        for _ in range(14):
            offset = rng.normal(0, size / 2.2, 2)
            centre = (int(x + offset[0]), int(row - 2.2 * size + offset[1]))
            colour = shade(leaf, rng.uniform(0.7, 1.35))
            cv2.circle(
                canvas.pixels, centre, int(size * rng.uniform(0.2, 0.5)), colour, -1, cv2.LINE_AA
            )


def _road(rng: np.random.Generator, canvas: Canvas, row: int) -> None:
    height, width = canvas.pixels.shape[:2]
    grey = ASPHALT[int(rng.integers(len(ASPHALT)))]
    verge: Colour = (
        LEAVES[int(rng.integers(len(LEAVES)))] if rng.random() < 0.5 else (150, 146, 138)
    )
    canvas.pixels[row:] = _blend(shade(verge, 1.0), shade(verge, 0.8), height - row)[:, None]
    vanish = rng.uniform(0.3, 0.7) * width
    left, right = rng.uniform(-1.2, 0.0) * width, rng.uniform(1.0, 2.2) * width
    narrow = 0.05 * width
    road = np.array(
        [[vanish - narrow, row], [vanish + narrow, row], [right, height], [left, height]]
    )
    canvas.fill(road, grey)
    lanes = int(rng.integers(1, 5))
    for lane in range(1, lanes):
        foot = left + (right - left) * lane / lanes
        for start in np.arange(0.05, 1.0, 0.2):
            a, b = start**1.6, (start + 0.1) ** 1.6
            xs = [vanish + (foot - vanish) * share for share in (a, b)]
            ys = [row + (height - row) * share for share in (a, b)]
            w = 0.006 * width
            dash = np.array(
                [
                    [xs[0] - w * a, ys[0]],
                    [xs[0] + w * a, ys[0]],
                    [xs[1] + w * b, ys[1]],
                    [xs[1] - w * b, ys[1]],
                ]
            )
            canvas.fill(dash, (222, 222, 216))
