"""How a camera's pictures are treated: its profile from the feature store, in time or not at all.

A look-up has a deadline of a few milliseconds and runs beside the request. A store that is down,
slow or not open yet means the server's defaults and a count on `/metrics`, never a failed request.
Profiles are kept for a while; one that could not be refreshed is used on.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from platecrypt.serving import metrics

LookUp = Callable[[str], Mapping[str, Any]]
DEADLINE_S = 0.005
FRESH_S = 30.0
MAX_CAMERAS = 10_000
MAX_PENDING = 32
REOPEN_S = 30.0
PROTECT = "protect"  # the only policy there is; another one is not obeyed

logger = logging.getLogger("platecrypt.serving")


@dataclass(frozen=True)
class Profile:
    """What a camera sets: threshold and margin, 0..1, None where it sets none."""

    confidence: float | None = None
    margin: float | None = None


DEFAULT = Profile()


class Profiles:
    """The profiles of cameras, cached.

    Args:
        open_store: opens the store and returns its look-up; slow, called in a thread.
        deadline_s: how long a request waits for a profile, seconds.
        fresh_s: how long a profile is used without asking again, seconds.
    """

    def __init__(
        self,
        open_store: Callable[[], LookUp],
        *,
        deadline_s: float = DEADLINE_S,
        fresh_s: float = FRESH_S,
    ) -> None:
        self._open_store = open_store
        self._deadline_s = deadline_s
        self._fresh_s = fresh_s
        self._kept: OrderedDict[str, tuple[float, Profile]] = OrderedDict()
        self._pending: dict[str, Future[Profile]] = {}
        self._lock = threading.Lock()
        self._look_up: LookUp | None = None
        self._reopen = 0.0
        self._worker = ThreadPoolExecutor(1, "profiles")
        self._worker.submit(self._open)

    def of(self, camera_id: str) -> Profile:
        """The profile of a camera; the default where there is none in time. Never raises."""
        profile, outcome = self._find(camera_id)
        metrics.LOOKUPS.labels(outcome).inc()
        return profile

    def _find(self, camera_id: str) -> tuple[Profile, str]:
        with self._lock:
            known = self._kept.get(camera_id)
            if known and time.monotonic() - known[0] < self._fresh_s:
                return known[1], "cached"
            stale = known[1] if known else DEFAULT
            if self._look_up is None:
                self._open_again()
                return stale, "closed"
            running = self._pending.get(camera_id)
            if running is None:
                if len(self._pending) >= MAX_PENDING:
                    return stale, "busy"
                running = self._worker.submit(self._fetch, camera_id)
                self._pending[camera_id] = running
        try:
            return running.result(self._deadline_s), "found"
        except TimeoutError:
            return stale, "late"
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the picture goes on
            logger.warning("camera profile: %s", type(error).__name__)
            return stale, "failed"

    def _fetch(self, camera_id: str) -> Profile:
        try:
            assert self._look_up is not None  # noqa: S101 - set before anything is submitted
            profile = read_profile(self._look_up(camera_id))
            with self._lock:
                self._kept[camera_id] = time.monotonic(), profile
                self._kept.move_to_end(camera_id)
                while len(self._kept) > MAX_CAMERAS:
                    self._kept.popitem(last=False)
            return profile
        finally:
            with self._lock:
                self._pending.pop(camera_id, None)

    def _open(self) -> None:
        try:
            opened = self._open_store()
        except Exception as error:  # noqa: BLE001 - whatever a store raises, pictures go on
            why = " ".join(str(error).split())[:200] or type(error).__name__
            logger.error("the feature store does not open, cameras have the default: %s", why)
            self._reopen = time.monotonic() + REOPEN_S
        else:
            self._look_up = opened
            logger.info("the feature store is open")

    def _open_again(self) -> None:
        if self._reopen and time.monotonic() > self._reopen:
            self._reopen = 0.0
            self._worker.submit(self._open)


def read_profile(raw: Mapping[str, Any]) -> Profile:
    """A profile from the features of a camera; what makes no sense counts as not set."""
    policy = raw.get("policy")
    if policy not in (None, PROTECT):
        logger.warning("a camera's policy is not known; its plates are protected as always")
    return Profile(_share(raw.get("confidence")), _share(raw.get("margin")))


def _share(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) and 0 <= value <= 1 else None
