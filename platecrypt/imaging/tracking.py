"""Tracks: the same plate over time, from detections in some of the frames of a video.

A detector looks at some frames only. What lies between is filled in here, on the safe side: a box
between two sightings is interpolated and joined with what the optical flow says; before the first
and after the last sighting it reaches back to the detection frame that did not see the plate, and
some frames further; and a box grows with its distance from the nearest sighting.

Pure: no picture is touched. Frames are numbers, counted from 0; the optical flow is handed in.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

PATIENCE = 2
"""Detection frames that may miss a plate in a row before its track ends: detectors do miss some,
and a track that goes on is covered from end to end."""
DOUBT = 0.03
"""How much of its width and height a box grows at each side, a frame away from a sighting."""
MOST_DOUBT = 0.5
"""A box grows no further than that at each side."""
LEAST_IOU = 0.05
MOST_DISTANCE = 1.5
"""A sighting belongs to a track if it overlaps the place where the track should be by LEAST_IOU, or
if its centre is no further away than that many diagonals of the box: a plate is small, and moves by
more than its own height between two detection frames."""
MOST_CHANGE = 2.5
"""Width and height of a plate change by no more than that factor from one sighting to the next."""
AGREES = 0.3
"""The flow is believed to have followed the plate if it ends with that overlap on a sighting."""


class Box(NamedTuple):
    """A rectangle in pixels; its sides are real numbers."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Pixels across."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Pixels down."""
        return self.y2 - self.y1

    @property
    def centre(self) -> tuple[float, float]:
        """Of its area."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def moved(self, dx: float, dy: float) -> "Box":
        """The same box elsewhere."""
        return Box(self.x1 + dx, self.y1 + dy, self.x2 + dx, self.y2 + dy)

    def grown(self, share: float) -> "Box":
        """Larger by `share` of its width and height at each side."""
        dx, dy = share * self.width, share * self.height
        return Box(self.x1 - dx, self.y1 - dy, self.x2 + dx, self.y2 + dy)

    def hull(self, other: "Box") -> "Box":
        """The smallest box that holds both."""
        return Box(
            min(self.x1, other.x1),
            min(self.y1, other.y1),
            max(self.x2, other.x2),
            max(self.y2, other.y2),
        )


Follow = Callable[[Box, int, int], list[Box]]
"""(box, start, stop) -> the box in the frames after `start` up to and with `stop`, which may lie
before `start`; fewer where the picture no longer shows where it went."""


class Cover(NamedTuple):
    """What is to be covered in one frame for one track; the box may reach out of the picture."""

    track: int
    box: Box


@dataclass
class _Track:
    number: int
    first: int  # the first frame to cover
    seen: Box
    seen_at: int
    before: list[Box]  # flow, backwards from the first sighting
    opening: bool = True  # the frames before the first sighting are not filled in yet
    velocity: tuple[float, float] = (0.0, 0.0)  # of the centre, pixels a frame
    flow: list[Box] = field(default_factory=list)  # since the last sighting
    lost: bool = False  # the flow ended
    missing_since: int | None = None  # the first detection frame without it
    missed: int = 0

    def where(self, frame: int) -> Box:
        """Where it should be in a frame after the last sighting."""
        steps = frame - self.seen_at
        if 0 < steps <= len(self.flow):
            return self.flow[steps - 1]
        dx, dy = self.velocity
        base, known = (self.flow[-1], len(self.flow)) if self.flow else (self.seen, 0)
        return base.moved(dx * (steps - known), dy * (steps - known))


class Tracker:
    """Takes sightings in the order of time and says what to cover in each frame.

    After each `observe`, every frame below `settled` is final and can be taken once. What is not
    final yet is bounded: see `window`.
    """

    def __init__(self, *, every: int, lead: int, tail: int, follow: Follow) -> None:
        """Begin.

        Args:
            every: a frame is looked at by the detector at least that often.
            lead: frames to cover before the first in which a plate could have been seen.
            tail: frames to cover after the last in which a plate could have been seen.
            follow: the optical flow; frames from `settled` on are asked for.
        """
        self._every, self._lead, self._tail, self._follow = every, lead, tail, follow
        self._tracks: list[_Track] = []
        self._covers: defaultdict[int, list[Cover]] = defaultdict(list)
        self._last = -1  # the last frame that the detector saw
        self.count = 0

    @property
    def settled(self) -> int:
        """Frames below this are final. At most the last detection frame: the flow starts there."""
        floor = min(self._last, self._last + 1 - self._lead)
        for track in self._tracks:
            floor = min(floor, track.first if track.opening else track.seen_at + 1)
        return max(0, floor)

    def observe(self, frame: int, boxes: Sequence[Box]) -> None:
        """The detector saw these plates in this frame; frames come in ascending order."""
        for track in self._tracks:
            self._carry(track, frame)
        pairs = associate([self._guesses(track, frame) for track in self._tracks], boxes)
        matched = dict(pairs)
        for index, track in enumerate(self._tracks):
            if index in matched:
                self._sight(track, frame, boxes[matched[index]])
            else:
                self._miss(track, frame)
        for index in sorted(set(range(len(boxes))) - set(matched.values())):
            self._open(frame, boxes[index])
        self._last = frame
        self._tracks = [track for track in self._tracks if not self._ended(track, frame)]

    def finish(self, count: int) -> None:
        """The video has `count` frames, and the last was looked at: all that is left is final."""
        for track in self._tracks:
            self._close(track, count)
        self._tracks = []

    def take(self, frame: int) -> list[Cover]:
        """What to cover in a final frame, by track."""
        return sorted(self._covers.pop(frame, []), key=lambda cover: cover.track)

    def _guesses(self, track: _Track, frame: int) -> list[Box]:
        """Where it may be: by the flow, and by going on as it did."""
        steps = frame - track.seen_at
        dx, dy = track.velocity
        return [track.where(frame), track.seen.moved(dx * steps, dy * steps)]

    def _carry(self, track: _Track, frame: int) -> None:
        """Follow a track from the last detection frame to this one."""
        if track.lost:
            return
        start = track.flow[-1] if track.flow else track.seen
        found = self._follow(start, self._last, frame)
        track.flow += found
        track.lost = len(found) < frame - self._last

    def _open(self, frame: int, box: Box) -> None:
        """A new plate: it may have come right after the last detection frame."""
        first = max(0, min(frame, self._last + 1) - self._lead)
        before = self._follow(box, frame, first) if first < frame else []
        self._tracks.append(_Track(self.count, first, box, frame, before))
        self._covers[frame].append(Cover(self.count, box))
        self.count += 1

    def _sight(self, track: _Track, frame: int, box: Box) -> None:
        steps = frame - track.seen_at
        (x, y), (was_x, was_y) = box.centre, track.seen.centre
        track.velocity = (x - was_x) / steps, (y - was_y) / steps
        self._fill_before(track)
        for at, between in enumerate(_between(track, frame, box), start=track.seen_at + 1):
            self._covers[at].append(Cover(track.number, between))
        self._covers[frame].append(Cover(track.number, box))
        track.seen, track.seen_at, track.flow = box, frame, []
        track.lost, track.missing_since, track.missed = False, None, 0

    def _miss(self, track: _Track, frame: int) -> None:
        if track.opening and track.flow:  # no second sighting: the flow tells the velocity
            (x, y), (was_x, was_y) = track.flow[-1].centre, track.seen.centre
            track.velocity = (x - was_x) / len(track.flow), (y - was_y) / len(track.flow)
        self._fill_before(track)
        track.missing_since = frame if track.missing_since is None else track.missing_since
        track.missed += 1

    def _ended(self, track: _Track, frame: int) -> bool:
        """Whether it was missing for long enough; its last frames are filled in then."""
        if track.missing_since is None or track.missed <= PATIENCE:
            return False
        stop = track.missing_since + self._tail
        if frame < stop - 1:
            return False
        self._close(track, stop)
        return True

    def _close(self, track: _Track, stop: int) -> None:
        """Cover up to `stop`: the plate may have gone just before the first frame without it."""
        self._fill_before(track)
        if track.missing_since is not None:
            stop = min(stop, track.missing_since + self._tail)
        for frame in range(track.seen_at + 1, stop):
            box = _beyond(track.seen, frame - track.seen_at, track.velocity, track.flow)
            self._covers[frame].append(Cover(track.number, box))

    def _fill_before(self, track: _Track) -> None:
        """The frames before the first sighting: as soon as more is known of how it moves."""
        if not track.opening:
            return
        back = -track.velocity[0], -track.velocity[1]
        for frame in range(track.first, track.seen_at):
            box = _beyond(track.seen, track.seen_at - frame, back, track.before)
            self._covers[frame].append(Cover(track.number, box))
        track.opening, track.before = False, []


def window(every: int, lead: int, tail: int) -> int:
    """The most frames that are not final at any time."""
    before = lead + 2 * every
    after = max((PATIENCE + 1) * every, tail + every) + every
    return max(before, after) + 2


def associate(tracks: Sequence[Sequence[Box]], boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Which box is which track: the assignment of least cost (the Hungarian method).

    Args:
        tracks: for each track one or more places where it may be; the best one counts.
        boxes: what was seen.

    Returns:
        (track, box) pairs; each track and each box occurs once at most.
    """
    from scipy.optimize import linear_sum_assignment

    if not tracks or not boxes:
        return []
    seen = np.asarray(boxes, np.float64)
    impossible = 1e6
    cost = np.full((len(tracks), len(boxes)), impossible)
    for depth in range(max(len(places) for places in tracks)):
        guess = np.asarray([places[min(depth, len(places) - 1)] for places in tracks], np.float64)
        overlap, distance = iou(guess, seen), _distance(guess, seen)
        near = (overlap >= LEAST_IOU) | (distance <= MOST_DISTANCE)
        here = np.where(near & _alike(guess, seen), 1 - overlap + distance, impossible)
        cost = np.minimum(cost, here)
    rows, columns = linear_sum_assignment(cost)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if cost[row, column] < impossible]


def iou(one: Matrix, other: Matrix) -> Matrix:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M), 0..1."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    union = area[0][:, None] + area[1][None, :] - common
    return np.asarray(common / np.maximum(union, 1e-9))


def _distance(one: Matrix, other: Matrix) -> Matrix:
    """Between the centres, in diagonals of the larger box."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (one, other)]
    diagonals = [np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T) for boxes in (one, other)]
    apart = np.hypot(*np.moveaxis(centres[0][:, None] - centres[1][None], 2, 0))
    return np.asarray(apart / np.maximum(np.maximum.outer(*diagonals), 1e-9))


def _alike(one: Matrix, other: Matrix) -> npt.NDArray[np.bool_]:
    """Whether width and height differ by no more than a plate's do from sighting to sighting."""
    sizes = [np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-9)) for boxes in (one, other)]
    change = np.abs(sizes[0][:, None] - sizes[1][None])
    return np.asarray((change <= math.log(MOST_CHANGE)).all(axis=2))


def _between(track: _Track, frame: int, box: Box) -> list[Box]:
    """The boxes between the last sighting and `box` in `frame`."""
    steps = frame - track.seen_at
    flow = track.flow
    followed = len(flow) >= steps and _overlap(flow[steps - 1], box) >= AGREES
    found = []
    for step in range(1, steps):
        part = step / steps
        pairs = zip(track.seen, box, strict=True)
        here = Box(*(was * (1 - part) + now * part for was, now in pairs))
        if step <= len(flow) and (followed or _overlap(flow[step - 1], here) > 0):
            here = here.hull(flow[step - 1])
        found.append(here.grown(_doubt(min(step, steps - step))))
    return found


def _beyond(box: Box, steps: int, velocity: tuple[float, float], flow: list[Box]) -> Box:
    """The box so many frames before the first or after the last sighting, generously.

    Where the flow ended, it goes on from there as the plate moved; where it stood still though the
    plate moved (it lost the plate to the street), going on from the sighting is right: both count.
    """
    dx, dy = velocity
    gone = box.moved(dx * steps, dy * steps)
    known = min(steps, len(flow))
    if known:
        rest = steps - known
        gone = gone.hull(flow[known - 1].moved(dx * rest, dy * rest))
    return gone.grown(_doubt(steps))


def _doubt(steps: int) -> float:
    return min(MOST_DOUBT, DOUBT * steps)


def _overlap(one: Box, other: Box) -> float:
    return float(iou(np.asarray([one]), np.asarray([other]))[0, 0])
