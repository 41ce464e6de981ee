"""Protect many files at once: processes beside each other, one bad file does not stop the rest."""

import hashlib
import multiprocessing
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

from platecrypt.cipher import KeyringError, warm_up
from platecrypt.detection import Detector, Name, Precision
from platecrypt.errors import BadInputError, PlatecryptError, UnavailableError
from platecrypt.imaging.boxes import Quads
from platecrypt.imaging.files import (
    ProtectedFile,
    protect_file,
    sidecar_of,
    visible,
    write_whole,
)
from platecrypt.imaging.recover import FORMATS, sealed_in
from platecrypt.imaging.regions import MARGIN
from platecrypt.imaging.sealing import Origin, load_keyring

State = Literal["protected", "skipped", "failed"]
MANY = 250
"""Files a process from which loading the compiled cipher (half a second) pays: it spares 3 ms a
picture of two plates."""
GIVEN = "given"
"""Model name in the context of plates that a box file named."""


@dataclass(frozen=True)
class Options:
    """How files are protected.

    Attributes:
        keys: the keyring file; its newest master seals.
        model: the detector's ONNX file; None where every job has boxes.
        margin: share of a box's size added at each side.
        confidence: boxes with a score at or below it are dropped; None takes the detector's own.
        sidecar: keep the envelopes in `NAME.sle`.
        strip_metadata: leave out places, makers, serial numbers and times.
        force: protect again what is protected already.
        backend, precision: who runs the detector, and its arithmetic; see `Detector.load`.
        compiled: load the compiled cipher at once; else it is loaded by itself, after much data.
    """

    keys: Path
    model: Path | None = None
    margin: float = MARGIN
    confidence: float | None = None
    sidecar: bool = False
    strip_metadata: bool = False
    force: bool = False
    backend: Name = "onnxruntime"
    precision: Precision = "f32"
    compiled: bool = False


@dataclass(frozen=True)
class Job:
    """One file.

    Attributes:
        source, target: where from and where to.
        boxes: its plates; None: the detector looks.
    """

    source: Path
    target: Path
    boxes: Quads | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        source, target: as in the job.
        state: 'protected', 'skipped' (done before) or 'failed'.
        plates: regions covered.
        notes: what is not as it was.
        error: one line where it failed.
        exit_code: 0, 1 (failed) or 2 (the input cannot be used).
    """

    source: Path
    target: Path
    state: State
    plates: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0


class Worker:
    """Protects one file after another; keys and model are loaded once."""

    # Imported once, before workers are forked.
    preload: ClassVar[tuple[str, ...]] = ("platecrypt.imaging.warm",)

    def __init__(self, options: Options) -> None:
        """Load what is needed.

        Raises:
            BadInputError: the keyring or the model cannot be used.
        """
        import cv2

        cv2.setNumThreads(1)  # processes run beside each other
        if options.compiled:
            warm_up()
        self._keyring = load_keyring(options.keys)
        self.options = options
        self._detector = None
        if options.model is not None:
            self._detector = Detector.load(
                options.model, backend=options.backend, precision=options.precision
            )

    def settled(self) -> Options:
        """The options with what was measured here, so that not every process measures again."""
        if self._detector is None:
            return self.options
        backend, precision = self._detector.kind
        return replace(self.options, backend=backend, precision=precision)

    def protect(self, data: bytes, boxes: Quads | None) -> ProtectedFile:
        """Protect one file's bytes.

        Raises:
            BadInputError: see `protect_file`.
        """
        options, scores = self.options, None
        name, version = GIVEN, GIVEN
        found: object = boxes
        if boxes is None:
            if self._detector is None or options.model is None:
                raise BadInputError("there is no detector and no box file to say where plates are")
            seen = self._detector.detect(visible(data), confidence=options.confidence)
            found, scores = seen.boxes, seen.scores.tolist()
            name, version = options.model.stem, self._detector.digest[:12]
        now = datetime.now(UTC)
        return protect_file(
            data,
            found,  # type: ignore[arg-type]
            self._keyring,
            origin=Origin(name, version, uuid.uuid4().hex, now),
            margin=options.margin,
            scores=scores,
            sidecar=options.sidecar,
            strip_metadata=options.strip_metadata,
        )

    def run(self, job: Job) -> Outcome:
        """Do one job; whatever is wrong with its file is in the outcome."""
        try:
            data = job.source.read_bytes()
            if not self.options.force and is_done(data, job.target):
                return Outcome(job.source, job.target, "skipped")
            done = self.protect(data, job.boxes)
            job.target.parent.mkdir(parents=True, exist_ok=True)
            if done.sidecar is not None:
                # First: a protected picture whose plates are nowhere would be a loss.
                write_whole(sidecar_of(job.target), done.sidecar)
            write_whole(job.target, done.data)
        except (PlatecryptError, KeyringError, MemoryError, OSError) as error:
            return failed(job, error)
        return Outcome(job.source, job.target, "protected", len(done.regions), done.notes)


def failed(job: Job, error: Exception) -> Outcome:
    """What became of a file that could not be done: the error in one line."""
    code = error.exit_code if isinstance(error, PlatecryptError) else 1
    if isinstance(error, OSError):
        line = f"{error.filename or job.source}: {error.strerror}"
    else:
        line = " ".join(str(error).split()) or "not enough memory"
    return Outcome(job.source, job.target, "failed", error=line, exit_code=code)


def is_done(data: bytes, target: Path) -> bool:
    """Whether `target` holds what protecting `data` gave: sealed from these very bytes."""
    try:
        published = target.read_bytes()
        beside = sidecar_of(target)
        sidecar = beside.read_bytes() if beside.exists() else None
        items = sealed_in(published, sidecar=sidecar)
    except (OSError, BadInputError):
        return False
    return bool(items[0].origin[0] == hashlib.sha256(data).hexdigest())


def jobs_for(
    sources: Sequence[Path],
    output: Path,
    suffixes: Sequence[str] = tuple(FORMATS),
    written_as: Mapping[str, str] = MappingProxyType({}),
) -> list[Job]:
    """What to do for files and folders.

    A folder is walked, and its tree appears under `output`; files lie in `output` side by side. One
    file goes to `output` itself where that ends like a picture.

    Args:
        sources: files and folders.
        output: where to.
        suffixes: how files of a folder end that are meant, small letters.
        written_as: how a target ends instead, for suffixes (small letters) that cannot be written.

    Raises:
        BadInputError: a source is missing, a folder holds no picture, two sources have one target,
            or a target is a source.
    """
    jobs: list[Job] = []
    one = len(sources) == 1 and sources[0].is_file()
    for source in sources:
        if source.is_dir():
            if output.resolve() == source.resolve():
                raise BadInputError(f"{output} would overwrite its inputs; choose another folder")
            inside = sorted(p for p in source.rglob("*") if _is_meant(p, output, suffixes))
            if not inside:
                raise BadInputError(f"{source} holds no picture ({', '.join(suffixes)})")
            jobs += [Job(path, output / path.relative_to(source)) for path in inside]
        elif source.is_file():
            whole = one and output.suffix.lower() in suffixes and not output.is_dir()
            jobs.append(Job(source, output if whole else output / source.name))
        else:
            raise BadInputError(f"{source} does not exist")
    jobs = [replace(job, target=_written(job.target, written_as)) for job in jobs]
    _check_targets(jobs)
    return jobs


def _written(target: Path, written_as: Mapping[str, str]) -> Path:
    suffix = written_as.get(target.suffix.lower())
    return target if suffix is None else target.with_suffix(suffix)


def _is_meant(path: Path, output: Path, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in path.parts if part not in (".", ".."))
    inside_output = output.resolve() in path.resolve().parents
    return path.suffix.lower() in suffixes and path.is_file() and not hidden and not inside_output


def _check_targets(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    targets: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        if target in sources:
            raise BadInputError(
                f"{job.target} would overwrite an input; choose another place with -o"
            )
        if target in targets:
            raise BadInputError(f"{job.source} and {targets[target]} would both become {target}")
        targets[target] = job.source


def protect_all(
    jobs: Sequence[Job], options: Options, *, workers: int = 1, worker: type[Worker] = Worker
) -> Iterator[Outcome]:
    """Do all jobs; outcomes come in the order in which they end.

    Args:
        jobs: what to do.
        options: how.
        workers: processes beside each other.
        worker: who does them.

    Raises:
        BadInputError: the keyring or the model cannot be used; nothing was done.
    """
    if workers < 1:
        raise BadInputError(f"--workers {workers} is less than 1")
    compiled = options.compiled or len(jobs) >= MANY * workers
    if workers == 1 or len(jobs) < 2:
        yield from map(worker(replace(options, compiled=compiled)).run, jobs)
        return
    # Raises before anything is started.
    options = replace(worker(options).settled(), compiled=compiled)
    yield from _in_processes(list(jobs), _Team(worker, options, min(workers, len(jobs))))


@dataclass(frozen=True)
class _Team:
    """Processes that do jobs: who, how, and how many beside each other."""

    worker: type[Worker]
    options: Options
    size: int

    def pool(self, size: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("forkserver")
        # The server imports once, and every worker is a fork of it.
        context.set_forkserver_preload(list(self.worker.preload))
        members = (self.worker, self.options)
        return ProcessPoolExecutor(size, context, initializer=_start_worker, initargs=members)


def _in_processes(jobs: list[Job], team: _Team) -> Iterator[Outcome]:
    """A process that dies takes its pool with it: what it may have worked on is tried alone."""
    left = jobs[::-1]
    while left:
        running: dict[Future[Outcome], Job] = {}
        suspects: list[Job] = []
        with team.pool(team.size) as pool:
            while (left or running) and not suspects:
                try:
                    while left and len(running) < 2 * team.size:
                        running[pool.submit(_run_in_worker, left[-1])] = left[-1]
                        left.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        del running[future]
                        yield outcome
                except BrokenProcessPool:
                    suspects = list(running.values()) or [left.pop()]
        for job in suspects:
            yield _alone(job, team)


def _alone(job: Job, team: _Team) -> Outcome:
    with team.pool(1) as pool:
        try:
            return pool.submit(_run_in_worker, job).result()
        except BrokenProcessPool:
            why = "the process that worked on it died; the file is damaged, or memory ran out"
            return Outcome(job.source, job.target, "failed", error=why, exit_code=1)


_worker: Worker | None = None


def _start_worker(worker: type[Worker], options: Options) -> None:
    global _worker
    _worker = worker(options)


def _run_in_worker(job: Job) -> Outcome:
    if _worker is None:
        raise UnavailableError("the worker was not started")
    return _worker.run(job)
