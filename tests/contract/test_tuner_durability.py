"""A search survives whatever happens to its engine: kills, a full disk, a second engine."""

import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from platecrypt.tuning import Experiment, LocalTuner, parse_experiment

pytestmark = pytest.mark.slow
ENGINE = """
import resource, sys
from pathlib import Path
from platecrypt.errors import PlatecryptError
from platecrypt.tuning import LocalTuner, load_experiment
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    LocalTuner(grace_s=1.0).run(load_experiment(Path(sys.argv[1])), Path(sys.argv[2]))
except PlatecryptError as error:
    print(error, file=sys.stderr)
    raise SystemExit(error.exit_code)
"""


def experiment(program: str, **spec: Any) -> Experiment:
    words = ["python", "-c", "import os, sys, time\n" + textwrap.dedent(program)]
    container = {"name": "main", "image": "none", "command": [*words, "${trialParameters.x}"]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    return parse_experiment(
        {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Experiment",
            "metadata": {"name": "durable"},
            "spec": {
                "objective": {"type": "minimize", "objectiveMetricName": "value"},
                "algorithm": {
                    "algorithmName": "random",
                    "algorithmSettings": [{"name": "random_state", "value": "1"}],
                },
                "maxTrialCount": 12,
                "parallelTrialCount": 2,
                "parameters": [
                    {
                        "name": "x",
                        "parameterType": "double",
                        "feasibleSpace": {"min": "0", "max": "1"},
                    }
                ],
                "trialTemplate": {
                    "primaryContainerName": "main",
                    "trialParameters": [{"name": "x", "reference": "x"}],
                    "trialSpec": {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "spec": {"template": {"spec": pod}},
                    },
                },
                **spec,
            },
        }
    )


def engine(made: Experiment, folder: Path, limit: int = 0) -> "subprocess.Popen[str]":
    (folder / "made.yaml").write_text(made.to_yaml())
    words = [sys.executable, "-c", ENGINE, str(folder / "made.yaml"), str(folder / "work")]
    return subprocess.Popen([*words, str(limit)], stderr=subprocess.PIPE, text=True)


def processes_of(work_dir: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TUNING_WORK_DIR") == str(work_dir):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_it_never_repeats_what_was_finished(
    tmp_path: Path, seed: int
) -> None:
    starts = tmp_path / "starts"
    made = experiment(
        f"""
        with open({str(starts)!r}, "a") as file:
            file.write(os.environ["KATIB_TRIAL_NAME"] + " " + sys.argv[1] + "\\n")
        time.sleep(0.25)
        print(f"value={{sys.argv[1]}}")
        """
    )
    rng = random.Random(seed)
    for _ in range(4):
        began = len(starts.read_text().split("\n")) if starts.exists() else 0
        running = engine(made, tmp_path)
        # A moment after it has begun to work, wherever that is.
        deadline = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < deadline:
            if starts.exists() and len(starts.read_text().split("\n")) > began:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.6))
        running.kill()
        running.communicate()
    result = LocalTuner(grace_s=1.0).run(made, tmp_path / "work")
    lines = [line.split() for line in starts.read_text().splitlines()]
    names = [name for name, _ in lines]
    assert len(names) == len(set(names)), "a trial was started twice"
    whole = [trial for trial in result.trials if trial.status == "Succeeded"]
    assert len(whole) == 12
    assert len({trial.parameters["x"] for trial in whole}) == 12
    killed = [trial for trial in result.trials if trial.status == "Killed"]
    assert len(killed) + 12 == len(result.trials)
    # Each that was killed was repeated with its own parameters, in the end with success.
    assert {t.parameters["x"] for t in killed if t.parameters} <= {t.parameters["x"] for t in whole}
    assert not processes_of((tmp_path / "work").absolute())


def test_a_full_disk_is_told_in_one_line_and_with_room_it_goes_on(tmp_path: Path) -> None:
    made = experiment("for n in range(900): print(f'value={n / 7}')", maxTrialCount=40)
    # No file may grow beyond this: the log of the database soon would.
    running = engine(made, tmp_path, limit=400_000)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 1, said
    assert len(said.strip().splitlines()) == 1
    assert "is the disk full?" in said or "tuning in" in said
    assert not processes_of((tmp_path / "work").absolute())
    finished = _finished(tmp_path / "work")
    assert 0 < len(finished) < 40
    result = LocalTuner().run(made, tmp_path / "work")
    assert sum(trial.status == "Succeeded" for trial in result.trials) == 40
    assert finished <= {trial.name for trial in result.trials if trial.status == "Succeeded"}


def _finished(work_dir: Path) -> set[str]:
    """Names of the trials that the study knows to have succeeded."""
    import sqlite3

    with sqlite3.connect(work_dir / "study.db") as database:
        rows = database.execute("select number from trials where state = 'COMPLETE'").fetchall()
    return {f"durable-{number:04d}" for (number,) in rows}


def test_a_second_engine_on_the_work_dir_refuses(tmp_path: Path) -> None:
    flag = tmp_path / "go"
    made = experiment(
        f"""
        while not os.path.exists({str(flag)!r}):
            time.sleep(0.02)
        print("value=1")
        """,
        maxTrialCount=2,
    )
    first = engine(made, tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not processes_of((tmp_path / "work").absolute()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = engine(made, tmp_path)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "is in use by another run" in said
        assert processes_of((tmp_path / "work").absolute()), "the first one's trials must live"
        flag.touch()
        _, said = first.communicate(timeout=60)
        assert first.returncode == 0, said
    finally:
        first.kill()
    document = yaml.safe_load((tmp_path / "work" / "experiment.yaml").read_text())
    assert document["status"]["trialsSucceeded"] == 2


def test_a_damaged_study_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "study.db").write_bytes(os.urandom(50_000))
    running = engine(experiment("print('value=1')"), tmp_path)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert len(said.strip().splitlines()) == 1
    assert "study.db" in said
