"""What the endpoint tells of itself on `/metrics`: counts and times, never a plate or a name."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram, Info

Phase = Literal["queue", "decode", "predict", "protect", "encode", "answer"]
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MEASURE_EVERY_S = 0.2  # how often at most an input's quality is measured: it costs two milliseconds

REQUESTS = Counter("platecrypt_requests", "Requests by wire and status.", ["wire", "status"])
REQUEST_SECONDS = Histogram(
    "platecrypt_request_seconds", "From the first byte to the answer.", ["wire"], buckets=SECONDS
)
PHASES = Histogram(
    "platecrypt_phase_seconds", "Time of a picture's stations.", ["phase"], buckets=SECONDS
)
WAITING = Gauge("platecrypt_requests_inside", "Requests that wait or are worked on.")
INSIDE_LIMIT = Gauge("platecrypt_requests_inside_limit", "So many are let in; the next gets a 429.")
MODEL = Info("platecrypt_model", "Version, digest and arithmetic of the loaded detector.")
PLATES = Histogram(
    "platecrypt_plates_per_picture", "Plates found.", buckets=(0, 1, 2, 3, 5, 10, 20, 50, 100, 300)
)
CONFIDENCE = Histogram(
    "platecrypt_confidence", "Scores of plates.", buckets=[step / 10 for step in range(1, 11)]
)
BRIGHTNESS = Histogram(
    "platecrypt_input_brightness",
    "Mean luma of inputs, 0 to 255 (a sample).",
    buckets=(20, 40, 60, 80, 100, 120, 140, 160, 190, 220, 255),
)
SHARPNESS = Histogram(
    "platecrypt_input_sharpness",
    "Variance of the Laplacian at 640 pixels (a sample).",
    buckets=(10, 30, 100, 300, 1000, 3000, 10000, 30000),
)
SEALED_BYTES = Counter("platecrypt_sealed_bytes", "Bytes of envelopes that left.")
KEY_CREATED = Gauge("platecrypt_key_created_timestamp_seconds", "When the sealing key was made.")
KEY_AGE = Gauge("platecrypt_key_age_seconds", "Age of the sealing key.")
LOOKUPS = Counter(
    "platecrypt_profile_lookups", "Camera profiles by how the look-up ended.", ["outcome"]
)


@contextmanager
def timed(phase: Phase) -> Iterator[None]:
    """Time a station of a picture."""
    began = time.perf_counter()
    try:
        yield
    finally:
        PHASES.labels(phase).observe(time.perf_counter() - began)


class Sampler:
    """Says yes at most so often."""

    def __init__(self, every_s: float = MEASURE_EVERY_S) -> None:
        self._every_s = every_s
        self._next = 0.0
        self._lock = threading.Lock()

    def due(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        with self._lock:
            if now < self._next:
                return False
            self._next = now + self._every_s
            return True
