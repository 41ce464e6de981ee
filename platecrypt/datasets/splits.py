"""Divides a dataset so that what belongs together stays on one side, now and when it grows.

A group is what must not be divided. Its place is a hash of its name, so it does not depend on
the other groups. Two things may move a group when new data arrives: the repair that keeps every
split filled, and a finer level of grouping that is no longer needed.
"""

import hashlib
import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from platecrypt.datasets.labels import ROLE_FOLDERS, SPLIT_FOLDERS, UNKNOWN_CAMERA
from platecrypt.datasets.manifest import SPLITS, Split

Grouping = Literal["ride", "burst", "image"]
# The number was chosen, once, so that small sets come out well: the long day ride of plates-ro in
# train with the night ride, and 24 synthetic rides divided 17, 3, 4. It must never change.
SALT = "platecrypt-split-379"
TRAIN_BELOW, VAL_BELOW = 0.70, 0.85
BURST_FRAMES = 64
# Fewer groups than splits cannot fill the splits.
ENOUGH_GROUPS = len(SPLITS)
# Above this share of rides that hold one image, names say nothing about rides.
LONE_SHARE = 0.9


@dataclass(frozen=True)
class Item:
    """What is known of one image before it has a place.

    Attributes:
        name: path inside the source.
        ride: where the source tells, else None: the name tells.
        camera: or "unknown", which joins nothing.
        given: the split that the source puts it in, or None.
    """

    name: str
    ride: str | None = None
    camera: str = UNKNOWN_CAMERA
    given: Split | None = None


@dataclass(frozen=True)
class Division:
    """The outcome, image by image in the order given.

    Attributes:
        groups: the group of each image.
        splits: the split of each image.
        grouping: what a group is; with "burst" or "image" held-out figures are optimistic,
            because neighbouring frames of one ride are on both sides.
        note: what a user should know about it, or "".
    """

    groups: tuple[str, ...]
    splits: tuple[Split, ...]
    grouping: Grouping
    note: str


def divide(items: Sequence[Item]) -> Division:
    """Give every image a group and a split.

    Rides are kept whole where there are at least three (joined by camera; then, where cameras are
    too few, on their own), else bursts of 64 consecutive frame numbers, else single images.
    """
    grouping, groups, parts = _level(items)
    honoured = _given(items, parts)
    splits = honoured or _hashed(parts)
    note = ""
    if honoured is None and all(item.given for item in items):
        note = f"the source's own split divides a {grouping} or leaves a part empty: ours is used"
    return Division(tuple(groups), tuple(splits), grouping, note)


def ride_and_frame(name: str) -> tuple[str, int | None]:
    """The ride that a file name tells, and the frame number at its end (None where it has none).

    'day/dayride_001-533.jpg' -> ('day/dayride_001', 533). Folders that say only what a file is or
    to which split it belongs do not count; a name that is only a number belongs to its folder.
    """
    path = PurePosixPath(name)
    ignored = ROLE_FOLDERS | SPLIT_FOLDERS.keys()
    folders = [part for part in path.parts[:-1] if part.lower() not in ignored]
    # Roboflow exports each augmented copy of a picture as <stem>_jpg.rf.<hash>.
    stem = re.sub(r"[_.-](jpe?g|png|bmp|webp)\.rf\.[0-9A-Za-z]{8,}$", "", path.stem)
    found = re.fullmatch(r"(.*?)[-_. ()#]*?(\d{1,18})[)]?", stem)
    if found is None:
        return "/".join([*folders, stem]), None
    ride = found.group(1).rstrip("-_. (#")
    return "/".join([*folders, ride] if ride else folders), int(found.group(2))


def join(keys: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group -> the part that it hangs together with, for (group, camera) pairs.

    Groups of one camera are one part; the camera "unknown" joins nothing. A part is named after
    its first camera, so that a camera's new rides follow it, or else after its first group.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    groups: set[str] = set()
    for group, camera in keys:
        groups.add(group)
        first = root("g:" + group)
        if camera != UNKNOWN_CAMERA:
            # The smaller name wins, and "c:" sorts before "g:".
            a, b = sorted((first, root("c:" + camera)))
            parent[b] = a
    return {group: root("g:" + group) for group in groups}


def _level(items: Sequence[Item]) -> tuple[Grouping, list[str], list[str]]:
    """The coarsest level with enough parts: its name, each image's group, each image's part."""
    named = [ride_and_frame(item.name) for item in items]
    rides = [item.ride if item.ride is not None else ride
             for item, (ride, _) in zip(items, named, strict=True)]  # fmt: skip
    by_ride = join((ride, item.camera) for ride, item in zip(rides, items, strict=True))
    lone = len(by_ride) > LONE_SHARE * len(items)
    if len(set(by_ride.values())) >= ENOUGH_GROUPS:
        return "image" if lone else "ride", rides, [by_ride[ride] for ride in rides]
    if len(by_ride) >= ENOUGH_GROUPS:
        return "image" if lone else "ride", rides, ["g:" + ride for ride in rides]
    bursts = [
        ride if frame is None else f"{ride}#{frame // BURST_FRAMES}"
        for ride, (_, frame) in zip(rides, named, strict=True)
    ]
    if len(set(bursts)) >= ENOUGH_GROUPS:
        return "burst", bursts, ["g:" + burst for burst in bursts]
    names = [item.name for item in items]
    return "image", names, ["g:" + name for name in names]


def _place(part: str) -> float:
    """A number in [0, 1) that depends on the part's name alone."""
    digest = hashlib.sha256(f"{SALT}|{part}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def _hashed(parts: Sequence[str]) -> list[Split]:
    """Splits by hash; where one would be empty, its neighbour on the scale moves into it."""
    order = sorted(set(parts), key=lambda part: (_place(part), part))
    train_end = sum(_place(part) < TRAIN_BELOW for part in order)
    val_end = sum(_place(part) < VAL_BELOW for part in order)
    # The greatest places are the first to move up, so that val and test are filled; train is
    # filled before either.
    val_end = min(val_end, len(order) - 1)
    train_end = max(min(train_end, val_end - 1), 1)
    val_end = max(val_end, train_end + 1)
    side: dict[str, Split] = {}
    for index, part in enumerate(order):
        side[part] = "train" if index < train_end else "val" if index < val_end else "test"
    return [side[part] for part in parts]


def _given(items: Sequence[Item], parts: Sequence[str]) -> list[Split] | None:
    """The source's own split where it can be honoured, else None.

    Where only val or only test is given beside train, that side's parts are shared out to both.
    """
    side: dict[str, Split] = {}
    for item, part in zip(items, parts, strict=True):
        if item.given is None or side.setdefault(part, item.given) != item.given:
            return None
    present = set(side.values())
    if present == set(SPLITS):
        return [side[part] for part in parts]
    held = sorted((part for part in side if side[part] != "train"), key=_place)
    if "train" not in present or len(held) < 2:
        return None
    val_end = min(max(sum(_place(part) < 0.5 for part in held), 1), len(held) - 1)
    for index, part in enumerate(held):
        side[part] = "val" if index < val_end else "test"
    return [side[part] for part in parts]


def spread(rides: Sequence[str], limit: int) -> list[int]:
    """Indices of `limit` images that are spread over the rides, in rising order.

    Every ride gets a few, the rest by its length; within a ride the images are evenly spaced.
    """
    if limit <= 0 or limit >= len(rides):
        return list(range(len(rides)))
    members: dict[str, list[int]] = {}
    for index, ride in enumerate(rides):
        members.setdefault(ride, []).append(index)
    floor = max(1, limit // (4 * len(members)))
    share = {ride: min(len(found), floor) for ride, found in members.items()}
    # The ride that is least covered for its length gets the next image.
    waiting = [(-len(found) / (share[ride] + 1), ride) for ride, found in members.items()]
    heapq.heapify(waiting)
    missing = limit - sum(share.values())
    while missing > 0:
        _, ride = heapq.heappop(waiting)
        if share[ride] < len(members[ride]):
            share[ride] += 1
            missing -= 1
            heapq.heappush(waiting, (-len(members[ride]) / (share[ride] + 1), ride))
    chosen: list[int] = []
    for ride in sorted(members)[:limit]:
        found, count = members[ride], share[ride]
        chosen += [found[step * len(found) // count] for step in range(count)]
    return sorted(chosen)
