"""Videos: every plate covered in every frame, everything else kept, both files whole or absent."""

import contextlib
import gc
import json
import os
import re
import resource
import runpy
import signal
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from platecrypt import progress
from platecrypt.cipher import FRAME, Keyring, inspect
from platecrypt.detection import Detector
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging import video, video_file, video_sidecar
from platecrypt.imaging.regions import Region
from platecrypt.imaging.tracking import window
from platecrypt.imaging.video import protect_video, recover_track, sidecar_of, tracks_in

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
KEYS = Keyring([bytes(range(32))])
SIZE = 320, 176
PLATE = 48, 16
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
Boxes = dict[int, list[tuple[int, int, int, int]]]


def ground(width: int, height: int) -> np.ndarray:
    """A textured street without anything that looks like a plate."""
    rng = np.random.default_rng(0)
    soft = cv2.resize(rng.integers(0, 200, (height // 6, width // 6), np.uint8), (width, height))
    return np.repeat((soft // 2 + 60)[:, :, None], 3, axis=2)


def plate_picture() -> np.ndarray:
    """Magenta with darker letters, as the detectors below know it."""
    rng = np.random.default_rng(1)
    picture = np.empty((PLATE[1], PLATE[0], 3), np.uint8)
    picture[:] = 255, 0, 255
    picture[4:12, 4:44] = np.where(
        rng.random((4, 20, 1)).repeat(2, 0).repeat(2, 1) < 0.5, (200, 0, 255), (255, 0, 255)
    )
    return picture


def find(pixels: np.ndarray) -> np.ndarray:
    """The boxes of all magenta blocks."""
    red, green, blue = (pixels[..., index].astype(int) for index in range(3))
    mask = ((red > 140) & (blue > 160) & (green < 110)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    return np.asarray([(x, y, x + w, y + h) for x, y, w, h, area in stats[1:] if area > 60])


def moving(count: int = 60) -> Boxes:
    """One plate that drives through, one that comes late, stands, and goes early."""
    width, height = PLATE
    truth: Boxes = {frame: [] for frame in range(count)}
    for frame in range(count):
        x = 4 * frame + 20
        if x + width < SIZE[0]:
            truth[frame].append((x, 40, x + width, 40 + height))
        if 17 <= frame < 43:
            truth[frame].append((60, 120, 60 + width, 120 + height))
    return truth


def make(
    path: Path,
    truth: Boxes,
    *,
    size: tuple[int, int] = SIZE,
    matrix: tuple[int, ...] | None = None,
    turn: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels,
    codec: str = "libx264",
    form: str = "yuv420p",
    times: list[int] | None = None,
    audio: bool = False,
    metadata: dict[str, str] | None = None,
    setup: Callable[[Any, Any], None] = lambda _container, _stream: None,
) -> Path:
    """A clip whose upright pictures show plates at `truth`; `turn` makes the stored ones."""
    base = Fraction(1, 90_000) if times else Fraction(1, 25)
    background, plate = ground(*size), plate_picture()
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stored = turn(background).shape
        stream = container.add_stream(
            codec, rate=25, width=stored[1], height=stored[0], pix_fmt=form, time_base=base
        )
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "ultrafast", "bf": "2"}
        if matrix:
            stream.set_display_matrix(matrix)
        sound = container.add_stream("aac", rate=48_000) if audio else None
        setup(container, stream)
        for frame in sorted(truth):
            picture = background.copy()
            for x1, y1, x2, y2 in truth[frame]:
                picture[y1:y2, x1:x2] = cv2.resize(plate, (x2 - x1, y2 - y1))
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(turn(picture)), "rgb24")
            made = made.reformat(format=form)
            made.pts, made.time_base = (times[frame] if times else frame), base
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
        if sound is not None:
            hum(container, sound)
    return path


def hum(container: Any, stream: Any) -> None:
    rng = np.random.default_rng(2)
    for index in range(90):
        samples = rng.normal(0, 0.1, (2, 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
        frame.sample_rate, frame.pts = 48_000, index * 1024
        frame.time_base = Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def protect(source: Path, output: Path, **options: Any) -> video.ProtectedVideo:
    given = {"detect": find, "every": 5, "lead": 3, "tail": 4} | options
    return protect_video(
        source,
        output,
        given.pop("keyring", KEYS),
        model_name="plates",
        model_version="7",
        request_id=given.pop("request_id", "run-1"),
        time=NOW,
        **given,
    )


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def frame_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        found = [p for p in container.demux(stream) if p.size]
        return [(p.pts * p.time_base, bytes(p)) for p in found]


def covered(sidecar: Path) -> dict[int, list[Region]]:
    """The regions that were covered in each frame."""
    found: dict[int, list[Region]] = {}
    for item in video_sidecar.read(sidecar):
        if item.info.content_type == FRAME:
            plate = video_sidecar.plate_of(sidecar, item)
            found.setdefault(plate.frame, []).append(plate.region)
    return found


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips") / "clip.mp4", moving(), audio=True)


@pytest.fixture(scope="module")
def done(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> video.ProtectedVideo:
    return protect(clip, tmp_path_factory.mktemp("published") / "clip.mp4")


def test_every_plate_is_covered_in_every_frame_and_the_street_is_kept(clip, done):
    before, after = pictures(clip), pictures(done.output)
    regions = covered(done.sidecar)
    assert (done.frames, done.tracks, len(after)) == (60, 2, 60)
    for frame, boxes in moving().items():
        assert not len(find(after[frame])), f"a plate shows in frame {frame}"
        for x1, y1, x2, y2 in boxes:
            held = [
                r for r in regions[frame] if r.x1 <= x1 and r.y1 <= y1 and x2 <= r.x2 and y2 <= r.y2
            ]
            assert held, f"frame {frame}: {(x1, y1, x2, y2)} is not within {regions[frame]}"
            part = after[frame][y1:y2, x1:x2].astype(int)
            assert np.ptp(part, axis=2).mean() < 12, "the cover is grey"
        outside = np.ones(before[frame].shape[:2], bool)
        for x1, y1, x2, y2 in regions.get(frame, []):
            outside[max(0, y1 - 8) : y2 + 8, max(0, x1 - 8) : x2 + 8] = False
        change = np.abs(before[frame].astype(int) - after[frame])[outside]
        assert change.mean() < 4


def test_the_cover_comes_before_a_plate_is_seen_and_stays_after(clip, done):
    before, after = pictures(clip), pictures(done.output)
    standing = next(t for t in tracks_in(done.sidecar) if t.first > 5)
    # Seen from 20 to 40: it may have come at 16 and gone after 44.
    assert (standing.first, standing.last) == (16 - 3, 44 + 4)
    for frame in (*range(13, 17), *range(43, 49)):
        x1, y1, x2, y2 = moving()[20][1]
        same = np.abs(before[frame].astype(int) - after[frame])[y1:y2, x1:x2].mean()
        assert same > 15, f"frame {frame} shows where the plate comes or went"


def test_what_is_covered_is_what_is_sealed(clip, tmp_path, monkeypatch):
    painted: dict[int, list[Region]] = {}
    write = video_file.Sink.write

    def spy(self: Any, frame: Any, regions: list[Region], noise: np.ndarray) -> None:
        painted[frame.index] = regions
        write(self, frame, regions, noise)

    monkeypatch.setattr(video_file.Sink, "write", spy)
    result = protect(clip, tmp_path / "out.mp4")
    assert {frame: regions for frame, regions in painted.items() if regions} == covered(
        result.sidecar
    )


def test_a_recovered_track_is_the_sources_own_pixels(clip, done, tmp_path):
    before = pictures(clip)
    for info in tracks_in(done.sidecar):
        folder = tmp_path / str(info.track)
        assert recover_track(done.sidecar, KEYS, info.track, folder) == info.frames
        told = json.loads((folder / "track.json").read_text())
        assert told["track"] == info.track
        assert (told["model"], told["request_id"]) == ("plates", "run-1")
        assert len(list(folder.glob("*.png"))) == len(told["frames"]) == info.frames
        for entry in told["frames"]:
            x1, y1, x2, y2 = entry["box"]
            got = cv2.imread(str(folder / entry["file"]), cv2.IMREAD_COLOR_RGB)
            assert np.array_equal(got, before[entry["frame"]][y1:y2, x1:x2])
            assert entry["seconds"] == pytest.approx(entry["frame"] / 25)
    assert done.plates == sum(info.frames for info in tracks_in(done.sidecar))


def test_sound_frame_times_and_length_are_kept(clip, done):
    assert packets(done.output, "audio") == packets(clip, "audio")
    assert frame_times(done.output) == frame_times(clip)
    with av.open(str(clip)) as was, av.open(str(done.output)) as now:
        assert abs(was.duration - now.duration) < 1000


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_variable_frame_times_are_kept(tmp_path, suffix):
    rng = np.random.default_rng(5)
    # Whole milliseconds: Matroska has no finer ones.
    times = (90 * np.cumsum(rng.integers(15, 120, 40))).tolist()
    source = make(tmp_path / "in.mp4", {f: moving()[f] for f in range(40)}, times=times, audio=True)
    result = protect(source, tmp_path / f"out{suffix}")
    assert frame_times(result.output) == [Fraction(t, 90_000) for t in times]
    was, now = packets(source, "audio"), packets(result.output, "audio")
    assert [data for _, data in now] == [data for _, data in was]
    assert all(abs(a - b) <= Fraction(1, 1000) for (a, _), (b, _) in zip(was, now, strict=True))


_TURNED = {
    "0": (None, lambda p: p),
    "90": ((0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, -1)),
    "180": ((-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 2)),
    "270": ((0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30), lambda p: np.rot90(p, 1)),
    "mirrored": ((-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), lambda p: p[:, ::-1]),
}


@pytest.mark.parametrize("name", _TURNED)
def test_rotation_is_kept_and_detection_sees_the_picture_upright(tmp_path, name):
    matrix, turn = _TURNED[name]
    truth = {frame: moving()[frame] for frame in range(16)}
    source = make(tmp_path / "in.mp4", truth, matrix=matrix, turn=turn)
    shapes, boxes = set(), []

    def detect(pixels: np.ndarray) -> np.ndarray:
        shapes.add(pixels.shape)
        boxes.append(find(pixels))
        return boxes[-1]

    result = protect(source, tmp_path / "out.mp4", detect=detect)
    assert shapes == {(SIZE[1], SIZE[0], 3)}
    assert np.abs(boxes[0][0] - moving()[0][0]).max() <= 1
    with av.open(str(source)) as was, av.open(str(result.output)) as now:
        frames = [next(container.decode(video=0)) for container in (was, now)]
    assert video_file._matrix(frames[0]) == video_file._matrix(frames[1])
    assert video_file._matrix(frames[1]) == (matrix or video_file._NO_ROTATION)
    assert all(not len(find(picture)) for picture in pictures(result.output))
    folder = tmp_path / "track"
    recover_track(result.sidecar, KEYS, 0, folder)
    plate = cv2.imread(str(folder / "000005.png"), cv2.IMREAD_COLOR_RGB)
    assert plate.shape[1] > plate.shape[0], "recovered as a viewer sees it"
    assert len(find(plate)) == 1


@pytest.mark.parametrize(
    ("source", "output", "codec", "form"),
    [
        ("in.avi", "out.mkv", "mpeg4", "yuv420p"),
        ("in.webm", "out.webm", "libvpx-vp9", "yuv420p"),
        ("in.mkv", "out.mp4", "mjpeg", "yuvj422p"),
        ("in.mov", "out.mp4", "png", "rgb24"),
        ("in.mkv", "out.mp4", "ffv1", "yuv420p10le"),
    ],
)
def test_other_containers_and_codecs(tmp_path, source, output, codec, form):
    truth = {frame: moving()[frame] for frame in range(17)}
    made = make(tmp_path / source, truth, codec=codec, form=form)
    result = protect(made, tmp_path / output)
    assert frame_times(result.output) == frame_times(made)
    assert all(not len(find(picture)) for picture in pictures(result.output))
    converted = any(f"converted from {form}" in note for note in result.notes)
    assert converted is (form != "yuv420p")
    change = np.abs(pictures(made)[8].astype(int) - pictures(result.output)[8])[:20]
    assert change.mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["yuv420p", "yuvj422p", "yuv420p10le", "rgb24"])
def test_the_flow_sees_the_brightness_of_the_upright_picture(form, orientation):
    pixels = ground(96, 64)
    pixels[10:30, 20:70] = 230
    stored = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=form)
    frame = video_file.Frame(0, 0, stored, orientation)
    region = Region(7, 5, 51, 47)
    expected = frame.pixels()[5:47, 7:51, 1].astype(float)
    found = frame.brightness(region)
    assert found.shape == expected.shape
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_an_odd_size_stays_as_it_is(tmp_path):
    truth: Boxes = {frame: [(100, 20, 148, 36)] for frame in range(8)}
    source = make(tmp_path / "in.mkv", truth, size=(151, 37), codec="ffv1", form="yuv444p")
    result = protect(source, tmp_path / "out.mp4")
    assert pictures(result.output)[0].shape == (37, 151, 3)
    assert all(not len(find(picture)) for picture in pictures(result.output))


def test_colour_description_and_pixel_shape_are_kept(tmp_path):
    def describe(_container: Any, stream: Any) -> None:
        ctx = stream.codec_context
        ctx.color_primaries, ctx.color_trc, ctx.colorspace, ctx.color_range = 1, 1, 1, 1
        ctx.sample_aspect_ratio = Fraction(4, 3)

    source = make(tmp_path / "in.mp4", {0: [], 1: []}, setup=describe)
    result = protect(source, tmp_path / "out.mp4")
    with av.open(str(source)) as was, av.open(str(result.output)) as now:
        for name in ("color_primaries", "color_trc", "colorspace", "color_range"):
            pair = [getattr(c.streams.video[0].codec_context, name) for c in (was, now)]
            assert pair == [1, 1], name
        assert now.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_a_real_detector_finds_the_plates(tmp_path):
    detector = Detector.load(MARKER["build"](tmp_path / "marker.onnx", 320))
    truth: Boxes = {frame: [(20 + 3 * frame, 40, 68 + 3 * frame, 56)] for frame in range(12)}
    source = make(tmp_path / "in.mp4", truth)
    result = protect(source, tmp_path / "out.mp4", detect=lambda p: detector.detect(p).boxes)
    assert result.tracks == 1
    assert all(not len(find(picture)) for picture in pictures(result.output))


def test_titles_stay_and_are_stripped_on_demand(tmp_path):
    tags = {"title": "A ride", "location": "+46.7700+023.5900/"}

    def divide(container: Any, _stream: Any) -> None:
        part = {"id": 1, "start": 0, "end": 40, "time_base": Fraction(1, 1000)}
        container.set_chapters([{**part, "metadata": {"title": "Cluj"}}])

    source = make(tmp_path / "in.mp4", {0: [], 1: []}, metadata=tags, setup=divide)
    kept = protect(source, tmp_path / "kept.mp4")
    stripped = protect(source, tmp_path / "stripped.mp4", strip_metadata=True)
    with av.open(str(kept.output)) as container:
        assert {name: container.metadata.get(name) for name in tags} == tags
        assert [part["metadata"] for part in container.chapters()] == [{"title": "Cluj"}]
    with av.open(str(stripped.output)) as container:
        assert not set(tags) & set(container.metadata)
        assert container.chapters() == []
    assert b"+46.77" not in stripped.output.read_bytes()


def test_cover_art_and_further_pictures_are_left_out_and_said(tmp_path):
    art = cv2.imencode(".jpg", np.full((32, 32, 3), 99, np.uint8))[1].tobytes()

    def more(container: Any, _stream: Any) -> None:
        container.add_attachment("cover.jpg", "image/jpeg", art)
        second = container.add_stream("mjpeg", rate=25, width=32, height=32, pix_fmt="yuvj420p")
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), "rgb24")
            frame = frame.reformat(format="yuvj420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            extra.append((second, frame))

    extra: list[tuple[Any, Any]] = []
    plain = make(tmp_path / "in.mkv", {f: [] for f in range(3)}, setup=more)
    result = protect(plain, tmp_path / "out.mkv")
    with av.open(str(result.output)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert art[:200] not in result.output.read_bytes()
    assert sum("left out, it may show a plate" in note for note in result.notes) == 2


def test_subtitles_are_copied_where_the_container_holds_them(tmp_path):
    lines = "".join(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\nline {n}\n\n" for n in range(3))
    (tmp_path / "in.srt").write_text(lines)
    plain = make(tmp_path / "plain.mkv", {frame: [] for frame in range(80)})
    source = tmp_path / "in.mkv"
    with (
        av.open(str(tmp_path / "in.srt")) as text,
        av.open(str(plain)) as shown,
        av.open(str(source), "w") as both,
    ):
        parts_of = text.streams.subtitles[0], shown.streams.video[0]
        made = [both.add_stream_from_template(stream, opaque=True) for stream in parts_of]
        for stream, target in zip(parts_of, made, strict=True):
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = target
                    both.mux(packet)
    kept = protect(source, tmp_path / "kept.mkv")
    assert packets(kept.output, "subtitle") == packets(source, "subtitle")
    assert len(packets(kept.output, "subtitle")) == 3
    for output, options, why in (
        ("out.mp4", {}, ".mp4 cannot hold it"),
        ("stripped.mkv", {"strip_metadata": True}, "it may tell the place"),
    ):
        result = protect(source, tmp_path / output, **options)
        assert any(why in note for note in result.notes)
        with av.open(str(result.output)) as container:
            assert not container.streams.subtitles


def test_the_cover_depends_on_nothing_in_the_picture_and_is_new_in_each_run(clip, done, tmp_path):
    noise = np.random.default_rng(0).integers(16, 236, (11, 20), np.uint8)
    region = Region(50, 34, 110, 62)
    covers = []
    for value in (0, 255):
        shown = av.VideoFrame.from_ndarray(np.full((176, 320, 3), value, np.uint8), "rgb24")
        shown = shown.reformat(format="yuv420p")
        video_file.paint(shown, [region], noise)
        covers.append(shown.to_ndarray(format="yuv420p"))
    luma, blue, red = (
        covers[0][:176],
        covers[0][176:220].reshape(88, 160),
        covers[0][220:].reshape(88, 160),
    )
    assert np.array_equal(luma[34:62, 50:110], covers[1][34:62, 50:110])
    assert len(np.unique(luma[34:62, 50:110])) > 5
    assert (blue[17:31, 25:55] == 128).all()
    assert (red[17:31, 25:55] == 128).all()
    again = protect(clip, tmp_path / "again.mp4")
    x1, y1, x2, y2 = covered(done.sidecar)[30][0]
    first, second = (
        pictures(path)[30][y1:y2, x1:x2].astype(int) for path in (done.output, again.output)
    )
    assert np.abs(first - second).mean() > 20


def test_a_cover_that_stands_still_costs_nothing(tmp_path):
    truth: Boxes = {frame: [(100, 60, 148, 76)] for frame in range(50)}
    plain = make(tmp_path / "in.mp4", truth)
    hidden = protect(plain, tmp_path / "hidden.mp4")
    bare = protect(plain, tmp_path / "bare.mp4", detect=lambda _pixels: [])
    more = hidden.output.stat().st_size - bare.output.stat().st_size
    assert more < 2500, "bytes for the cover of a plate in 50 frames"


def test_a_video_without_plates_or_with_one_frame(tmp_path):
    for count in (1, 2, 6):
        source = make(tmp_path / f"{count}.mp4", {frame: [] for frame in range(count)})
        result = protect(source, tmp_path / f"out{count}.mp4")
        assert (result.frames, result.tracks, tracks_in(result.sidecar)) == (count, 0, ())
        assert len(pictures(result.output)) == count


def test_a_plate_that_only_the_last_frame_shows_is_covered(tmp_path):
    truth: Boxes = {frame: [] for frame in range(8)} | {8: [(60, 60, 108, 76)]}
    result = protect(make(tmp_path / "in.mp4", truth), tmp_path / "out.mp4")
    assert not len(find(pictures(result.output)[8]))


def test_no_more_frames_are_held_than_fit_the_window(tmp_path):
    source = make(tmp_path / "in.mp4", moving(150))
    held: list[int] = []

    calls: list[int] = []

    def count(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) % 3:  # looking through every object of the process takes a while
            return
        held.append(sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()))

    gc.collect()
    gc.disable()
    try:
        protect(source, tmp_path / "out.mp4", progress=count)
    finally:
        gc.enable()
    assert len(held) > 6
    assert max(held) <= window(5, 3, 4) + 6


def test_progress_tells_speed_and_remaining_time(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with progress.progress("clip.mp4", "frames") as bar:
        time.sleep(0.05)
        bar(10, 60)
        bar(60, 60)
    with progress.progress("plain") as bar:
        bar(1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\| clip\.mp4: 10/60 frames, [\d.]+ frames/s, \d+ s left", lines[0])
    assert re.fullmatch(r"\| clip\.mp4: 60/60 frames, [\d.]+ frames/s", lines[1])
    assert lines[2] == "| plain: 1/2"


def test_progress_comes_to_its_end(clip, tmp_path):
    told: list[tuple[int, int]] = []
    protect(clip, tmp_path / "out.mp4", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (60, 60)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {60}


class Stop(Exception):
    pass


def _at_the_sixth(action: Callable[[], None]) -> Callable[[np.ndarray], np.ndarray]:
    calls = []

    def detect(pixels: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 6:
            action()
        return find(pixels)

    return detect


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt),
        (lambda: _raise(Stop()), Stop),
        (lambda: _raise(OSError("the model is gone")), OSError),
        (lambda: _raise(BadInputError("no picture")), BadInputError),
    ],
)
def test_what_stops_it_leaves_no_file(clip, tmp_path, action, error):
    (tmp_path / "out.mp4").write_bytes(b"an earlier one")
    with pytest.raises(error):
        protect(clip, tmp_path / "out.mp4", detect=_at_the_sixth(action))
    assert left_behind(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"an earlier one"


def test_boxes_that_are_none_stop_it(clip, tmp_path):
    with pytest.raises(BadInputError, match="boxes have shape"):
        protect(clip, tmp_path / "out.mp4", detect=lambda _pixels: [[1, 2, 3]])
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("limit", [2_000, 30_000])
def test_a_full_disk_leaves_no_file(clip, tmp_path, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UnavailableError, match="cannot be written"):
            protect(clip, tmp_path / "out.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_behind(tmp_path) == []


def test_if_the_video_cannot_take_its_place_the_sidecar_goes_too(clip, tmp_path, monkeypatch):
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "out.mp4":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UnavailableError, match="No space left"):
        protect(clip, tmp_path / "out.mp4")
    assert left_behind(tmp_path) == []


def test_a_missing_folder_is_told(clip, tmp_path):
    with pytest.raises(UnavailableError, match="cannot be written"):
        protect(clip, tmp_path / "nowhere" / "out.mp4")


def test_what_is_no_video(clip, tmp_path):
    data = clip.read_bytes()
    cases = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"not a video at all" * 100, "no MP4, MOV"),
        "list.mp4": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n", "no MP4, MOV"),
        "concat.mp4": (f"ffconcat version 1.0\nfile {clip}\n".encode(), "no MP4, MOV"),
        "short.mp4": (data[: len(data) // 2], "cut short"),
        "picture.mp4": (cv2.imencode(".png", ground(64, 48))[1].tobytes(), "no MP4, MOV"),
    }
    for name, (content, message) in cases.items():
        source = tmp_path / name
        source.write_bytes(content)
        with pytest.raises(BadInputError, match=message):
            protect(source, tmp_path / "out.mp4")
        source.unlink()
    with pytest.raises(BadInputError, match="No such file"):
        protect(tmp_path / "absent.mp4", tmp_path / "out.mp4")
    with pytest.raises(BadInputError, match="directory"):
        protect(tmp_path, tmp_path / "out.mp4")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("name", ["in.mkv", "in.avi"])
def test_what_is_cut_short(tmp_path, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    whole = make(tmp_path / name, {f: [] for f in range(12)}, codec=codec)
    data = whole.read_bytes()
    for keep in (0.5, 0.98):
        whole.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(BadInputError, match="cut short"):
            protect(whole, tmp_path / "out.mp4")
    assert left_behind(tmp_path) == [name]


def test_a_damaged_video_gives_an_error_or_all_of_its_frames_covered(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    at = data.index(b"mdat") + 2000
    data[at : at + 4000] = os.urandom(4000)
    (tmp_path / "in.mp4").write_bytes(data)
    try:
        result = protect(tmp_path / "in.mp4", tmp_path / "out.mp4")
    except BadInputError:
        assert left_behind(tmp_path) == ["in.mp4"]
    else:
        assert len(pictures(result.output)) == result.frames


def test_sound_without_pictures(tmp_path):
    with av.open(str(tmp_path / "in.mp4"), "w") as container:
        hum(container, container.add_stream("aac", rate=48_000))
    with pytest.raises(BadInputError, match="no pictures"):
        protect(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert left_behind(tmp_path) == ["in.mp4"]


def test_sound_that_the_container_cannot_hold(clip, tmp_path):
    with pytest.raises(BadInputError, match=r"cannot hold the sound .* write \.mkv"):
        protect(clip, tmp_path / "out.webm")
    assert left_behind(tmp_path) == []


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(video_file, "MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    monkeypatch.setattr(video_file.Source, "_peek", lambda _self: pytest.fail("decoded"))
    with pytest.raises(BadInputError, match="320 x 176 pixels"):
        protect(clip, tmp_path / "out.mp4")


def test_a_window_that_does_not_fit_into_memory_is_refused(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "WINDOW_BYTES", 1 << 20)
    with pytest.raises(BadInputError, match="frames of 320 x 176 in memory"):
        protect(clip, tmp_path / "out.mp4")


def test_the_input_is_never_overwritten(clip, tmp_path):
    source = tmp_path / "in.mp4"
    source.write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to(source)
    os.link(source, tmp_path / "out.mp4.sle")
    for output in ("in.mp4", "link.mp4", "out.mp4"):
        with pytest.raises(BadInputError, match="is the input itself"):
            protect(source, tmp_path / output)
    assert source.read_bytes() == clip.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every 0"),
        ({"lead": -1}, "lead -1"),
        ({"tail": 251}, "tail 251"),
        ({"margin": 2.0}, "margin 2.0"),
    ],
)
def test_options_out_of_range(clip, tmp_path, options, message):
    with pytest.raises(BadInputError, match=message):
        protect(clip, tmp_path / "out.mp4", **options)


def test_an_output_that_cannot_keep_frame_times(clip, tmp_path):
    with pytest.raises(BadInputError, match="AVI cannot keep frame times"):
        protect(clip, tmp_path / "out.avi")


def test_a_wrong_key_opens_nothing(done, tmp_path):
    with pytest.raises(BadInputError, match="none of the keys in the keyring opens this: sealed"):
        recover_track(done.sidecar, Keyring([bytes(32)]), 0, tmp_path / "out")
    assert left_behind(tmp_path) == []


def test_a_track_that_is_not_there(done, tmp_path):
    with pytest.raises(BadInputError, match="no track 9; .* holds 0 to 1"):
        recover_track(done.sidecar, KEYS, 9, tmp_path / "out")
    assert left_behind(tmp_path) == []


def test_a_folder_in_use_is_left_alone(done, tmp_path):
    (tmp_path / "out").mkdir()
    assert recover_track(done.sidecar, KEYS, 0, tmp_path / "out") > 0
    before = left_behind(tmp_path / "out")
    with pytest.raises(BadInputError, match="not empty"):
        recover_track(done.sidecar, KEYS, 1, tmp_path / "out")
    assert left_behind(tmp_path / "out") == before


def parts(sidecar: Path) -> list[bytes]:
    """The envelopes of a sidecar."""
    return [item.envelope for item in video_sidecar.read(sidecar)]


def joined(envelopes: list[bytes], count: int | None = None) -> bytes:
    head = b"SLEB\1\0\0\0" + struct.pack("<I", len(envelopes) if count is None else count)
    return head + b"".join(struct.pack("<I", len(part)) + part for part in envelopes)


def test_whatever_is_done_to_a_sidecar_shows(done, clip, tmp_path):
    whole = parts(done.sidecar)
    assert joined(whole) == done.sidecar.read_bytes()
    other = protect(clip, tmp_path / "other.mp4")
    flipped = bytearray(whole[3])
    flipped[-40] ^= 1
    renamed = whole[3].replace(b'"frame":', b'"frbme":')
    cases = {
        "one taken out": joined(whole[:3] + whole[4:]),
        "one doubled": joined([*whole[:4], whole[3], *whole[4:]]),
        "two exchanged": joined([*whole[:2], whole[3], whole[2], *whole[4:]]),
        "one of another run": joined([*whole[:3], parts(other.sidecar)[3], *whole[4:]]),
        "a bit flipped": joined([*whole[:3], bytes(flipped), *whole[4:]]),
        "a context changed": joined([*whole[:3], renamed, *whole[4:]]),
        "the record taken out": joined(whole[:-1]),
        "two records": joined([*whole, whole[-1]]),
        "a wrong count": joined(whole, len(whole) - 1),
        "too large a count": joined(whole, 1 << 31),
        "a tail": joined(whole) + b"x",
        "cut short": joined(whole)[:-1],
        "no envelope": joined([]),
        "a long length": joined(whole)[:12] + b"\xff\xff\xff\xff" + joined(whole)[16:],
        "another file": b"hello" * 9,
        "another version": b"SLEB\2" + joined(whole)[5:],
        "nothing": b"",
    }
    changed = tmp_path / "changed.sle"
    for name, data in cases.items():
        changed.write_bytes(data)
        for track in (0, 1):
            with contextlib.suppress(BadInputError):
                recover_track(changed, KEYS, track, tmp_path / "out")
                pytest.fail(f"{name}: track {track} was recovered")
            assert left_behind(tmp_path) == ["changed.sle", "other.mp4", "other.mp4.sle"], name


def test_a_sidecar_is_listed_without_a_key(clip, done, tmp_path):
    first, second = tracks_in(done.sidecar)
    assert (first.track, first.first, first.begins, first.kid) == (0, 0, 0.0, KEYS.kids[-1])
    assert second.ends == pytest.approx(second.last / 25)
    other = protect(clip, tmp_path / "other.mp4", request_id="run-2")
    (tmp_path / "mixed.sle").write_bytes(
        joined([*parts(done.sidecar)[:4], *parts(other.sidecar)[4:]])
    )
    with pytest.raises(BadInputError, match="of several videos"):
        tracks_in(tmp_path / "mixed.sle")
    with pytest.raises(BadInputError, match="No such file"):
        tracks_in(tmp_path / "absent.sle")


def test_the_lengths_of_sealed_plates_are_padded(done):
    sizes = {inspect(envelope).plaintext_bytes % 512 for envelope in parts(done.sidecar)}
    assert sizes == {0}


def test_the_sidecar_lies_beside_the_video(done):
    assert done.sidecar == sidecar_of(done.output) == done.output.with_name("clip.mp4.sle")
    assert left_behind(done.output.parent) == ["clip.mp4", "clip.mp4.sle"]
