"""A split never divides what belongs together, and stays as it is when a dataset grows."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platecrypt.datasets import splits
from platecrypt.datasets.splits import Item, divide, ride_and_frame, spread

RIDES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 6), st.integers(0, 8)), min_size=3, max_size=40
)


def ride_items(rides: list[tuple[int, int, int]]) -> list[Item]:
    """Images of rides (number, length, camera); camera 0 is unknown."""
    return [
        Item(f"ride{chr(97 + number % 26)}{number}x_{frame}.jpg", ride=f"r{number}",
             camera=f"c{camera}" if camera else "unknown")
        for number, length, camera in rides
        for frame in range(length)
    ]  # fmt: skip


@given(RIDES)
def test_a_ride_is_never_divided_where_there_are_three(rides: list[tuple[int, int, int]]) -> None:
    items = ride_items(rides)
    division = divide(items)
    if len({item.ride for item in items}) < 3:
        return
    sides = defaultdict(set)
    for item, side in zip(items, division.splits, strict=True):
        sides[item.ride].add(side)
    assert all(len(found) == 1 for found in sides.values())


@given(RIDES)
def test_a_camera_is_never_divided_where_three_parts_are_independent(
    rides: list[tuple[int, int, int]],
) -> None:
    items = ride_items(rides)
    parts = splits.join((str(item.ride), item.camera) for item in items)
    if len(set(parts.values())) < 3:
        return
    sides = defaultdict(set)
    for item, side in zip(items, divide(items).splits, strict=True):
        if item.camera != "unknown":
            sides[item.camera].add(side)
    assert all(len(found) == 1 for found in sides.values())


@given(RIDES)
def test_no_split_is_empty_where_there_are_three_images(rides: list[tuple[int, int, int]]) -> None:
    items = list({item.name: item for item in ride_items(rides)}.values())
    if len(items) >= 3:
        assert set(divide(items).splits) == {"train", "val", "test"}


def test_one_camera_that_drove_two_rides_holds_both_together() -> None:
    items = [Item(f"{ride}_{n}.jpg", ride=ride) for ride in "abcdef" for n in range(2)]
    apart = dict(zip((i.ride for i in items), divide(items).splits, strict=True))
    left = next(ride for ride in apart if apart[ride] == "train")
    right = next(ride for ride in apart if apart[ride] != "train")
    joined = [Item(i.name, i.ride, "same" if i.ride in (left, right) else "unknown") for i in items]
    after = dict(zip((i.ride for i in items), divide(joined).splits, strict=True))
    assert after[left] == after[right]


def test_what_has_its_place_keeps_it_when_rides_are_added() -> None:
    def places(count: int) -> dict[str, str]:
        items = [Item(f"ride{n:03d}-x_1.jpg", ride=f"ride{n:03d}") for n in range(count)]
        return dict(zip((item.name for item in items), divide(items).splits, strict=True))

    small, large = places(40), places(400)
    assert set(small.values()) == {"train", "val", "test"}
    assert {name: large[name] for name in small} == small


def test_the_shares_are_about_seventy_fifteen_fifteen() -> None:
    found = divide([Item(f"x{n}.jpg", ride=f"r{n}") for n in range(4000)]).splits
    assert 0.67 < found.count("train") / 4000 < 0.73
    assert 0.13 < found.count("val") / 4000 < 0.17
    assert 0.13 < found.count("test") / 4000 < 0.17


def test_the_real_rides_and_the_synthetic_ones_come_out_as_the_salt_was_chosen() -> None:
    rides = ["dayride_type1_001", "dayride_type1_002", "dayride_type1_003", "nightride_type3_001"]
    found = divide([Item(f"images/{ride}-{n}.jpg") for n in (7, 8) for ride in rides])
    assert found.splits == ("train", "val", "test", "train") * 2
    assert found.grouping == "ride"
    synthetic = [Item("x.jpg", f"ride-{n:06d}", f"camera-{n:06d}") for n in range(24)]
    sides = divide(synthetic).splits
    assert [sides.count(side) for side in ("train", "val", "test")] == [17, 3, 4]


@pytest.mark.parametrize(
    ("name", "ride", "frame"),
    [
        ("images/dayride_type1_001-533.jpg", "dayride_type1_001", 533),
        ("train/images/frame_000012.png", "frame", 12),
        ("front camera/IMG 0007.jpg", "front camera/IMG", 7),
        ("tour1/0099.jpg", "tour1", 99),
        ("Straße (3).jpg", "Straße", 3),
        ("portrait.jpg", "portrait", None),
        ("train/images/ride-7_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg", "ride", 7),
    ],
)
def test_the_name_tells_ride_and_frame(name: str, ride: str, frame: int | None) -> None:
    assert ride_and_frame(name) == (ride, frame)


def test_one_long_ride_is_divided_by_bursts_of_64_frames() -> None:
    items = [Item(f"drive_{n:05d}.jpg") for n in range(1000)]
    division = divide(items)
    assert division.grouping == "burst"
    for start in range(0, 1000, 64):
        assert len(set(division.splits[start : start + 64])) == 1


def test_few_frames_of_one_ride_are_divided_one_by_one_and_say_so() -> None:
    division = divide([Item(f"drive_{n}.jpg") for n in range(20)])
    assert division.grouping == "image"
    assert set(division.splits) == {"train", "val", "test"}


def test_pictures_with_names_of_their_own_count_as_single_images() -> None:
    words = ["anna", "berta", "carl", "dora", "emil", "franz", "gerd", "hans", "ida", "jo", "kim"]
    assert divide([Item(f"{word}.jpg") for word in words]).grouping == "image"


def given_items(sides: dict[str, str]) -> list[Item]:
    return [
        Item(f"{ride}_{n}.jpg", ride=ride, given=side)  # type: ignore[arg-type]
        for ride, side in sides.items()
        for n in range(3)
    ]


def test_a_split_that_the_source_gives_is_honoured() -> None:
    sides = {"a": "test", "b": "train", "c": "val", "d": "test"}
    items = given_items(sides)
    division = divide(items)
    assert division.splits == tuple(item.given for item in items)
    assert division.note == ""


def test_a_given_split_that_divides_a_ride_is_replaced_and_that_is_said() -> None:
    items = given_items({"a": "test", "b": "train", "c": "val", "d": "test"})
    items[0] = Item(items[0].name, "a", given="train")
    division = divide(items)
    assert len(set(division.splits[:3])) == 1
    assert "divides a ride" in division.note


def test_where_only_val_is_given_its_rides_are_shared_out_to_test() -> None:
    items = given_items({"a": "train", "b": "train", "c": "val", "d": "val", "e": "val"})
    division = divide(items)
    assert set(division.splits[:6]) == {"train"}
    assert set(division.splits[6:]) == {"val", "test"}


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=80), st.integers(1, 90))
def test_a_limit_takes_exactly_that_many_from_as_many_rides_as_it_can(
    rides: list[str], limit: int
) -> None:
    chosen = spread(rides, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, len(rides))
    assert len({rides[index] for index in chosen}) == min(limit, len(set(rides)))
