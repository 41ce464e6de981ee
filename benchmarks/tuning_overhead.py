"""What the local engine adds to a trial, and what a thousand trials of one Experiment need.

The trial is `sh -c 'echo value=…'`. Overhead is the wall time of the search a trial less the time
that starting and ending that same command takes. Prints a table with process CPU beside wall;
draws memory and time over the trials into build/benchmarks/tuning_overhead.png.

    .venv/bin/python benchmarks/tuning_overhead.py [--trials 1000] [--algorithm random]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from platecrypt.tuning import LocalTuner, parse_experiment  # noqa: E402

OUT = ROOT / "build" / "benchmarks"
COMMAND = ["sh", "-c", "echo value=$0"]
SAMPLES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--algorithm", default="random")
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    bare = process_time()
    times: list[float] = []
    memory: list[float] = []
    process = psutil.Process()

    def note(event: Any) -> None:
        if event.kind == "ended":
            times.append(time.perf_counter())
            memory.append(process.memory_info().rss / 2**20)

    with tempfile.TemporaryDirectory() as folder:
        made = experiment(given.trials, given.algorithm)
        began, used = time.perf_counter(), time.process_time()
        result = LocalTuner().run(made, Path(folder), note)
        wall, cpu = time.perf_counter() - began, time.process_time() - used
        state = sum(p.stat().st_size for p in Path(folder).glob("study.db*")) / 2**20
    count, whole = given.trials, sum(trial.status == "Succeeded" for trial in result.trials)
    first, last = memory[count // 10], memory[-1]
    own = wall / count - bare
    rows = [
        (f"wall a trial ({given.algorithm})", f"{1000 * wall / count:.1f} ms", ""),
        ("  of it the process alone", f"{1000 * bare:.1f} ms", ""),
        ("  overhead of the engine", f"{1000 * own:.1f} ms", "<= 150 ms"),
        ("CPU of the engine a trial", f"{1000 * cpu / count:.1f} ms", ""),
        ("slowest tenth, a trial", f"{1000 * slowest_tenth(times):.1f} ms", ""),
        ("trials that succeeded", f"{whole} of {count}", "all"),
        ("memory after a tenth", f"{first:.0f} MiB", ""),
        ("memory at the end", f"{last:.0f} MiB", "flat"),
        ("  growth a trial", f"{1024 * (last - first) / (0.9 * count):.1f} KiB", ""),
        ("state on disk", f"{state:.1f} MiB", "< 10 MB"),
    ]
    for what, seen, demand in rows:
        print(f"{what:<32} {seen:<16} {demand}")
    draw(times, memory, began)


def slowest_tenth(times: list[float]) -> float:
    """Mean time between two trials over the slowest tenth of the search, seconds."""
    size = max(1, len(times) // 10)
    spans = [times[i + size] - times[i] for i in range(0, len(times) - size, size)]
    return max(spans) / size


def process_time() -> float:
    """Median wall time of starting the command and waiting for it, seconds."""
    took = []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        subprocess.run([*COMMAND, "0.5"], capture_output=True, check=True)
        took.append(time.perf_counter() - began)
    return sorted(took)[SAMPLES // 2]


def experiment(trials: int, algorithm: str) -> Any:
    container = {"name": "main", "image": "none", "command": [*COMMAND, "${trialParameters.x}"]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    space = {"min": "0", "max": "1"}
    return parse_experiment(
        {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Experiment",
            "metadata": {"name": "overhead"},
            "spec": {
                "objective": {"type": "minimize", "objectiveMetricName": "value"},
                "algorithm": {
                    "algorithmName": algorithm,
                    "algorithmSettings": [{"name": "random_state", "value": "1"}],
                },
                "maxTrialCount": trials,
                "parallelTrialCount": 1,
                "parameters": [{"name": "x", "parameterType": "double", "feasibleSpace": space}],
                "trialTemplate": {
                    "primaryContainerName": "main",
                    "trialParameters": [{"name": "x", "reference": "x"}],
                    "trialSpec": {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "spec": {"template": {"spec": pod}},
                    },
                },
            },
        }
    )


def draw(times: list[float], memory: list[float], began: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([moment - began for moment in times])
    left.set(xlabel="trial", ylabel="seconds", title="time")
    right.plot(memory)
    right.set(xlabel="trial", ylabel="MiB", title="memory of the engine", ylim=(0, None))
    path = OUT / "tuning_overhead.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
