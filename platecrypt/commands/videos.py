"""The part of `protect`, `recover` and `inspect` that is about videos."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platecrypt.commands.shared import load_keyring, print_result
from platecrypt.errors import BadInputError

if TYPE_CHECKING:
    from platecrypt.imaging.boxes import Quads
    from platecrypt.imaging.bulk import Job, Options, Outcome

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""What is taken for a video, small letters."""
WRITTEN_AS = {".avi": ".mkv"}
"""AVI keeps no frame times: it is written as Matroska."""


def is_video(path: Path) -> bool:
    """Whether a file is named like a video."""
    return path.suffix.lower() in SUFFIXES


def protect_one(job: "Job", options: "Options", every: int) -> "Outcome":
    """Protect one video; whatever is wrong with it is in the outcome.

    Args:
        job: its boxes, if it has any, are covered in every frame (a camera that stands still).
        options: as for pictures; `sidecar` changes nothing: a video always has one.
        every: the detector looks at every that many frames.
    """
    from platecrypt.errors import PlatecryptError
    from platecrypt.imaging.bulk import failed

    try:
        return _protect(job, options, every)
    except (PlatecryptError, OSError) as error:
        return failed(job, error)


def _protect(job: "Job", options: "Options", every: int) -> "Outcome":
    from platecrypt.imaging.bulk import Outcome
    from platecrypt.progress import progress

    video, target = _video(), job.target
    if not options.force and _is_done(job.source, target):
        return Outcome(job.source, target, "skipped")
    detect, name, version = _detector(options, job.boxes)
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress(f"protecting {job.source.name}", "frames") as bar:
        done = video.protect_video(
            job.source,
            target,
            load_keyring(options.keys),
            detect=detect,
            model_name=name,
            model_version=version,
            request_id=uuid.uuid4().hex,
            time=datetime.now(UTC),
            every=every,
            margin=options.margin,
            strip_metadata=options.strip_metadata,
            progress=bar,
        )
    notes = (f"{done.frames} frames in {done.seconds:.0f} s, {done.tracks} tracks", *done.notes)
    return Outcome(job.source, target, "protected", done.tracks, notes)


def _detector(options: "Options", boxes: "Quads | None") -> tuple[Callable[[Any], Any], str, str]:
    from platecrypt.detection import Detector
    from platecrypt.imaging.bulk import GIVEN
    from platecrypt.imaging.regions import hull_boxes

    if boxes is not None:
        fixed = hull_boxes(boxes)
        return (lambda _pixels: fixed), GIVEN, GIVEN
    if options.model is None:
        raise BadInputError("there is no detector and no box file to say where plates are")
    detector = Detector.load(options.model)
    confidence = options.confidence

    def detect(pixels: Any) -> Any:
        return detector.detect(pixels, confidence=confidence).boxes

    return detect, options.model.stem, detector.digest[:12]


def _is_done(source: Path, target: Path) -> bool:
    """Whether `target` was made from these very bytes."""
    import hashlib

    from platecrypt.imaging import video_sidecar

    beside = _video().sidecar_of(target)
    if not (target.is_file() and beside.is_file()):
        return False
    try:
        first = next(video_sidecar.read(beside))
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (BadInputError, OSError):
        return False
    return bool(first.origin[0] == digest)


def recover_track(file: Path, keys: Path, track: int | None, output: Path, as_json: bool) -> None:
    """`recover` of a video: the pictures of one plate, into a folder."""
    video = _video()
    beside = _beside(file)
    if track is None:
        numbers = ", ".join(str(info.track) for info in video.tracks_in(beside)) or "none"
        raise BadInputError(f"{file} is a video: name a plate with --track ({numbers})")
    count = video.recover_track(beside, load_keyring(keys), track, output)
    result = {"track": track, "frames": count, "output": str(output)}
    print_result(as_json, result, f"{output}: {count} pictures of track {track}")


def inspect_tracks(file: Path, as_json: bool) -> None:
    """`inspect` of a video: the tracks that its sidecar tells of."""
    from dataclasses import asdict

    found = _video().tracks_in(_beside(file))
    lines = [
        f"track {info.track:<5} frames {info.first}..{info.last} ({info.frames} sealed), "
        f"{info.begins:.2f}..{info.ends:.2f} s, key {info.kid}"
        for info in found
    ]
    print_result(as_json, [asdict(info) for info in found], "\n".join(lines) or "no plates")


def _beside(file: Path) -> Path:
    beside = file if file.suffix == ".sle" else _video().sidecar_of(file)
    if not beside.is_file():
        raise BadInputError(f"{beside} does not exist: a video's plates are sealed in that file")
    return Path(beside)


def _video() -> Any:
    try:
        from platecrypt.imaging import video
    except ImportError as error:
        raise BadInputError(
            f"{error.name} is not installed; for videos: pip install 'platecrypt[video]'"
        ) from None
    return video
