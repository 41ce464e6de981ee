"""Draws vehicles around a plate: rears and fronts of cars, vans, lorries, motorcycles."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from platecrypt.datasets.synthetic_canvas import Canvas, Pose, ellipse, rectangle, shade
from platecrypt.datasets.synthetic_plates import Colour, lettering

Kind = Literal["car", "van", "lorry", "motorcycle"]
Lamp = tuple[float, float, float]
PAINTS: tuple[Colour, ...] = (
    (236, 236, 236), (200, 202, 206), (150, 153, 158), (92, 95, 100), (34, 35, 38), (20, 20, 22),
    (28, 58, 120), (60, 110, 170), (150, 24, 28), (190, 40, 34), (30, 84, 56), (196, 178, 140),
    (214, 150, 40), (120, 72, 48), (90, 150, 150),
)  # fmt: skip
GLASS: Colour = (52, 62, 72)
RUBBER: Colour = (22, 22, 24)
WORDS = ("RALLYE", "BABY ON BOARD", "TURBO", "4x4", "0800 123", "DIESEL", "TAXI", "COURIER",
         "SCHOOL", "RENTAL 24", "MUSIC", "EXPRESS 77")  # fmt: skip


@dataclass(frozen=True)
class Body:
    """The measures of a vehicle in metres, and which end of it one sees.

    Attributes:
        ground: height of the plate's middle above the road.
        height: height of the roof above the plate's middle.
    """

    kind: Kind
    front: bool
    width: float
    height: float
    length: float
    ground: float
    paint: Colour


def choose(rng: np.random.Generator, full: bool) -> Body:
    """A vehicle at random."""
    lot = rng.random()
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    front = bool(rng.random() < 0.4)
    if full and lot < 0.10:
        return Body("motorcycle", False, 0.75, 0.9, 1.0, 0.65, paint)
    if lot < 0.20:
        return Body("lorry", False, 2.4, rng.uniform(2.0, 2.8), 4.0, 0.75, paint)
    if lot < 0.36:
        return Body("van", front, 1.95, rng.uniform(1.3, 1.7), 3.5, 0.65, paint)
    return Body("car", front, rng.uniform(1.65, 1.9), rng.uniform(0.85, 1.15), 3.2,
                rng.uniform(0.42, 0.75), paint)  # fmt: skip


def paint(
    rng: np.random.Generator,
    canvas: Canvas,
    pose: Pose,
    body: Body,
    plate: tuple[float, float],
    stickers: float,
) -> list[Lamp]:
    """Draw a vehicle whose plate, `plate` metres wide and high, is at the pose's middle.

    `stickers` is the chance that it bears one.

    Returns:
        The lamps in pixels: x, y, and a radius that is negative for red ones.
    """
    reach, road = body.width * 0.6, body.ground
    shadow = np.array([[-reach, road, -0.15], [reach, road, -0.15],
                       [reach, road, body.length], [-reach, road, body.length]])  # fmt: skip
    canvas.face(pose, shadow, (38, 38, 40))
    if body.kind == "motorcycle":
        return _motorcycle(rng, canvas, pose, body, plate)
    _flanks(canvas, pose, body)
    lamps = _end(rng, canvas, pose, body)
    _recess(rng, canvas, pose, plate)
    if rng.random() < stickers:
        _sticker(rng, canvas, pose, body)
    return lamps


def _flanks(canvas: Canvas, pose: Pose, body: Body) -> None:
    """Wheels, the side that is turned to us, the roof."""
    half, floor = body.width / 2, body.ground - 0.18
    for side in (-1, 1):
        x = side * (half - 0.14)
        canvas.face(pose, rectangle(x - 0.11, floor - 0.2, x + 0.11, body.ground, 0.15), RUBBER)
        # One sees the flank whose outward normal points to the camera.
        normal = pose.turn @ np.array([side, 0.0, 0.0])
        place = pose.turn @ np.array([side * half, 0.0, 0.0]) + pose.centre
        if float(normal @ place) >= 0:
            continue
        belt, roof, x = -body.height * 0.45, -body.height * 0.97, side * half
        flank = np.array(
            [[x, belt, 0.05], [x, belt, body.length], [x, floor, body.length], [x, floor, 0.0]]
        )
        canvas.panel(pose, flank, body.paint, 0.8, 0.5)
        inner = x * (0.98 if body.kind == "lorry" else 0.85)
        cabin = np.array([[inner, roof, 0.35], [inner, roof, body.length * 0.8],
                          [x, belt, body.length * 0.95], [x, belt, 0.05]])  # fmt: skip
        canvas.panel(pose, cabin, body.paint if body.kind == "lorry" else GLASS, 0.85, 0.6)
        for z in (0.7, body.length - 0.7):
            wheel = ellipse(0.0, body.ground - 0.32, 0.32, 0.32)
            canvas.face(
                pose, np.stack([np.full(16, x), wheel[:, 1], z + wheel[:, 0]], axis=1), RUBBER
            )


def _end(rng: np.random.Generator, canvas: Canvas, pose: Pose, body: Body) -> list[Lamp]:
    """The end that wears the plate."""
    half, floor, belt = body.width / 2, body.ground - 0.18, -body.height * 0.45
    roof = -body.height
    narrow = 0.97 if body.kind == "lorry" else rng.uniform(0.74, 0.88)
    slope = 0.0 if body.kind == "lorry" else rng.uniform(0.1, 0.5)
    upper = np.array([[-half * narrow, roof, slope], [half * narrow, roof, slope],
                      [half, belt, 0.0], [-half, belt, 0.0]])  # fmt: skip
    canvas.panel(pose, upper, body.paint, 1.1, 0.95)
    lower = np.array(
        [[-half, belt, 0], [half, belt, 0], [half * 0.97, floor, 0], [-half * 0.97, floor, 0]]
    )
    canvas.panel(pose, lower, body.paint, rng.uniform(0.95, 1.15), rng.uniform(0.55, 0.8))
    if body.kind == "lorry":
        return _cargo(rng, canvas, pose, body)
    window = upper * [0.86, 1.0, 1.0]
    window[:2, 1] += 0.07 * body.height
    window[2:, 1] -= 0.06 * body.height
    canvas.panel(pose, window, GLASS, rng.uniform(0.7, 2.2), rng.uniform(0.5, 1.2))
    bumper = shade(body.paint, 0.8) if rng.random() < 0.5 else (44, 45, 48)
    canvas.panel(pose, rectangle(-half, floor - 0.16, half, floor), bumper, 1.0, 0.6)
    if body.front:
        _grille(rng, canvas, pose, body)
    emblem_y = belt * rng.uniform(0.45, 0.7)
    if rng.random() < 0.7:
        canvas.face(pose, ellipse(0, emblem_y, 0.06, 0.05), (196, 198, 200))
    return _lamps(rng, canvas, pose, body)


def _lamps(rng: np.random.Generator, canvas: Canvas, pose: Pose, body: Body) -> list[Lamp]:
    half = body.width / 2
    y = -body.height * rng.uniform(0.22, 0.36)
    wide, tall = rng.uniform(0.1, 0.2), rng.uniform(0.06, 0.2)
    colour: Colour = (226, 230, 226) if body.front else (178, 22, 26)
    found: list[Lamp] = []
    for side in (-1, 1):
        x = side * (half - wide - 0.03)
        shape = (
            ellipse(x, y, wide, tall)
            if rng.random() < 0.3
            else rectangle(x - wide, y - tall, x + wide, y + tall)
        )
        canvas.face(pose, shape, colour)
        canvas.face(pose, ellipse(x, y, wide * 0.5, tall * 0.4), shade(colour, 1.35))
        middle = canvas.project(pose, np.array([[x, y, 0.0]]))[0]
        radius = canvas.focal * wide / max(1.0, float(pose.centre[2]))
        found.append((float(middle[0]), float(middle[1]), radius if body.front else -radius))
    return found


def _grille(rng: np.random.Generator, canvas: Canvas, pose: Pose, body: Body) -> None:
    """Slats above the plate, which look like a line of characters from afar."""
    half, top = body.width * rng.uniform(0.2, 0.32), -body.height * 0.34
    canvas.face(pose, rectangle(-half, top, half, -0.09), (30, 31, 33))
    slats = int(rng.integers(3, 9))
    upright = rng.random() < 0.4
    for i in range(slats):
        share = (i + 0.3) / slats
        x, y = -half + 2 * half * share, top + (-0.09 - top) * share
        slat = (
            rectangle(x, top, x + 0.02, -0.09) if upright else rectangle(-half, y, half, y + 0.012)
        )
        canvas.face(pose, slat, (150, 152, 156))


def _cargo(rng: np.random.Generator, canvas: Canvas, pose: Pose, body: Body) -> list[Lamp]:
    """The back of a lorry: doors, lettering, a dark underrun bar."""
    half, floor = body.width / 2, body.ground - 0.18
    canvas.face(pose, rectangle(-half, -0.12, half, floor), (40, 41, 44))
    canvas.face(pose, rectangle(-0.02, -body.height, 0.02, -0.12), shade(body.paint, 0.6))
    if rng.random() < 0.7:
        word = WORDS[int(rng.integers(len(WORDS)))]
        ink: Colour = (24, 24, 28) if sum(body.paint) > 380 else (236, 236, 236)
        board = lettering(rng, word, body.paint, ink, 160)
        y = -body.height * rng.uniform(0.45, 0.8)
        quad = canvas.project(pose, rectangle(-half * 0.7, y, half * 0.7, y + 0.4))
        canvas.paste(board, quad)
    return _lamps(rng, canvas, pose, body)


def _recess(
    rng: np.random.Generator, canvas: Canvas, pose: Pose, plate: tuple[float, float]
) -> None:
    """The holder that frames the plate."""
    w, h = plate[0] / 2 + rng.uniform(0.01, 0.04), plate[1] / 2 + rng.uniform(0.008, 0.03)
    grey = int(rng.integers(14, 60))
    canvas.face(pose, rectangle(-w, -h, w, h), (grey, grey, grey + 2))


def _sticker(rng: np.random.Generator, canvas: Canvas, pose: Pose, body: Body) -> None:
    """A small board with text on the body: never at the plate's place."""
    half = body.width / 2
    x = rng.uniform(0.35, 0.6) * half * (1 if rng.random() < 0.5 else -1)
    y = -body.height * rng.uniform(0.5, 0.75)
    wide = rng.uniform(0.08, 0.2)
    board = lettering(rng, WORDS[int(rng.integers(len(WORDS)))], (230, 228, 210), (30, 30, 34), 96)
    canvas.paste(
        board, canvas.project(pose, rectangle(x - wide, y - wide / 3, x + wide, y + wide / 3))
    )


def _motorcycle(
    rng: np.random.Generator, canvas: Canvas, pose: Pose, body: Body, plate: tuple[float, float]
) -> list[Lamp]:
    canvas.face(pose, rectangle(-0.09, -0.05, 0.09, body.ground, 0.1), RUBBER)
    tail = np.array([[-0.16, -0.55, 0], [0.16, -0.55, 0], [0.12, 0.06, 0], [-0.12, 0.06, 0]])
    canvas.panel(pose, tail, body.paint, 1.1, 0.7)
    jacket: Colour = (40, 42, 48) if rng.random() < 0.7 else (190, 80, 30)
    rider = np.array([[-0.24, -0.95, 0.3], [0.24, -0.95, 0.3], [0.3, -0.4, 0.3], [-0.3, -0.4, 0.3]])
    canvas.panel(pose, rider, jacket, 1.1, 0.8)
    canvas.face(pose, ellipse(0, -1.1, 0.14, 0.16, 0.3), shade(body.paint, 0.9))
    canvas.face(pose, ellipse(0, -0.28, 0.1, 0.06), (178, 22, 26))
    _recess(rng, canvas, pose, plate)
    middle = canvas.project(pose, np.array([[0.0, -0.28, 0.0]]))[0]
    radius = canvas.focal * 0.1 / max(1.0, float(pose.centre[2]))
    return [(float(middle[0]), float(middle[1]), -radius)]
