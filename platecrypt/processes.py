"""Child processes: start, watch, log, stop. The one supervisor behind every embedded engine.

A process that is left running is recorded in a JSON file, so that a later command can list and
end it. It is recognised by its pid and by when it began, counted from the system's own start (which
a clock that is set does not move): a pid that the system gave to somebody else is never touched.
A record whose process is gone without having been stopped means: it crashed.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from platecrypt.errors import BadInputError, UnavailableError

STOP_GRACE_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True)
class ProcessRecord:
    """A process that was left running.

    Attributes:
        name: unique among the running ones, e.g. "object-store".
        pid: its process id; it leads its own process group.
        began: when it began, as `_began` tells it.
        created: when it was recorded, seconds since the epoch.
        url: where it answers, or "".
        log: the file that holds its output.
        argv: the command.
        details: what its owner needs to know again (a model version, a port).
    """

    name: str
    pid: int
    began: str
    created: float
    url: str
    log: str
    argv: tuple[str, ...]
    details: dict[str, str]

    @property
    def state(self) -> str:
        """'running', or 'crashed' where the process is gone without having been stopped."""
        return "running" if self.began and _began(self.pid) == self.began else "crashed"

    @property
    def uptime_s(self) -> float:
        """Seconds since it was started."""
        return max(0.0, time.time() - self.created)


@dataclass(frozen=True)
class Launched:
    """A process that was started and is not known to be ready yet."""

    record: ProcessRecord
    child: "subprocess.Popen[bytes]"


class Supervisor:
    """The processes of one state directory."""

    def __init__(self, home: Path) -> None:
        self.records = home / "processes"
        self.logs = home / "logs"

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        url: str = "",
        ready: Callable[[], bool] | None = None,
        timeout_s: float = 60.0,
        details: Mapping[str, str] | None = None,
    ) -> ProcessRecord:
        """Start a process that outlives us, and wait until `ready` says so.

        `env` is added to our own environment. The process is ended if it does not become ready.

        Raises:
            UnavailableError: it ended, or was not ready in time; the message shows its last lines.
        """
        launched = self.launch(name, argv, env=env, cwd=cwd, url=url, details=details)
        return self.wait(launched, ready, timeout_s)

    def launch(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        url: str = "",
        details: Mapping[str, str] | None = None,
    ) -> "Launched":
        """The first half of `start`: several may be launched before the first is waited for.

        Raises:
            UnavailableError: there is no such command.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        self.records.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as out:
            try:
                child = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise UnavailableError(f"{name} cannot be started: {argv[0]}: {error}") from None
        record = ProcessRecord(
            name=name,
            pid=child.pid,
            began=_began(child.pid),
            created=time.time(),
            url=url,
            log=str(log),
            argv=tuple(argv),
            details=dict(details or {}),
        )
        self._write(record)
        return Launched(record, child)

    def wait(
        self, launched: "Launched", ready: Callable[[], bool] | None, timeout_s: float
    ) -> ProcessRecord:
        """The second half of `start`; errors as there."""
        try:
            self._wait_ready(launched.record, launched.child, ready, timeout_s)
        except BaseException:
            self.stop(launched.record.name)
            raise
        return launched.record

    def find(self, name: str) -> ProcessRecord | None:
        """The record of that name, running or crashed."""
        path = self.records / f"{name}.json"
        try:
            raw = json.loads(path.read_text())
            return ProcessRecord(**{**raw, "argv": tuple(raw["argv"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):  # half a file, or another version's
            path.unlink(missing_ok=True)
            return None

    def running(self, name: str) -> ProcessRecord | None:
        """The record of that name if its process lives."""
        record = self.find(name)
        return record if record and record.state == "running" else None

    def list(self) -> list[ProcessRecord]:
        """Every record, sorted by name."""
        names = sorted(path.stem for path in self.records.glob("*.json"))
        return [record for record in map(self.find, names) if record]

    def rename(self, old: str, new: str) -> ProcessRecord:
        """Give a running process another name (its log file keeps the old one)."""
        record = self.find(old)
        if record is None:
            raise UnavailableError(f"no process named {old} is recorded")
        renamed = ProcessRecord(**{**asdict(record), "name": new, "argv": record.argv})
        self._write(renamed)
        (self.records / f"{old}.json").unlink()
        return renamed

    def stop(self, name: str, grace_s: float = STOP_GRACE_S) -> bool:
        """End a process and its children (TERM, then KILL after `grace_s`); forget its record.

        Returns whether it was running.
        """
        record = self.find(name)
        if record is None:
            return False
        alive = record.state == "running"
        if alive:
            stop_tree(record.pid, grace_s)
        (self.records / f"{name}.json").unlink(missing_ok=True)
        return alive

    def _write(self, record: ProcessRecord) -> None:
        path = self.records / f"{record.name}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(record), indent=1))
        temporary.replace(path)

    def _wait_ready(
        self,
        record: ProcessRecord,
        child: "subprocess.Popen[bytes]",
        ready: Callable[[], bool] | None,
        timeout_s: float,
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            if child.poll() is not None:
                raise UnavailableError(
                    f"{record.name} ended with code {child.returncode} before it was ready; "
                    f"{record.log} ends with: {last_lines(Path(record.log))}"
                )
            if ready is None or ready():
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{record.name} was not ready within {timeout_s:.0f} s; "
                    f"{record.log} ends with: {last_lines(Path(record.log))}"
                )
            time.sleep(POLL_S)


def stop_tree(pid: int, grace_s: float = STOP_GRACE_S) -> None:
    """End a process and all its descendants: TERM, then KILL whoever is left after `grace_s`."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _end(family, signal.SIGTERM, grace_s)


def interrupt_children(supervisor: Supervisor, grace_s: float = STOP_GRACE_S) -> None:
    """Interrupt what we started, as Ctrl-C on a terminal would; end what does not stop in time.

    The processes that the supervisor records were left running on purpose and stay.
    """
    kept: set[int] = set()
    for record in supervisor.list():
        with contextlib.suppress(psutil.NoSuchProcess):
            kept.update(child.pid for child in psutil.Process(record.pid).children(recursive=True))
            kept.add(record.pid)
    family = [p for p in psutil.Process().children(recursive=True) if p.pid not in kept]
    _end(family, signal.SIGINT, grace_s)


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; one whose parent has not asked how it ended, has."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.is_running())
    except psutil.NoSuchProcess:
        return False


def _end(family: Sequence[psutil.Process], ask: signal.Signals, grace_s: float) -> None:
    """Send `ask`, kill who is left after `grace_s`, and give those as long again to be gone."""
    for number in (ask, signal.SIGKILL):
        alive = [process for process in family if lives(process)]
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + grace_s
        while any(map(lives, alive)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    for process in family:  # our own children leave the table of processes when they are asked
        with contextlib.suppress(psutil.Error):
            process.wait(timeout=0)


def last_lines(path: Path, count: int = 5, limit: int = 20_000) -> str:
    """The last lines of a log in one line, for a message."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return "(no output)"
    kept = [line.strip() for line in lines if line.strip()][-count:]
    return " | ".join(kept) or "(no output)"


def require_free_port(host: str, port: int, setting: str) -> None:
    """Raise BadInputError when somebody listens on that port already; `setting` is the remedy."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInputError(
                f"port {port} on {host} is taken ({error.strerror}); stop its owner, or set "
                f"{setting}"
            ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def file_lock(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on a file; a second holder is refused, at once or after `wait_s`.

    Raises:
        BadInputError: somebody else holds it.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise BadInputError(
                        f"{path} is in use by another run; wait for it or end it"
                    ) from None
            time.sleep(POLL_S)
        yield


def _began(pid: int) -> str:
    """The system's own start and the clock ticks from there to the process's; "" where none is."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # proc(5): field 3 is the state, field 22 the start; the name before them may hold anything.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"
