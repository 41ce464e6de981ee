"""The keyring of a running transformer: read from a file, and again when the file changes.

A mounted Secret is replaced in place; a rotation reaches the server without a restart.
"""

import threading
from pathlib import Path

from platecrypt.cipher import Keyring

Stamp = tuple[int, int, int]


class KeyFile:
    """A keyring file, followed.

    Raises:
        KeyringError: at construction and at every use, while the file is missing or unusable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._keyring: Keyring | None = None
        self.current()

    def current(self) -> Keyring:
        """The keyring as the file has it now. Costs one `stat` while nothing changed."""
        with self._lock:
            stamp = self._look()
            if self._keyring is None or stamp is None or stamp != self._stamp:
                # Raises as long as the file is unusable: yesterday's keys are never fallen back on.
                self._keyring = Keyring.load(self._path)
                self._stamp = stamp
            return self._keyring

    def _look(self) -> Stamp | None:
        try:
            found = self._path.stat()
        except OSError:
            return None  # loading says what is wrong with it
        return found.st_mtime_ns, found.st_ino, found.st_size
