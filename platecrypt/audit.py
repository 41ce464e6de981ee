"""The audit log of disclosures: append-only JSON lines, each chained to the one before it.

A line holds what happened, when, to which envelope, on whose account and why, its own number, and
in `previous` the SHA-256 of the line before it (64 zeros in the first). Beside the log `NAME.head`
remembers how many lines there are, how many bytes, and the digest of the last one.

What the chain shows (`verify`): a line that was changed, removed, added in between or moved; half a
line that a crash left; a tail that was cut off, because the head remembers it.

What it cannot show: nothing here is signed, so whoever may write both files can remove them, or
write another chain from any line on and a head to it. Against that keep the digest that `record`
or `verify` gives somewhere else, where that person cannot write: as long as `verify(path,
known=digest)` finds it, everything up to that line is as it was. Nor does the log know of a
disclosure that was made by other means than this program: whoever holds the master needs no log.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from platecrypt.errors import BadInputError, PlatecryptError

START = "0" * 64
"""`previous` of the first line."""
MAX_TEXT = 4096
"""Characters of a file name, a reason or an event."""
MAX_LINE = 256 * 1024
"""Bytes of a line; the longest that `record` writes is shorter, whatever its texts escape to."""
_KID = re.compile("[0-9a-f]{16}")
_NONCE = re.compile("[0-9a-f]{48}")


class AuditError(PlatecryptError):
    """The log cannot be written, or is not what it was: nothing may be disclosed on it."""


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        number: from 1.
        time: RFC 3339, UTC.
        event: what was done, such as 'disclose'.
        kid: id of the key that sealed the envelope, 16 hexadecimal digits.
        envelope: its name: kid and N, 64 hexadecimal digits.
        file: the file it was in, as it was named.
        uid: the account that ran it.
        user: its name, '' where the system knows none.
        reason: as given.
        previous: SHA-256 of the line before, hexadecimal.
    """

    number: int
    time: str
    event: str
    kid: str
    envelope: str
    file: str
    uid: int
    user: str
    reason: str
    previous: str

    @property
    def line(self) -> bytes:
        """The line as it stands in the log, with its end. ASCII, whatever the texts hold."""
        return (json.dumps(asdict(self), separators=(",", ":")) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the line without its end: what the next one remembers."""
        return _digest(self.line[:-1])


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        count: good lines, from the first on.
        last: digest of the last good line; keep it elsewhere. 64 zeros where there is none.
        line: number of the first bad line, or None.
        problem: what is wrong with it and what that means, or None.
    """

    count: int
    last: str
    line: int | None = None
    problem: str | None = None

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None


@dataclass(frozen=True)
class _Head:
    """How a log ends: lines, bytes, digest of the last line."""

    count: int
    size: int
    last: str


class _BrokenError(Exception):
    """The first bad line and what is wrong with it."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line, self.problem = line, problem


def record(path: Path, *, event: str, kid: str, nonce: str, file: str, reason: str) -> Entry:
    """Append one line, down to the disk. Call it before anything is disclosed, not after.

    Several processes may append at once. Where it raises, the log is as it was.

    Args:
        path: the log; made with mode 0600 where there is none.
        event: what is about to be done.
        kid: key id of the envelope, hexadecimal, as `inspect` gives it.
        nonce: N of the envelope, hexadecimal, as `inspect` gives it.
        file: the file it is in.
        reason: why; may be empty.

    Raises:
        BadInputError: an event, a key id or a nonce that is none, or a text that is too long.
        AuditError: the log cannot be written, ends in half a line, or is not the one that its head
            remembers.
    """
    _check(event, kid, nonce, file, reason)
    try:
        with _opened(path) as log:
            head = _tail(path, log)
            entry = Entry(
                number=head.count + 1,
                time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                event=event,
                kid=kid,
                envelope=kid + nonce,
                file=file,
                uid=os.getuid(),
                user=_user(os.getuid()),
                reason=reason,
                previous=head.last,
            )
            _append(path, log, entry, head)
    except OSError as error:
        raise AuditError(
            f"{path} cannot be written: {error.strerror}; nothing was recorded, so nothing may be "
            "disclosed"
        ) from None
    return entry


def verify(path: Path, *, known: str | None = None) -> Report:
    """Read the whole log and its head, and say whether anything is not as it was written.

    Args:
        path: the log.
        known: the digest of a line, kept elsewhere, that must be in it; or None.

    Raises:
        BadInputError: there is neither a log nor a head, or one of them cannot be read.
    """
    try:
        return _verify(path, known)
    except FileNotFoundError:
        raise BadInputError(f"{path} does not exist; name the log, or disclose something") from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None


def log_path(home: Path) -> Path:
    """The log in a state folder."""
    return home / "audit.log"


def head_path(path: Path) -> Path:
    """The file beside the log that remembers its end."""
    return path.with_name(path.name + ".head")


def _verify(path: Path, known: str | None) -> Report:
    if not path.exists() and head_path(path).exists():
        return Report(0, START, 1, "the log is gone; its head is still there")
    state = _Head(0, 0, START)
    found = known in (None, START)
    with path.open("rb") as log:
        fcntl.flock(log, fcntl.LOCK_SH)
        head = _read_head(path)
        remembered = state  # what the head should say
        try:
            while line := log.readline(MAX_LINE + 1):
                entry = _entry(line, state.count + 1)
                _check_link(entry, state)
                state = _Head(state.count + 1, state.size + len(line), entry.digest)
                found = found or state.last == known
                if isinstance(head, _Head) and state.count == head.count:
                    remembered = state
            _check_head(head_path(path).name, head, state.count, remembered)
        except _BrokenError as broken:
            return Report(state.count, state.last, broken.line, broken.problem)
    if not found:
        problem = f"no line has the digest {known}: lines were replaced or removed"
        return Report(state.count, state.last, max(state.count, 1), problem)
    return Report(state.count, state.last)


def _entry(line: bytes, number: int) -> Entry:
    """The entry in a whole line, which must be the one way to write it."""
    if not line.endswith(b"\n"):
        raise _BrokenError(number, "it is cut off: a crash or a full disk while it was written")
    try:
        entry = Entry(**json.loads(line))
        whole = entry.line == line and all(
            type(getattr(entry, field.name)) is field.type for field in fields(entry)
        )
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise _BrokenError(number, "it is no entry: it was changed or added")
    return entry


def _check_link(entry: Entry, before: _Head) -> None:
    here = before.count + 1
    if entry.number != here:
        raise _BrokenError(
            here,
            f"it is entry {entry.number} where entry {here} belongs: lines were removed or moved",
        )
    if entry.previous != before.last and here == 1:
        raise _BrokenError(1, "it is not the beginning of a log: it was changed or replaced")
    if entry.previous != before.last:
        raise _BrokenError(
            before.count, f"it is not the line that line {here} remembers: it was changed"
        )


def _check_head(name: str, head: _Head | str | None, count: int, remembered: _Head) -> None:
    """Compare the end with the head, which lags by one line where a crash came in between."""
    if not isinstance(head, _Head):
        if head is not None or count > 0:
            why = head or "missing"
            raise _BrokenError(
                max(count, 1), f"{name} is {why}, so lines after this one may be missing"
            )
        return
    if count < head.count:
        raise _BrokenError(count + 1, f"{head.count - count} lines are missing at the end")
    if head != remembered:
        raise _BrokenError(
            max(head.count, 1), f"it is not the line that {name} remembers: one of them was changed"
        )
    if count > head.count + 1:
        raise _BrokenError(
            head.count + 2,
            f"{name} remembers only {head.count} lines: an older one was put in its place, or "
            "lines were added by other means",
        )


def _check(event: str, kid: str, nonce: str, file: str, reason: str) -> None:
    if not event:
        raise BadInputError("an audit entry needs an event")
    if not _KID.fullmatch(kid):
        raise BadInputError(f"key id {kid[:80]!r} is not 16 hexadecimal digits")
    if not _NONCE.fullmatch(nonce):
        raise BadInputError(f"nonce {nonce[:80]!r} is not 48 hexadecimal digits")
    for name, text in {"event": event, "file": file, "reason": reason}.items():
        if len(text) > MAX_TEXT:
            raise BadInputError(f"the {name} has {len(text)} characters, more than {MAX_TEXT}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The log, open for appending, and nobody else's until the end."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    log = os.open(path, flags, 0o600)
    try:
        state = os.fstat(log)
        if not stat.S_ISREG(state.st_mode):
            raise AuditError(f"{path} is not a regular file; name another log")
        if state.st_mode & 0o022:
            raise AuditError(
                f"{path} may be written by others (mode {stat.S_IMODE(state.st_mode):04o}); close "
                f"it with `chmod 600 {path}`, and verify it"
            )
        fcntl.flock(log, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(log), path.stat()):
            raise AuditError(f"{path} was replaced at this very moment; run it again")
        yield log
    finally:
        os.close(log)


def _tail(path: Path, log: int) -> _Head:
    """How the log ends, after its end was compared with the head."""
    size = os.fstat(log).st_size
    head = _read_head(path)
    if head is None and size == 0:
        head = _Head(0, 0, START)
        _write_head(path, head)
    if not isinstance(head, _Head):
        raise _unfit(path, f"{head_path(path).name} is {head or 'missing'}")
    if size < head.size:
        raise _unfit(path, "lines are missing at its end")
    rest = os.pread(log, size - head.size, head.size)
    if rest and not rest.endswith(b"\n"):
        raise AuditError(
            f"{path} ends in half a line, which a crash or a full disk left; nothing was disclosed "
            f"on it. Keep a copy, then cut it off: truncate -s {size - len(rest) + _whole(rest)} "
            f"{path}"
        )
    if head.count and _digest(_last_line(log, head.size)) != head.last:
        raise _unfit(path, "its last line is not the one that its head remembers")
    if not rest:
        return head
    # The line was written and its head not any more: a crash in between. It counts.
    try:
        entry = _entry(rest, head.count + 1)
        _check_link(entry, head)
    except _BrokenError as broken:
        raise _unfit(path, f"line {head.count + 1}: {broken.problem}") from None
    return _Head(head.count + 1, size, entry.digest)


def _whole(rest: bytes) -> int:
    """Bytes of `rest` in whole lines."""
    return rest.rfind(b"\n") + 1


def _last_line(log: int, end: int) -> bytes:
    """The line that ends at `end`, without its end."""
    start = max(0, end - MAX_LINE)
    return os.pread(log, end - start, start).removesuffix(b"\n").rpartition(b"\n")[2]


def _append(path: Path, log: int, entry: Entry, head: _Head) -> None:
    """Write the line, then the head; where either fails the log ends where it did."""
    before = os.fstat(log).st_size
    try:
        line = entry.line
        if os.write(log, line) != len(line):
            raise OSError(28, "only a part of the line was written")
        os.fsync(log)
        _write_head(path, _Head(entry.number, before + len(line), entry.digest))
    except OSError:
        os.ftruncate(log, before)
        os.fsync(log)
        raise


def _read_head(path: Path) -> _Head | Literal["damaged"] | None:
    try:
        made = _Head(**json.loads(head_path(path).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        return "damaged"
    whole = (type(made.count), type(made.size), type(made.last)) == (int, int, str)
    return made if whole and made.count >= 0 and made.size >= 0 else "damaged"


def _write_head(path: Path, head: _Head) -> None:
    """Replace the head, so that it is the old one or the new one whatever happens."""
    target = head_path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write((json.dumps(asdict(head)) + "\n").encode())
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    # A head that a crash loses again lags by one line, which is allowed for; so this may fail.
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _unfit(path: Path, why: str) -> AuditError:
    return AuditError(
        f"{path}: {why}; nothing was recorded. `platecrypt audit verify` shows where; keep both "
        "files, move them aside, and a new log begins"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
