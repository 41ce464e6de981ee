"""The audit log: what was disclosed stands in it, and a line that is not as it was shows."""

import errno
import json
import multiprocessing
import os
import re
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from platecrypt import audit
from platecrypt.audit import START, AuditError, Entry, Report, head_path, record, verify
from platecrypt.errors import BadInputError, PlatecryptError

KID, NONCE = "9494fff6a31c7b48", "ab" * 24


def disclose(path: Path, reason: str = "asked for") -> Entry:
    return record(path, event="disclose", kid=KID, nonce=NONCE, file="car.jpg", reason=reason)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.log"


@pytest.fixture
def five(path: Path) -> list[bytes]:
    """The lines of a log with five entries, with their ends."""
    for number in range(1, 6):
        disclose(path, f"reason {number}")
    return path.read_bytes().splitlines(keepends=True)


def broken(path: Path) -> tuple[int | None, str]:
    report = verify(path)
    assert not report.intact
    assert report.problem is not None
    return report.line, report.problem


# What is written


def test_a_line_says_what_when_who_and_why(path: Path) -> None:
    before = datetime.now(UTC)
    entry = record(path, event="disclose", kid=KID, nonce=NONCE, file="a b/ü.jpg", reason="case 7")
    (line,) = path.read_text("ascii").splitlines()
    found = json.loads(line)
    assert found == {
        "number": 1,
        "time": entry.time,
        "event": "disclose",
        "kid": KID,
        "envelope": KID + NONCE,
        "file": "a b/ü.jpg",
        "uid": os.getuid(),
        "user": entry.user,
        "reason": "case 7",
        "previous": START,
    }
    assert (
        entry.user == subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.time)
    assert abs((datetime.fromisoformat(entry.time) - before).total_seconds()) < 10


def test_each_line_remembers_the_one_before(path: Path, five: list[bytes]) -> None:
    import hashlib

    previous = START
    for line in five:
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
    assert verify(path) == Report(count=5, last=previous)
    assert disclose(path).previous == previous


@pytest.mark.parametrize("mask", [0, 0o022])
def test_both_files_are_their_owners_alone(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        disclose(path)
    finally:
        os.umask(before)
    for file in (path, head_path(path)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["audit.log", "audit.log.head"]


@pytest.mark.parametrize(
    "text", ["two\nlines", "\x1b[2J", "\ud800", "\u2028", '"', "", "😀" * 2000]
)
def test_no_text_breaks_a_line_or_reaches_a_terminal_raw(path: Path, text: str) -> None:
    record(path, event="disclose", kid=KID, nonce=NONCE, file=text, reason=text)
    disclose(path)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2
    assert all(32 <= byte < 127 for byte in lines[0])
    assert json.loads(lines[0])["reason"] == text
    assert verify(path).intact


@pytest.mark.parametrize(
    "wrong",
    [
        {"kid": "xyz"},
        {"kid": KID.upper()},
        {"kid": KID + "\n"},
        {"nonce": NONCE[:-1]},
        {"event": ""},
        {"reason": "x" * 5000},
        {"file": "x" * 5000},
    ],
)
def test_what_is_no_entry_is_refused_and_nothing_is_written(
    path: Path, wrong: dict[str, str]
) -> None:
    given = {"event": "disclose", "kid": KID, "nonce": NONCE, "file": "f", "reason": "r"} | wrong
    with pytest.raises(BadInputError):
        record(path, **given)
    assert not path.exists()


# Several at once


def _many(path: Path, count: int) -> None:
    for number in range(count):
        disclose(path, f"{os.getpid()} {number}")


def test_two_processes_at_once_lose_nothing_and_break_no_chain(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_many, args=(path, 40)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert verify(path).intact
    reasons = [json.loads(line)["reason"] for line in path.read_bytes().splitlines()]
    assert sorted(reasons) == sorted(f"{w.pid} {n}" for w in workers for n in range(40))
    assert len({reason.split()[0] for reason in reasons[:60]}) == 2  # they did take turns


# What shows


def test_a_changed_line_shows_wherever_it_is(path: Path, five: list[bytes]) -> None:
    for at in range(5):
        changed = five[at].replace(b"reason ", b"season ")
        path.write_bytes(b"".join([*five[:at], changed, *five[at + 1 :]]))
        line, problem = broken(path)
        assert line == at + 1
        assert "remembers" in problem


def test_every_changed_byte_shows(path: Path, five: list[bytes]) -> None:
    whole = b"".join(five[:2])
    path.write_bytes(b"".join(five))
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] + b"".join(five[2:]))
        line, _ = broken(path)
        assert line is not None
        assert 1 <= line <= 3, at


def test_a_removed_line_shows(path: Path, five: list[bytes]) -> None:
    for at in range(4):
        path.write_bytes(b"".join(five[:at] + five[at + 1 :]))
        line, problem = broken(path)
        assert line == at + 1
        assert f"it is entry {at + 2} where entry {at + 1} belongs" in problem


def test_removed_and_renumbered_shows(path: Path, five: list[bytes]) -> None:
    rest = [line.replace(b'"number":4', b'"number":3') for line in five[3:4]]
    path.write_bytes(b"".join([*five[:2], *rest]))
    assert broken(path)[0] == 2  # the line after it remembers another one


def test_reordered_and_repeated_lines_show(path: Path, five: list[bytes]) -> None:
    path.write_bytes(b"".join([five[0], five[2], five[1], *five[3:]]))
    assert broken(path)[0] == 2
    path.write_bytes(b"".join([*five[:2], five[1], *five[2:]]))
    assert broken(path)[0] == 3


def test_a_tail_that_was_cut_off_shows(path: Path, five: list[bytes]) -> None:
    for kept in range(5):
        path.write_bytes(b"".join(five[:kept]))
        line, problem = broken(path)
        assert line == kept + 1
        assert f"{5 - kept} lines are missing at the end" in problem
        with pytest.raises(AuditError, match="missing at its end"):
            disclose(path)


def test_a_log_that_is_gone_shows(path: Path, five: list[bytes]) -> None:
    path.unlink()
    assert broken(path) == (1, "the log is gone; its head is still there")
    with pytest.raises(AuditError):
        disclose(path)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"count":-1,"size":0,"last":""}', b'{"count":"5"}']
)
def test_a_head_that_is_gone_or_damaged_shows(
    path: Path, five: list[bytes], content: bytes | None
) -> None:
    head_path(path).unlink()
    if content is not None:
        head_path(path).write_bytes(content)
    line, problem = broken(path)
    assert line == 5
    assert "audit.log.head is " in problem
    with pytest.raises(AuditError, match=r"audit\.log\.head is "):
        disclose(path)
    assert path.read_bytes() == b"".join(five)


def test_an_older_head_or_added_lines_show(path: Path) -> None:
    disclose(path)
    older = head_path(path).read_bytes()
    disclose(path)
    disclose(path)
    head_path(path).write_bytes(older)
    assert broken(path)[0] == 3
    with pytest.raises(AuditError):
        disclose(path)


def test_a_head_with_other_figures_shows(path: Path, five: list[bytes]) -> None:
    found = json.loads(head_path(path).read_bytes())
    for change in ({"size": found["size"] - 1}, {"last": START}):
        head_path(path).write_text(json.dumps(found | change))
        assert broken(path)[0] == 5
        with pytest.raises(AuditError):
            disclose(path)


def test_what_is_no_entry_is_no_line(path: Path, five: list[bytes]) -> None:
    wide = five[2].replace(b'":', b'": ')
    extra = five[2].replace(b"}", b',"more":1}')
    text = five[2].replace(b'"number":3', b'"number":"3"')
    for line in (b"\n", b"{}\n", b"[]\n", b"nonsense\n", b"[" * 200_000 + b"\n", wide, extra, text):
        path.write_bytes(b"".join([*five[:2], line, *five[3:]]))
        assert broken(path)[0] == 3


def test_a_rewritten_chain_is_found_with_a_digest_that_was_kept(
    path: Path, five: list[bytes]
) -> None:
    kept = verify(path).last
    assert verify(path, known=kept).intact
    disclose(path)
    assert verify(path, known=kept).intact
    path.unlink()
    head_path(path).unlink()
    for number in range(1, 7):
        disclose(path, f"season {number}")
    assert verify(path).intact  # by itself a chain cannot know
    report = verify(path, known=kept)
    assert report.problem is not None
    assert kept in report.problem


def test_a_missing_log_is_bad_input(path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        verify(path)
    path.mkdir(parents=True)
    with pytest.raises(BadInputError, match="cannot be read"):
        verify(path)


# Crashes and full disks


def test_half_a_line_is_noticed_and_not_written_on(path: Path, five: list[bytes]) -> None:
    whole = b"".join(five)
    with path.open("ab") as log:
        log.write(five[0][:50])
    line, problem = broken(path)
    assert line == 6
    assert "cut off" in problem
    with pytest.raises(AuditError, match=f"half a line.*truncate -s {len(whole)} ") as caught:
        disclose(path)
    assert path.read_bytes() == whole + five[0][:50]
    command = str(caught.value).rpartition("cut it off: ")[2]
    subprocess.run(command.split(), check=True)  # the remedy that the message gives
    assert disclose(path).number == 6
    assert verify(path).count == 6


def test_a_crash_after_the_line_and_before_the_head_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disclose(path)

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(audit, "_write_head", crash)
        with pytest.raises(Crash):
            disclose(path, "the line stands, the head lags")
    assert verify(path).intact
    assert disclose(path).number == 3
    assert verify(path).count == 3


def _full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["write", "fsync", "replace", "open"])
@pytest.mark.parametrize("first", [True, False])
def test_a_disk_that_fills_up_records_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, what: str, first: bool
) -> None:
    if not first:
        disclose(path)
    before = path.read_bytes() if path.exists() else b""
    breaks: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
        "write": lambda patch: patch.setattr(os, "write", _full),
        "fsync": lambda patch: patch.setattr(os, "fsync", _full),
        "replace": lambda patch: patch.setattr(Path, "replace", _full),
        "open": lambda patch: patch.setattr(os, "fdopen", _full),
    }
    with monkeypatch.context() as patch:
        breaks[what](patch)
        with pytest.raises(AuditError, match="No space left.*nothing was recorded") as caught:
            disclose(path)
    assert isinstance(caught.value, PlatecryptError)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == before
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]
    assert disclose(path).number == (1 if first else 2)
    assert verify(path).intact


def test_a_head_that_was_replaced_stays_with_its_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disclose(path)
    calls = []
    fsync = os.fsync

    def last_one_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:  # the log, the head, the folder
            _full()
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", last_one_fails)
        disclose(path)
    assert len(calls) == 3
    assert verify(path) == Report(2, audit._digest(path.read_bytes().splitlines()[-1]))


def test_a_line_that_the_system_writes_in_part_is_taken_back(path: Path) -> None:
    disclose(path)
    size = path.stat().st_size
    code = (
        "import signal, sys, pathlib, resource; from platecrypt.audit import record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 100}, {resource.RLIM_INFINITY}))\n"
        "record(pathlib.Path(sys.argv[1]), event='disclose', kid=sys.argv[2], nonce=sys.argv[3],\n"
        "       file='f', reason='r')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), KID, NONCE], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "AuditError" in done.stderr
    assert "only a part of the line was written" in done.stderr
    assert path.stat().st_size == size
    assert verify(path).intact


# Files that are not what they should be


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_log_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    disclose(path)
    path.chmod(mode)
    with pytest.raises(AuditError, match=f"{mode:04o}.*chmod 600"):
        disclose(path)


def test_a_pipe_in_place_of_the_log_is_refused_at_once(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(AuditError, match="not a regular file"):
        disclose(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written"):
        disclose(tmp_path / "file" / "audit.log")
