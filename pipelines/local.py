"""The embedded engine: the same pipeline on this machine, through `kfp.local`.

Each step is a process of this interpreter. Outputs and the cache live in the state folder. What
the steps print goes to the log of the run; a person sees one line a step.
"""

import contextlib
import io
import json
import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pipelines.training import training_pipeline
from platecrypt.artifacts import is_intact
from platecrypt.datasets.integrity import images_are_intact
from platecrypt.datasets.manifest import parse_manifest
from platecrypt.errors import PlatecryptError
from platecrypt.processes import Supervisor, file_lock, interrupt_children
from platecrypt.settings import Settings
from platecrypt.steps import ERROR_LINE, MARK, library_digest
from platecrypt.storage import ObjectStore

_STARTED = re.compile(r"Executing task .*?'([\w-]+)'")
_ENDED = re.compile(r"Task .*?'([\w-]+)'.* finished with status .*?(SUCCESS|FAILURE)")
_CACHED = re.compile(r"Task ([\w-]+) cache hit")
# The engine writes each component into a temporary folder, and leaves it there.
_TEMPORARY = re.compile(r"--component_module_path `(\S+)/ephemeral_component\.py`")
_COLOUR = re.compile(r"\x1b\[\d+m")


class StepFailedError(PlatecryptError):
    """A step of the pipeline failed; the exit code is the step's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class StepReport:
    """How one step went: 'done', 'cached' or 'failed', and its seconds."""

    name: str
    state: str
    seconds: float


@dataclass
class RunReport:
    """How a run went."""

    run_id: str
    folder: Path
    steps: list[StepReport] = field(default_factory=list)
    seconds: float = 0.0


def run_training(settings: Settings, store: ObjectStore, parameters: dict[str, Any]) -> RunReport:
    """Run the training pipeline on this machine.

    Args:
        settings: in force for the steps too, through their environment.
        store: reachable already.
        parameters: the pipeline's; `library` is filled in here.

    Raises:
        StepFailedError: a step failed; the message is its own line.
        BadInputError: another run holds the state folder.
    """
    from kfp import local

    runs = (settings.home / "runs").absolute()
    run_id = time.strftime("%Y%m%d-%H%M%S")
    report = RunReport(run_id, runs / run_id)
    cache = (settings.home / "cache" / "steps").absolute()
    named = settings.model_copy(update={"pipeline_run": run_id})
    with file_lock(settings.home / "run.lock"), _environment(named):
        drop_stale_entries(cache, store)
        report.folder.mkdir(parents=True, exist_ok=True)
        log = report.folder / "run.log"
        with log.open("w") as file, _captured(_Console(file, report)) as console:
            local.init(
                runner=local.SubprocessRunner(use_venv=False),
                pipeline_root=str(runs / "outputs"),
                enable_caching=True,
                cache_root=str(cache),
            )
            began = time.monotonic()
            pipeline = training_pipeline(retries=0)
            try:
                pipeline(**parameters, library=library_digest())
            except RuntimeError:
                raise _failure(console, log) from None
            except KeyboardInterrupt:
                interrupt_children(Supervisor(settings.home))
                raise
            finally:
                report.seconds = time.monotonic() - began
                console.tidy()
                _keep_few(runs / "outputs", cache)
    return report


def drop_stale_entries(cache: Path, store: ObjectStore) -> list[str]:
    """Forget cached steps whose outputs are gone or changed; returns the names of the outputs.

    kfp looks only whether a file is there. An entry stays when every artifact has the digest that
    its step recorded, and when the objects it stands for are in the store with theirs.
    """
    dropped = []
    for entry in sorted(cache.glob("*.json")):
        stale = _stale_output(entry, store)
        if stale is not None:
            entry.unlink()
            dropped.append(stale)
    return dropped


def _stale_output(entry: Path, store: ObjectStore) -> str | None:
    try:
        outputs = json.loads(entry.read_text())
    except ValueError:
        return entry.name
    for name, output in outputs.items():
        if not (isinstance(output, dict) and output.get("__kfp_artifact__")):
            continue
        path = Path(output["uri"])
        metadata = output.get("metadata") or {}
        if not is_intact(path, metadata, store):
            return str(name)
        if name == "manifest" and not images_are_intact(store, parse_manifest(path.read_bytes())):
            return str(name)
    return None


def _failure(console: "_Console", log: Path) -> StepFailedError:
    name = console.failed or "the pipeline"
    if console.error:
        code, message = console.error
        return StepFailedError(f"step {name}: {message}", code)
    return StepFailedError(f"step {name} failed: {console.last_line}; the whole log is {log}", 1)


@contextlib.contextmanager
def _environment(settings: Settings) -> Iterator[None]:
    """Hand the settings to the steps, which are processes that inherit our environment."""
    import os

    before = dict(os.environ)
    os.environ.update(settings.as_environment())
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Console(io.TextIOBase):
    """Takes what the engine prints: all of it to the log, one line a step to the person."""

    def __init__(self, log: TextIO, report: RunReport) -> None:
        self._log = log
        self._report = report
        self._out = sys.stderr
        self._rest = ""
        self._began: dict[str, float] = {}
        self._temporary: list[Path] = []
        self.failed: str | None = None
        self.error: tuple[int, str] | None = None
        self.last_line = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(_COLOUR.sub("", line))
        return len(text)

    def _take(self, line: str) -> None:
        self._log.write(line + "\n")
        self._log.flush()
        if found := _STARTED.search(line):
            self._began[found.group(1)] = time.monotonic()
            self._say(f"  {found.group(1)} ...")
        elif found := _CACHED.search(line):
            self._end(found.group(1), "cached")
        elif found := _ENDED.search(line):
            name = found.group(1)
            ok = found.group(2) == "SUCCESS"
            self._end(name, "done" if ok else "failed")
            if not ok and self.failed is None:
                self.failed = name
        elif found := _TEMPORARY.search(line):
            self._temporary.append(Path(found.group(1)))
        elif found := ERROR_LINE.match(line):
            if self.failed is None:
                self.error = (int(found.group(1)), found.group(2))
        elif line.strip().startswith(MARK):
            self._say(f"      {line.strip().removeprefix(MARK)[:200]}")
        elif line.startswith("    ") and line.strip() and self.failed is None:
            self.last_line = line.strip()

    def tidy(self) -> None:
        """Remove the folders that the engine left behind."""
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)

    def _end(self, name: str, state: str) -> None:
        seconds = time.monotonic() - self._began.pop(name, time.monotonic())
        self._report.steps.append(StepReport(name, state, seconds))
        self._say(f"  {name:<22} {state:<7} {seconds:6.1f} s")

    def _say(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()


@contextlib.contextmanager
def _captured(console: _Console) -> Iterator[_Console]:
    """Send prints and log records of the engine to the console object."""
    handler = logging.StreamHandler(console)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(console), warnings.catch_warnings():
            # Requests and limits are for a cluster; that they are ignored here is documented.
            warnings.simplefilter("ignore")
            yield console
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _keep_few(outputs: Path, cache: Path, keep: int = 5) -> None:
    """Remove the outputs of old runs that no cache entry names."""
    used = "".join(entry.read_text() for entry in cache.glob("*.json"))
    folders = sorted((path for path in outputs.glob("*") if path.is_dir()), key=lambda p: p.name)
    for folder in folders[:-keep]:
        if folder.name not in used:
            shutil.rmtree(folder, ignore_errors=True)
