"""The recipe counts in steps, refuses what would break a training, and picks an image size."""

import json
import math
from pathlib import Path

import pytest

from platecrypt.datasets.manifest import ImageRecord, Plate
from platecrypt.errors import BadInputError
from platecrypt.training.recipe import BOUNDS, Recipe, choose_image_size, recipe_for
from platecrypt.training.steps import _tuned


def image(width: int, height: int, *plate_widths: float) -> ImageRecord:
    plates = tuple(Plate((1.0, 1.0, 1.0 + w, 9.0)) for w in plate_widths)
    return ImageRecord("a" * 64, "k", "n", 1, width, height, plates, "c", "g", None, "train")


@pytest.mark.parametrize(
    ("steps", "batch", "images", "epochs"),
    [(240, 8, 64, 30), (240, 8, 65, 27), (1, 8, 1000, 1), (240, 8, 1, 240), (10**6, 1, 1, 1000)],
)
def test_the_epochs_give_at_least_the_steps(
    steps: int, batch: int, images: int, epochs: int
) -> None:
    recipe = Recipe(steps=steps, batch=batch)
    assert recipe.epochs(images) == epochs
    if epochs < 1000:
        assert recipe.epochs(images) * math.ceil(images / batch) >= steps


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_each_number_has_a_range_that_is_enforced(name: str) -> None:
    low, high = BOUNDS[name]
    for wrong in (low - 1, high + 1, math.nan, math.inf):
        with pytest.raises(BadInputError, match=name):
            Recipe(**{name: wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "yolov9"},
        {"pretrained": "always"},
        {"image_size": 100},
        {"image_size": 64},
        {"lr0": True},
        {"lr0": "0.1"},
    ],
)
def test_a_value_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match=next(iter(wrong))):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_text_from_a_command_line_becomes_the_fields_own_type() -> None:
    recipe = Recipe().with_values({"lr0": "0.004", "steps": "12", "model": "yolov8s"})
    assert (recipe.lr0, recipe.steps, recipe.model) == (0.004, 12, "yolov8s")
    assert isinstance(recipe.steps, int)


@pytest.mark.parametrize("wrong", [{"lr": 1}, {"steps": "1.5"}, {"steps": "x"}, {"lr0": None}])
def test_an_unknown_field_or_unreadable_text_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match=next(iter(wrong))):
        Recipe().with_values(wrong)


def test_the_smaller_size_is_chosen_while_the_median_plate_keeps_32_px() -> None:
    assert choose_image_size([image(640, 480, 64.0)]) == 320
    assert choose_image_size([image(640, 480, 63.9)]) == 640
    assert choose_image_size([image(480, 640, 64.0, 5.0, 300.0)]) == 320  # the median, longer side
    assert choose_image_size([image(1920, 1080, 20.0)]) == 640
    assert choose_image_size([image(640, 480)]) == 640


def test_larger_pictures_are_taught_otherwise() -> None:
    small, large = recipe_for(320), recipe_for(640)
    assert (small.steps, small.mosaic) == (Recipe().steps, Recipe().mosaic)
    assert (large.image_size, large.steps, large.mosaic) == (640, 800, 0.5)


@pytest.mark.parametrize(
    ("value", "kept"), [(0.25, True), (0.01, True), (0.0024, False), (None, True)]
)
def test_what_a_search_found_without_learning_is_not_believed(
    tmp_path: Path, value: float | None, kept: bool
) -> None:
    best = tmp_path / "best"
    search = {"best_value": value}
    best.write_text(json.dumps({"parameters": {"lr0": "0.1"}, "search": search}))
    assert _tuned(best) == ({"lr0": "0.1"} if kept else {})
    best.write_text(json.dumps({"parameters": {}, "search": None}))
    assert _tuned(best) == {}
