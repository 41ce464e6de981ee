"""The search as two pictures: results with the best so far, and where the trials were."""

import math
from collections.abc import Mapping
from pathlib import Path

from platecrypt.tuning.experiment import Parameter
from platecrypt.tuning.result import MEASURED, TuningResult


def draw_history(result: TuningResult, path: Path) -> Path:
    """Write a PNG of the search history; it appears whole or not at all.

    Args:
        result: of the search; trials without a value are marked at the bottom.
        path: where to, ending in `.png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    objective = result.experiment.objective
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    found = [
        (trial.number, value)
        for trial in result.trials
        if trial.status in MEASURED and (value := trial.value(result.experiment)) is not None
    ]
    if found:
        numbers = [number for number, _ in found]
        best: list[float] = []
        for _, value in found:
            best.append(value if not best or objective.better(value, best[-1]) else best[-1])
        axes.plot(numbers, [value for _, value in found], "o", label="trial")
        axes.step(numbers, best, where="post", label="best so far")
    broken = [trial.number for trial in result.trials if trial.status not in MEASURED]
    if broken:
        bottom = axes.get_ylim()[0]
        axes.plot(broken, [bottom] * len(broken), "x", color="tab:red", label="without a result")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{objective.metric} ({objective.type})")
    axes.set_title(f"{result.experiment.name}: {result.experiment.algorithm}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if found or broken:
        axes.legend()
    FigureCanvasAgg(figure)
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    return path


def draw_parameters(result: TuningResult, path: Path) -> Path:
    """Write a PNG of the trials as lines over the parameters (parallel coordinates).

    Args:
        result: of the search; trials without a value are left out, the best is drawn last.
        path: where to, ending in `.png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    experiment = result.experiment
    found = [
        (trial, value)
        for trial in result.trials
        if trial.status in MEASURED and (value := trial.value(experiment)) is not None
    ]
    found.sort(key=lambda pair: pair[1], reverse=experiment.objective.type == "minimize")
    figure = Figure(figsize=(max(8.0, 1.1 * len(experiment.parameters)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    values = [value for _, value in found] or [0.0]
    scale = Normalize(min(values), max(values))
    colours = ScalarMappable(scale, "viridis")
    for trial, value in found:
        places = [_place(parameter, trial.parameters) for parameter in experiment.parameters]
        best = trial is result.best
        axes.plot(
            range(len(places)),
            places,
            color="tab:red" if best else colours.cmap(scale(value)),
            linewidth=2.5 if best else 1.2,
            marker="o",
            markersize=3,
            label=f"best: {value:.4g}" if best else None,
        )
    names = [_axis_label(parameter) for parameter in experiment.parameters]
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=20)
    axes.set_yticks([0, 1], ["min", "max"])
    axes.set_title(f"{experiment.name}: where the trials were")
    if found:
        axes.legend()
    figure.colorbar(colours, ax=axes, label=experiment.objective.metric)
    FigureCanvasAgg(figure)
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
    return path


def _place(parameter: Parameter, parameters: Mapping[str, str]) -> float:
    """Where a value stands between the parameter's smallest (0) and its largest (1)."""
    text = parameters.get(parameter.name, "")
    if parameter.choices:
        last = max(1, len(parameter.choices) - 1)
        return parameter.choices.index(text) / last if text in parameter.choices else 0.0
    low, high, value = parameter.low, parameter.high, float(text or parameter.low)
    if parameter.distribution in ("logUniform", "logNormal"):
        low, high, value = (math.log(number) for number in (low, high, value))
    return (value - low) / (high - low) if high > low else 0.5


def _axis_label(parameter: Parameter) -> str:
    if parameter.choices:
        return f"{parameter.name}\n{parameter.choices[0]} .. {parameter.choices[-1]}"
    return f"{parameter.name}\n{parameter.low:g} .. {parameter.high:g}"
