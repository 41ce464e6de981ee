"""Synthetic pictures are repeatable, varied, and labelled where the plates really are."""

import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from platecrypt.datasets.labels import plate_from_quad
from platecrypt.datasets.synthetic import SyntheticImage, generate, parse_uri
from platecrypt.errors import BadInputError

EASY = 64
FULL = 40


@pytest.fixture(scope="module")
def easy() -> list[SyntheticImage]:
    return list(generate(EASY, seed=11))


@pytest.fixture(scope="module")
def full() -> list[SyntheticImage]:
    return list(generate(FULL, seed=11, difficulty="full"))


def pixels(image: SyntheticImage) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (image.height, image.width, 3)
    return decoded


def test_the_first_images_do_not_depend_on_how_many_are_asked_for(
    easy: list[SyntheticImage],
) -> None:
    assert list(generate(10, seed=11)) == easy[:10]


def test_another_process_draws_the_same_bytes(easy: list[SyntheticImage]) -> None:
    code = (
        "import hashlib; from platecrypt.datasets.synthetic import generate;"
        "print(hashlib.sha256(b''.join(i.data for i in generate(6, seed=11))).hexdigest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    import hashlib

    assert found.stdout.strip() == hashlib.sha256(b"".join(i.data for i in easy[:6])).hexdigest()


def test_no_two_pictures_are_alike_and_another_seed_gives_others(
    easy: list[SyntheticImage],
) -> None:
    others = {image.data for image in generate(10, seed=12)}
    assert len({image.data for image in easy}) == EASY
    assert not others & {image.data for image in easy}


def test_every_plate_lies_inside_and_its_box_is_the_one_around_its_corners(
    easy: list[SyntheticImage], full: list[SyntheticImage]
) -> None:
    for image in easy + full:
        for plate in image.plates:
            assert plate.quad is not None
            assert plate_from_quad(plate.quad, image.width, image.height) == plate
            (ax, ay), (bx, by), (cx, cy), (dx, dy) = plate.quad
            # Clockwise with y downwards: every corner turns right.
            turns = [
                (bx - ax) * (cy - by) - (by - ay) * (cx - bx),
                (cx - bx) * (dy - cy) - (cy - by) * (dx - cx),
                (dx - cx) * (ay - dy) - (dy - cy) * (ax - dx),
                (ax - dx) * (by - ay) - (ay - dy) * (bx - ax),
            ]
            assert min(turns) > 0


def test_the_labels_are_where_the_characters_are(easy: list[SyntheticImage]) -> None:
    """Inside a plate there is more contrast than in a box of its size elsewhere in the picture."""
    inside: list[float] = []
    elsewhere: list[float] = []
    for image in easy:
        grey = cv2.cvtColor(pixels(image), cv2.COLOR_BGR2GRAY).astype(np.float32)
        grey /= grey.mean()
        for plate in image.plates:
            x1, y1, x2, y2 = (round(v) for v in plate.box)
            inside.append(float(grey[y1:y2, x1:x2].std()))
            mirrored = grey[y1:y2, image.width - x2 : image.width - x1]
            if abs(image.width - x1 - x2) > x2 - x1:
                elsewhere.append(float(mirrored.std()))
    assert len(elsewhere) > 10
    assert np.median(inside) > 2 * np.median(elsewhere)


def test_easy_pictures_show_night_and_small_plates_too(easy: list[SyntheticImage]) -> None:
    night = [pixels(image).mean() for image in easy if image.night]
    day = [pixels(image).mean() for image in easy if not image.night]
    assert len(night) == EASY // 4
    assert np.mean(night) < 0.5 * np.mean(day)
    widths = [plate.box[2] - plate.box[0] for image in easy for plate in image.plates]
    assert min(widths) < 32 < 60 < max(widths)


def test_every_ride_has_its_night_image_so_every_split_has_one(easy: list[SyntheticImage]) -> None:
    rides: dict[str, list[bool]] = {}
    for image in easy:
        rides.setdefault(image.ride, []).append(image.night)
    assert all(sorted(nights) == [False, False, False, True] for nights in rides.values())
    assert len({image.camera for image in easy}) >= 12


@pytest.mark.slow  # five seconds
def test_full_pictures_reach_from_8_pixels_to_wide_and_steep(full: list[SyntheticImage]) -> None:
    more = [*full, *generate(60, seed=5, difficulty="full")]
    widths = [plate.box[2] - plate.box[0] for image in more for plate in image.plates]
    assert 8 <= min(widths) < 12
    assert 150 < max(widths) < 340
    counts = [len(image.plates) for image in more]
    assert min(counts) == 0
    assert max(counts) >= 3
    assert any(_steep(image) for image in more)


def _steep(image: SyntheticImage) -> bool:
    """Whether a plate's left and right edges differ as they do only in strong perspective."""
    for plate in image.plates:
        assert plate.quad is not None
        a, b, c, d = (np.array(point) for point in plate.quad)
        left, right = np.linalg.norm(d - a), np.linalg.norm(c - b)
        if plate.box[2] - plate.box[0] > 40 and max(left, right) > 1.04 * min(left, right):
            return True
    return False


@pytest.mark.parametrize(("difficulty", "count", "rate"), [("easy", 20, 20), ("full", 6, 4)])
def test_drawing_is_fast_enough(difficulty: str, count: int, rate: float) -> None:
    list(generate(1, difficulty=difficulty))  # type: ignore[arg-type]
    start = time.process_time()
    list(generate(count, difficulty=difficulty))  # type: ignore[arg-type]
    assert count / (time.process_time() - start) >= rate


def test_size_can_be_chosen() -> None:
    image = next(generate(1, width=200, height=160))
    assert pixels(image).shape == (160, 200, 3)


def test_a_uri_says_everything() -> None:
    found = parse_uri("synthetic://?images=12&seed=3&difficulty=full&size=640x480")
    assert (found.images, found.seed, found.difficulty) == (12, 3, "full")
    assert (found.width, found.height) == (640, 480)
    plain = parse_uri("synthetic://?images=5")
    assert (plain.difficulty, plain.width, plain.height) == ("easy", 320, 320)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("synthetic://?images=5&colour=red", "colour"),
        ("synthetic://?images=5&images=6", "once"),
        ("synthetic://?seed=5", "images"),
        ("synthetic://", "images"),
        ("synthetic://?images=0", "'0'"),
        ("synthetic://?images=1000001", "1000001"),
        ("synthetic://?images=-3", "'-3'"),
        ("synthetic://?images=1e3", "1e3"),
        ("synthetic://?images=٣", "number"),
        ("synthetic://?images=5&seed=4294967296", "seed"),
        ("synthetic://?images=5&difficulty=hard", "hard"),
        ("synthetic://?images=5&size=10x10", "10"),
        ("synthetic://?images=5&size=640", "640"),
        ("synthetic://host?images=5", "form"),
        ("synthetic://?images=5;seed=1", "number"),
    ],
)
def test_a_wrong_uri_is_refused_by_name(uri: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        parse_uri(uri)
