"""One trial as a process: started, read, and ended with everything that it started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from platecrypt.processes import lives
from platecrypt.tuning.collector import Metric, StreamCollector
from platecrypt.tuning.command import METRICS_FILE, Command

CHUNK = 1 << 20
LOG = "output.log"
# Every process of a trial carries these, so that it is found whatever became of its parents.
TRIAL, WORK_DIR = "KATIB_TRIAL_NAME", "TUNING_WORK_DIR"


class TrialProcess:
    """A running trial.

    Args:
        command: what to start.
        name: of the trial.
        work_dir: of the search.
        folder: of the trial; it holds `output.log`.
        env: variables beside our own environment and the command's.
        collector: reads the metrics.
        from_file: whether they stand in the trial's metrics file, not in its output.

    Raises:
        OSError: the command cannot be started.
    """

    def __init__(
        self,
        command: Command,
        name: str,
        work_dir: Path,
        folder: Path,
        env: Mapping[str, str],
        collector: StreamCollector,
        *,
        from_file: bool,
    ) -> None:
        self.name = name
        self.work_dir = work_dir
        self.log = folder / LOG
        self._collector = collector
        self._source = folder / METRICS_FILE if from_file else self.log
        self._offset = 0
        self._family: list[psutil.Process] = []
        self._deadline: float | None = None
        self._began = time.monotonic()
        if from_file:  # one of an earlier search in this folder would be read
            self._source.unlink(missing_ok=True)
        marks = {TRIAL: name, WORK_DIR: str(work_dir)}
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env, **command.env, **marks},
                cwd=command.cwd or folder,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Wall time since it was started."""
        return time.monotonic() - self._began

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._deadline is not None

    def read(self) -> tuple[list[Metric], int | None]:
        """What it measured since the last call, and its exit code once all of it was read."""
        code = self._process.poll()
        data = self._next()
        found = list(self._collector.feed(data))
        if code is None or len(data) == CHUNK:
            return found, None
        return [*found, *self._collector.close()], code

    def terminate(self, grace_s: float) -> None:
        """Ask it and its children to end; `finish` kills who is left."""
        self._deadline = time.monotonic() + grace_s
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            self._family = [root, *root.children(recursive=True)]
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)

    def gone(self) -> bool:
        """After `terminate`: whether all have ended, or their time is over."""
        self._process.poll()
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or not any(lives(process) for process in self._family)

    def finish(self) -> None:
        """End what is left: its process group, and after `terminate` whoever carries its marks."""
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self.ending:
            end_marked(self.work_dir, self.name)

    def _next(self) -> bytes:
        try:
            with self._source.open("rb") as file:
                file.seek(self._offset)
                data = file.read(CHUNK)
        except FileNotFoundError:  # the file of the collector File comes when the trial writes it
            return b""
        self._offset += len(data)
        return data


def end_marked(work_dir: Path, name: str = "") -> None:
    """Kill processes of a search, or of one trial of it, whatever became of their parents."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            ours = environment.get(WORK_DIR) == str(work_dir)
            if ours and name in ("", environment.get(TRIAL)) and process.pid != os.getpid():
                process.kill()
                process.wait(timeout=5)
