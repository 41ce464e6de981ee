"""Fuzzing of everything that parses a file that somebody sends: containers, pictures, envelopes.

Run alone it goes on for as long as it is told, and keeps what broke a promise in tests/security/
seeds, where the test suite finds it again:

    .venv/bin/python tests/security/fuzz_containers.py --minutes 10 [--seed N]
"""

import argparse
import hashlib
import os
import random
import resource
import runpy
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platecrypt.cipher import EnvelopeError, Keyring, inspect, open_sealed
from platecrypt.errors import BadInputError
from platecrypt.imaging import Origin, protect_file, read_sidecar, recover
from platecrypt.imaging.containers import read_header, read_sealed, without_sealed
from platecrypt.imaging.jpeg import JpegFile
from platecrypt.imaging.tags import orientation, without_pictures

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
MAKE: dict[str, Any] = runpy.run_path(str(HERE.parent / "support" / "pictures.py"))
RING = Keyring([bytes(range(32))])
ORIGIN = Origin("m", "1", "r", datetime(2026, 1, 1, tzinfo=UTC))
BOX = [[4, 4, 20, 12]]
MAX_PIXELS = 100_000
SLOW_S = 5.0
TIMES_INPUT = 10
SPARE_BYTES = 1 << 20
"""Python's own objects; what is bounded is what grows with the input."""


def seeds() -> dict[str, bytes]:
    """Small files of every kind, protected and not."""
    pixels = MAKE["street"](64, 48)
    thumbnail = MAKE["file"](pixels[::3, ::3], "JPEG")
    exif = MAKE["exif"](6, thumbnail, b"note" + thumbnail)
    plain = {
        "jpeg": MAKE["file"](pixels, "JPEG", exif=exif, icc_profile=b"profile" * 9),
        "progressive": MAKE["file"](pixels, "JPEG", progressive=True),
        "png": MAKE["file"](pixels, "PNG", exif=exif),
        "webp": MAKE["file"](pixels, "WEBP", lossless=True, exif=exif),
        "lossy": MAKE["file"](pixels, "WEBP", quality=60),
        "tiff": MAKE["file"](pixels, "TIFF", compression="tiff_lzw"),
    }
    found = dict(plain)
    for name, data in plain.items():
        done = protect_file(data, BOX, RING, origin=ORIGIN)
        found[f"{name} protected"] = done.data
    beside = protect_file(plain["png"], BOX, RING, origin=ORIGIN, sidecar=True)
    found["sidecar"] = beside.sidecar or b""
    found["envelope"] = beside.envelopes[0]
    found["exif"] = exif[6:]
    return found


def headers(data: bytes) -> None:
    """What reads the outside of a file and no pixel: its memory is bounded by the input."""
    for read in (read_header, read_sealed, without_sealed, read_sidecar, JpegFile.parse):
        try:
            read(data)
        except BadInputError:
            continue
    for envelope_reader in (inspect, lambda d: open_sealed(d, RING)):
        try:
            envelope_reader(data)
        except EnvelopeError:
            continue
    orientation(data)
    without_pictures(data, lambda limit: b"\xff\xd8\xff"[:limit])


def pictures(data: bytes) -> None:
    """What decodes and writes pictures."""
    works: tuple[Callable[[], object], ...] = (
        lambda: protect_file(data, BOX, RING, origin=ORIGIN, max_pixels=MAX_PIXELS),
        lambda: recover(data, RING, max_pixels=MAX_PIXELS),
    )
    for work in works:
        try:
            work()
        except BadInputError:
            continue


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to eight changes of the kinds that parsers get wrong."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        if not changed:
            return bytes(changed)
        at = chance.randrange(len(changed))
        kind = chance.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0xD8, 0xD9, 0xDA))
        elif kind == 2:
            width = chance.choice((2, 4, 8))
            order = chance.choice(("big", "little"))
            value = chance.choice((0, 1, len(data), len(data) - 1, 2 ** (8 * width) - 1, 1 << 31))
            changed[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + chance.randrange(1, 64)]
        elif kind == 5:
            end = at + chance.randrange(1, 200)
            changed[at:at] = changed[at:end]
        elif kind == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            changed[at : at + 40] = other[start : start + 40]
        else:
            head = min(at, chance.randrange(1, 64))
            changed[head] = chance.randrange(256)
    return bytes(changed)


def check(data: bytes) -> str:
    """What is wrong with how `data` is treated; empty where nothing is.

    Any other exception than the two promised ones is raised.
    """
    began = time.process_time()
    tracemalloc.start()
    try:
        headers(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    pictures(data)
    if peak > TIMES_INPUT * len(data) + SPARE_BYTES:
        return f"{peak} bytes of memory for {len(data)} of input"
    seconds = time.process_time() - began
    return f"{seconds:.1f} s" if seconds > SLOW_S else ""


def run(seconds: float, seed: int, *, least: int = 0) -> tuple[int, list[Path]]:
    """Fuzz for a while; returns how many inputs, and the files kept of those that failed."""
    chance = random.Random(seed)
    corpus = list(seeds().values())
    for seed_file in corpus:  # what is compiled or loaded on first use is no input's fault
        pictures(seed_file)
    kept: list[Path] = []
    count, end = 0, time.monotonic() + seconds
    current = SEEDS / f".running-{os.getpid()}"
    while time.monotonic() < end or count < least:
        data = mutated(chance.choice(corpus), corpus, chance)
        if least == 0:
            current.write_bytes(data)  # a crash of the process leaves it behind
        try:
            wrong = check(data)
        except Exception as error:  # noqa: BLE001  that is what is looked for
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            path = SEEDS / f"{hashlib.sha256(data).hexdigest()[:16]}.bin"
            path.write_bytes(data)
            print(f"{path.name}: {wrong}")
            kept.append(path)
        count += 1
    current.unlink(missing_ok=True)
    return count, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    SEEDS.mkdir(exist_ok=True)
    count, kept = run(60 * arguments.minutes, arguments.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{count} inputs, {len(kept)} broke a promise, at most {peak} MiB resident")
    raise SystemExit(1 if kept else 0)


if __name__ == "__main__":
    main()
