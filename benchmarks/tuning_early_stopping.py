"""Early stopping on the real task: how much training it saves, and what it costs in quality.

For each seed the search of `katib/experiment.yaml` runs twice over a small synthetic data set, with
medianstop and without. As in a pipeline of many trials all parameters are searched (but the
picture's and the model's size, which would make one trial cost many times another), and a trial is
judged from a sixth of its epochs on. Trials start from weights that have seen few steps of another
synthetic set: published weights take their place where there is a network, and this needs none.
(From scratch, `--base-steps 0`, the first third of a trial is at 0 whatever its parameters.) All
trials are drawn at random, so both searches try the same parameters; a trial has one thread, and
as many run at once as there are cores.

Prints a table with epochs, time and process CPU. A machine that others share changes its pace
within minutes, and the two searches run one after the other. So the time saved is told within the
search that stops: its trials' time against what as many whole ones would have taken at its own pace
(a line through the time of its trials over their epochs; where it begins is a process' start).
Draws the trials into build/benchmarks/tuning_early_stopping.png and keeps them in the .json beside
it. It trains: more than an hour on two cores.

    .venv/bin/python benchmarks/tuning_early_stopping.py [--seeds 0 1 2] [--trials 30]
        [--steps 300] [--base-steps 130]
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from platecrypt.datasets.importing import import_dataset  # noqa: E402
from platecrypt.datasets.manifest import manifest_key, parse_manifest  # noqa: E402
from platecrypt.datasets.training_set import (  # noqa: E402
    Selected,
    TrainingSet,
    parse_training_set,
    training_set_key,
)
from platecrypt.processes import Supervisor, free_port  # noqa: E402
from platecrypt.settings import Settings, load  # noqa: E402
from platecrypt.storage.embedded import ensure_store  # noqa: E402
from platecrypt.training.recipe import Recipe, choose_image_size  # noqa: E402
from platecrypt.training.train import WEIGHTS, train  # noqa: E402
from platecrypt.training.yolo_folder import materialise  # noqa: E402
from platecrypt.tuning import (  # noqa: E402
    Experiment,
    LocalTuner,
    TuningResult,
    load_experiment,
    parse_experiment,
)
from platecrypt.tuning.result import Trial  # noqa: E402
from platecrypt.tuning.steps import first_judged  # noqa: E402
from platecrypt.tuning.stopping import MedianStop  # noqa: E402

OUT = ROOT / "build" / "benchmarks"
FIXED = ("image_size", "model")
LOST = 0.01  # of the best value, the most that stopping early may cost
ORDERS = 400
DATA = ("TRIAL_DATASET", "TRIAL_TRAINING_SET")
SOURCE = "synthetic://?images={images}&seed={seed}&difficulty=easy"


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended on the way
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--base-steps", type=int, default=130)
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    results: list[tuple[TuningResult, TuningResult]] = []
    spent: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = load(home=Path(folder) / "home", root=ROOT, s3_port=free_port())
        try:
            if given.base_steps:
                base_weights(settings, Path(folder), given.base_steps)
            data = dataset(settings, SOURCE.format(images=given.images, seed=7))
            print(f"{given.trials} trials of {given.steps} steps; saved >= 25 %, lost <= {LOST}")
            heads = ("epochs saved", "time saved", "CPU saved", "best lost", "stopped")
            print(f"{'seed':<6}" + "".join(f"{head:>14}" for head in heads))
            for seed in given.seeds:
                pair = []
                for stopping in (False, True):
                    made = experiment(data, seed, given.trials, given.steps, stopping=stopping)
                    made = made.with_algorithm_settings({"n_startup_trials": str(given.trials)})
                    used = children_cpu()
                    found = LocalTuner(settings.as_environment()).run(
                        made, Path(folder) / f"{seed}-{stopping}", show
                    )
                    pair.append((found, children_cpu() - used))
                (whole, whole_cpu), (short, short_cpu) = pair
                lost = (whole.best_value or 0.0) - (short.best_value or 0.0)
                stopped = sum(t.status == "EarlyStopped" for t in short.trials)
                taken, all_whole = paced(short)
                saved = [
                    1 - epochs(short) / epochs(whole),
                    1 - taken / all_whole,
                    1 - short_cpu / whole_cpu,
                ]
                cells = "".join(f"{share:>14.0%}" for share in saved)
                print(f"{seed:<6}{cells}{lost:>14.4f}{stopped:>14}", flush=True)
                results.append((whole, short))
                spent.append((whole_cpu, short_cpu))
                keep(results, spent)
            cpu = 1 - sum(short for _, short in spent) / sum(whole for whole, _ in spent)
            ran = [sum(map(epochs, every)) for every in zip(*results, strict=True)]
            times = [paced(short) for _, short in results]
            took, whole_took = (sum(every) for every in zip(*times, strict=True))
            together = (1 - ran[1] / ran[0], 1 - took / whole_took, cpu)
            print(f"{'all':<6}" + "".join(f"{share:>14.0%}" for share in together))
            chances(made, [trial for whole, _ in results for trial in whole.trials], given.trials)
        finally:
            supervisor = Supervisor(settings.home)
            for record in supervisor.list():
                supervisor.stop(record.name)
    draw(given.seeds, results)


def chances(
    experiment: Experiment, trials: Sequence[Trial], count: int, orders: int = ORDERS
) -> None:
    """What other seeds might have given: the same trials, stopped by our rule in random orders."""
    rng = np.random.default_rng(0)
    known = [trial for trial in trials if trial.history]
    saved, lost = [], []
    for _ in range(orders):
        drawn = [known[index] for index in rng.permutation(len(known))[:count]]
        rule = MedianStop(experiment, [])
        trained, best = 0, 0.0
        for trial in drawn:
            steps = range(1, len(trial.history) + 1)
            last = next((k for k in steps if rule.should_stop(None, trial.history[:k])), None)
            if last is None:
                rule.finished(trial)
            seen = trial.history[:last]
            trained += len(seen)
            best = max(best, *seen)
        saved.append(1 - trained / sum(len(trial.history) for trial in drawn))
        lost.append(max(max(trial.history) for trial in drawn) - best)
    often = sum(value > LOST for value in lost) / orders
    print(
        f"{orders} random orders of these {len(known)} trials, {count} each: "
        f"{statistics.fmean(saved):.0%} of the epochs saved, {statistics.fmean(lost):.4f} lost, "
        f"more than {LOST} in {often:.0%}"
    )


def keep(
    results: Sequence[tuple[TuningResult, TuningResult]], spent: Sequence[tuple[float, float]]
) -> None:
    """Write the curves and the CPU seconds of what has run so far."""
    curves = [
        [[t.status, t.history, t.seconds] for t in found.trials]
        for pair in results
        for found in pair
    ]
    kept = {"curves": curves, "cpu_seconds": spent}
    (OUT / "tuning_early_stopping.json").write_text(json.dumps(kept))


def dataset(settings: Settings, source: str) -> dict[str, str]:
    """Import it, take all of it for training; the variables that name both for a trial.

    Among them `IMAGES`, the length of an epoch.
    """
    store = ensure_store(settings)
    manifest = import_dataset(store, source)
    chosen = tuple(Selected(image.image_id, 1, "all") for image in manifest.split("train"))
    training_set = TrainingSet(manifest.digest, "benchmark", chosen)
    key = training_set_key(training_set.digest)
    store.put(key, training_set.to_bytes())
    return {**dict(zip(DATA, (manifest.digest, key), strict=True)), "IMAGES": str(len(chosen))}


def base_weights(settings: Settings, folder: Path, steps: int, images: int = 192) -> None:
    """Train where trials look for published weights, on a data set that they do not see."""
    store = ensure_store(settings)
    data = dataset(settings, SOURCE.format(images=images, seed=5007))
    digest, key = (data[name] for name in DATA)
    manifest = parse_manifest(store.get(manifest_key(digest)), expected_digest=digest)
    made = materialise(store, manifest, parse_training_set(store.get(key)), folder / "base")
    size = choose_image_size(manifest.split("train")) // 2  # as the trials
    train(made.data_yaml, replace(Recipe(), steps=steps, image_size=size), folder / "base-run")
    place = settings.home / "cache" / "weights" / "yolov8n.pt"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "base-run" / WEIGHTS, place)


def experiment(
    data: dict[str, str],
    seed: int,
    trials: int,
    steps: int,
    *,
    stopping: bool,
    fixed: Sequence[str] = FIXED,
) -> Experiment:
    """The project's Experiment, with its early stopping or without."""
    made = load_experiment(ROOT / "katib" / "experiment.yaml")
    defaults = Recipe()
    made = made.with_fixed({name: str(getattr(defaults, name)) for name in fixed})
    made = made.with_counts(max_trials=trials, parallel_trials=os.cpu_count() or 1)
    made = made.with_algorithm_settings({"random_state": str(seed)})
    made = made.with_environment({**data, "TRIAL_STEPS": str(steps), "TRIAL_SEED": str(seed)})
    if stopping:
        length = replace(defaults, steps=steps).epochs(int(data["IMAGES"]))
        return made.judged_from(first_judged(length))
    document = {**made.document, "spec": dict(made.document["spec"])}
    document["spec"].pop("earlyStopping")
    return parse_experiment(document)


def paced(found: TuningResult) -> tuple[float, float]:
    """What its trials took, and what as many whole ones would have taken at its pace, seconds."""
    taken = [trial.seconds for trial in found.trials]
    lengths = [len(trial.history) for trial in found.trials]
    if len(set(lengths)) == 1:
        return sum(taken), sum(taken)
    pace, start = np.polyfit(lengths, taken, 1)
    return sum(taken), len(taken) * float(start + pace * max(lengths))


def epochs(found: TuningResult) -> int:
    """What all its trials trained."""
    return sum(len(trial.history) for trial in found.trials)


def children_cpu() -> float:
    """CPU seconds of the trials that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(event: Any) -> None:
    if event.kind == "ended":
        print(f"{time.strftime('%H:%M:%S')} {event.message}", file=sys.stderr)


def draw(seeds: Sequence[int], results: Sequence[tuple[TuningResult, TuningResult]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(results), 4), layout="constrained")
    every = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, seed, (whole, short) in zip(every, seeds, results, strict=True):
        for trial in whole.trials:
            axes.plot(range(1, len(trial.history) + 1), trial.history, color="lightgray")
        for trial in short.trials:
            stopped = trial.status == "EarlyStopped"
            axes.plot(
                range(1, len(trial.history) + 1),
                trial.history,
                color="tab:red" if stopped else "tab:blue",
            )
        axes.set(
            xlabel="epoch",
            ylabel="mAP50-95",
            title=f"seed {seed}: red stopped, blue kept, grey without stopping",
        )
    path = OUT / "tuning_early_stopping.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
