"""What a search leaves for people: a table of every trial, and a page with two pictures."""

import base64
import csv
import html
import io
from pathlib import Path

from platecrypt.tuning.pictures import draw_history, draw_parameters
from platecrypt.tuning.result import TuningResult

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem}"
    "th,td{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}img{max-width:100%}"
)


def trials_csv(result: TuningResult) -> str:
    """Every trial as a row: name, parameters, objective, how it ended, seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [parameter.name for parameter in result.experiment.parameters]
    metrics = result.experiment.objective.metrics
    writer.writerow(["trial", *names, *metrics, "status", "seconds"])
    for trial in result.trials:
        strategies = result.experiment.objective.strategies
        found = [
            repr(trial.metrics[m].by(strategies[m])) if m in trial.metrics else "" for m in metrics
        ]
        values = [trial.parameters.get(name, "") for name in names]
        writer.writerow([trial.name, *values, *found, trial.status, trial.seconds])
    return out.getvalue()


def page(result: TuningResult, folder: Path) -> str:
    """The search as one HTML page that needs nothing else; the pictures are kept in `folder`."""
    pictures = (
        ("history", draw_history(result, folder / "history.png")),
        ("parameters", draw_parameters(result, folder / "parameters.png")),
    )
    shown = "".join(
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        for name, path in pictures
    )
    title = html.escape(f"Tuning: {result.experiment.name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tuning</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>"
        f"<p>{html.escape(result.conditions[-1].message)}</p>{shown}{_table(result)}</html>"
    )


def _table(result: TuningResult) -> str:
    names = [parameter.name for parameter in result.experiment.parameters]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("trial", *names, "value", "ended"))
    rows = []
    for trial in result.trials:
        value = trial.value(result.experiment)
        cells = (
            trial.name,
            *(trial.parameters.get(name, "") for name in names),
            "-" if value is None else f"{value:.4f}",
            f"{trial.status}, {trial.seconds:.0f} s",
        )
        mark = ' style="font-weight:bold"' if trial is result.best else ""
        shown = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f"<tr{mark}>{shown}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
