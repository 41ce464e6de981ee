"""Protecting picture files: what it costs, what several processes bring, how much a file grows.

Prints a table and draws build/benchmarks/picture_files.png. The pictures are synthetic streets of
1920 x 1080 pixels that the data set's own generator makes.

    .venv/bin/python benchmarks/picture_files.py [--images 200]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np

from platecrypt.cipher import Keyring, inspect, warm_up
from platecrypt.imaging import Origin, protect_file, recover
from platecrypt.imaging.bulk import Job, Options, protect_all

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "benchmarks"
WIDTH, HEIGHT = 1920, 1080
BOXES = [[600, 700, 800, 760], [1200, 640, 1330, 690]]
ROUNDS = 21
ORIGIN = Origin("bench", "1", "bench", datetime(2026, 1, 1, tzinfo=UTC))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    images = parser.parse_args().images
    cv2.setNumThreads(1)
    warm_up()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Keyring.create(folder / "keys.json")
        costs = cost(folder)
        growth = grown(folder)
        bulk = {workers: many(folder, images, workers) for workers in (1, 2, 1, 2)}
    base = costs["cv2.imdecode + cv2.imencode"][0]
    print(f"{'1080p JPEG, two boxes, file to file':<40} {'CPU ms':>8} {'wall ms':>8} {'ratio':>6}")
    for what, (cpu, wall) in costs.items():
        print(f"{what:<40} {cpu:8.1f} {wall:8.1f} {cpu / base:6.2f}")
    print(f"demand: protect <= 3.5 x; seen {costs['protect'][0] / base:.2f} x")
    speedup = bulk[1] / bulk[2]
    print(f"{images} images: 1 worker {bulk[1]:.1f} s, 2 workers {bulk[2]:.1f} s: {speedup:.2f} x")
    print(f"demand: >= 1.7 x on {os.cpu_count()} cores")
    for kind, (before, after, sealed) in growth.items():
        limit = 1.1 * before + 4096 + 1.1 * sealed
        print(f"{kind:<16} {before:>9} -> {after:>9} bytes, {sealed} sealed, limit {limit:.0f}")
    draw(costs, bulk)


def street(seed: int) -> np.ndarray:
    """A picture with the texture of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 60, (HEIGHT // 30, WIDTH // 30, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 9, (HEIGHT // 2, WIDTH // 2, 3)).astype(np.float32)
    picture += cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.clip(picture, 0, 255).astype(np.uint8)


def jpeg(seed: int, *options: int) -> bytes:
    return bytes(cv2.imencode(".jpg", street(seed), [cv2.IMWRITE_JPEG_QUALITY, 90, *options])[1])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Process CPU and wall milliseconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3


def cost(folder: Path) -> dict[str, tuple[float, float]]:
    """Median CPU and wall milliseconds; the candidates take turns."""
    keyring = Keyring.load(folder / "keys.json")
    source, target = folder / "in.jpg", folder / "out.jpg"
    source.write_bytes(jpeg(1))
    published = protect_file(source.read_bytes(), BOXES, keyring, origin=ORIGIN).data

    def plain() -> None:
        pixels = cv2.imdecode(np.frombuffer(source.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        target.write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])

    def protected() -> None:
        done = protect_file(source.read_bytes(), BOXES, keyring, origin=ORIGIN)
        target.write_bytes(done.data)

    candidates: dict[str, Callable[[], object]] = {
        "cv2.imdecode + cv2.imencode": plain,
        "protect": protected,
        "recover": lambda: recover(published, keyring),
    }
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, work in candidates.items():
            rows[name].append(timed(work))
    return {
        name: (statistics.median(r[0] for r in found), statistics.median(r[1] for r in found))
        for name, found in rows.items()
    }


def grown(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Bytes before, after, and sealed."""
    keyring = Keyring.load(folder / "keys.json")
    progressive = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    kinds = {
        "baseline": jpeg(2),
        "optimised": jpeg(2, cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        "progressive": jpeg(2, *progressive),
        "PNG": bytes(cv2.imencode(".png", street(2))[1]),
    }
    found = {}
    for kind, data in kinds.items():
        done = protect_file(data, BOXES, keyring, origin=ORIGIN)
        sealed = sum(inspect(envelope).plaintext_bytes for envelope in done.envelopes)
        found[kind] = (len(data), len(done.data), sealed)
    return found


def many(folder: Path, count: int, workers: int) -> float:
    """Wall seconds for a folder, processes started included."""
    source = folder / "many"
    if not source.exists():
        source.mkdir()
        files = [jpeg(seed) for seed in range(5)]
        for index in range(count):
            (source / f"{index:04}.jpg").write_bytes(files[index % len(files)])
    boxes = [
        [[float(x), float(y)] for x, y in ((a, b), (c, b), (c, d), (a, d))] for a, b, c, d in BOXES
    ]
    target = folder / f"out{workers}"
    jobs = [Job(path, target / path.name, boxes) for path in sorted(source.iterdir())]
    options = Options(folder / "keys.json", force=True)
    began = time.perf_counter()
    outcomes = list(protect_all(jobs, options, workers=workers))
    seconds = time.perf_counter() - began
    if any(outcome.state != "protected" for outcome in outcomes):
        raise SystemExit(f"not all were protected: {outcomes[0]}")
    return seconds


def draw(costs: dict[str, tuple[float, float]], bulk: dict[int, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    left.barh(list(costs), [cpu for cpu, _ in costs.values()])
    left.axvline(3.5 * next(iter(costs.values()))[0], color="black", linestyle="--", label="3.5 x")
    left.set(xlabel="CPU milliseconds", title="one 1080p JPEG, two plates, file to file")
    left.legend()
    right.bar([str(workers) for workers in sorted(bulk)], [bulk[w] for w in sorted(bulk)])
    right.set(xlabel="workers", ylabel="seconds", title="a folder of pictures")
    figure.savefig(OUT / "picture_files.png", dpi=110)
    print(f"picture: {(OUT / 'picture_files.png').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
