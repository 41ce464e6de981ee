"""Puts vehicles with plates on a street, draws them through a pinhole camera, labels them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from platecrypt.datasets import synthetic_light as light
from platecrypt.datasets import synthetic_street as street
from platecrypt.datasets import synthetic_vehicles as vehicles
from platecrypt.datasets.manifest import Plate
from platecrypt.datasets.synthetic_canvas import Canvas, Pose, rotation
from platecrypt.datasets.synthetic_plates import (
    EASY_LAYOUTS,
    LAYOUTS,
    MOTORCYCLE,
    Layout,
    Picture,
    draw_plate,
)

EASY_REFERENCE_PX = 320
MAX_TEXTURE_PX = 640
# A plate keeps this distance from the border, and from the vehicles in front of it.
MARGIN_PX = 2.0
TRIES = 12


@dataclass(frozen=True)
class View:
    """What one picture is made from: its size, how hard it is, the ride's and its own chances."""

    width: int
    height: int
    full: bool
    night: bool
    ride_rng: np.random.Generator
    rng: np.random.Generator


@dataclass
class _Placed:
    """A vehicle that was given its place, far ones first when they are drawn."""

    pose: Pose
    layout: Layout
    body: vehicles.Body
    quad: NDArray[np.float64]
    plate_px: float
    lamps: list[tuple[float, float, float]] = field(default_factory=list)


def render(view: View) -> tuple[bytes, tuple[Plate, ...]]:
    """The picture as JPEG bytes and its plates, nearest last."""
    rng = view.rng
    lens = light.Lens.of_ride(view.ride_rng, view.full)
    pitch = math.radians(rng.uniform(-4, 22) if view.full else rng.uniform(-2, 10))
    roll = math.radians(rng.normal(0, 4 if view.full else 1.5))
    focal = view.width * rng.uniform(0.9, 1.5)
    horizon = view.height / 2 - focal * math.tan(pitch)
    canvas = Canvas(np.empty((view.height, view.width, 3), np.uint8), focal)
    street.paint(rng, canvas, horizon, view.night)
    street.paint_signs(rng, canvas, horizon, int(rng.integers(0, 6 if view.full else 3)))
    placed = _place(view, canvas, pitch, roll, horizon)
    for item in placed:
        _paint(rng, canvas, item, view.full)
    if view.full and placed and rng.random() < 0.18:
        _occlude(rng, canvas, placed[-1])
    lamps = [lamp for item in placed for lamp in item.lamps]
    spots = [(*item.quad.mean(0), item.plate_px) for item in placed]
    picture = light.expose(rng, canvas.pixels, view.night, lamps, spots, view.full)
    smallest = min((item.plate_px for item in placed), default=view.width / 8)
    picture = light.photograph(rng, picture, lens, view.night, smallest, view.full)
    quality = int(rng.integers(45, 93) if view.full else rng.integers(75, 95))
    return light.encode(picture, quality), tuple(_label(item.quad, view) for item in placed)


def _label(quad: NDArray[np.float64], view: View) -> Plate:
    limit = np.array([view.width, view.height], np.float64)
    corners = np.round(np.clip(quad, 0, limit), 2)
    (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
    a, b, c, d = ((float(x), float(y)) for x, y in corners)
    return Plate((x1, y1, x2, y2), (a, b, c, d))


def _plate_px(view: View) -> float:
    """How wide the next plate shall be, in pixels of the picture."""
    rng = view.rng
    if view.full:
        return float(np.exp(rng.uniform(np.log(8), np.log(min(300, view.width / 3)))))
    small = rng.random() < 0.10
    width = rng.uniform(26, 32) if small else rng.uniform(50, 112)
    return float(width * view.width / EASY_REFERENCE_PX)


def _place(view: View, canvas: Canvas, pitch: float, roll: float, horizon: float) -> list[_Placed]:
    """Vehicles whose plates are inside the picture and hidden by no other vehicle, far to near."""
    rng = view.rng
    if rng.random() < (0.08 if view.full else 0.04):
        return []
    wanted = int(rng.integers(1, 5)) if view.full else 1 + int(rng.random() < 0.25)
    placed: list[_Placed] = []
    for _ in range(TRIES):
        if len(placed) == wanted:
            break
        item = _propose(view, canvas, pitch, roll, horizon)
        if item is not None and not any(_collide(item, other) for other in placed):
            placed.append(item)
    if not placed:
        fallback = next(
            found
            for found in (_propose(view, canvas, pitch, roll, horizon) for _ in range(1000))
            if found is not None
        )
        placed.append(fallback)
    return sorted(placed, key=lambda item: -item.pose.centre[2])


def _propose(
    view: View, canvas: Canvas, pitch: float, roll: float, horizon: float
) -> _Placed | None:
    rng = view.rng
    body = vehicles.choose(rng, view.full)
    square = body.kind == "motorcycle"
    choice = LAYOUTS if view.full else EASY_LAYOUTS
    layout = MOTORCYCLE if square else choice[int(rng.integers(len(choice)))]
    widest = 60.0 if view.full else 18.0
    yaw = math.radians(float(np.clip(rng.normal(0, widest / 2), -widest, widest)))
    wanted = _plate_px(view)
    depth = canvas.focal * layout.metres[0] * math.cos(yaw) / wanted
    # Where a camera at that height above the road sees it; jitter stands for slopes and kerbs.
    camera_height = rng.uniform(0.9, 3.2 if view.full else 1.9)
    y = horizon + canvas.focal * (camera_height - body.ground) / depth
    y += rng.normal(0, 0.06) * view.height
    y = float(np.clip(y, 0.18 * view.height, 0.92 * view.height))
    x = rng.uniform(0.06, 0.94) * view.width if view.full else rng.uniform(0.2, 0.8) * view.width
    centre = np.array(
        [
            (x - view.width / 2) * depth / canvas.focal,
            (y - view.height / 2) * depth / canvas.focal,
            depth,
        ]
    )
    pose = Pose(rotation(yaw, pitch, roll + rng.normal(0, 0.02)), centre, yaw)
    w, h = layout.metres[0] / 2, layout.metres[1] / 2
    quad = canvas.project(pose, np.array([[-w, -h, 0], [w, -h, 0], [w, h, 0], [-w, h, 0]]))
    low, high = quad.min(0), quad.max(0)
    inside = (low >= MARGIN_PX).all() and (
        high <= [view.width - MARGIN_PX, view.height - MARGIN_PX]
    ).all()
    if not inside or high[0] - low[0] < (8 if view.full else 16) or high[1] - low[1] < 3:
        return None
    return _Placed(pose, layout, body, quad, float(high[0] - low[0]))


def _collide(a: _Placed, b: _Placed) -> bool:
    """Whether the nearer of two vehicles would hide the plate of the other."""
    near, far = (a, b) if a.pose.centre[2] < b.pose.centre[2] else (b, a)
    # In plate widths: a body reaches to about 1.2 m beside its plate's middle and 3 m above it.
    scale = near.plate_px / near.layout.metres[0] / max(0.35, math.cos(near.pose.yaw))
    cx, cy = near.quad.mean(0)
    half, up, down = (near.body.width / 2 + 0.35) * scale, near.body.height * scale, 0.9 * scale
    # The far side of a turned vehicle sticks out by its length.
    reach = abs(math.sin(near.pose.yaw)) * near.body.length * scale
    low, high = far.quad.min(0), far.quad.max(0)
    return bool(
        low[0] < cx + half + reach
        and high[0] > cx - half - reach
        and low[1] < cy + down
        and high[1] > cy - up
    )


def _paint(rng: np.random.Generator, canvas: Canvas, item: _Placed, full: bool) -> None:
    item.lamps = vehicles.paint(
        rng, canvas, item.pose, item.body, item.layout.metres, stickers=0.45 if full else 0.15
    )
    texture = int(np.clip(2 * item.plate_px, 48, MAX_TEXTURE_PX))
    plate = draw_plate(rng, item.layout, texture)
    # What lies in a car's shadow is as dark as the car.
    canvas.paste(_shaded(plate, rng.uniform(0.62 if full else 0.9, 1.0)), item.quad)


def _shaded(picture: Picture, factor: float) -> Picture:
    return np.asarray((picture * factor).astype(np.uint8))


def _occlude(rng: np.random.Generator, canvas: Canvas, item: _Placed) -> None:
    """Something thin in front of the nearest plate: a pole, a tow bar, a branch."""
    low, high = item.quad.min(0), item.quad.max(0)
    wide = (high[0] - low[0]) * rng.uniform(0.06, 0.22)
    x = rng.uniform(low[0], high[0])
    lean = rng.normal(0, 0.25) * (high[1] - low[1])
    top = low[1] - rng.uniform(0.2, 8) * (high[1] - low[1])
    bottom = high[1] + rng.uniform(0.2, 8) * (high[1] - low[1])
    points: Sequence[tuple[float, float]] = (
        (x - wide / 2 + lean, top), (x + wide / 2 + lean, top),
        (x + wide / 2, bottom), (x - wide / 2, bottom),
    )  # fmt: skip
    grey = int(rng.integers(30, 150))
    canvas.fill(np.array(points), (grey, grey, grey))
