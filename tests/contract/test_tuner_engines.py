"""What every engine makes of the same Experiment: the same result object, the same status.

The local engine runs the trials as processes; the cluster engine follows recorded lives of Katib's
objects. What is claimed here holds for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.tuning import Experiment, LocalTuner, TuningEvent, TuningResult, parse_experiment
from platecrypt.tuning.engines import choose_tuner
from platecrypt.tuning.katib import KatibTuner

from ..support.kubernetes_api import KubernetesApi, Life, condition, frame, trial

CREATED = condition("Created", "ExperimentCreated")
RUNNING = condition("Running", "ExperimentRunning")
RAN = condition("Running", "ExperimentRunning", status="False")
Run = Callable[..., TuningResult]


@dataclass(frozen=True)
class Scenario:
    """One Experiment: what its trials print here, and what Katib's objects went through there."""

    program: str
    life: Life
    states: tuple[str, ...]
    ended: tuple[str, str]
    best: float | None
    spec: dict[str, Any]


def values(*found: str) -> dict[str, tuple[str, str, str]]:
    return {"value": (found[0], found[1], found[2])}


def first(state: str = "", **more: Any) -> dict[str, Any]:
    return trial("made-a", {"x": "1"}, state, **more)


def second(state: str = "", **more: Any) -> dict[str, Any]:
    return trial("made-b", {"x": "2"}, state, **more)


SCENARIOS = {
    "succeeded": Scenario(
        "print(f'value={5 - x}', f'value={6 - x}', sep='\\n')",
        [
            frame([], CREATED),
            frame([first()], CREATED, RUNNING),
            frame([first("Running"), second("Running")], CREATED, RUNNING),
            frame(
                [first("Succeeded", metrics=values("4", "5", "5")), second("Running")],
                CREATED,
                RUNNING,
            ),
            frame(
                [
                    first("Succeeded", metrics=values("4", "5", "5")),
                    second("Succeeded", metrics=values("3", "4", "4")),
                ],
                CREATED,
                RAN,
                condition("Succeeded", "ExperimentMaxTrialsReached"),
            ),
        ],
        ("Succeeded", "Succeeded"),
        ("Succeeded", "ExperimentMaxTrialsReached"),
        3.0,
        {},
    ),
    "goal": Scenario(
        "print(f'value={x - 1}')",
        [
            frame([first("Running")], CREATED, RUNNING),
            frame(
                [first("Succeeded", metrics=values("0", "0", "0"))],
                CREATED,
                RAN,
                condition("Succeeded", "ExperimentGoalReached"),
            ),
        ],
        ("Succeeded",),
        ("Succeeded", "ExperimentGoalReached"),
        0.0,
        {"goal": 0.5},
    ),
    "failed": Scenario(
        "raise SystemExit('no data')",
        [
            frame([first("Running")], CREATED, RUNNING),
            frame([first("Failed", message="no data")], CREATED, RUNNING),
            frame(
                [first("Failed", message="no data"), second("Failed", message="no data")],
                CREATED,
                RAN,
                condition("Failed", "ExperimentFailed", "2 trials failed; no data"),
            ),
        ],
        ("Failed", "Failed"),
        ("Failed", "ExperimentFailed"),
        None,
        {"maxFailedTrialCount": 2},
    ),
    "without a metric": Scenario(
        "print('nothing')" if False else "print('other=1') if x == 1 else print('value=2')",
        [
            frame([first("Running"), second("Running")], CREATED, RUNNING),
            frame(
                [
                    first(
                        "MetricsUnavailable",
                        message="Metrics are not available",
                        metrics=values("unavailable", "unavailable", "unavailable"),
                    ),
                    second("Succeeded", metrics=values("2", "2", "2")),
                ],
                CREATED,
                RAN,
                condition("Succeeded", "ExperimentMaxTrialsReached"),
            ),
        ],
        ("MetricsUnavailable", "Succeeded"),
        ("Succeeded", "ExperimentMaxTrialsReached"),
        2.0,
        {},
    ),
    "early stopped": Scenario(
        "[print(f'value={x}', flush=True) for _ in range(2)]; x == 2 and time.sleep(300)",
        [
            frame([first("Running")], CREATED, RUNNING),
            frame(
                [first("Succeeded", metrics=values("1", "1", "1")), second("Running")],
                CREATED,
                RUNNING,
            ),
            frame(
                [
                    first("Succeeded", metrics=values("1", "1", "1")),
                    second("EarlyStopped", metrics=values("2", "2", "2")),
                ],
                CREATED,
                RAN,
                condition("Succeeded", "ExperimentMaxTrialsReached"),
            ),
        ],
        ("Succeeded", "EarlyStopped"),
        ("Succeeded", "ExperimentMaxTrialsReached"),
        1.0,
        {
            "earlyStopping": {
                "algorithmName": "medianstop",
                "algorithmSettings": [
                    {"name": "min_trials_required", "value": "1"},
                    {"name": "start_step", "value": "2"},
                ],
            }
        },
    ),
}


def experiment(scenario: Scenario) -> Experiment:
    """Two trials: x is 1, then 2."""
    program = "import sys, time\nx = float(sys.argv[1])\n" + scenario.program
    spec = dict(scenario.spec)
    objective = {"type": "minimize", "objectiveMetricName": "value"}
    if "goal" in spec:
        objective["goal"] = spec.pop("goal")
    words = ["python", "-c", program, "${trialParameters.x}"]
    return parse_experiment(
        {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Experiment",
            "metadata": {"name": "made"},
            "spec": {
                "objective": objective,
                "algorithm": {
                    "algorithmName": "grid",
                    # The state that makes the grid begin with 1.
                    "algorithmSettings": [{"name": "random_state", "value": "1"}],
                },
                "maxTrialCount": 2,
                "parallelTrialCount": 1,
                "parameters": [
                    {
                        "name": "x",
                        "parameterType": "discrete",
                        "feasibleSpace": {"list": ["1", "2"]},
                    }
                ],
                "trialTemplate": {
                    "primaryContainerName": "main",
                    "trialParameters": [{"name": "x", "reference": "x"}],
                    "trialSpec": {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "spec": {
                            "template": {
                                "spec": {
                                    "restartPolicy": "Never",
                                    "containers": [
                                        {"name": "main", "image": "none", "command": words}
                                    ],
                                }
                            }
                        },
                    },
                },
                **spec,
            },
        }
    )


@pytest.fixture(params=["local", "katib"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a scenario on one engine; events are collected in the list that is given."""

    def start(scenario: Scenario, events: list[TuningEvent] | None = None) -> TuningResult:
        told = events if events is not None else []
        made, folder = experiment(scenario), tmp_path / "work"
        if request.param == "local":
            return LocalTuner(grace_s=1.0).run(made, folder, told.append)
        with KubernetesApi(scenario.life).serving() as api:
            tuner = KatibTuner(
                kubeconfig=api.kubeconfig(tmp_path / "config"), poll_s=(0.01, 0.05), timeout_s=30
            )
            return tuner.run(made, folder, told.append)

    return start


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    return SCENARIOS[request.param]


def test_the_result_is_the_same_on_every_engine(
    run: Run, scenario: Scenario, tmp_path: Path
) -> None:
    events: list[TuningEvent] = []
    result = run(scenario, events)
    assert tuple(t.status for t in result.trials) == scenario.states
    assert [t.parameters for t in result.trials] == [{"x": "1"}, {"x": "2"}][: len(result.trials)]
    assert (result.conditions[-1].type, result.conditions[-1].reason) == scenario.ended
    assert result.best_value == scenario.best
    assert result.succeeded == (scenario.ended[0] == "Succeeded")
    kinds = [event.kind for event in events]
    assert kinds.count("started") == kinds.count("ended") == len(scenario.states)
    assert kinds[-1] == "finished"
    document = yaml.safe_load((tmp_path / "work" / "experiment.yaml").read_text())
    assert document["status"] == result.status()
    for state, row in zip(scenario.states, result.trials, strict=True):
        if state in ("Failed", "MetricsUnavailable"):
            assert row.message


def test_the_status_is_one_that_katibs_own_models_read(run: Run, scenario: Scenario) -> None:
    from kubeflow_katib_api.models.v1beta1_experiment_status import V1beta1ExperimentStatus

    status = run(scenario).status()
    known = {f.alias or n for n, f in V1beta1ExperimentStatus.model_fields.items()}
    assert set(status) <= known
    V1beta1ExperimentStatus.model_validate(status)
    states = {row["type"]: row["status"] for row in status["conditions"]}
    assert states == {"Created": "True", "Running": "False", scenario.ended[0]: "True"}
    assert ("currentOptimalTrial" in status) == (scenario.best is not None)


def test_an_engine_is_chosen_by_its_name() -> None:
    assert isinstance(choose_tuner("local", {}), LocalTuner)
    assert isinstance(choose_tuner("katib", {}), KatibTuner)
