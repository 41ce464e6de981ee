"""Processes are started, watched, recorded and ended for real."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.processes import Supervisor, file_lock, lives, require_free_port, stop_tree

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; "
    "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(c.pid, flush=True); time.sleep(600)",
]


def printed(supervisor: Supervisor, name: str) -> str:
    return (supervisor.logs / f"{name}.log").read_text()


def test_a_started_process_is_listed_and_stopped(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    record = supervisor.start(
        "s", SLEEPER, url="http://x", ready=lambda: "up" in printed(supervisor, "s")
    )
    try:
        (found,) = Supervisor(tmp_path).list()
        assert (found.name, found.pid, found.url, found.state) == (
            "s",
            record.pid,
            "http://x",
            "running",
        )
    finally:
        assert supervisor.stop("s")
    assert not psutil.pid_exists(record.pid)
    assert supervisor.list() == []


def test_a_killed_process_is_said_to_have_crashed(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    record = supervisor.start("s", SLEEPER)
    os.kill(record.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(record.pid)], timeout=5)
    found = supervisor.find("s")
    assert found is not None
    assert found.state == "crashed"
    assert not supervisor.stop("s")


def test_a_reused_pid_is_not_taken_for_ours(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    record = supervisor.start("s", SLEEPER)
    supervisor.stop("s")
    # The same pid, but of a process that was created at another time: ourselves.
    stranger = type(record)(**{**vars(record), "pid": os.getpid()})
    assert stranger.state == "crashed"


def test_one_that_ignores_term_is_killed_with_its_children(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    record = supervisor.start("s", STUBBORN, ready=lambda: "up" in printed(supervisor, "s"))
    supervisor.stop("s", grace_s=0.3)
    assert not psutil.pid_exists(record.pid)

    parent = supervisor.start("p", PARENT, ready=lambda: bool(printed(supervisor, "p").strip()))
    child = int(printed(supervisor, "p"))
    stop_tree(parent.pid)
    # An orphan stays in the table of processes until the system's first process asks for it.
    assert not psutil.pid_exists(child) or not lives(psutil.Process(child))


def test_one_whose_parent_does_not_ask_how_it_ended_is_not_waited_for(tmp_path: Path) -> None:
    """Who started it goes on and never asks, and it is somebody else who stops it."""
    supervisor = Supervisor(tmp_path)
    record = supervisor.start("p", PARENT, ready=lambda: bool(printed(supervisor, "p").strip()))
    child = int(printed(supervisor, "p"))
    try:
        began = time.monotonic()
        stop_tree(child, grace_s=60)
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE
        assert time.monotonic() - began < 60, "it waited until the time was over"
    finally:
        stop_tree(record.pid)


def test_one_that_ends_at_once_is_an_error_that_shows_its_last_lines(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    argv = [sys.executable, "-c", "import sys; sys.exit('the reason')"]
    with pytest.raises(UnavailableError, match=r"ended with code 1 .*the reason"):
        supervisor.start("s", argv, ready=lambda: False)
    assert supervisor.list() == []


def test_one_that_does_not_become_ready_is_ended(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    before = set(psutil.Process().children())
    with pytest.raises(UnavailableError, match="was not ready within"):
        supervisor.start("s", SLEEPER, ready=lambda: False, timeout_s=0.3)
    assert supervisor.list() == []
    left = set(psutil.Process().children()) - before
    assert not [p for p in left if p.status() != "zombie"]


def test_a_command_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no-such-command"):
        Supervisor(tmp_path).start("s", ["no-such-command"])


def test_a_damaged_record_is_forgotten(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.records.mkdir()
    (supervisor.records / "s.json").write_text("{")
    assert supervisor.list() == []


def test_a_record_of_another_version_is_forgotten(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.records.mkdir()
    (supervisor.records / "s.json").write_text('{"name": "s", "pid": 1, "argv": []}')
    assert supervisor.list() == []


def test_a_clock_that_is_set_makes_nobody_a_stranger(tmp_path: Path) -> None:
    """The system's idea of when a process was created moves with the clock."""
    supervisor = Supervisor(tmp_path)
    record = supervisor.start("s", SLEEPER)
    try:
        moved = type(record)(**{**vars(record), "created": record.created - 3600})
        assert moved.state == "running"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert record.began.startswith(boot)
        another = type(record)(**{**vars(record), "began": record.began.replace(boot, "other")})
        assert another.state == "crashed", "the same ticks after another start of the system"
    finally:
        supervisor.stop("s")


def test_a_taken_port_names_the_setting() -> None:
    import socket

    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        with pytest.raises(BadInputError, match="PLATECRYPT_PORT"):
            require_free_port("127.0.0.1", owner.getsockname()[1], "PLATECRYPT_PORT")


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path):
        second = file_lock(path)
        with pytest.raises(BadInputError, match="in use by another run"):
            second.__enter__()
    with file_lock(path):
        assert path.exists()


def test_a_lock_may_be_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = file_lock(path)
    first.__enter__()
    timer = threading.Timer(0.2, first.__exit__, (None, None, None))
    timer.start()
    with file_lock(path, wait_s=30):
        assert timer.finished.is_set()
    with file_lock(path), pytest.raises(BadInputError, match="in use"):
        file_lock(path, wait_s=0.1).__enter__()
