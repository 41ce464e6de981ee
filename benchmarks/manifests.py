"""How long the overlays take: each built by kustomize, and all of them checked.

Prints a table with the CPU of kustomize and of the checks beside wall time, medians; draws it into
build/benchmarks/manifests.png. Demands: an overlay builds in 5 s, all are checked in 10 s.

    .venv/bin/python benchmarks/manifests.py [--times 5]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "benchmarks"
OVERLAYS = ROOT / "infra" / "kustomize" / "overlays"
CRDS = ROOT.parent / "shared" / "crds"
CHECK = [str(Path(sys.executable).parent / "platecrypt"), "check-manifests", "infra/kustomize"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    folders = [folder for folder in (CRDS, CRDS / "kserve-0.18") if folder.is_dir()]
    check = [*CHECK, *(word for folder in folders for word in ("--crds", str(folder)))]
    rows: dict[str, tuple[float, float, float]] = {}
    for overlay in sorted(OVERLAYS.iterdir()):
        rows[f"build {overlay.name}"] = (
            *measured(["kubectl", "kustomize", str(overlay)], times),
            5.0,
        )
    rows["check all, building included"] = (*measured(check, times), 10.0)
    print(f"{'what':<32}{'wall s':>8}{'CPU s':>8}{'demand':>10}")
    for what, (wall, cpu, limit) in rows.items():
        print(f"{what:<32}{wall:>8.2f}{cpu:>8.2f}{f'<= {limit:.0f} s':>10}")
    print(f"{os.cpu_count()} cores; CRDs: {len(folders) or 'no'} folders")
    draw(rows)


def measured(command: list[str], times: int) -> tuple[float, float]:
    """Median wall and CPU seconds of a command that must succeed."""

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    walls, cpus = [], []
    for _ in range(times):
        began, before = time.perf_counter(), used()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        walls.append(time.perf_counter() - began)
        cpus.append(used() - before)
    return statistics.median(walls), statistics.median(cpus)


def draw(rows: dict[str, tuple[float, float, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(rows), [wall for wall, _, _ in rows.values()], color="tab:blue", label="wall")
    axes.plot([limit for _, _, limit in rows.values()], list(rows), "r|", ms=20, label="demand")
    axes.invert_yaxis()
    axes.set(xlabel="seconds", title="overlays: build and check")
    axes.legend()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "manifests.png", dpi=110)
    print(f"picture: {(OUT / 'manifests.png').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
