"""How fast the cipher is, against the demands of its specification: one run, one core, one table.

    python benchmarks/cipher_speed.py [--rounds 100] [--json FILE]

Every figure is a median over rounds in which the candidates take turns, so that a busy machine
slows all of them alike; wall time and CPU time stand side by side. What counts are the ratios.
Opening is also measured as it happens, once for each of 1000 envelopes: median and 99th percentile.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from rich.console import Console
from rich.table import Table

from platecrypt.cipher import PIXELS, Keyring, keystream, lcl1, open_sealed, seal, warm_up
from platecrypt.cipher.lcl1 import Engine
from platecrypt.imaging import decode, encode, protect

PLATE = 36_864
PLATES = 1000
LARGE = 1 << 20
KEY = bytes(range(32))
ENGINES: dict[str, Engine] = {"NumPy": "numpy", "compiled": "compiled"}
TURN = 5
"""Calls that one candidate makes before the next has its turn."""
CTX = b"x" * 330  # as long as the context of a plate
NAMES: dict[str, Any] = {
    "model_name": "plates",
    "model_version": "1",
    "request_id": "benchmark",
}


@dataclass(frozen=True)
class Cost:
    """Median seconds of one call."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Opening:
    """Seconds of opening each of many envelopes once: median and 99th percentile."""

    envelopes: int
    wall: tuple[float, float]
    cpu: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One demand: what was measured, in which unit, and whether it is met."""

    what: str
    demand: str
    value: float
    unit: str
    met: bool


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(TURN):
                started, spent = time.perf_counter(), time.process_time()
                call()
                cpu[name].append(time.process_time() - spent)
                wall[name].append(time.perf_counter() - started)
    return {n: Cost(statistics.median(wall[n]), statistics.median(cpu[n])) for n in calls}


def opening(count: int) -> Opening:
    """Open `count` different plate envelopes, each once, with the engine that is loaded."""
    ring = Keyring([KEY])
    envelopes = [seal(os.urandom(PLATE), CTX, ring, content_type=PIXELS) for _ in range(count)]
    open_sealed(envelopes[0], ring)
    wall, cpu = [], []
    for envelope in envelopes:
        started, spent = time.perf_counter(), time.process_time()
        open_sealed(envelope, ring)
        cpu.append(time.process_time() - spent)
        wall.append(time.perf_counter() - started)
    return Opening(
        count, *((statistics.median(t), statistics.quantiles(t, n=100)[98]) for t in (wall, cpu))
    )


def street() -> npt.NDArray[np.uint8]:
    """A 1080p picture with a photograph's mixture of soft and sharp."""
    rng = np.random.default_rng(1)
    soft = cv2.resize(rng.integers(0, 256, (17, 30, 3), dtype=np.uint8), (1920, 1080))
    grain = rng.normal(0, 4, soft.shape)
    return np.asarray(np.clip(soft + grain, 0, 255), np.uint8)


def calls_with_a_plate(engine: str) -> dict[str, Callable[[], object]]:
    ring = Keyring([KEY])
    plate = os.urandom(PLATE)
    envelope = seal(plate, CTX, ring, content_type=PIXELS)
    return {
        f"LCL-1 {engine}, 36 KB": lambda: keystream(KEY, PLATE, engine=ENGINES[engine]),
        f"seal {engine}, 36 KB": lambda: seal(plate, CTX, ring, content_type=PIXELS),
        f"open {engine}, 36 KB": lambda: open_sealed(envelope, ring),
        f"ChaCha20-Poly1305 beside {engine}, 36 KB": lambda: ChaCha20Poly1305(KEY).encrypt(
            bytes(12), plate, None
        ),
    }


def calls_with_a_megabyte(engine: str) -> dict[str, Callable[[], object]]:
    large = os.urandom(LARGE)
    return {
        f"LCL-1 {engine}, 1 MB": lambda: keystream(KEY, LARGE, engine=ENGINES[engine]),
        f"ChaCha20-Poly1305 beside {engine}, 1 MB": lambda: ChaCha20Poly1305(KEY).encrypt(
            bytes(12), large, None
        ),
        f"AES-256-GCM beside {engine}, 1 MB": lambda: AESGCM(KEY).encrypt(bytes(12), large, None),
    }


def calls_of_imaging() -> dict[str, Callable[[], object]]:
    ring = Keyring([KEY])
    data = encode(street(), "jpeg")
    image = decode(data)
    boxes = [[300, 500, 460, 540], [900, 500, 1110, 558]]
    now = datetime.now(UTC)
    return {
        "decode 1080p JPEG": lambda: decode(data),
        "encode 1080p JPEG": lambda: encode(image.pixels, "jpeg"),
        "protect 1080p, two plates": lambda: protect(image, boxes, ring, time=now, **NAMES),
    }


def demands(cost: dict[str, Cost], opened: Opening) -> list[Row]:
    """The table at the end of the specification, row by row. Ratios are of CPU time."""

    def ratio(ours: str, theirs: str) -> float:
        return cost[theirs].cpu / cost[ours].cpu

    def speed(name: str, size: int) -> float:
        return size / cost[name].cpu / 1e6

    def at_least(what: str, value: float, least: float, unit: str) -> Row:
        return Row(what, f">= {least:g}", value, unit, value >= least)

    def at_most_us(what: str, seconds: float, most: float) -> Row:
        return Row(what, f"<= {most:g}", seconds * 1e6, "us", seconds * 1e6 <= most)

    def at_most(what: str, name: str, most: float) -> Row:
        return at_most_us(what, cost[name].cpu, most)

    chacha = "ChaCha20-Poly1305 beside compiled"
    large, plate = "LCL-1 compiled, 1 MB", "LCL-1 compiled, 36 KB"
    gcm = "AES-256-GCM beside compiled, 1 MB"
    return [
        at_least(f"{large} / ChaCha20-Poly1305", ratio(large, f"{chacha}, 1 MB"), 1.0, "x"),
        at_least(f"{large} / AES-256-GCM", ratio(large, gcm), 0.25, "x"),
        at_least(f"{plate} / ChaCha20-Poly1305", ratio(plate, f"{chacha}, 36 KB"), 0.5, "x"),
        at_least("LCL-1 NumPy, 36 KB", speed("LCL-1 NumPy, 36 KB", PLATE), 200, "MB/s"),
        at_least("LCL-1 NumPy, 1 MB", speed("LCL-1 NumPy, 1 MB", LARGE), 700, "MB/s"),
        at_most("seal one 36 KB plate, compiled", "seal compiled, 36 KB", 60),
        at_most("seal one 36 KB plate, NumPy", "seal NumPy, 36 KB", 250),
        at_most("open one 36 KB plate, compiled", "open compiled, 36 KB", 100),
        at_most_us(f"open {opened.envelopes} plates, compiled, median", opened.cpu[0], 100),
    ]


def show(cost: dict[str, Cost], opened: Opening, rows: list[Row]) -> None:
    console = Console()
    costs = Table("what", "wall us", "CPU us", title="medians of one call")
    for name, spent in cost.items():
        costs.add_row(name, f"{spent.wall * 1e6:.1f}", f"{spent.cpu * 1e6:.1f}")
    for which, name in enumerate(("median", "99th percentile")):
        times = (f"{times[which] * 1e6:.1f}" for times in (opened.wall, opened.cpu))
        costs.add_row(f"open {opened.envelopes} plates compiled, each once: {name}", *times)
    table = Table("what", "demand", "measured", "", title="demands of the specification (CPU time)")
    for row in rows:
        measured = (
            f"{row.value:.2f} {row.unit}" if row.value < 10 else f"{row.value:.0f} {row.unit}"
        )
        table.add_row(row.what, row.demand, measured, "met" if row.met else "MISSED")
    console.print(costs, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    lcl1.AUTO_WARM_UP = sys.maxsize  # the NumPy rows stay NumPy however many rounds are asked for
    # Plates and megabytes do not take turns with each other: freeing a megabyte makes the allocator
    # hand memory back to the system, which the next plate would pay for.
    cost = measure(calls_with_a_plate("NumPy"), asked.rounds)
    cost |= measure(calls_with_a_megabyte("NumPy"), asked.rounds)
    if warm_up() != "compiled":
        raise SystemExit("numba is not installed: the compiled engine cannot be measured")
    cost |= measure(calls_with_a_plate("compiled"), asked.rounds)
    opened = opening(PLATES)
    cost |= measure(calls_with_a_megabyte("compiled"), asked.rounds)
    cost |= measure(calls_of_imaging(), max(10, asked.rounds // 5))
    rows = demands(cost, opened)
    show(cost, opened, rows)
    if asked.json:
        figures: dict[str, Any] = {"demands": [vars(row) for row in rows]}
        figures["opening_s"] = vars(opened)
        figures["costs"] = [{"what": n, "wall_s": c.wall, "cpu_s": c.cpu} for n, c in cost.items()]
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
