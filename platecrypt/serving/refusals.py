"""The one error that a client of the servers sees: a status and a sentence."""


class HttpError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        retry_after: seconds after which the same request may be sent again, or None.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
