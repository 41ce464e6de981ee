"""Draws licence plates as flat textures: layouts of several kinds, with fonts from matplotlib."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
# matplotlib's wheel ships these, so the pin of matplotlib pins the glyphs.
FONTS = (
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSans.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneralBol.ttf",
)
GLYPH_PX = 72
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
WHITE, CREAM, YELLOW = (244, 244, 240), (232, 228, 208), (246, 202, 40)
BLACK, NAVY, BLUE, GREEN, RED = (
    (18, 18, 20),
    (20, 30, 92),
    (24, 62, 158),
    (16, 96, 58),
    (160, 24, 30),
)


@dataclass(frozen=True)
class Layout:
    """One kind of plate.

    Attributes:
        metres: width and height of the real thing.
        paints: pairs of background and ink.
        lines: what stands on each line: A a letter, 0 a digit, anything else itself.
        heights: the share of the plate's height that each line takes.
        band: where a blue band runs.
        font: index into FONTS, or -1 for any of the first four.
    """

    metres: tuple[float, float]
    paints: tuple[tuple[Colour, Colour], ...]
    lines: tuple[tuple[str, ...], ...]
    heights: tuple[float, ...]
    band: Literal["", "left", "top"] = ""
    font: int = -1


LAYOUTS = (
    # European, one line: white or yellow, a blue band on the left.
    Layout((0.52, 0.11), ((WHITE, BLACK), (WHITE, BLACK), (YELLOW, BLACK)),
           (("AA 000 AA", "AAA 0000", "A AA 000", "AA-00-AA", "000 A 0000"),), (0.74,), "left"),
    Layout((0.52, 0.11), ((WHITE, BLACK), (YELLOW, BLACK), (WHITE, RED)),
           (("AA00 AAA", "AA 00000", "A 000 AA"),), (0.74,)),
    # European, two lines.
    Layout((0.28, 0.20), ((WHITE, BLACK), (YELLOW, BLACK)),
           (("AA 0", "AAA", "AA"), ("0000", "00 AA", "000 A")), (0.40, 0.40), "left"),
    # North American: a caption above, the number large, many colours.
    Layout((0.305, 0.152), ((WHITE, NAVY), (CREAM, BLACK), ((180, 210, 236), NAVY), (WHITE, GREEN),
                            ((250, 236, 190), RED), ((196, 224, 200), GREEN)),
           (("NORTHLAND", "RIVER STATE", "SUNRISE", "GRANITE HILLS"),
            ("AAA 0000", "0AAA000", "000-AAA")),
           (0.15, 0.52)),
    # East Asian: light ink on blue or green.
    Layout((0.44, 0.14), ((BLUE, WHITE), (BLUE, WHITE), (GREEN, WHITE)),
           (("A-A 00000", "AA 0A000", "A-000AA"),), (0.66,), font=2),
    # Almost square with a small upper line.
    Layout((0.33, 0.165), ((WHITE, GREEN), (YELLOW, BLACK), (WHITE, BLACK)),
           (("AA 000", "A 300", "AA 55"), ("00-00", "AA 0000", "12-34")), (0.24, 0.50)),
    # South American: a blue band along the top.
    Layout((0.40, 0.13), ((WHITE, BLACK),), (("AAA0A00", "AA 000 AA"),), (0.58,), "top"),
    # Old style: light characters on black.
    Layout((0.50, 0.12), ((BLACK, (214, 214, 210)),), (("AAA 000A", "0000 AA"),), (0.66,)),
)  # fmt: skip
# Light plates stand out from most bodies; the last layout is as dark as what surrounds it.
EASY_LAYOUTS = LAYOUTS[:-1]
MOTORCYCLE = Layout((0.20, 0.20), ((WHITE, BLACK), (YELLOW, BLACK), (WHITE, GREEN)),
                    (("AA 00", "AAA", "A 0"), ("0000", "000 A", "AA 00")),
                    (0.36, 0.42))  # fmt: skip


def draw_plate(rng: np.random.Generator, layout: Layout, width: int) -> Picture:
    """A plate as one sees it from the front.

    Args:
        rng: decides paint, characters, font, screws and dirt.
        layout: the kind of plate.
        width: pixels of the texture; its height follows from the layout.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    height = max(8, round(width * layout.metres[1] / layout.metres[0]))
    paper, ink = layout.paints[int(rng.integers(len(layout.paints)))]
    plate = np.empty((height, width, 3), np.uint8)
    plate[:] = paper
    left, top = _band(rng, plate, layout)
    font = FONTS[layout.font if layout.font >= 0 else int(rng.integers(4))]
    free = 1.0 - top - sum(layout.heights)
    gap = free / (len(layout.heights) + 1)
    y = top + gap
    for choices, share in zip(layout.lines, layout.heights, strict=True):
        text = characters(rng, choices[int(rng.integers(len(choices)))])
        box = (left + 0.04, y, 0.97, y + share)
        _write(plate, text, font, ink, box)
        y += share + gap
    edge = max(1, height // 28)
    cv2.rectangle(
        plate, (edge, edge), (width - 1 - edge, height - 1 - edge), ink, edge, cv2.LINE_AA
    )
    if rng.random() < 0.4:
        for x in (0.16, 0.84):
            centre = (round(x * width), round(0.1 * height))
            cv2.circle(plate, centre, max(1, height // 24), (120, 120, 118), -1, cv2.LINE_AA)
    return _weather(rng, plate)


def characters(rng: np.random.Generator, pattern: str) -> str:
    """A pattern with every A made a letter and every 0 a digit; words stay as they are."""
    if sum(letter not in "A0 -" for letter in pattern) > 3:
        return pattern
    digits = "0123456789"
    pick = {"A": LETTERS, "0": digits}
    return "".join(
        pick[letter][int(rng.integers(len(pick[letter])))] if letter in pick else letter
        for letter in pattern
    )


def text_mask(text: str, font: str, width: int, height: int) -> Picture:
    """Text squeezed into (height, width) pixels: uint8, 255 where there is ink."""
    return np.asarray(
        cv2.resize(_glyphs(text, font), (width, height), interpolation=cv2.INTER_AREA)
    )


def lettering(rng: np.random.Generator, text: str, paper: Colour, ink: Colour, px: int) -> Picture:
    """A board with text that is no plate: signs, stickers, shop names. (H, W, 3) uint8, RGB."""
    height = max(10, px // max(2, len(text) // 2))
    board = np.empty((height, max(12, px), 3), np.uint8)
    board[:] = paper
    _write(board, text, FONTS[int(rng.integers(len(FONTS)))], ink, (0.06, 0.18, 0.94, 0.82))
    return board


def _band(rng: np.random.Generator, plate: Picture, layout: Layout) -> tuple[float, float]:
    """Paint the blue band; gives the shares of width and height that it takes."""
    height, width = plate.shape[:2]
    if layout.band == "left":
        wide = round(min(0.42 * height, 0.16 * width))
        plate[:, :wide] = BLUE
        centre = (wide // 2, round(0.32 * height))
        cv2.circle(
            plate, centre, max(1, wide // 4), (240, 210, 40), max(1, wide // 14), cv2.LINE_AA
        )
        _write(plate, LETTERS[int(rng.integers(len(LETTERS)))], FONTS[0], WHITE,
               (0.25 * wide / width, 0.6, 0.75 * wide / width, 0.9))  # fmt: skip
        return wide / width, 0.0
    if layout.band == "top":
        tall = round(0.24 * height)
        plate[:tall] = BLUE
        _write(plate, "FEDERATION", FONTS[0], WHITE, (0.3, 0.05, 0.7, 0.19))
        return 0.0, tall / height
    return 0.0, 0.0


def _write(
    plate: Picture, text: str, font: str, ink: Colour, box: tuple[float, float, float, float]
) -> None:
    """Blend text into the part of the plate that `box` gives in shares of its size."""
    height, width = plate.shape[:2]
    x1, y1, x2, y2 = (round(v * s) for v, s in zip(box, (width, height) * 2, strict=True))
    if x2 - x1 < 2 or y2 - y1 < 2:
        return
    mask = text_mask(text, font, x2 - x1, y2 - y1)[..., None].astype(np.uint16)
    part = plate[y1:y2, x1:x2]
    part[:] = ((part * (255 - mask) + np.array(ink, np.uint16) * mask) // 255).astype(np.uint8)


def _weather(rng: np.random.Generator, plate: Picture) -> Picture:
    """Uneven brightness and some dirt."""
    height, width = plate.shape[:2]
    coarse = rng.normal(1.0, rng.uniform(0.01, 0.06), (4, 8)).astype(np.float32)
    shade = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(plate * shade[..., None], 0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=4096)
def _glyphs(text: str, font: str) -> Picture:
    face = _face(font)
    x1, y1, x2, y2 = (round(v) for v in face.getbbox(text))
    image = Image.new("L", (max(1, x2 - x1), max(1, y2 - y1)))
    ImageDraw.Draw(image).text((-x1, -y1), text, fill=255, font=face)
    return np.asarray(image)


@functools.lru_cache(maxsize=len(FONTS))
def _face(font: str) -> Any:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font
    # The basic layout engine is part of Pillow; the other one depends on the machine.
    return ImageFont.truetype(str(path), GLYPH_PX, layout_engine=ImageFont.Layout.BASIC)
