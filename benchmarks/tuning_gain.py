"""What tuning gains on the synthetic set: tuned parameters, the default recipe, and seed noise.

A search over lr0, scale and mosaic on one synthetic data set; then both recipes are trained over
the same seeds on another one that the search never saw, at full picture size. The gain counts where
it is larger than the spread over seeds; else the report says that it is not. Prints a table with
CPU beside wall; draws every training into build/benchmarks/tuning_gain.png. It trains: an hour on
two cores.

    .venv/bin/python benchmarks/tuning_gain.py [--trials 10] [--steps 200] [--final-steps 480]
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tuning_early_stopping import (
    OUT,
    ROOT,
    SOURCE,
    children_cpu,
    dataset,
    experiment,
    show,
)

from platecrypt.processes import Supervisor, free_port
from platecrypt.settings import Settings, load
from platecrypt.tuning import LocalTuner, load_experiment
from platecrypt.tuning.steps import SHORT

FOUND = re.compile(r"mAP50-95=([\d.]+)")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended on the way
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--final-steps", type=int, default=480)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=96)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = load(home=Path(folder) / "home", root=ROOT, s3_port=free_port())
        try:
            data = dataset(settings, SOURCE.format(images=given.images, seed=7))
            made = load_experiment(ROOT / "katib" / "experiment.yaml")
            fixed = [p.name for p in made.parameters if p.name not in SHORT]
            made = experiment(data, 1, given.trials, given.steps, stopping=True, fixed=fixed)
            began, used = time.perf_counter(), children_cpu()
            tuner = LocalTuner(settings.as_environment())
            best = tuner.run(made, Path(folder) / "search", show).best_parameters
            search = (time.perf_counter() - began, children_cpu() - used)
            other = dataset(settings, SOURCE.format(images=given.images, seed=1007))
            values = {
                name: [
                    train(settings, other, parameters, seed, given.final_steps, Path(folder))
                    for seed in range(given.seeds)
                ]
                for name, parameters in (("default", {}), ("tuned", best))
            }
        finally:
            supervisor = Supervisor(settings.home)
            for record in supervisor.list():
                supervisor.stop(record.name)
    report(values, best, search)
    draw(values)


def train(
    settings: Settings,
    data: dict[str, str],
    parameters: dict[str, str],
    seed: int,
    steps: int,
    folder: Path,
) -> float:
    """The best mAP50-95 of one training, by the trial's own command."""
    words = [sys.executable, "-m", "platecrypt.tuning.trial", f"--dataset={data['TRIAL_DATASET']}"]
    words += [f"--training-set={data['TRIAL_TRAINING_SET']}", f"--seed={seed}", f"--steps={steps}"]
    words += [f"--work-dir={folder}", *(f"--{name}={text}" for name, text in parameters.items())]
    done = subprocess.run(
        words,
        env={**os.environ, **settings.as_environment()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return max(map(float, FOUND.findall(done.stdout)))


def report(
    values: dict[str, list[float]], best: dict[str, str], search: tuple[float, float]
) -> None:
    print(f"tuned: {best}; the search took {search[0]:.0f} s wall, {search[1]:.0f} s CPU")
    print(f"{'recipe':<10}{'median':>9}{'smallest':>10}{'largest':>10}   mAP50-95 over seeds")
    for name, found in values.items():
        print(f"{name:<10}{statistics.median(found):>9.4f}{min(found):>10.4f}{max(found):>10.4f}")
    gain = statistics.median(values["tuned"]) - statistics.median(values["default"])
    noise = max(max(found) - min(found) for found in values.values())
    verdict = "beats the default by more than" if gain > noise else "does NOT beat it by more than"
    print(f"gain {gain:+.4f}, spread over seeds {noise:.4f}: tuning {verdict} seed noise")


def draw(values: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for place, (name, found) in enumerate(values.items()):
        axes.plot([place] * len(found), found, "o", label=name)
    axes.set_xticks(range(len(values)), list(values))
    axes.set(ylabel="mAP50-95", title="trainings on a data set the search never saw")
    path = OUT / "tuning_gain.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
