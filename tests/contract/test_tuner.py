"""What every tuner does with an Experiment: counts, goal, failures, metrics, durability.

The trials are real processes: a few lines of Python that print their metric.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from platecrypt.errors import BadInputError
from platecrypt.tuning import Experiment, LocalTuner, TuningResult, parse_experiment
from platecrypt.tuning.pictures import draw_history

Run = Callable[..., TuningResult]
QUADRATIC = "x = float(sys.argv[1]); print(f'value={(x - 0.3) ** 2:.6f} other={x}')"


def experiment(program: str, *, command: list[str] | None = None, **spec: Any) -> Experiment:
    """An Experiment whose trial is a Python program that gets x and colour."""
    program = "import os, sys, time\n" + textwrap.dedent(program)
    words = command or ["python", "-c", program, "${trialParameters.x}", "${trialParameters.c}"]
    document = {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": "quadratic"},
        "spec": {
            "objective": {
                "type": "minimize",
                "objectiveMetricName": "value",
                "additionalMetricNames": ["other"],
            },
            "algorithm": {
                "algorithmName": "tpe",
                "algorithmSettings": [{"name": "random_state", "value": "5"}],
            },
            "maxTrialCount": 4,
            "parallelTrialCount": 1,
            "parameters": [
                {
                    "name": "x",
                    "parameterType": "double",
                    "feasibleSpace": {"min": "0", "max": "1"},
                },
                {
                    "name": "colour",
                    "parameterType": "categorical",
                    "feasibleSpace": {"list": ["red", "blue"]},
                },
            ],
            "trialTemplate": {
                "primaryContainerName": "main",
                "trialParameters": [
                    {"name": "x", "reference": "x"},
                    {"name": "c", "reference": "colour"},
                ],
                "trialSpec": {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "spec": {
                        "template": {
                            "spec": {
                                "restartPolicy": "Never",
                                "containers": [{"name": "main", "image": "none", "command": words}],
                            }
                        }
                    },
                },
            },
            **spec,
        },
    }
    if command:
        template: Any = document["spec"]["trialTemplate"]  # type: ignore[index]
        container = template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
        container["args"] = ["${trialParameters.x}", "${trialParameters.c}"]
    return parse_experiment(document)


@pytest.fixture(params=["local"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """The engine under test; another engine is one more parameter."""
    assert request.param == "local"

    def start(made: Experiment, folder: str = "work", **options: Any) -> TuningResult:
        events = options.pop("on_event", lambda event: None)
        return LocalTuner(**options).run(made, tmp_path / folder, events)

    return start


def reason(result: TuningResult) -> tuple[str, str]:
    return result.conditions[-1].type, result.conditions[-1].reason


def test_the_counts_end_it_and_the_best_is_the_best(run: Run) -> None:
    result = run(experiment(QUADRATIC, maxTrialCount=5))
    assert reason(result) == ("Succeeded", "ExperimentMaxTrialsReached")
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3, 4]
    values = [trial.metrics["value"].latest for trial in result.trials]
    assert result.best_value == min(values)
    assert result.best is not None
    x = float(result.best_parameters["x"])
    assert result.best_value == pytest.approx((x - 0.3) ** 2, abs=1e-6)
    assert result.best_parameters["colour"] in ("red", "blue")
    assert result.best.metrics["other"].latest == pytest.approx(x)


def test_the_same_seed_proposes_the_same(run: Run) -> None:
    for algorithm in ("random", "tpe"):
        settings = {
            "algorithmName": algorithm,
            "algorithmSettings": [{"name": "random_state", "value": "3"}],
        }
        made = experiment(QUADRATIC, algorithm=settings, maxTrialCount=3)
        first, second = run(made, f"{algorithm}1"), run(made, f"{algorithm}2")
        assert [t.parameters for t in first.trials] == [t.parameters for t in second.trials]
        assert len({t.parameters["x"] for t in first.trials}) == 3


def test_the_goal_ends_it_early(run: Run) -> None:
    objective = {"type": "minimize", "objectiveMetricName": "value", "goal": 0.5}
    result = run(experiment(QUADRATIC, objective=objective, maxTrialCount=50))
    assert reason(result) == ("Succeeded", "ExperimentGoalReached")
    assert len(result.trials) == 1


def test_failures_end_it_as_failed(run: Run) -> None:
    made = experiment("print('boom'); sys.exit(3)", maxTrialCount=9, maxFailedTrialCount=2)
    result = run(made)
    assert reason(result) == ("Failed", "ExperimentFailed")
    assert [trial.status for trial in result.trials] == ["Failed", "Failed"]
    assert "exit code 3" in result.trials[0].message
    assert "boom" in result.trials[0].message
    assert result.best is None
    assert not result.succeeded


def test_a_trial_without_the_metric_is_metrics_unavailable(run: Run) -> None:
    for program in ("print('other=1')", "print('value=nan')", "print('value=inf')", "pass"):
        result = run(experiment(program, maxTrialCount=1), program)
        assert result.trials[0].status == "MetricsUnavailable"
        assert "value was never printed" in result.trials[0].message


def test_a_command_that_does_not_exist_fails_its_trial(run: Run) -> None:
    made = experiment("", command=["no-such-program"], maxTrialCount=3, maxFailedTrialCount=3)
    result = run(made)
    assert [trial.status for trial in result.trials] == ["Failed"] * 3
    assert "no-such-program cannot be started" in result.trials[0].message


@pytest.mark.parametrize(("strategy", "expected"), [("min", 1.0), ("max", 9.0), ("latest", 4.0)])
def test_the_strategy_chooses_among_the_printed_values(
    run: Run, strategy: str, expected: float
) -> None:
    objective = {
        "type": "maximize",
        "objectiveMetricName": "value",
        "metricStrategies": [{"name": "value", "value": strategy}],
    }
    program = "for v in (3, 9, 1, 4): print(f'value={v}', flush=True)"
    result = run(experiment(program, objective=objective, maxTrialCount=1))
    assert result.best_value == expected
    assert result.trials[0].history == (3.0, 9.0, 1.0, 4.0)


def test_a_value_that_stays_the_same_is_part_of_the_history(run: Run) -> None:
    program = "for v in (2, 2, 2): print(f'value={v}', flush=True); time.sleep(0.1)"
    result = run(experiment(program, maxTrialCount=1))
    assert result.trials[0].history == (2.0, 2.0, 2.0)


def test_trials_run_at_once_and_share_the_cores(run: Run, tmp_path: Path) -> None:
    program = f"""
    folder = {str(tmp_path)!r}
    open(f"{{folder}}/{{os.getpid()}}.alive", "w").close()
    deadline = time.monotonic() + 20
    while len([n for n in os.listdir(folder) if n.endswith(".alive")]) < 2:
        assert time.monotonic() < deadline, "the other trial never started"
        time.sleep(0.01)
    print("value=1 other=" + os.environ["OMP_NUM_THREADS"])
    """
    result = run(experiment(program, maxTrialCount=2, parallelTrialCount=2))
    assert [trial.status for trial in result.trials] == ["Succeeded"] * 2
    expected = max(1, len(os.sched_getaffinity(0)) // 2)
    assert result.trials[0].metrics["other"].latest == expected


def test_the_environment_reaches_the_trial_and_not_the_disk(run: Run, tmp_path: Path) -> None:
    made = experiment("print(f'value={len(os.environ[\"TOKEN\"])}')", maxTrialCount=1)
    result = run(made, environment={"TOKEN": "very-secret"})
    assert result.best_value == len("very-secret")
    kept = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert "study.db" in {path.name for path in kept}
    assert not [path for path in kept if b"very-secret" in path.read_bytes()]


def test_a_finished_search_is_not_run_again_and_may_be_prolonged(run: Run) -> None:
    made = experiment(QUADRATIC, maxTrialCount=2)
    first = run(made)
    started: list[str] = []
    again = run(made, on_event=lambda event: started.append(event.kind))
    assert again.trials == first.trials
    assert "started" not in started
    longer = run(made.with_counts(max_trials=3))
    assert longer.trials[:2] == first.trials
    assert len(longer.trials) == 3


def test_another_experiment_cannot_use_the_work_dir(run: Run) -> None:
    run(experiment(QUADRATIC, maxTrialCount=1))
    with pytest.raises(BadInputError, match="another experiment"):
        run(experiment("print('value=1')", maxTrialCount=1))


def test_a_second_engine_on_the_work_dir_is_refused(run: Run, tmp_path: Path) -> None:
    from platecrypt.processes import file_lock

    (tmp_path / "work").mkdir()
    with file_lock(tmp_path / "work" / "lock"), pytest.raises(BadInputError, match="in use"):
        run(experiment(QUADRATIC, maxTrialCount=1))


def test_what_a_trial_leaves_behind_goes_except_its_output(run: Run, tmp_path: Path) -> None:
    program = "open('weights.bin', 'w').write('x'); os.mkdir('cache'); print('value=1')"
    run(experiment(program, maxTrialCount=1))
    folder = tmp_path / "work" / "trials" / "quadratic-0000"
    assert [path.name for path in folder.iterdir()] == ["output.log"]


def test_a_process_that_a_trial_left_running_is_ended(run: Run) -> None:
    program = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    print(f"value={child.pid}")
    """
    result = run(experiment(program, maxTrialCount=1))
    assert result.best_value is not None
    deadline = time.monotonic() + 5
    while _lives(int(result.best_value)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(int(result.best_value))


def test_the_status_is_in_katibs_shape(run: Run, tmp_path: Path) -> None:
    result = run(experiment(QUADRATIC, maxTrialCount=2))
    document = yaml.safe_load((tmp_path / "work" / "experiment.yaml").read_text())
    status = document["status"]
    assert status == result.status()
    assert status["trialsSucceeded"] == status["trials"] == 2
    assert result.best is not None
    optimal = status["currentOptimalTrial"]
    assert optimal["bestTrialName"] == result.best.name
    assert optimal["observation"]["metrics"][0]["latest"] == str(result.best_value)
    assert [c["type"] for c in status["conditions"]] == ["Created", "Running", "Succeeded"]


def test_the_picture_of_the_search_is_a_png(run: Run, tmp_path: Path) -> None:
    path = draw_history(run(experiment(QUADRATIC, maxTrialCount=2)), tmp_path / "history.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


ENGINE = """
import sys
from pathlib import Path
import yaml
from platecrypt.tuning import LocalTuner, parse_experiment
made = parse_experiment(yaml.safe_load(Path(sys.argv[1]).read_text()))
LocalTuner(grace_s=1.0).run(made, Path(sys.argv[2]), lambda e: print(e.kind, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_engine_goes_on_where_it_was(
    run: Run, tmp_path: Path, how: signal.Signals
) -> None:
    """Finished trials stay, the running one ends and is run again with its parameters."""
    program = f"""
    x = sys.argv[1]
    with open({str(tmp_path / "starts")!r}, "a") as file:
        file.write(f"{{os.getpid()}} {{x}}\\n")
    starts = len(open({str(tmp_path / "starts")!r}).readlines())
    while starts == 2:
        time.sleep(0.02)
    print(f"value={{x}}")
    """
    made = experiment(program, maxTrialCount=3)
    (tmp_path / "made.yaml").write_text(made.to_yaml())
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(tmp_path / "made.yaml"), str(tmp_path / "work")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while _count(tmp_path / "starts") < 2:
            assert time.monotonic() < deadline
            assert engine.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)  # the study hears of the process right after it started
        engine.send_signal(how)
        engine.wait(20)
    finally:
        engine.kill()
    result = run(made, grace_s=1.0)
    lines = [line.split() for line in (tmp_path / "starts").read_text().splitlines()]
    assert not _lives(int(lines[1][0]))
    assert [trial.status for trial in result.trials] == [
        "Succeeded",
        "Killed",
        "Succeeded",
        "Succeeded",
    ]
    assert len(lines) == 4  # one was repeated, none of the others
    assert lines[2][1] == lines[1][1]
    assert reason(result) == ("Succeeded", "ExperimentMaxTrialsReached")


def test_an_interrupt_ends_a_trial_that_ignores_sigterm(tmp_path: Path) -> None:
    program = """
    import signal, subprocess
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    print(f"value={os.getpid()} other={child.pid}", flush=True)
    time.sleep(300)
    """
    pids: list[int] = []

    def interrupt(event: Any) -> None:
        if event.kind == "metric":
            pids.extend(int(event.trial.metrics[n].latest) for n in ("value", "other"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalTuner(grace_s=0.5).run(experiment(program), tmp_path / "work", interrupt)
    assert len(pids) == 2
    assert not any(_lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
