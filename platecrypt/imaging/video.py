"""Protect a video, and give back one plate of it.

Frames stream through a bounded window: decoded, looked at every k-th, tracked in between, covered,
encoded. Plates are sealed per track and frame into a file beside the video. Both files appear whole
or not at all, and the sealed plates appear first.

The cover is noise from LCL-1 under a fresh key that is thrown away: one grey value for each cell of
the whole picture, the same in every frame, seen through whatever region lies over it. It depends
on nothing in the picture, so it tells nothing; and as it does not move or change, a region that
stays costs no bits at all, and one that moves costs the cells at its rim.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time as clock
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from platecrypt.cipher import FRAME, Keyring, keystream
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging import flow, video_sidecar
from platecrypt.imaging.codec import encode
from platecrypt.imaging.regions import MARGIN, Boxes, Region, hull_boxes
from platecrypt.imaging.sealing import Origin
from platecrypt.imaging.tracking import Box, Cover, Tracker, window
from platecrypt.imaging.video_file import CELL, FORMATS, Frame, Sink, Source
from platecrypt.imaging.video_sidecar import Plate

Pixels = npt.NDArray[np.uint8]
Detect = Callable[[Pixels], Boxes]
Progress = Callable[[int, int], None]

EVERY = 5
"""The detector looks at every 5th frame: six times a second at 30 frames a second."""
LEAD = 5
"""Frames that are covered before the first in which a plate could have been seen."""
TAIL = 5
"""Frames that are covered after the last in which a plate could have been seen."""
MOST_FRAMES = 250
"""Upper limit of `every`, `lead` and `tail`."""
WINDOW_BYTES = 2 << 30
"""The frames that wait in the window may take that much memory."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ProtectedVideo:
    """What was written.

    Attributes:
        output: the published video.
        sidecar: the file of sealed plates beside it.
        frames: how many frames the video has.
        tracks: how many plates were followed; their numbers count from 0.
        plates: how many sealed pictures of plates there are, all tracks together.
        seconds: how long it took.
        notes: what was left out or changed, one line each, for the user.
    """

    output: Path
    sidecar: Path
    frames: int
    tracks: int
    plates: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TrackInfo:
    """What a sidecar tells of a track without a key; unverified.

    Attributes:
        track: its number.
        frames: how many sealed pictures it has.
        first, last: numbers of the first and last frame, from 0.
        begins, ends: presentation times of these, seconds.
        kid: id of the key that sealed it.
    """

    track: int
    frames: int
    first: int
    last: int
    begins: float
    ends: float
    kid: str


def sidecar_of(video: Path) -> Path:
    """Where the sealed plates of a published video lie: `clip.mp4.sle` beside `clip.mp4`."""
    return video.with_name(video.name + video_sidecar.SUFFIX)


def protect_video(
    source: Path,
    output: Path,
    keyring: Keyring,
    *,
    detect: Detect,
    model_name: str,
    model_version: str,
    request_id: str,
    time: datetime,
    every: int = EVERY,
    lead: int = LEAD,
    tail: int = TAIL,
    margin: float = MARGIN,
    strip_metadata: bool = False,
    progress: Progress | None = None,
) -> ProtectedVideo:
    """Cover and seal every plate of a video.

    Sound and subtitles are copied as they are; frame times, rotation, colour description, titles
    and chapters are kept. Pictures of one plate that overlap another's show what both share.

    Args:
        source: MP4, MOV, Matroska, WebM or AVI.
        output: what to write; its suffix chooses the container (see `video_file.FORMATS`).
        keyring: its newest master seals.
        detect: (H, W, 3) uint8 RGB, upright, to boxes (N, 4) in its pixels.
        model_name: for the context of the envelopes.
        model_version: for the context of the envelopes.
        request_id: names this run.
        time: of this run, with a time zone.
        every: the detector looks at every that many frames, 1..250.
        lead: see `LEAD`, 0..250.
        tail: see `TAIL`, 0..250.
        margin: share of a box's own width and height added at each side, 0..1.
        strip_metadata: drop titles, places, dates, chapters and subtitles.
        progress: told (frames done, frames in all as far as known).

    Raises:
        BadInputError: a source, an output or an option that cannot be used.
        UnavailableError: the output cannot be written.
        ValueError: `time` has no time zone.
        Exception: whatever `detect` raises. Nothing is written then either.
    """
    began = clock.monotonic()
    suffix = _check(source, output, every, lead, tail, margin)
    context = Origin(model_name, model_version, request_id, time).context(_sha256(source))
    sidecar = sidecar_of(output)
    with Source(source) as video, _both(sidecar, output) as (sealed, published):
        _check_window(video, every, lead, tail)
        sink = Sink(published, suffix, video, strip_metadata=strip_metadata)
        with _abandoned(sink):
            writer = video_sidecar.Writer(sealed, keyring, context)
            with _abandoned(writer):
                run = _Run(video, sink, writer, detect, every, lead, tail, margin)
                frames = run.through(progress or (lambda _done, _total: None))
                sink.finish()
                writer.finish(frames)
        notes = (*video.notes, *sink.notes)
    seconds = clock.monotonic() - began
    tracks = writer.totals.tracks
    return ProtectedVideo(output, sidecar, frames, tracks, run.plates, seconds, notes)


def tracks_in(sidecar: Path) -> tuple[TrackInfo, ...]:
    """The tracks of a sidecar, by number, as far as it tells without a key.

    Raises:
        BadInputError: no such file, no sidecar of a video, or damaged.
    """
    found: dict[int, TrackInfo] = {}
    totals = video_sidecar.Totals()
    for item in video_sidecar.read(sidecar):
        if item.info.content_type != FRAME:
            continue
        plate = video_sidecar.plate_of(sidecar, item)
        totals.add(plate.track, item.envelope)
        frame, at = plate.frame, plate.seconds
        was = found.get(plate.track) or TrackInfo(
            plate.track, 0, frame, frame, at, at, item.info.kid
        )
        found[plate.track] = TrackInfo(
            plate.track, was.frames + 1, was.first, frame, was.begins, at, was.kid
        )
    return tuple(found[track] for track in sorted(found))


def recover_track(sidecar: Path, keyring: Keyring, track: int, folder: Path) -> int:
    """Write the pictures of one plate: `000123.png` for frame 123, and `track.json`.

    The pixels are exactly those that the source's decoder gave. The whole sidecar is read, and
    nothing is written if any envelope of any track was taken out, added or changed.

    Args:
        sidecar: the file beside the published video.
        keyring: any of its masters may have sealed it.
        track: number of the track, from 0.
        folder: made by this; it must not exist, or be empty.

    Returns:
        How many pictures were written.

    Raises:
        BadInputError: no such track, no fitting key, a changed sidecar, or a folder in use.
        UnavailableError: the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder} exists and is not empty; name another folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        count = _write_track(sidecar, keyring, track, temporary)
        temporary.replace(folder)
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


class _Run:
    """The way of all frames from a source to a sink."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        writer: video_sidecar.Writer,
        detect: Detect,
        every: int,
        lead: int,
        tail: int,
        margin: float,
    ) -> None:
        self._source, self._sink, self._writer = source, sink, writer
        self._detect, self._every, self._margin = detect, every, margin
        self._window: deque[Frame] = deque()
        follow = partial(flow.follow, self._patch, source.width, source.height)
        self._tracker = Tracker(every=every, lead=lead, tail=tail, follow=follow)
        self._noise = _noise(source)
        self._observed = -1
        self.plates = 0

    def through(self, progress: Progress) -> int:
        """Protect all frames; returns how many."""
        total, done, last = self._source.total, 0, None
        for item in self._source.items(self._sink.copied):
            if not isinstance(item, Frame):
                self._sink.copy(item)
                continue
            last = item
            self._window.append(item)
            if item.index % self._every == 0:
                self._observe(item)
                done = self._publish(self._tracker.settled)
                progress(done, max(total, done + len(self._window)))
        assert last is not None  # noqa: S101 - `items` raises where there is no frame
        if self._observed != last.index:
            self._observe(last)
        count = last.index + 1
        self._tracker.finish(count)
        while self._window:  # piece by piece, so that the progress goes on
            done = self._publish(self._window[0].index + self._every)
            progress(min(done, count), count)
        return count

    def _observe(self, frame: Frame) -> None:
        boxes = hull_boxes(self._detect(frame.pixels())).tolist()
        self._tracker.observe(frame.index, [Box(*box) for box in boxes])
        self._observed = frame.index

    def _publish(self, stop: int) -> int:
        while self._window and self._window[0].index < stop:
            frame = self._window.popleft()
            covers = self._tracker.take(frame.index)
            regions = [(c.track, r) for c in covers if (r := self._region(c)) is not None]
            if regions:
                self._seal(frame, regions)
            self._sink.write(frame, [region for _, region in regions], self._noise)
        return stop

    def _seal(self, frame: Frame, regions: list[tuple[int, Region]]) -> None:
        pixels = frame.pixels()
        base = str(self._source.time_base)
        for track, region in regions:
            x1, y1, x2, y2 = region
            plate = Plate(track, frame.index, frame.pts, base, region)
            self._writer.plate(plate, encode(np.ascontiguousarray(pixels[y1:y2, x1:x2]), "png"))
            self.plates += 1

    def _region(self, cover: Cover) -> Region | None:
        """Whole pixels within the picture, even at all sides: colour has half the resolution."""
        box, width, height = cover.box.grown(self._margin), self._source.width, self._source.height
        region = Region(
            max(0, math.floor(box.x1) // 2 * 2),
            max(0, math.floor(box.y1) // 2 * 2),
            min(width, -(-math.ceil(box.x2) // 2) * 2),
            min(height, -(-math.ceil(box.y2) // 2) * 2),
        )
        return region if region.x1 < region.x2 and region.y1 < region.y2 else None

    def _patch(self, index: int, region: Region) -> Pixels:
        return self._window[index - self._window[0].index].brightness(region)


def _noise(source: Source) -> Pixels:
    """One value within video's legal range, 16..235, for each cell of the picture as stored."""
    shape = -(-source.first.height // CELL), -(-source.first.width // CELL)
    stream = np.frombuffer(keystream(os.urandom(32), shape[0] * shape[1]), np.uint8)
    return (16 + (stream.astype(np.uint16) * 220 >> 8)).astype(np.uint8).reshape(shape)


def _write_track(sidecar: Path, keyring: Keyring, track: int, folder: Path) -> int:
    totals, frames = video_sidecar.Totals(), list[dict[str, Any]]()
    model: dict[str, Any] = {}
    known: set[int] = set()
    for item in video_sidecar.read(sidecar):
        if item.info.content_type != FRAME:
            video_sidecar.check_totals(sidecar, item, keyring, totals)
            model = {name: item.ctx.get(name) for name in ("model", "model_version", "time")}
            model["source_sha256"], model["request_id"] = item.origin
            continue  # `read` refuses whatever comes after the record
        plate = video_sidecar.plate_of(sidecar, item)
        totals.add(plate.track, item.envelope)
        known.add(plate.track)
        if plate.track != track:
            continue
        if frames and plate.frame <= frames[-1]["frame"]:
            raise video_sidecar.damaged(sidecar)
        name = f"{plate.frame:06d}.png"
        png = video_sidecar.png_of(sidecar, item, keyring)
        with (folder / name).open("xb") as file:
            file.write(png)
        entry = {"frame": plate.frame, "seconds": plate.seconds, "box": list(plate.region)}
        frames.append({**entry, "file": name})
    if not frames:
        names = f"0 to {max(known)}" if known else "none"
        raise BadInputError(f"there is no track {track}; {sidecar} holds {names}")
    text = json.dumps({"track": track, **model, "frames": frames}, indent=1)
    (folder / "track.json").write_text(text + "\n", encoding="utf-8")
    return len(frames)


@contextlib.contextmanager
def _abandoned(file: Sink | video_sidecar.Writer) -> Iterator[None]:
    """Close a file that did not come to its end."""
    try:
        yield
    except BaseException:
        file.abandon()
        raise


@contextlib.contextmanager
def _both(first: Path, second: Path) -> Iterator[tuple[Path, Path]]:
    """Temporary names for two files that appear together at the end, or not at all."""
    temporary = [path.with_name(f".{path.name}.{os.getpid()}") for path in (first, second)]
    try:
        yield temporary[0], temporary[1]
        try:
            for path in temporary:
                _sync(path)
            temporary[0].replace(first)
            _replace_after(first, temporary[1], second)
            _sync(second.parent)
        except OSError as error:
            raise UnavailableError(f"{second} cannot be written: {error.strerror}") from None
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _replace_after(first: Path, temporary: Path, second: Path) -> None:
    """Put the second file in its place; if that fails, the first goes again."""
    try:
        temporary.replace(second)
    except BaseException:
        first.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(source: Path, output: Path, every: int, lead: int, tail: int, margin: float) -> str:
    """Refuse what cannot work before anything is read; the suffix of the output."""
    for name, value, least in (("every", every, 1), ("lead", lead, 0), ("tail", tail, 0)):
        if not least <= value <= MOST_FRAMES:
            raise BadInputError(f"{name} {value} is not within {least}..{MOST_FRAMES} frames")
    if not 0 <= margin <= 1:
        raise BadInputError(f"margin {margin} is not within 0..1 (0.08 is 8 % at each side)")
    suffix = output.suffix.lower()
    if suffix not in FORMATS:
        raise BadInputError(
            f"{output}: a video is written as {', '.join(FORMATS)}; AVI cannot keep frame times"
        )
    for path in (output, sidecar_of(output)):
        if path.exists() and source.exists() and path.samefile(source):
            raise BadInputError(f"{path} is the input itself; name another output")
        if path.is_dir():
            raise BadInputError(f"{path} is a folder; name a file")
    return suffix


def _check_window(source: Source, every: int, lead: int, tail: int) -> None:
    frames = window(every, lead, tail)
    need = frames * sum(plane.buffer_size for plane in source.first.planes)
    if need > WINDOW_BYTES:
        raise BadInputError(
            f"every {every}, lead {lead} and tail {tail} keep {frames} frames of {source.width} x "
            f"{source.height} in memory, {need >> 20} MiB; choose smaller ones"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()
