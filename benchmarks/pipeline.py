"""The main job against its targets: a first run, an unchanged second run, and how fast help is.

Prints a table, draws the steps as bars into build/benchmarks/pipeline.png. Takes what two runs of
`make run` take. A state folder of its own is used and removed.

    .venv/bin/python benchmarks/pipeline.py [--dataset DATASET] [--set NAME=VALUE ...]
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = str(Path(sys.executable).parent / "platecrypt")
OUT = ROOT / "build" / "benchmarks"
LONG = ("tune", "train", "evaluate")
COMMANDS = (
    "run",
    "import",
    "recover",
    "predict",
    "lineage",
    "compile",
    "upload",
    "status",
    "config",
)
TOOK = re.compile(r"^\s*(\w+) took ([\d.]+) s$", re.MULTILINE)


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended on the way
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    words = ["run"]
    if arguments.dataset:
        words += ["--dataset", arguments.dataset]
    for pair in arguments.set:
        words += ["--set", pair]
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        from platecrypt.processes import free_port

        env = {
            **os.environ,
            "PLATECRYPT_HOME": home,
            "PLATECRYPT_S3_PORT": str(free_port()),
            "PLATECRYPT_PORT": str(free_port()),
        }
        try:
            first, second = (ask(words, env) for _ in range(2))
            figures = ask(["lineage"], env)["held-out figures"]
            own = overheads(Path(first["summary"]) / "run.log", first)
        finally:
            subprocess.run([COMMAND, "stop"], env=env, capture_output=True, check=False)
    steps = {name: step["seconds"] for name, step in first["steps"].items()}
    cached = [n for n, step in second["steps"].items() if step["state"] == "cached"]
    uncached = [n for n, step in second["steps"].items() if step["state"] != "cached"]
    short = sum(seconds for name, seconds in steps.items() if name not in LONG)
    table(
        [
            ("first run", f"{first['seconds']:.0f} s", "<= 600 s"),
            ("mAP50, held-out split", f"{figures['map50']:.3f}", ">= 0.90"),
            ("recall, held-out split", f"{figures['recall']:.3f}", ""),
            ("second run, nothing changed", f"{second['seconds']:.0f} s", "<= 60 s"),
            ("  steps from the cache", f"{len(cached)} of {len(second['steps'])}", "all cacheable"),
            ("  steps run (effects outside)", ", ".join(uncached), ""),
            ("all steps but tune, train, evaluate", f"{short:.0f} s", "<= 90 s"),
            ("a step's own overhead, median", f"{statistics.median(own.values()):.2f} s", ""),
            ("a step's own overhead, largest", f"{max(own.values()):.2f} s", "<= 1 s"),
            ("platecrypt --help", f"{help_time([]):.2f} s", "<= 0.5 s"),
            ("slowest COMMAND --help", f"{max(help_time([c]) for c in COMMANDS):.2f} s", "<= 1 s"),
        ]
    )
    draw(steps, own)


def ask(words: list[str], env: dict[str, str]) -> Any:
    """Run a command with --json; its progress goes to our standard error."""
    argv = [COMMAND, *words, "--json"]
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE) as process:
        try:
            answer, _ = process.communicate()
        except KeyboardInterrupt:
            process.terminate()  # it ends its step on the way
            raise
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return json.loads(answer)


def overheads(log: Path, run: Any) -> dict[str, float]:
    """Step -> wall seconds that were not its own work: process, engine, imports of the step."""
    worked = {name.replace("_", "-"): float(took) for name, took in TOOK.findall(log.read_text())}
    return {
        name: step["seconds"] - worked[name]
        for name, step in run["steps"].items()
        if name in worked
    }


def help_time(words: list[str]) -> float:
    """Median wall time of five calls, seconds."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([COMMAND, *words, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def table(rows: list[tuple[str, str, str]]) -> None:
    print(f"{'what':<38} {'seen':<28} demand")
    for what, seen, demand in rows:
        print(f"{what:<38} {seen:<28} {demand}")
    print(f"{os.cpu_count()} cores")


def draw(steps: dict[str, float], own: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    names = list(steps)
    overhead = [own.get(name, 0.0) for name in names]
    work = [steps[name] - extra for name, extra in zip(names, overhead, strict=True)]
    axes.barh(names, work, label="work")
    axes.barh(names, overhead, left=work, label="overhead of the step")
    axes.invert_yaxis()
    axes.set(xlabel="seconds", title="first run, step by step")
    axes.legend()
    figure.savefig(OUT / "pipeline.png", dpi=110)
    print(f"picture: {(OUT / 'pipeline.png').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
