"""How fast a video is protected, and in how much memory: 10 000 small frames, and some of 1080p.

    python benchmarks/video.py [--frames 10000] [--large 150] [--json FILE]

The detector here is a threshold that costs next to nothing: what is measured is all the rest.
Every row stands beside the same video with no plate found, which is decoding and encoding alone.
"""

import argparse
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import psutil
from rich.console import Console
from rich.table import Table

from platecrypt.cipher import Keyring, warm_up
from platecrypt.imaging.video import protect_video, recover_track, tracks_in

Pixels = npt.NDArray[np.uint8]
OUT = Path("build/benchmarks")
MEMORY_DEMAND = 1 << 30
RATE = 25


@dataclass
class Run:
    """What one run cost."""

    what: str
    frames: int
    wall: float
    cpu: float
    source_bytes: int
    output_bytes: int
    sidecar_bytes: int
    plates: int
    tracks: int
    at: list[tuple[int, float, int]] = field(default_factory=list)  # frames, seconds, RSS


def plate(width: int, height: int) -> Pixels:
    rng = np.random.default_rng(1)
    letters = np.where(rng.random((height // 4, width // 4, 1)) < 0.5, (190, 0, 255), (255, 0, 255))
    return cv2.resize(letters.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)


def find(pixels: Pixels) -> list[tuple[int, int, int, int]]:
    red, green, blue = cv2.split(pixels)
    mask = ((red > 140) & (blue > 160) & (green < 110)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    return [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:].tolist() if area > 60]


def nothing(_pixels: Pixels) -> list[tuple[int, int, int, int]]:
    return []


def street(path: Path, frames: int, width: int, height: int) -> Path:
    """A street that drifts by; one plate at a time crosses it, with a pause between two."""
    rng = np.random.default_rng(0)
    soft = cv2.resize(
        rng.integers(0, 200, (height // 8, width // 4), np.uint8), (2 * width, height)
    )
    ground = np.repeat((soft // 2 + 50)[:, :, None], 3, axis=2)
    picture = plate(width // 8 // 4 * 4, height // 12 // 4 * 4)
    tall, wide = picture.shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=RATE, width=width, height=height, pix_fmt="yuv420p"
        )
        stream.options = {"crf": "20", "preset": "veryfast"}
        for index in range(frames):
            shift = index % width
            shown = ground[:, shift : shift + width].copy()
            x = (index * 3) % (width + 200)
            if x + wide <= width:
                y = height // 2 + round(height / 5 * np.sin(index / 40))
                shown[y : y + tall, x : x + wide] = picture
            frame = av.VideoFrame.from_ndarray(shown, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def measure(what: str, source: Path, detect: Callable[[Pixels], Any]) -> tuple[Run, Path]:
    output = source.with_name(f"{what.replace(' ', '-')}.mp4")
    process = psutil.Process()
    began, spent = time.perf_counter(), time.process_time()
    at: list[tuple[int, float, int]] = []

    def watch(done: int, _total: int) -> None:
        at.append((done, time.perf_counter() - began, process.memory_info().rss))

    result = protect_video(
        source,
        output,
        Keyring([bytes(32)]),
        detect=detect,
        model_name="threshold",
        model_version="1",
        request_id="benchmark",
        time=datetime.now(UTC),
        progress=watch,
    )
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    sizes = [path.stat().st_size for path in (source, result.output, result.sidecar)]
    return Run(what, result.frames, wall, cpu, *sizes, result.plates, result.tracks, at), output


def shown_plates(output: Path) -> int:
    """Frames of the published video in which the detector finds a plate."""
    with av.open(str(output)) as container:
        return sum(bool(find(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0))


def pair(source: Path, output: Path, index: int) -> Pixels:
    pictures = []
    for path in (source, output):
        with av.open(str(path)) as container:
            frames = container.decode(video=0)
            pictures.append(next(f for i, f in enumerate(frames) if i == index))
    return np.hstack([picture.to_ndarray(format="rgb24") for picture in pictures])


def draw(runs: list[Run], pictures: list[tuple[str, Pixels]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 7.5), constrained_layout=True)
    small = [run for run in runs if run.what.startswith("small")]
    for run in small:
        frames = [done for done, _, _ in run.at]
        axes[0, 0].plot(frames, [rss / 2**20 for _, _, rss in run.at], label=run.what)
        step = max(1, len(run.at) // 60)
        some = run.at[::step]
        speed = [(b[0] - a[0]) / max(1e-9, b[1] - a[1]) for a, b in itertools.pairwise(some)]
        axes[0, 1].plot([done for done, _, _ in some[1:]], speed, label=run.what)
    axes[0, 0].axhline(MEMORY_DEMAND / 2**20, color="grey", linestyle=":", label="demand: 1 GiB")
    axes[0, 0].set(title="resident memory", xlabel="frames done", ylabel="MiB", ylim=(0, None))
    axes[0, 1].set(title="speed", xlabel="frames done", ylabel="frames a second", ylim=(0, None))
    for axis in axes[0]:
        axis.legend()
    for axis, (title, picture) in zip(axes[1], pictures, strict=True):
        axis.imshow(picture)
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=90)


def table(runs: list[Run], peak: int) -> None:
    console = Console(width=150)
    made = Table(
        "run", "frames", "tracks", "plates", "wall s", "CPU s", "frames/s", "CPU ms/frame",
        "video / source", "sealed KB/plate",
    )  # fmt: skip
    for run in runs:
        sealed = f"{run.sidecar_bytes / run.plates / 1024:.1f}" if run.plates else "-"
        made.add_row(
            run.what, str(run.frames), str(run.tracks), str(run.plates), f"{run.wall:.1f}",
            f"{run.cpu:.1f}", f"{run.frames / run.wall:.0f}", f"{run.cpu / run.frames * 1e3:.2f}",
            f"{run.output_bytes / run.source_bytes:.2f}", sealed,
        )  # fmt: skip
    console.print(made)
    verdict = "met" if peak < MEMORY_DEMAND else "MISSED"
    console.print(
        f"peak memory of the process: {peak / 2**20:.0f} MiB, demand < 1024 MiB: {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=150, help="frames of 1080p")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    warm_up()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        small = street(Path(folder) / "small.mp4", asked.frames, 320, 180)
        runs, outputs = [], {}
        for what, detect in (("small, plates", find), ("small, none", nothing)):
            run, outputs[what] = measure(what, small, detect)
            runs.append(run)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        large = street(Path(folder) / "large.mp4", asked.large, 1920, 1080)
        for what, detect in (("1080p, plates", find), ("1080p, none", nothing)):
            run, outputs[what] = measure(what, large, detect)
            runs.append(run)
        table(runs, peak)
        shown = shown_plates(outputs["small, plates"])
        console.print(f"frames of the published video in which a plate is found: {shown}")
        sidecar = outputs["small, plates"].with_name(outputs["small, plates"].name + ".sle")
        began = time.process_time()
        tracks = tracks_in(sidecar)
        listed = time.process_time() - began
        began = time.process_time()
        count = recover_track(sidecar, Keyring([bytes(32)]), tracks[-1].track, Path(folder) / "t")
        taken = time.process_time() - began
        console.print(
            f"listing {len(tracks)} tracks: {listed:.2f} s CPU; recovering one ({count} pictures, "
            f"all {sidecar.stat().st_size >> 20} MiB checked): {taken:.2f} s CPU"
        )
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        console.print(f"peak memory with 1080p and recovery: {after / 2**20:.0f} MiB")
        index = min(62, asked.large - 1)
        pictures = [
            ("320 x 180, frame 40: source, published", pair(small, outputs["small, plates"], 40)),
            (f"1080p, frame {index}", pair(large, outputs["1080p, plates"], index)),
        ]
        draw(runs, pictures, OUT / "video.png")
    console.print(f"picture: {OUT / 'video.png'}")
    if asked.json:
        figures = {"peak_bytes": peak, "plates_shown": shown, "cpus": os.cpu_count()}
        rows = [{k: v for k, v in vars(run).items() if k != "at"} for run in runs]
        asked.json.write_text(json.dumps({**figures, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
