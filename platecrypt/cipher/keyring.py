"""The keyring: the masters that seal and open, and the one file format that keeps them.

The file is JSON: `{"keyring": 1, "masters": [{"kid": ..., "key": ..., "created": ...}]}`, oldest
first, `kid` and `key` in hexadecimal. The kid is derived from the key, so it also tells damage.
"""

import contextlib
import fcntl
import hmac
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from platecrypt.cipher.errors import KeyringError

MASTER_BYTES = 32
KID_BYTES = 8
VERSION = 1
_MAX_FILE = 1024 * 1024


@dataclass(frozen=True, repr=False)
class Master:
    """One master key and what SLE1 derives from it alone.

    Attributes:
        kid: 8 bytes that name the key without telling it.
        key: the 32 bytes themselves.
        nonce_key: 32 bytes, keys the HMAC that makes nonces.
        created: when it was made, RFC 3339 UTC; for people, decides nothing.
    """

    kid: bytes
    key: bytes
    nonce_key: bytes
    created: str

    def __repr__(self) -> str:
        return f"Master(kid={self.kid.hex()})"


class Keyring:
    """Masters by key id. The newest seals, any opens.

    A keyring that was loaded from or made in a file writes what `add` and `rotate` change back to
    it. Safe to use from several threads, and from several processes on one file.
    """

    def __init__(self, masters: Iterable[bytes] = (), *, path: Path | None = None) -> None:
        """Hold `masters` (32 bytes each), oldest first; `path` is where changes are written.

        Raises:
            KeyringError: a master has another length.
        """
        now = _now()
        self.path = path
        self._masters: dict[bytes, Master] = {}
        for key in masters:
            master = _derive(key, now, path)
            self._masters[master.kid] = master

    def __repr__(self) -> str:
        return f"Keyring(kids={list(self.kids)}, path={str(self.path) if self.path else None!r})"

    def __len__(self) -> int:
        return len(self._masters)

    def __reduce__(self) -> Any:
        # A pickle travels to caches, queues and logs; a master must not travel with it.
        raise TypeError("a Keyring is not pickled; hand over the path of its file")

    @property
    def kids(self) -> tuple[str, ...]:
        """The key ids in hexadecimal, oldest first: the last one seals."""
        return tuple(kid.hex() for kid in self._masters)

    @property
    def created(self) -> dict[str, str]:
        """Key id in hexadecimal -> when the master was made (RFC 3339 UTC)."""
        return {kid.hex(): master.created for kid, master in self._masters.items()}

    @property
    def newest(self) -> Master:
        """The master that seals.

        Raises:
            KeyringError: the keyring is empty.
        """
        if not self._masters:
            raise KeyringError(f"{_name(self.path)} holds no master; add one before sealing")
        return next(reversed(self._masters.values()))

    def find(self, kid: bytes) -> Master | None:
        """The master with that 8-byte key id, or None."""
        return self._masters.get(kid)

    @classmethod
    def create(cls, path: Path) -> "Keyring":
        """Make a keyring file with one fresh master, mode 0600. Never replaces a file.

        Raises:
            KeyringError: the file exists, or cannot be written.
        """
        keyring = cls([os.urandom(MASTER_BYTES)], path=path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = _write_temporary(path, keyring._document())
            try:
                # link() fails where the name exists, and shows the file whole or not at all:
                # what O_EXCL alone does not give.
                os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except FileExistsError:
            raise KeyringError(
                f"{path} exists; a keyring is never overwritten: use it, or choose another name"
            ) from None
        except OSError as error:
            raise KeyringError(f"{path} cannot be written: {error.strerror}") from None
        return keyring

    @classmethod
    def load(cls, path: Path) -> "Keyring":
        """Read a keyring file.

        Raises:
            KeyringError: it is missing, readable by others than its owner, empty or damaged.
        """
        keyring = cls(path=path)
        keyring._masters = _parse(_read(path), path)
        return keyring

    def add(self, key: bytes) -> str:
        """Take in a master (32 bytes); it is the newest from now on. Returns its key id, hex.

        Raises:
            KeyringError: wrong length, already held, or the file cannot be written.
        """
        master = _derive(key, _now(), self.path)
        with self._exclusive():
            held = self._masters if self.path is None else _parse(_read(self.path), self.path)
            if master.kid in held:
                raise KeyringError(f"{_name(self.path)} already holds key id {master.kid.hex()}")
            before, self._masters = self._masters, {**held, master.kid: master}
            if self.path is not None:
                try:
                    temporary = _write_temporary(self.path, self._document())
                    temporary.replace(self.path)
                    _sync_folder(self.path.parent)
                except OSError as error:
                    self._masters = before
                    raise KeyringError(
                        f"{self.path} cannot be written: {error.strerror}; nothing was changed"
                    ) from None
        return master.kid.hex()

    def rotate(self) -> str:
        """Make a fresh master that seals from now on; the older ones still open. Returns its id."""
        return self.add(os.urandom(MASTER_BYTES))

    def _document(self) -> bytes:
        masters = [
            {"kid": m.kid.hex(), "key": m.key.hex(), "created": m.created}
            for m in self._masters.values()
        ]
        return (json.dumps({"keyring": VERSION, "masters": masters}, indent=1) + "\n").encode()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Let one process at a time change the file: a lost master is a lost picture."""
        if self.path is None:
            yield
            return
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise KeyringError(f"{self.path} cannot be changed: {error.strerror}") from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _derive(key: bytes, created: str, path: Path | None) -> Master:
    if len(key) != MASTER_BYTES:
        raise KeyringError(
            f"{_name(path)}: a master has {MASTER_BYTES} bytes, this one {len(key)}; make a fresh "
            "one, or restore the file"
        )
    # HKDF-Extract is this one HMAC (RFC 5869, section 2.2).
    prk = hmac.digest(b"SLE1 master", key, "sha256")
    return Master(
        kid=HKDFExpand(SHA256(), KID_BYTES, b"SLE1 kid").derive(prk),
        key=bytes(key),
        nonce_key=HKDFExpand(SHA256(), 32, b"SLE1 nonce").derive(prk),
        created=created,
    )


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a pipe under that name must not make us wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyringError(f"{path} does not exist; make a keyring or name another file") from None
    except OSError as error:
        raise KeyringError(f"{path} cannot be read: {error.strerror}") from None
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise KeyringError(f"{path} is not a regular file; name the keyring file")
        if state.st_mode & 0o077 and not on_read_only_mount(descriptor):
            raise KeyringError(
                f"{path} is open to others (mode {stat.S_IMODE(state.st_mode):04o}); close it "
                f"with `chmod 600 {path}`"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise KeyringError(f"{path} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if not data:
        raise KeyringError(f"{path} is empty; restore it from a copy, or remove it and make one")
    return data


def _parse(data: bytes, path: Path) -> dict[bytes, Master]:
    damaged = f"{path} is damaged or no keyring; restore it from a copy"
    if len(data) > _MAX_FILE:
        raise KeyringError(damaged)
    try:
        document = json.loads(data)
        if document["keyring"] != VERSION:
            raise KeyringError(f"{path} is a keyring of another version than {VERSION}")
        entries = [
            (bytes.fromhex(m["kid"]), bytes.fromhex(m["key"]), str(m["created"]))
            for m in document["masters"]
        ]
    except KeyringError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        # `from None`: the parser's own message may quote the file.
        raise KeyringError(damaged) from None
    masters: dict[bytes, Master] = {}
    for kid, key, created in entries:
        master = _derive(key, created, path)
        if master.kid != kid:
            raise KeyringError(f"{damaged}: key id {kid.hex()} does not fit its key")
        masters[kid] = master
    if not masters:
        raise KeyringError(f"{path} holds no master; restore it, or remove it and make one")
    return masters


def _write_temporary(path: Path, data: bytes) -> Path:
    """Write `data` to a new file of mode 0600 beside `path`, down to the disk."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(path: Path | None) -> str:
    return str(path) if path is not None else "the keyring"


def on_read_only_mount(descriptor: int) -> bool:
    """Whether an open file lies on a file system that is mounted read-only.

    A Secret volume of Kubernetes is: its modes are the platform's (0440, 0644) and cannot be
    changed inside the container, where nobody else is anyway.
    """
    return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
