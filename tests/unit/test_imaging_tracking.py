"""Tracks: which sighting belongs to which plate, and what is covered between, before and after."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platecrypt.imaging import flow
from platecrypt.imaging.regions import Region
from platecrypt.imaging.tracking import PATIENCE, Box, Follow, Tracker, associate, iou, window


def no_flow(_box: Box, _start: int, _stop: int) -> list[Box]:
    return []


def run(
    truth: dict[int, list[Box]],
    count: int,
    *,
    every: int = 5,
    lead: int = 3,
    tail: int = 4,
    follow: Follow = no_flow,
    missed: tuple[int, ...] = (),
) -> tuple[dict[int, list[tuple[int, Box]]], int]:
    """What is covered in each frame, and the most frames that had to wait."""
    tracker = Tracker(every=every, lead=lead, tail=tail, follow=follow)
    covers: dict[int, list[tuple[int, Box]]] = {}
    waiting = taken = 0
    for frame in range(count):
        waiting = max(waiting, frame + 1 - taken)
        if frame % every == 0 or frame == count - 1:
            tracker.observe(frame, [] if frame in missed else truth.get(frame, []))
            for settled in range(taken, tracker.settled):
                covers[settled] = [tuple(cover) for cover in tracker.take(settled)]
            taken = max(taken, tracker.settled)
    tracker.finish(count)
    for frame in range(taken, count):
        covers[frame] = [tuple(cover) for cover in tracker.take(frame)]
    return covers, waiting


def straight(first: int, last: int, x: float = 10, y: float = 50, step: float = 2) -> dict:
    """One plate of 40 x 12 pixels in the frames `first` to `last`."""
    return {
        frame: [Box(x + step * (frame - first), y, x + step * (frame - first) + 40, y + 12)]
        for frame in range(first, last + 1)
    }


def holds(outer: Box, inner: Box) -> bool:
    slack = 1e-6
    low = outer.x1 <= inner.x1 + slack and outer.y1 <= inner.y1 + slack
    return low and outer.x2 >= inner.x2 - slack and outer.y2 >= inner.y2 - slack


@pytest.mark.parametrize(("every", "speed"), [(1, 9), (3, 0), (5, 2), (7, -1.5), (10, 4)])
def test_a_plate_in_straight_motion_is_covered_in_every_frame_under_one_number(every, speed):
    truth = straight(every, 12 * every, x=300, step=speed)
    covers, _ = run(truth, 14 * every, every=every)
    for frame, (box,) in truth.items():
        assert any(holds(cover, box) for _, cover in covers[frame]), frame
    assert {track for found in covers.values() for track, _ in found} == {0}


def test_cover_reaches_back_and_on_to_the_frames_in_which_nobody_looked():
    covers, _ = run(straight(18, 47), 90, every=5, lead=3, tail=4)
    covered = [frame for frame, found in covers.items() if found]
    # Seen from 20 to 45; it may have come at 16 and gone after 49.
    assert covered == list(range(16 - 3, 50 + 4))


def test_the_cover_before_the_first_sighting_goes_where_the_plate_came_from():
    truth = straight(11, 60, step=6)
    covers, _ = run(truth, 61)
    for frame in range(11, 15):
        assert any(holds(cover.grown(0.1), truth[frame][0]) for _, cover in covers[frame]), frame


def test_a_detector_that_misses_a_plate_now_and_then_does_not_uncover_it():
    truth = straight(0, 60, step=3)
    gap = tuple(5 * n for n in range(4, 4 + PATIENCE))
    covers, _ = run(truth, 61, missed=gap)
    for frame, (box,) in truth.items():
        assert any(holds(cover, box) for _, cover in covers[frame]), frame
    assert {track for found in covers.values() for track, _ in found} == {0}


def test_a_plate_that_stays_away_ends_its_track():
    truth = straight(0, 20) | straight(60, 80)
    covers, _ = run(truth, 100, tail=2)
    assert {track for track, _ in covers[70]} == {1}
    assert covers[45] == []
    assert {track for track, _ in covers[26]} == {0}
    assert covers[27] == []


def test_two_plates_that_pass_each_other_keep_their_numbers():
    above, below = straight(0, 60, x=10, step=4), straight(0, 60, x=250, y=70, step=-4)
    truth = {frame: [*below[frame], *above[frame]] for frame in above}
    covers, _ = run(truth, 61)
    sides = {
        track: [box.y1 for f in covers for t, box in covers[f] if t == track] for track in (0, 1)
    }
    assert all(y > 60 for y in sides[0])
    assert all(y < 60 for y in sides[1])
    assert len({track for found in covers.values() for track, _ in found}) == 2


def test_the_flow_covers_a_plate_that_does_not_move_straight():
    def bent(frame: int) -> Box:
        return Box(
            100, 50 + 25 * np.sin(frame / 10 * np.pi), 140, 62 + 25 * np.sin(frame / 10 * np.pi)
        )

    truth = {frame: [bent(frame)] for frame in range(41)}

    def follow(_box: Box, start: int, stop: int) -> list[Box]:
        step = 1 if stop > start else -1
        return [bent(frame) for frame in range(start + step, stop + step, step)]

    with_flow, _ = run(truth, 41, every=10, follow=follow)
    without, _ = run(truth, 41, every=10)
    assert all(holds(with_flow[f][0][1], bent(f)) for f in truth)
    assert not all(holds(without[f][0][1], bent(f)) for f in truth)


def test_boxes_grow_with_the_distance_from_a_sighting():
    covers, _ = run({20: [Box(10, 10, 50, 22)]}, 60, every=10, lead=8, tail=8)
    widths = [covers[frame][0][1].width for frame in range(20, 37)]
    assert widths == sorted(widths)
    assert widths[10] > 40 * 1.3


@settings(max_examples=60, deadline=None)
@given(
    every=st.integers(1, 9),
    lead=st.integers(0, 12),
    tail=st.integers(0, 25),
    count=st.integers(1, 90),
    seed=st.integers(0, 10_000),
)
def test_frames_wait_no_longer_than_the_window_and_no_sighting_is_uncovered(
    every, lead, tail, count, seed
):
    rng = np.random.default_rng(seed)
    truth = {
        frame: [
            Box(x, y, x + 30, y + 10)
            for x, y in rng.uniform(0, 200, (rng.integers(0, 3), 2)).tolist()
        ]
        for frame in range(count)
    }
    covers, waiting = run(truth, count, every=every, lead=lead, tail=tail)
    assert waiting <= window(every, lead, tail)
    assert sorted(covers) == list(range(count))
    for frame in {*range(0, count, every), count - 1}:
        for box in truth[frame]:
            assert any(holds(cover, box) for _, cover in covers[frame])
    for frame, found in covers.items():
        assert len({track for track, _ in found}) == len(found), f"a track twice in frame {frame}"


def test_association_takes_the_assignment_that_is_best_for_all():
    tracks = [[Box(0, 0, 40, 10)], [Box(24, 0, 64, 10)]]
    boxes = [Box(20, 0, 60, 10), Box(75, 0, 115, 10)]
    # The first box is nearest to the second track, but only that one can be the second box.
    assert associate(tracks, boxes) == [(0, 0), (1, 1)]
    assert associate(tracks, []) == []
    assert associate([], boxes) == []


@pytest.mark.parametrize(
    ("box", "same"),
    [
        (Box(30, 8, 70, 18), True),  # moved by less than its diagonal
        (Box(160, 0, 200, 10), False),  # too far
        (Box(0, 0, 160, 40), False),  # too large
    ],
)
def test_association_refuses_what_cannot_be_the_same_plate(box, same):
    assert bool(associate([[Box(0, 0, 40, 10)]], [box])) is same


def test_association_uses_the_better_of_two_guesses():
    assert associate([[Box(500, 0, 540, 10), Box(2, 0, 42, 10)]], [Box(0, 0, 40, 10)]) == [(0, 0)]


def test_intersection_over_union():
    one = np.asarray([Box(0, 0, 10, 10), Box(20, 20, 30, 30)])
    other = np.asarray([Box(5, 0, 15, 10)])
    assert iou(one, other).tolist() == pytest.approx(np.asarray([[1 / 3], [0.0]]))


class Street:
    """Frames with a textured plate that moves over a textured ground."""

    def __init__(self, step: float, *, plain: bool = False) -> None:
        rng = np.random.default_rng(3)
        self.ground = rng.integers(60, 120, (200, 400)).astype(np.uint8)
        self.plate = np.full((20, 60), 200, np.uint8)
        if not plain:
            self.plate[:] = rng.choice([20, 230], (5, 15)).repeat(4, 0).repeat(4, 1)
        self.step = step

    def box(self, frame: int) -> Box:
        x = 40 + round(self.step * frame)
        return Box(x, 90, x + 60, 110)

    def patch(self, frame: int, region: Region) -> np.ndarray:
        picture = self.ground.copy()
        x1, y1, x2, y2 = (int(value) for value in self.box(frame))
        picture[y1:y2, x1:x2] = self.plate
        return picture[region.y1 : region.y2, region.x1 : region.x2]


@pytest.mark.parametrize(("step", "start", "stop"), [(3, 0, 20), (7, 0, 12), (3, 20, 0), (0, 0, 5)])
def test_the_flow_follows_a_plate_forwards_and_backwards(step, start, stop):
    street = Street(step)
    found = flow.follow(street.patch, 400, 200, street.box(start), start, stop)
    way = -1 if stop < start else 1
    assert len(found) == abs(stop - start)
    for frame, box in zip(itertools.count(start + way, way), found, strict=False):
        assert np.abs(np.subtract(box, street.box(frame))).max() < 3, frame


def test_the_flow_says_that_it_lost_a_plate():
    street = Street(2)

    def hidden(frame: int, region: Region) -> np.ndarray:
        picture = street.patch(frame, region)
        return picture if frame < 4 else np.full_like(picture, 128)

    assert len(flow.follow(hidden, 400, 200, street.box(0), 0, 10)) == 3
    plain = Street(2, plain=True)
    plain.ground[:] = 100
    inside = plain.box(0).grown(-0.2)
    assert flow.follow(plain.patch, 400, 200, inside, 0, 10) == []


def test_the_flow_stops_where_a_box_leaves_the_picture():
    street = Street(3)
    assert flow.follow(street.patch, 400, 200, Box(500, 90, 560, 110), 0, 5) == []
