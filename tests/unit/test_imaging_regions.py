"""Regions hold every plate with its margin, lie inside the picture and share no pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platecrypt.errors import BadInputError
from platecrypt.imaging import MARGIN, Region, regions

W, H = 640, 480


def test_the_margin_is_8_percent_of_the_box_at_each_side() -> None:
    assert MARGIN == 0.08
    assert regions([[100, 100, 200, 150]], W, H) == (Region(92, 96, 208, 154),)
    assert regions([[100, 100, 200, 150]], W, H, margin=0) == (Region(100, 100, 200, 150),)


def test_fractions_are_rounded_outwards() -> None:
    assert regions([[10.2, 20.7, 30.1, 40.01]], W, H, margin=0) == (Region(10, 20, 31, 41),)


def test_regions_are_clipped_to_the_picture() -> None:
    assert regions([[-50, -9, 5, 5], [630, 470, 900, 900]], W, H) == (
        Region(0, 0, 10, 7),
        Region(608, 435, W, H),
    )


def test_overlapping_regions_become_one() -> None:
    found = regions([[100, 100, 200, 150], [190, 140, 300, 200]], W, H, margin=0)
    assert found == (Region(100, 100, 300, 200),)


def test_regions_that_only_touch_stay_two() -> None:
    assert len(regions([[0, 0, 10, 10], [10, 0, 20, 10]], W, H, margin=0)) == 2


def test_a_union_swallows_what_neither_part_touched() -> None:
    # The first two do not touch the third; the box around both does, and so on to the fourth.
    boxes = [[0, 0, 100, 20], [80, 10, 100, 100], [0, 80, 20, 110], [10, 105, 15, 130]]
    assert regions(boxes, W, H, margin=0) == (Region(0, 0, 100, 130),)


def test_regions_are_sorted_from_top_to_bottom() -> None:
    boxes = [[300, 300, 320, 310], [200, 10, 220, 20], [20, 10, 40, 20]]
    assert [r[:2] for r in regions(boxes, W, H, margin=0)] == [(20, 10), (200, 10), (300, 300)]


def test_a_quad_counts_as_the_box_around_it() -> None:
    quad = [[[110, 100], [200, 120], [190, 150], [100, 130]]]
    assert regions(quad, W, H) == regions([[100, 100, 200, 150]], W, H)


@pytest.mark.parametrize("empty", [[], np.empty((0, 4)), np.empty((0, 4, 2))])
def test_no_boxes_no_regions(empty: object) -> None:
    assert regions(empty, W, H) == ()  # type: ignore[arg-type]


sizes = st.floats(0.01, 300)
boxes_inside = st.builds(
    lambda x, y, w, h: [x, y, x + w, y + h], st.floats(0, W - 1), st.floats(0, H - 1), sizes, sizes
)


@settings(max_examples=200, deadline=None)
@given(boxes=st.lists(boxes_inside, max_size=12), margin=st.floats(0, 1))
def test_every_box_is_covered_and_no_pixel_twice(boxes: list[list[float]], margin: float) -> None:
    found = regions(boxes, W, H, margin=margin)
    painted = np.zeros((H, W), int)
    for r in found:
        assert 0 <= r.x1 < r.x2 <= W
        assert 0 <= r.y1 < r.y2 <= H
        painted[r.y1 : r.y2, r.x1 : r.x2] += 1
    assert painted.max(initial=0) <= 1
    for x1, y1, x2, y2 in boxes:
        inside = painted[
            int(max(0, np.floor(y1))) : int(min(H, np.ceil(y2))),
            int(max(0, np.floor(x1))) : int(min(W, np.ceil(x2))),
        ]
        assert inside.size
        assert inside.all()


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3]], "shape"),
        ([1, 2, 3, 4], "shape"),
        ([["a", 2, 3, 4]], "must be numbers"),
        ([[1, 2, 3, 4], [1, 2]], "must be numbers"),
        ([[0, 0, float("nan"), 5]], "box 0"),
        ([[0, 0, 5, 5], [0, 0, float("inf"), 5]], "box 1"),
        ([[5, 5, 5, 9]], "x1 < x2"),
        ([[5, 9, 8, 5]], "y1 < y2"),
        ([[640, 0, 650, 10]], "outside the picture of 640 x 480"),
        ([[-20, 0, 0, 10]], "outside the picture"),
        (np.ones((2001, 4)), "2001 boxes"),
    ],
)
def test_boxes_that_cannot_be_used_are_named(boxes: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        regions(boxes, W, H)  # type: ignore[arg-type]


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan")])
def test_a_margin_out_of_range_is_refused(margin: float) -> None:
    with pytest.raises(BadInputError, match="margin"):
        regions([[1, 1, 5, 5]], W, H, margin=margin)
