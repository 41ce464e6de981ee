"""Bearer tokens: one a line in a file, compared in constant time, read again when it changes.

They stand beside what a mesh provides; without a file everybody who reaches the port is let in.
"""

import hashlib
import hmac
import logging
from pathlib import Path

from platecrypt.errors import BadInputError
from platecrypt.serving.refusals import HttpError

SCHEME = "bearer "
MIN_LENGTH = 16
MAX_FILE = 1024 * 1024

logger = logging.getLogger("platecrypt.serving")


class Tokens:
    """The tokens of a file, followed.

    Raises:
        BadInputError: at construction, the file is missing or holds no usable token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._read()

    def check(self, authorization: str) -> None:
        """Let a request in that carries one of the tokens.

        Args:
            authorization: the header of that name, or "".

        Raises:
            HttpError: 401, it carries none; 503, the file is unusable, so nobody is let in.
        """
        try:
            self._read()
        except BadInputError as error:
            logger.error("%s", error)
            raise HttpError(503, "no tokens to check with; nobody is let in") from None
        given = authorization[len(SCHEME) :] if authorization[:7].lower() == SCHEME else ""
        digest = _digest(given.strip())
        # Every token is compared, so that the time says nothing of which one was near.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(found):
            raise HttpError(401, "a bearer token is needed: Authorization: Bearer TOKEN")

    def usable(self) -> bool:
        """Whether the file holds tokens now; asked by readiness probes."""
        try:
            self._read()
        except BadInputError as error:
            logger.error("%s", error)
            return False
        return True

    def _read(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp == self._stamp:
                return
            if found.st_size > MAX_FILE:
                raise BadInputError(f"token file {self._path} is larger than {MAX_FILE} bytes")
            lines = self._path.read_text("ascii").split()
        except OSError as error:
            self._stamp = None
            raise BadInputError(f"token file {self._path}: {error.strerror}") from None
        except UnicodeDecodeError:
            self._stamp = None
            raise BadInputError(f"token file {self._path} holds something but ASCII") from None
        if not lines or min(map(len, lines)) < MIN_LENGTH:
            self._stamp = None
            raise BadInputError(
                f"token file {self._path} must hold tokens of at least {MIN_LENGTH} characters, "
                "one a line"
            )
        self._digests, self._stamp = tuple(map(_digest, lines)), stamp


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
