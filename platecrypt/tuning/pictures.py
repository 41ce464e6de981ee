"""The search as a picture: each trial's result, and the best so far."""

from pathlib import Path

from platecrypt.tuning.result import TuningResult


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
        if trial.status == "Succeeded" and (value := trial.value(result.experiment)) is not None
    ]
    if found:
        numbers = [number for number, _ in found]
        best: list[float] = []
        for _, value in found:
            best.append(value if not best or objective.better(value, best[-1]) else best[-1])
        axes.plot(numbers, [value for _, value in found], "o", label="trial")
        axes.step(numbers, best, where="post", label="best so far")
    broken = [trial.number for trial in result.trials if trial.status != "Succeeded"]
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
