"""How much is let in: so many requests are worked on, so many wait, the rest comes again later."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from platecrypt.serving import metrics
from platecrypt.serving.refusals import HttpError

RETRY_AFTER_S = 1


class Admission:
    """A bounded queue in front of the workers.

    Args:
        working: how many requests are worked on beside each other, at least 1.
        waiting: how many may wait for that.
        patience_s: how long a request may take, waiting and work together, seconds.
    """

    def __init__(self, *, working: int, waiting: int, patience_s: float) -> None:
        self._limit = working + waiting
        metrics.INSIDE_LIMIT.set(self._limit)
        self._slots = asyncio.Semaphore(working)
        self._patience_s = patience_s
        self._inside = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a place, work in it, leave it.

        Raises:
            HttpError: 429, too many wait already; 503, it took longer than the patience.
        """
        if self._inside >= self._limit:
            raise HttpError(429, "too many requests at once; try again", retry_after=RETRY_AFTER_S)
        self._inside += 1
        metrics.WAITING.set(self._inside)
        try:
            async with asyncio.timeout(self._patience_s):
                began = time.perf_counter()
                async with self._slots:
                    metrics.PHASES.labels("queue").observe(time.perf_counter() - began)
                    yield
        except TimeoutError:
            raise HttpError(503, "the request took too long", retry_after=RETRY_AFTER_S) from None
        finally:
            self._inside -= 1
            metrics.WAITING.set(self._inside)
