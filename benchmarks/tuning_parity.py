"""Quality of the local engine's search against Optuna called directly, and against random.

Branin, Hartmann-6 and a noisy quadratic; 60 trials, 20 seeds. The engine's own part is measured:
the Experiment's space, a sampler made anew for each proposal, the study in SQLite. The functions
are evaluated here, not in a process of their own, which `tuning_overhead.py` measures.
Optuna is called directly in two ways: seeded proposal by proposal as the engine does, which shows
what the engine itself adds or loses (nothing: the regrets are the same number), and with one seed a
search, as its documentation does. The second ratio moves by the choice of seeds alone: its 90 %
interval is printed (with 400 seeds of the noisy quadratic: 1.00, 0.87 to 1.13).
Prints a table; draws the median regret into build/benchmarks/tuning_parity.png.

    .venv/bin/python benchmarks/tuning_parity.py [--seeds 20] [--trials 60]
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from platecrypt.tuning import Experiment, parse_experiment  # noqa: E402
from platecrypt.tuning.proposer import Proposer  # noqa: E402
from platecrypt.tuning.result import Observed, Trial  # noqa: E402

OUT = ROOT / "build" / "benchmarks"
Function = Callable[[list[float], np.random.Generator], float]
HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def branin(x: list[float], rng: np.random.Generator) -> float:
    a, b = x
    square = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    return square + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10


def hartmann(x: list[float], rng: np.random.Generator) -> float:
    inner = (HARTMANN_A * (np.array(x) - HARTMANN_P) ** 2).sum(axis=1)
    return float(-(HARTMANN_ALPHA * np.exp(-inner)).sum())


def quadratic(x: list[float], rng: np.random.Generator) -> float:
    return sum((value - 0.3) ** 2 for value in x) + float(rng.normal(0, 0.02))


# name -> function, ranges, its minimum, the function without noise
PROBLEMS: dict[str, tuple[Function, list[tuple[float, float]], float, Function]] = {
    "Branin": (branin, [(-5, 10), (0, 15)], 0.397887, branin),
    "Hartmann-6": (hartmann, [(0, 1)] * 6, -3.32237, hartmann),
    "noisy quadratic": (
        quadratic,
        [(-1, 1)] * 4,
        0.0,
        lambda x, rng: sum((value - 0.3) ** 2 for value in x),
    ),
}


WHO = {
    "local": "local tpe",
    "seeded": "Optuna, our seeds",
    "optuna": "Optuna, its own",
    "random": "random",
}
OTHERS = tuple(WHO)[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--problem", choices=PROBLEMS, action="append", help="only these")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    OUT.mkdir(parents=True, exist_ok=True)
    print(f"{given.trials} trials, {given.seeds} seeds; median regret (CPU s / wall s a search)")
    print(
        f"{'':<16}" + "".join(f"{label:>20}" for label in WHO.values()) + "   local over the others"
    )
    worst = dict.fromkeys(OTHERS, 0.0)
    curves: dict[str, list[float]] = {}
    for name in given.problem or PROBLEMS:
        function, ranges, least, clean = PROBLEMS[name]
        found: dict[str, list[float]] = {}
        took: dict[str, tuple[float, float]] = {}
        for who in WHO:
            began, used = time.perf_counter(), time.process_time()
            found[who] = [
                search(who, function, ranges, seed, given.trials, clean) - least
                for seed in range(given.seeds)
            ]
            wall, cpu = time.perf_counter() - began, time.process_time() - used
            took[who] = (cpu / given.seeds, wall / given.seeds)
        medians = {who: statistics.median(values) for who, values in found.items()}
        ratios = {who: medians["local"] / medians[who] for who in OTHERS}
        worst = {who: max(worst[who], ratios[who]) for who in OTHERS}
        curves[name] = list(medians.values())
        cells = "".join(
            f"{medians[who]:>9.4f} ({took[who][0]:.1f}/{took[who][1]:.1f})" for who in medians
        )
        low, high = interval(found["local"], found["optuna"])
        print(
            f"{name:<16} {cells}   "
            + "  ".join(f"{ratio:.2f}" for ratio in ratios.values())
            + f"  (the second: {low:.2f} to {high:.2f})",
            flush=True,
        )
    print(
        f"largest ratio to Optuna's TPE with our seeds {worst['seeded']:.2f}, with its own "
        f"{worst['optuna']:.2f} (<= 1.1), to random {worst['random']:.2f} (<= 0.5)"
    )
    draw(curves)


def search(
    who: str,
    function: Function,
    ranges: list[tuple[float, float]],
    seed: int,
    trials: int,
    clean: Function,
) -> float:
    """The best found, by its value without noise."""
    rng = np.random.default_rng(seed)
    if who in ("seeded", "optuna"):
        return direct(function, ranges, seed, trials, clean, rng, anew=who == "seeded")
    made = experiment("tpe" if who == "local" else "random", ranges, seed, trials)
    best, at = math.inf, 0.0
    with tempfile.TemporaryDirectory() as folder:
        proposer = Proposer(made, Path(folder))
        proposer.recover()
        for _ in range(trials):
            handle, trial = proposer.ask()
            x = [float(trial.parameters[f"x{i}"]) for i in range(len(ranges))]
            value = function(x, rng)
            metrics = {"v": Observed(value, value, value)}
            proposer.ended(
                handle, Trial(trial.number, trial.name, trial.parameters, "Succeeded", metrics)
            )
            if value < best:
                best, at = value, clean(x, rng)
    return at


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """The ratio of medians over resampled seeds: how far it moves by their choice alone."""
    rng = np.random.default_rng(0)
    a, b = (np.median(rng.choice(v, (2000, len(v))), axis=1) for v in (ours, theirs))
    low, high = np.quantile(a / b, (0.05, 0.95))
    return float(low), float(high)


def direct(
    function: Function,
    ranges: list[tuple[float, float]],
    seed: int,
    trials: int,
    clean: Function,
    rng: np.random.Generator,
    *,
    anew: bool,
) -> float:
    """Optuna as its documentation calls it; `anew`: with a new seed for each proposal."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed + 1000))

    def objective(trial: Any) -> float:
        x = [trial.suggest_float(f"x{i}", *bounds) for i, bounds in enumerate(ranges)]
        return function(x, rng)

    for number in range(trials):
        if anew:
            state = np.random.SeedSequence([seed, number]).generate_state(1)
            study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
        study.optimize(objective, n_trials=1)
    return clean([study.best_params[f"x{i}"] for i in range(len(ranges))], rng)


def experiment(
    algorithm: str, ranges: list[tuple[float, float]], seed: int, trials: int
) -> Experiment:
    names = [f"x{i}" for i in range(len(ranges))]
    words = ["run", *(f"${{trialParameters.{name}}}" for name in names)]
    container = {"name": "main", "image": "none", "command": words}
    pod = {"restartPolicy": "Never", "containers": [container]}
    return parse_experiment(
        {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Experiment",
            "metadata": {"name": "parity"},
            "spec": {
                "objective": {"type": "minimize", "objectiveMetricName": "v"},
                "algorithm": {
                    "algorithmName": algorithm,
                    "algorithmSettings": [{"name": "random_state", "value": str(seed)}],
                },
                "maxTrialCount": trials,
                "parallelTrialCount": 1,
                "parameters": [
                    {
                        "name": name,
                        "parameterType": "double",
                        "feasibleSpace": {"min": str(low), "max": str(high)},
                    }
                    for name, (low, high) in zip(names, ranges, strict=True)
                ],
                "trialTemplate": {
                    "primaryContainerName": "main",
                    "trialParameters": [{"name": n, "reference": n} for n in names],
                    "trialSpec": {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "spec": {"template": {"spec": pod}},
                    },
                },
            },
        }
    )


def draw(curves: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for index, label in enumerate(WHO.values()):
        places = [place + 0.2 * (index - 1.5) for place in range(len(curves))]
        axes.bar(places, [values[index] for values in curves.values()], 0.18, label=label)
    axes.set_xticks(range(len(curves)), list(curves))
    axes.set(yscale="log", ylabel="median regret", title="search quality, less is better")
    axes.legend()
    path = OUT / "tuning_parity.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
