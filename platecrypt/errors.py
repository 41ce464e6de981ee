"""The one hierarchy of errors that the library raises on purpose.

A message says what was wrong, with the value, and what to do. The command line prints it in one
line and exits with `exit_code`.
"""


class PlatecryptError(Exception):
    """Something failed that the caller can be told about in one line."""

    exit_code = 1


class BadInputError(PlatecryptError):
    """What the user handed in cannot be used: nothing was changed."""

    exit_code = 2


class UnavailableError(PlatecryptError):
    """A service that is needed does not answer, or refuses."""


class RefusedError(PlatecryptError):
    """A rule of the platform forbids it: no passing verdict, a digest that does not match."""
