"""The two errors of the cipher. Plain ValueErrors: this room imports nothing of the rest."""


class EnvelopeError(ValueError):
    """An envelope or a token does not open. One type, one message: it never says why."""

    MESSAGE = "the envelope does not open: wrong key, other context, or changed bytes"

    def __init__(self) -> None:
        super().__init__(self.MESSAGE)


class KeyringError(ValueError):
    """A key file cannot be used. The message names the file and the remedy, never a key."""
