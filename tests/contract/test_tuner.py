"""What every tuner does with an Experiment: counts, goal, failures, metrics, durability.

The trials are real processes: a few lines of Python that print their metric.
"""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from platecrypt.errors import BadInputError
from platecrypt.machine import cores
from platecrypt.settings import Settings
from platecrypt.tracking import Tracker
from platecrypt.tuning import Experiment, Limits, LocalTuner, TuningResult, local, parse_experiment
from platecrypt.tuning.earlier import read_earlier
from platecrypt.tuning.pictures import draw_history
from platecrypt.tuning.steps import search

pytestmark = pytest.mark.slow  # each trial is a process

Run = Callable[..., TuningResult]
QUADRATIC = "x = float(sys.argv[1]); print(f'value={(x - 0.3) ** 2:.6f} other={x}')"


def experiment(
    program: str,
    *,
    command: list[str] | None = None,
    words: list[str] | None = None,
    collector: tuple[str, str] | None = None,
    gpus: int = 0,
    env: list[dict[str, Any]] | None = None,
    retain: bool = False,
    **spec: Any,
) -> Experiment:
    """An Experiment whose trial is a Python program that gets x and colour."""
    if collector:
        path, form = collector
        source = {"fileSystemPath": {"kind": "File", "path": path, "format": form}}
        spec["metricsCollectorSpec"] = {"collector": {"kind": "File"}, "source": source}
    program = "import os, sys, time\n" + textwrap.dedent(program)
    words = (
        words
        or command
        or ["python", "-c", program, "${trialParameters.x}", "${trialParameters.c}"]
    )
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
    template: Any = document["spec"]["trialTemplate"]  # type: ignore[index]
    template["retain"] = retain
    container = template["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    if command:
        container["args"] = ["${trialParameters.x}", "${trialParameters.c}"]
    container["env"] = env or []
    container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    return parse_experiment(document)


@pytest.fixture(params=["local"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """The engine under test; another engine is one more parameter."""
    assert request.param == "local"

    def start(made: Experiment, folder: str = "work", **options: Any) -> TuningResult:
        events = options.pop("on_event", lambda event: None)
        limits = options.pop("limits", Limits())
        return LocalTuner(**options).run(made, tmp_path / folder, events, limits=limits)

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
    expected = max(1, cores() // 2)
    assert result.trials[0].metrics["other"].latest == expected


def test_the_environment_reaches_the_trial_and_not_the_disk(run: Run, tmp_path: Path) -> None:
    made = experiment("print(f'value={len(os.environ[\"TOKEN\"])}')", maxTrialCount=1)
    result = run(made, environment={"TOKEN": "very-secret"})
    assert result.best_value == len("very-secret")
    kept = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert "study.db" in {path.name for path in kept}
    assert not [path for path in kept if b"very-secret" in path.read_bytes()]


def test_a_finished_search_is_not_run_again_and_goes_on_as_its_resume_policy_says(
    run: Run,
) -> None:
    made = experiment(QUADRATIC, maxTrialCount=2, resumePolicy="FromVolume")
    first = run(made)
    started: list[str] = []
    again = run(made, on_event=lambda event: started.append(event.kind))
    assert again.status() == first.status()
    assert again.trials == first.trials
    assert "started" not in started
    never = experiment(QUADRATIC, maxTrialCount=3)
    with pytest.raises(BadInputError, match="resumePolicy is Never"):
        run(never)
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


MEDIAN = {
    "algorithmName": "medianstop",
    "algorithmSettings": [
        {"name": "min_trials_required", "value": "1"},
        {"name": "start_step", "value": "2"},
    ],
}


def test_a_bad_trial_is_stopped_early_with_its_children_whatever_they_do(
    run: Run, tmp_path: Path
) -> None:
    """TERM is ignored, a grandchild is an orphan in a session of its own: both are gone."""
    program = f"""
    import signal, subprocess
    if os.path.exists({str(tmp_path / "second")!r}):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleep = "[sys.executable, '-c', 'import time; time.sleep(300)']"
        apart = "start_new_session=True, stdout=-3"  # its output goes nowhere
        child = f"import subprocess, sys; print(subprocess.Popen({{sleep}}, {{apart}}).pid)"
        done = subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
        print("other=" + done.stdout, flush=True)
        print(f"value=9\\nvalue=8\\nother={{os.getpid()}}", flush=True)
        time.sleep(300)
    open({str(tmp_path / "second")!r}, "w").close()
    print("value=1\\nvalue=1\\nvalue=1")
    """
    made = experiment(program, maxTrialCount=2, earlyStopping=MEDIAN, retain=True)
    result = run(made, grace_s=0.5)
    assert [trial.status for trial in result.trials] == ["Succeeded", "EarlyStopped"]
    assert reason(result) == ("Succeeded", "ExperimentMaxTrialsReached")
    stopped = result.trials[1]
    assert stopped.message == "stopped early at step 2"
    assert stopped.history == (9.0, 8.0)
    output = (tmp_path / "work" / "trials" / stopped.name / "output.log").read_text()
    pids = [int(line.split("=")[1]) for line in output.split() if line.startswith("other")]
    assert len(pids) == 2
    assert not any(_lives(pid) for pid in pids)
    status = result.status()
    assert status["trialsEarlyStopped"] == 1
    assert status["earlyStoppedTrialList"] == [stopped.name]
    assert run(made).trials == result.trials


def test_what_was_learned_for_early_stopping_survives_a_restart(run: Run, tmp_path: Path) -> None:
    program = f"""
    first = not os.path.exists({str(tmp_path / "second")!r})
    open({str(tmp_path / "second")!r}, "w").close()
    for _ in range(2):
        print("value=1" if first else "value=5", flush=True)
    if not first:
        time.sleep(300)
    """
    made = experiment(program, maxTrialCount=1, earlyStopping=MEDIAN, resumePolicy="LongRunning")
    run(made, grace_s=0.5)
    result = run(made.with_counts(max_trials=2), grace_s=0.5)
    assert [trial.status for trial in result.trials] == ["Succeeded", "EarlyStopped"]


def test_hyperband_lets_the_good_ones_go_on(run: Run) -> None:
    """r_l 4, eta 2: the resource is the number of values a trial prints."""
    parameters = [
        {"name": "x", "parameterType": "double", "feasibleSpace": {"min": "0", "max": "1"}},
        {"name": "colour", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "99"}},
    ]
    settings = {"r_l": "4", "eta": "2", "resource_name": "colour", "random_state": "2"}
    pairs = [{"name": name, "value": value} for name, value in settings.items()]
    program = """
    for step in range(int(sys.argv[2])):
        print(f"value={sys.argv[1]}", flush=True)
        time.sleep(0.1)
    """
    made = experiment(
        program,
        algorithm={"algorithmName": "hyperband", "algorithmSettings": pairs},
        parameters=parameters,
        maxTrialCount=12,
        parallelTrialCount=4,
    )
    result = run(made, grace_s=2.0, parallel=2)
    states = {trial.status for trial in result.trials}
    assert states == {"Succeeded", "EarlyStopped"}
    assert {trial.parameters["colour"] for trial in result.trials} == {"4"}
    for trial in result.trials:
        assert len(trial.history) == 4 or trial.status == "EarlyStopped"
    assert result.best is not None
    assert result.best.status == "Succeeded"


FILE = "/var/log/katib/metrics.log"


@pytest.mark.parametrize("form", ["TEXT", "JSON"])
def test_metrics_may_stand_in_a_file_of_the_trials_own(run: Run, form: str) -> None:
    """Trials that run at once do not share the file; what is printed does not count."""
    program = """
    import json
    print("value=99")
    path = sys.argv[3]
    with open(path, "a") as file:
        for value in (5, 2, 3):
            pair = {"value": str(value), "other": 7, "timestamp": "2026-01-01T00:00:00Z"}
            line = json.dumps(pair) if sys.argv[4] == "JSON" else f"value={value} other=x"
            file.write(line + "\\n")
        file.write("not a line of metrics\\n")
    """
    words = ["python", "-c", "import os, sys, time\n" + textwrap.dedent(program)]
    words += ["${trialParameters.x}", "${trialParameters.c}", FILE, form]
    made = experiment("", words=words, collector=(FILE, form), parallelTrialCount=2)
    result = run(made)
    assert [trial.status for trial in result.trials] == ["Succeeded"] * 4
    assert {trial.history for trial in result.trials} == {(5.0, 2.0, 3.0)}
    assert result.best_value == 2.0
    assert "other" not in result.trials[0].metrics


def test_a_file_that_is_never_written_is_metrics_unavailable(run: Run) -> None:
    words = ["python", "-c", "print('value=1')", "${trialParameters.x}", "${trialParameters.c}"]
    made = experiment("", words=[*words, FILE], collector=(FILE, "TEXT"), maxTrialCount=1)
    assert run(made).trials[0].status == "MetricsUnavailable"


def test_binary_noise_and_endless_lines_do_not_hide_the_metric(run: Run) -> None:
    program = """
    sys.stdout.buffer.write(bytes(range(256)) * 4000 + b"\\n\\x00\\xffvalue=0.5\\xfe\\n")
    sys.stdout.buffer.write(b"x" * 3_000_000)
    """
    result = run(experiment(program, maxTrialCount=1))
    assert result.best_value == 0.5


def test_a_metric_printed_a_million_times_is_read_and_little_of_it_kept(
    run: Run, tmp_path: Path
) -> None:
    program = """
    sys.stdout.write("value=3\\n" * 999_999 + "value=2\\n")
    """
    result = run(experiment(program, maxTrialCount=1))
    assert result.best_value == 2.0
    assert result.trials[0].metrics["value"].max == 3.0
    assert len(result.trials[0].history) == 1000
    assert (tmp_path / "work" / "study.db").stat().st_size < 1_000_000


def test_the_last_lines_of_a_failed_trial_are_shown(run: Run) -> None:
    program = "for n in range(40): print(f'line {n}')\nsys.exit(4)"
    result = run(experiment(program, maxTrialCount=1))
    message = result.trials[0].message
    assert message.startswith("exit code 4: line 20 | ")
    assert message.endswith("line 39")


def test_each_trial_has_gpus_of_its_own(run: Run, tmp_path: Path) -> None:
    program = f"""
    mine = os.environ["CUDA_VISIBLE_DEVICES"]
    path = {str(tmp_path)!r} + "/gpu" + mine
    os.mkdir(path)  # fails where another trial has the same
    time.sleep(0.3)
    os.rmdir(path)
    print(f"value={{mine}}")
    """
    made = experiment(program, maxTrialCount=6, parallelTrialCount=5, gpus=1)
    result = run(made, gpus=("3", "5"))
    assert [trial.status for trial in result.trials] == ["Succeeded"] * 6
    assert {t.metrics["value"].latest for t in result.trials} == {3.0, 5.0}
    with pytest.raises(BadInputError, match="asks for 3 nvidia.com/gpu, this machine has 2"):
        run(experiment(program, gpus=3), gpus=("3", "5"))


def test_where_there_is_no_gpu_a_trial_runs_without(run: Run) -> None:
    result = run(experiment(QUADRATIC, maxTrialCount=1, gpus=2), gpus=())
    assert result.succeeded


def test_a_limit_of_the_machine_narrows_what_runs_at_once(run: Run, tmp_path: Path) -> None:
    program = f"""
    os.mkdir({str(tmp_path / "alone")!r})
    time.sleep(0.1)
    os.rmdir({str(tmp_path / "alone")!r})
    print("value=1 other=" + os.environ["OMP_NUM_THREADS"])
    """
    result = run(experiment(program, maxTrialCount=3, parallelTrialCount=3), parallel=1)
    assert [trial.status for trial in result.trials] == ["Succeeded"] * 3
    assert result.trials[0].metrics["other"].latest == cores()


def test_secrets_of_the_template_are_supplied_or_refused_by_the_flag(run: Run) -> None:
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    program = "print('value=' + os.environ['TOKEN'])"
    made = experiment(program, env=[secret], maxTrialCount=1)
    with pytest.raises(BadInputError, match="--env TOKEN=VALUE"):
        run(made)
    assert run(made, environment={"TOKEN": "7"}).best_value == 7.0


def test_a_grid_ends_when_every_point_was_tried(run: Run) -> None:
    made = experiment(
        "print('value=1')",
        algorithm={"algorithmName": "grid"},
        parameters=[
            {"name": "x", "parameterType": "discrete", "feasibleSpace": {"list": ["1", "2"]}},
            {"name": "colour", "parameterType": "categorical", "feasibleSpace": {"list": ["a"]}},
        ],
        maxTrialCount=None,
        parallelTrialCount=2,
    )
    result = run(made)
    assert reason(result) == ("Succeeded", "ExperimentSuggestionEndReached")
    assert sorted(trial.parameters["x"] for trial in result.trials) == ["1", "2"]


def test_a_budget_ends_the_search_cleanly_and_a_larger_one_goes_on(run: Run) -> None:
    made = experiment("time.sleep(0.5); print('value=1')", maxTrialCount=6)
    hours = 1.2 / 3600
    result = run(made, limits=Limits(device_hours=hours))
    assert reason(result) == ("Succeeded", "ExperimentBudgetReached")
    whole = [trial for trial in result.trials if trial.status == "Succeeded"]
    assert 1 <= len(whole) <= 2
    assert result.device_seconds < 3.5
    longer = run(made, limits=Limits(device_hours=1.0))
    assert reason(longer) == ("Succeeded", "ExperimentMaxTrialsReached")
    assert sum(trial.status == "Succeeded" for trial in longer.trials) == 6


def test_a_budget_that_is_spent_before_there_is_a_result_is_a_failure(run: Run) -> None:
    result = run(experiment("time.sleep(300)"), limits=Limits(device_hours=0.3 / 3600))
    assert reason(result) == ("Failed", "ExperimentFailed")
    assert [trial.status for trial in result.trials] == ["Killed"]


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


def test_the_pipelines_step_keeps_the_search_and_a_later_one_begins_with_it(tmp_path: Path) -> None:
    """Pipeline run -> search -> trials in MLflow; the id of the search is enough to go on from."""
    settings = Settings(home=tmp_path / "home", pipeline_run="20260101-000000")
    tracker, made = Tracker(settings), experiment(QUADRATIC)
    first, run_id = search(settings, made, tmp_path / "first", {"dataset_digest": "d"})
    again, same = search(settings, made, tmp_path / "first", {"dataset_digest": "d"})
    assert (again.trials, same) == (first.trials, run_id)
    assert tracker.run_tags(run_id)["pipeline_run"] == "20260101-000000"
    children = tracker.children(run_id)
    assert sorted(tracker.run_tags(child)["trial"] for child in children) == sorted(
        trial.name for trial in first.trials
    )
    for start in (run_id, children[0]):
        taken = read_earlier(made, start, settings)
        assert len(taken.results) == len(first.trials)
        later, _ = search(
            settings, made, tmp_path / f"from-{start}", {"dataset_digest": start}, taken.results
        )
        assert later.earlier == len(first.trials)
        assert later.trials[0].parameters != first.trials[0].parameters


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_trial_that_outlives_its_job_fails(run: Run) -> None:
    """As on a cluster, where the Job's own deadline ends it."""
    slow = "print('value=1', flush=True); import time; time.sleep(600)"
    made = experiment(slow, maxTrialCount=1)
    made.document["spec"]["trialTemplate"]["trialSpec"]["spec"]["activeDeadlineSeconds"] = 1
    (trial,) = run(parse_experiment(made.document)).trials
    assert trial.status == "Failed"
    assert trial.message == "longer than activeDeadlineSeconds, 1 s"
    assert 1 <= trial.seconds < 30


def test_what_runs_already_counts_when_it_is_asked_whether_one_more_fits() -> None:
    """Three trials took 10 s each; what is left is 25 s."""

    def fits(*running: float) -> bool:
        search = local._Search.__new__(local._Search)
        search.experiment = experiment("")
        search.ended = [
            local.Trial(number, "t", {}, "Succeeded", seconds=10.0) for number in range(3)
        ]
        search.running = [
            SimpleNamespace(process=SimpleNamespace(seconds=seconds))  # type: ignore[misc]
            for seconds in running
        ]
        return search._fits(25.0)

    assert fits()
    assert fits(2.0)  # it will need 8 s more
    assert fits(20.0, 30.0)  # these need longer than usual; nobody knows how long
    assert not fits(2.0, 1.0)


def test_a_budget_that_was_too_small_for_a_result_can_be_raised(run: Run) -> None:
    made = experiment("time.sleep(1); print('value=1')", maxTrialCount=1)
    assert not run(made, limits=Limits(device_hours=0.3 / 3600)).succeeded
    result = run(made, limits=Limits(device_hours=1.0))
    assert result.succeeded
    assert [trial.status for trial in result.trials] == ["Killed", "Succeeded"]


def test_a_process_that_left_the_group_is_ended_with_the_search(run: Run) -> None:
    """A pod's end ends it on a cluster; here its trial has ended by itself and well."""
    program = """
    import subprocess
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True
    )
    print(f"value={child.pid}", flush=True)
    """
    result = run(experiment(program, maxTrialCount=1))
    assert result.best_value is not None
    assert not _lives(int(result.best_value))


@pytest.mark.parametrize("text", [None, "echo value=1\n", "\0"])
def test_a_command_that_cannot_be_started_fails_its_trial_only(
    run: Run, tmp_path: Path, text: str | None
) -> None:
    """No folder, no interpreter line, a NUL in its words."""
    script = tmp_path / "script"
    script.write_text(text or "")
    script.chmod(0o755)
    words = [f"{script}{text}" if text == "\0" else str(script if text else tmp_path / "absent")]
    made = experiment("", command=words, maxTrialCount=1)
    (trial,) = run(made).trials
    assert trial.status == "Failed"
    assert "cannot be started" in trial.message


def test_a_trial_may_remove_its_own_folder(run: Run) -> None:
    made = experiment(
        "import shutil; print('value=1', flush=True); time.sleep(0.3); shutil.rmtree(os.getcwd())",
        maxTrialCount=2,
    )
    assert [trial.status for trial in run(made).trials] == ["Succeeded", "Succeeded"]


def test_a_metrics_file_of_an_earlier_search_is_not_read(run: Run, tmp_path: Path) -> None:
    path = "/var/log/katib/metrics.log"
    program = "open(sys.argv[3], 'a').write('value=5\\n')"
    words = ["python", "-c", "import sys\n" + program, "${trialParameters.x}"]
    made = experiment(
        "",
        words=[*words, "${trialParameters.c}", path],
        collector=(path, "TEXT"),
        retain=True,
        maxTrialCount=1,
    )
    assert run(made).best_value == 5.0
    for file in (tmp_path / "work").glob("study.db*"):
        file.unlink()
    (written,) = (tmp_path / "work").glob("trials/*/metrics.log")
    written.write_text("value=1\n")
    assert run(made).best_value == 5.0


def test_python_is_the_projects_in_a_shell_too_and_variables_name_each_other(run: Run) -> None:
    script = "python -c \"import platecrypt, os; print('value=' + os.environ['B'])\""
    made = experiment(
        "",
        command=["sh", "-c", script],
        env=[{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}],
        maxTrialCount=1,
    )
    assert run(made).best_value == 12.0
