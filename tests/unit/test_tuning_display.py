"""What a search shows while it runs, and what its forecast reckons."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from platecrypt.errors import UnavailableError
from platecrypt.tuning import Trial, TuningEvent, parse_experiment
from platecrypt.tuning.display import Lines, Table
from platecrypt.tuning.forecast import forecast
from platecrypt.tuning.result import Observed

OURS = Path(__file__).resolve().parents[2] / "katib" / "experiment.yaml"
MADE = parse_experiment(yaml.safe_load(OURS.read_text())).with_counts(max_trials=10)


def trial(number: int, value: float | None, seconds: float, status: Any = "Succeeded") -> Trial:
    metrics = {} if value is None else {"mAP50-95": Observed(value, value, value)}
    return Trial(number, f"plates-{number:04d}", {"lr0": "0.002"}, status, metrics, (), seconds)


def drawn(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=240).print(table)
    return out.getvalue()


def test_the_table_shows_trials_the_best_and_what_remains() -> None:
    table = Table(MADE)
    assert "remaining unknown" in drawn(table)
    table(TuningEvent("started", "", trial(0, None, 0.0, "Running")))
    assert "Running" in drawn(table)
    table(TuningEvent("ended", "", trial(0, 0.25, 20.0)))
    table(TuningEvent("ended", "", trial(1, 0.5, 40.0)))
    table(TuningEvent("note", "asking again"))
    shown = drawn(table)
    assert "best 0.5" in shown
    assert "plates-0001" in shown
    assert "asking again" in shown
    assert table.remaining_s() == 8 * 30.0


def test_elsewhere_an_event_is_a_line_and_metrics_do_not_flood(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()
    running = trial(0, 0.1, 0.0, "Running")
    lines(TuningEvent("started", "plates-0000: lr0=0.002", running))
    for step in range(1000):
        lines(TuningEvent("metric", f"plates-0000: {step}", running))
    lines(TuningEvent("ended", "plates-0000: Failed (a\n b)", running))
    assert capsys.readouterr().err.splitlines() == [
        "plates-0000: lr0=0.002",
        "plates-0000: 0",
        "plates-0000: Failed (a b)",
    ]


def test_a_forecast_reckons_with_trials_gpus_and_what_runs_at_once() -> None:
    trials = [trial(0, 0.1, 1800.0), trial(1, 0.2, 5400.0), trial(2, None, 9.0, "Failed")]
    found = forecast(MADE, trials, price=2.0, at_once=4)
    assert (found.trials, found.measured) == (7, 2)
    assert found.device_hours == pytest.approx((3.5, 7.0, 10.5))
    assert found.wall_hours == pytest.approx((0.875, 1.75, 2.625))
    assert found.cost == pytest.approx((7.0, 14.0, 21.0))
    assert "cost           14 (7 to 21)" in found.lines()
    two = replace(MADE, container=replace(MADE.container, gpus=2))
    found = forecast(two, trials, at_once=4)
    assert found.device_hours == pytest.approx((7.0, 14.0, 21.0))
    assert found.wall_hours == pytest.approx((0.875, 1.75, 2.625))


def test_one_trial_gives_a_range_too() -> None:
    low, expected, high = forecast(MADE, [trial(0, 0.1, 3600.0)]).device_hours
    assert low < expected == 9.0 < high


def test_a_forecast_without_a_result_says_why() -> None:
    with pytest.raises(UnavailableError, match="nothing to reckon with; plates-0000"):
        forecast(MADE, [trial(0, None, 1.0, "Failed")])
