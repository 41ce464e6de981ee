"""`platecrypt tune`: what it checks, runs, forecasts, and how it exits."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from platecrypt.commands.tune import tune
from platecrypt.errors import BadInputError

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(tune)
PROGRAM = "import sys; x = float(sys.argv[1]); print(f'value={(x - 0.3) ** 2}')"
Ask = Callable[..., Result]


def document(program: str = PROGRAM, **spec: Any) -> dict[str, Any]:
    words = ["python", "-c", textwrap.dedent(program), "${trialParameters.x}"]
    container = {"name": "main", "image": "none", "command": words}
    pod = {"restartPolicy": "Never", "containers": [container]}
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": "small"},
        "spec": {
            "objective": {"type": "minimize", "objectiveMetricName": "value"},
            "algorithm": {
                "algorithmName": "random",
                "algorithmSettings": [{"name": "random_state", "value": "1"}],
            },
            "maxTrialCount": 4,
            "parallelTrialCount": 1,
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


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run the command on a document; state lies in the test's own folder."""
    monkeypatch.setenv("PLATECRYPT_HOME", str(tmp_path / "home"))

    def run(made: dict[str, Any], *words: str) -> Result:
        (tmp_path / "e.yaml").write_text(yaml.safe_dump(made))
        return CliRunner().invoke(app, [str(tmp_path / "e.yaml"), *words])

    return run


def test_it_runs_and_prints_the_experiment_with_its_status(ask: Ask, tmp_path: Path) -> None:
    done = ask(document(), "--json", "--work-dir", str(tmp_path / "work"))
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["status"]["trialsSucceeded"] == 4
    assert (
        printed["status"]
        == yaml.safe_load((tmp_path / "work/experiment.yaml").read_text())["status"]
    )
    lines = done.stderr.splitlines()
    assert sum(": Succeeded, value=" in line for line in lines) == 4
    table = (tmp_path / "work" / "trials.csv").read_text().splitlines()
    assert table[0] == "trial,x,value,status,seconds"
    assert len(table) == 5
    for name in ("history.png", "parameters.png"):
        assert (tmp_path / "work" / name).read_bytes().startswith(b"\x89PNG")
    assert "<script" not in (tmp_path / "work" / "report.html").read_text()


def test_it_exits_with_1_when_the_experiment_failed(ask: Ask) -> None:
    done = ask(document("raise SystemExit('no data')", maxFailedTrialCount=1))
    assert done.exit_code == 1
    assert "Failed: 1 trials failed" in done.stdout
    assert "no data" in done.stdout


def test_validate_names_every_mistake_on_a_line_of_its_own(ask: Ask) -> None:
    wrong = document(maxTrialCount=0, earlyStopping={"algorithmName": "luck"}, colour=1)
    done = ask(wrong, "--validate")
    assert done.exit_code == 2
    found = [line.split(" ")[0].rstrip(":") for line in done.stdout.splitlines()]
    assert sorted(found) == [
        "spec.colour",
        "spec.earlyStopping.algorithmName",
        "spec.maxTrialCount",
        "spec.parallelTrialCount",
    ]
    assert json.loads(ask(wrong, "--validate", "--json").stdout)["valid"] is False
    assert ask(document(), "--validate").stdout.strip().endswith("is valid")


def test_validate_says_what_only_this_machine_cannot_do(ask: Ask) -> None:
    made = document(algorithm={"algorithmName": "pbt"})
    assert "algorithm pbt" in ask(made, "--validate").stdout
    assert ask(made, "--validate", "--engine", "katib").exit_code == 0


def test_a_forecast_measures_two_trials_and_keeps_them(ask: Ask, tmp_path: Path) -> None:
    words = ("--work-dir", str(tmp_path / "work"))
    made = document("import time; time.sleep(0.2); print('value=1')", maxTrialCount=10)
    done = ask(made, "--forecast", "--price", "3600", "--json", *words)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["trials"], found["measured"]) == (8, 2)
    low, expected, high = found["cost"]
    assert 8 * 0.2 <= low <= expected <= high
    again = ask(made, "--forecast", *words)
    assert "8 more (2 measured)" in again.stdout
    assert "cost" not in again.stdout
    assert json.loads(ask(made, "--json", *words).stdout)["status"]["trialsSucceeded"] == 10


def test_a_budget_ends_it_with_0(ask: Ask) -> None:
    made = document("import time; time.sleep(0.3); print('value=1')", maxTrialCount=50)
    done = ask(made, "--max-device-hours", str(0.7 / 3600))
    assert done.exit_code == 0, done.stderr
    assert "ExperimentBudgetReached" in done.stdout


def test_a_search_may_begin_with_an_earlier_one(ask: Ask, tmp_path: Path) -> None:
    assert ask(document(), "--work-dir", str(tmp_path / "first")).exit_code == 0
    words = ("--warm-start", str(tmp_path / "first"), "--work-dir", str(tmp_path / "second"))
    narrower = document()
    narrower["spec"]["parameters"][0]["feasibleSpace"]["max"] = "0.4"
    done = ask(narrower, *words)
    assert done.exit_code == 0, done.stderr
    taken = json.loads((tmp_path / "second" / "result.json").read_text())["earlier"]
    assert f"{taken} results of" in done.stderr
    assert 0 < taken < 4
    with pytest.raises(BadInputError, match="no search there"):
        _raise(ask(document(), "--warm-start", "absent"))


def _raise(done: Result) -> None:
    assert done.exception
    raise done.exception


def test_secrets_come_from_flags_and_are_never_shown(ask: Ask, tmp_path: Path) -> None:
    made = document("import os; print('value=' + str(len(os.environ['A'] + os.environ['B'])))")
    pod = made["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    pod["containers"][0]["env"] = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    ]
    pod["containers"][0]["envFrom"] = [{"secretRef": {"name": "all"}}]
    (tmp_path / "b").write_text("# a comment\nB=hush-hush\n")
    words = ("--env", "A=sesame", "--env-from", f"all={tmp_path / 'b'}", "--max-trials", "1")
    done = ask(made, *words, "--json", "--work-dir", str(tmp_path / "work"))
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["status"]["currentOptimalTrial"]["observation"]["metrics"][0][
        "latest"
    ] == str(float(len("sesamehush-hush")))
    kept = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert not [p for p in kept if b"sesame" in p.read_bytes() or b"hush" in p.read_bytes()]
    with pytest.raises(BadInputError, match="not of the form") as refused:
        _raise(ask(made, "--env", "=very-secret"))
    assert "very-secret" not in str(refused.value)
    with pytest.raises(BadInputError, match="--env A=VALUE.*--env-from all=FILE"):
        _raise(ask(made))


def test_flags_of_the_local_engine_are_refused_on_a_cluster(ask: Ask) -> None:
    with pytest.raises(BadInputError, match="for the local engine"):
        _raise(ask(document(), "--engine", "katib", "--env", "A=1"))


def test_a_parameter_may_be_fixed_and_the_name_changed(ask: Ask, tmp_path: Path) -> None:
    made = document()
    made["spec"]["parameters"].append(
        {"name": "y", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "9"}}
    )
    template = made["spec"]["trialTemplate"]
    template["trialParameters"].append({"name": "why", "reference": "y"})
    pod = template["trialSpec"]["spec"]["template"]["spec"]
    pod["containers"][0]["command"].append("${trialParameters.why}")
    done = ask(made, "--fix", "y=3", "--name", "other", "--max-trials", "1", "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["metadata"]["name"] == "other"
    assert [p["name"] for p in printed["spec"]["parameters"]] == ["x"]
