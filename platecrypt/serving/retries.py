"""When a client asks again: after 429 and 503 alone, later each time, until its deadline."""

import random
import time

RETRIED = (429, 503)
RETRIES = 4
FIRST_S = 0.1
LONGEST_S = 5.0
DEADLINE_S = 60.0


class Attempts:
    """The attempts of one call.

    Args:
        retries: how often the call may be repeated.
        deadline_s: of the whole call with all its pauses, seconds.
    """

    def __init__(self, retries: int, deadline_s: float) -> None:
        self._left = retries
        self._end = time.monotonic() + deadline_s
        self._pause = FIRST_S

    def remaining(self) -> float:
        """Seconds that the call has left; never quite zero, so that a timeout stays one."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._end

    def pause(self, status: int, retry_after: str = "") -> float | None:
        """Seconds to wait before asking again, or None: the answer stands.

        The pause doubles and varies by half, so that clients that were refused together do not
        come back together; what the server asks for is waited at least.
        """
        if status not in RETRIED or self._left <= 0:
            return None
        self._left -= 1
        wait = self._pause * random.uniform(0.75, 1.25)  # noqa: S311 - no secret depends on it
        self._pause = min(2 * self._pause, LONGEST_S)
        if retry_after.isdigit():
            wait = max(wait, float(retry_after))
        return wait if wait < self._end - time.monotonic() else None
