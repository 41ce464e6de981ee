"""Synthetic plates: street pictures with known plates, for learning, for tests, for a first run.

Each image depends on (seed, its number, difficulty, size) alone: the first fifty of a hundred are
the fifty of fifty. With the pinned packages the same seed gives the same bytes; fonts come from
matplotlib's wheel, never from the machine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from platecrypt.datasets.labels import Sample
from platecrypt.datasets.manifest import Plate
from platecrypt.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np

Difficulty = Literal["easy", "full"]
SCHEME = "synthetic://"
MAX_IMAGES = 1_000_000
MAX_SEED = 2**32 - 1
MIN_SIDE, MAX_SIDE = 128, 4096
SIZES: dict[Difficulty, tuple[int, int]] = {"easy": (320, 320), "full": (1280, 720)}
RIDE_IMAGES = 4
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
EXAMPLE = "synthetic://?images=96&seed=7&difficulty=easy"


@dataclass(frozen=True)
class SyntheticUri:
    """What a `synthetic://` URI asks for: how many images, from which seed, how hard, how big."""

    images: int
    seed: int = 0
    difficulty: Difficulty = "easy"
    width: int = SIZES["easy"][0]
    height: int = SIZES["easy"][1]


@dataclass(frozen=True)
class SyntheticImage:
    """One picture with everything that is known of it.

    Attributes:
        name: file name.
        data: JPEG bytes.
        width, height: pixels.
        plates: boxes and quads in pixels; empty for a picture of signs and grilles alone.
        camera, ride: every ride has four images and its own camera.
        time: RFC 3339 UTC.
        night: whether it shows the night.
    """

    name: str
    data: bytes
    width: int
    height: int
    plates: tuple[Plate, ...]
    camera: str
    ride: str
    time: str
    night: bool


def parse_uri(uri: str) -> SyntheticUri:
    """Read `synthetic://?images=N[&seed=S][&difficulty=easy|full][&size=WxH]`.

    Raises:
        BadInputError: another form, an unknown or repeated option, a value out of range.
    """
    parts = urlsplit(uri)
    if parts.scheme != "synthetic" or parts.netloc or parts.path.strip("/") or parts.fragment:
        raise BadInputError(f"{uri!r} is not of the form {EXAMPLE}")
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise BadInputError(f"{uri!r} is not of the form {EXAMPLE}") from None
    options = dict(pairs)
    unknown = sorted(options.keys() - {"images", "seed", "difficulty", "size"})
    if unknown:
        raise BadInputError(
            f"{uri}: unknown option {unknown[0]!r}; there are images, seed, difficulty and size"
        )
    if len(options) < len(pairs) or "images" not in options:
        raise BadInputError(f"{uri}: give `images` and every option once, like {EXAMPLE}")
    difficulty = _difficulty(options.get("difficulty", "easy"), uri)
    width, height = SIZES[difficulty]
    if "size" in options:
        words = options["size"].lower().split("x")
        if len(words) != 2:
            raise BadInputError(f"{uri}: size {options['size']!r} is not of the form 640x480")
        width, height = (_whole(word, "size", MIN_SIDE, MAX_SIDE, uri) for word in words)
    return SyntheticUri(
        images=_whole(options["images"], "images", 1, MAX_IMAGES, uri),
        seed=_whole(options.get("seed", "0"), "seed", 0, MAX_SEED, uri),
        difficulty=difficulty,
        width=width,
        height=height,
    )


def generate(
    images: int,
    seed: int = 0,
    difficulty: Difficulty = "easy",
    width: int | None = None,
    height: int | None = None,
) -> Iterator[SyntheticImage]:
    """The pictures, one after the other; width and height default to the difficulty's own."""
    own = SIZES[difficulty]
    uri = SyntheticUri(images, seed, difficulty, width or own[0], height or own[1])
    for index in range(images):
        yield _image(uri, index)


def samples(
    uri: SyntheticUri,
    keep: Callable[[str, Callable[[], bytes]], Callable[[], bytes]],
) -> list[Sample]:
    """The pictures as samples of a source; `keep` makes a reader that draws each only once."""

    def sample(index: int) -> Sample:
        name, ride, camera = _names(index)
        # The bytes are the keeper's; only the labels stay in memory.
        drawn: list[tuple[Plate, ...]] = []

        def draw() -> bytes:
            image = _image(uri, index)
            drawn.append(image.plates)
            return image.data

        read = keep(name, draw)

        def plates(width: int, height: int) -> tuple[Plate, ...]:
            if not drawn:
                read()
            return drawn[0]

        return Sample(
            name=name,
            read=read,
            plates=plates,
            ride=ride,
            camera=camera,
            time=_time(index, _night(uri, index)),
        )

    return [sample(index) for index in range(uri.images)]


def _image(uri: SyntheticUri, index: int) -> SyntheticImage:
    from platecrypt.datasets import synthetic_scene

    name, ride, camera = _names(index)
    night = _night(uri, index)
    view = synthetic_scene.View(
        uri.width,
        uri.height,
        uri.difficulty == "full",
        night,
        _generator(uri, 1, index // RIDE_IMAGES),
        _generator(uri, 2, index),
    )
    data, plates = synthetic_scene.render(view)
    time = _time(index, night)
    return SyntheticImage(name, data, uri.width, uri.height, plates, camera, ride, time, night)


def _names(index: int) -> tuple[str, str, str]:
    """File name, ride and camera of an image; they are the same for every seed."""
    ride = index // RIDE_IMAGES
    return f"synthetic-{index:06d}.jpg", f"ride-{ride:06d}", f"camera-{ride:06d}"


def _night(uri: SyntheticUri, index: int) -> bool:
    """One image in four is at night: which of a ride's four is drawn for each ride.

    So every split has its night images, however few its rides are.
    """
    lot = _generator(uri, 3, index // RIDE_IMAGES).integers(RIDE_IMAGES)
    return int(lot) == index % RIDE_IMAGES


def _time(index: int, night: bool) -> str:
    ride, frame = divmod(index, RIDE_IMAGES)
    hour = 22 if night else 9 + 2 * frame
    taken = FIRST_DAY + timedelta(days=ride % 700, hours=hour, minutes=ride % 60)
    return taken.strftime("%Y-%m-%dT%H:%M:%SZ")


def _generator(uri: SyntheticUri, purpose: int, number: int) -> "np.random.Generator":
    import numpy as np

    return np.random.default_rng([uri.seed, purpose, number, uri.difficulty == "full"])


def _difficulty(text: str, uri: str) -> Difficulty:
    for known in get_args(Difficulty):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise BadInputError(f"{uri}: difficulty {text!r} is neither 'easy' nor 'full'")


def _whole(text: str, name: str, low: int, high: int, uri: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not low <= number <= high:
        raise BadInputError(f"{uri}: {name} is {text!r}; it must be a number from {low} to {high}")
    return number
