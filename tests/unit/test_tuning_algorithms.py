"""Each of Katib's algorithms proposes what its Experiment says, the same again with a seed."""

import contextlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from platecrypt.errors import BadInputError
from platecrypt.tuning import Experiment, parse_experiment
from platecrypt.tuning.proposer import EarlierResult, Proposer, refuse_unsupported
from platecrypt.tuning.result import Observed, Trial
from platecrypt.tuning.space import from_text, to_text

DOUBLE = {"name": "x", "parameterType": "double", "feasibleSpace": {"min": "0", "max": "1"}}
WHOLE = {"name": "n", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "9"}}
WORD = {"name": "w", "parameterType": "categorical", "feasibleSpace": {"list": ["a", "b"]}}
ALL = (
    "random",
    "grid",
    "tpe",
    "multivariate-tpe",
    "cmaes",
    "sobol",
    "bayesianoptimization",
    "hyperband",
)


def experiment(
    algorithm: str, *parameters: dict[str, Any], count: int = 12, parallel: int = 1, **settings: str
) -> Experiment:
    if algorithm == "hyperband":
        settings = {"r_l": "2", "resource_name": "n", **settings}
    chosen = parameters or (
        (WHOLE, WORD) if algorithm == "grid" else (DOUBLE, {**DOUBLE, "name": "y"}, WHOLE, WORD)
    )
    names = [parameter["name"] for parameter in chosen]
    words = ["run", *(f"${{trialParameters.{name}}}" for name in names)]
    container = {"name": "main", "image": "none", "command": words}
    return parse_experiment(
        {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Experiment",
            "metadata": {"name": "e"},
            "spec": {
                "objective": {"type": "minimize", "objectiveMetricName": "v"},
                "algorithm": {
                    "algorithmName": algorithm,
                    "algorithmSettings": [{"name": k, "value": v} for k, v in settings.items()],
                },
                "maxTrialCount": count,
                "parallelTrialCount": parallel,
                "parameters": list(chosen),
                "trialTemplate": {
                    "primaryContainerName": "main",
                    "trialParameters": [{"name": n, "reference": n} for n in names],
                    "trialSpec": {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "spec": {
                            "template": {
                                "spec": {"restartPolicy": "Never", "containers": [container]}
                            }
                        },
                    },
                },
            },
        }
    )


def search(
    made: Experiment, folder: Path, count: int, earlier: list[EarlierResult] | None = None
) -> list[dict[str, str]]:
    """So many proposals; the value of each is x, or its number."""
    folder.mkdir(parents=True, exist_ok=True)
    proposer = Proposer(made, folder, earlier or [])
    proposer.recover()
    found = []
    for _ in range(count):
        handle, trial = proposer.ask()
        found.append(trial.parameters)
        value = float(trial.parameters.get("x", trial.number))
        done = Trial(
            trial.number,
            trial.name,
            trial.parameters,
            "Succeeded",
            {"v": Observed(value, value, value)},
        )
        proposer.ended(handle, done)
    return found


def needs(algorithm: str) -> None:
    if algorithm == "cmaes" and importlib.util.find_spec("cmaes") is None:
        pytest.skip("the package cmaes is not installed")


@pytest.mark.parametrize("algorithm", ALL)
def test_it_proposes_inside_the_space_and_repeats_itself_with_a_seed(
    algorithm: str, tmp_path: Path
) -> None:
    needs(algorithm)
    parallel = 2 if algorithm == "hyperband" else 1
    made = experiment(algorithm, parallel=parallel, random_state="3")
    refuse_unsupported(made)
    first = search(made, tmp_path / "a", 12)
    assert first == search(made, tmp_path / "b", 12)
    assert len({tuple(p.items()) for p in first}) == 12
    for proposed in first:
        assert set(proposed) == {p.name for p in made.parameters}
        assert proposed["w"] in ("a", "b")
        assert 1 <= int(proposed["n"]) <= 9
        assert all(0 <= float(proposed[name]) <= 1 for name in ("x", "y") if name in proposed)
    other = experiment(algorithm, parallel=parallel, random_state="4")
    assert first != search(other, tmp_path / "c", 12)


@pytest.mark.parametrize("algorithm", ["tpe", "grid", "sobol", "cmaes"])
def test_an_interrupted_search_proposes_what_an_uninterrupted_one_does(
    algorithm: str, tmp_path: Path
) -> None:
    needs(algorithm)
    made = experiment(algorithm, random_state="3")
    parts = search(made, tmp_path / "a", 5) + search(made, tmp_path / "a", 7)
    assert parts == search(made, tmp_path / "b", 12)


def test_a_grid_is_walked_once_and_whole(tmp_path: Path) -> None:
    step = {
        "name": "x",
        "parameterType": "double",
        "feasibleSpace": {"min": "0", "max": "0.3", "step": "0.1"},
    }
    found = search(experiment("grid", step, WORD, count=8), tmp_path, 8)
    assert len({(p["x"], p["w"]) for p in found}) == 8
    assert {round(float(p["x"]), 6) for p in found} == {0.0, 0.1, 0.2, 0.3}


@pytest.mark.parametrize(
    ("parameters", "count", "said"),
    [
        ((DOUBLE,), 3, "a grid over a double needs one"),
        ((WHOLE, WORD), 19, "the grid has 18 points"),
    ],
)
def test_a_grid_that_katib_would_refuse_is_refused(
    parameters: tuple[dict[str, Any], ...], count: int, said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        experiment("grid", *parameters, count=count)


def test_sobol_fills_the_space_evenly(tmp_path: Path) -> None:
    found = search(experiment("sobol", DOUBLE, {**DOUBLE, "name": "y"}, count=16), tmp_path, 16)
    for name in ("x", "y"):
        assert len({int(float(p[name]) * 16) for p in found}) == 16  # one in each sixteenth


def test_hyperband_gives_its_budget_to_the_resource(tmp_path: Path) -> None:
    made = experiment("hyperband", parallel=9, r_l="9", eta="3")
    assert {p["n"] for p in search(made, tmp_path, 4)} == {"9"}


@pytest.mark.parametrize(
    ("settings", "parallel", "said"),
    [
        ({"resource_name": "z"}, 2, "resource_name 'z' is none of"),
        ({"r_l": "0"}, 2, "r_l is a number above 1"),
        ({"r_l": "9", "eta": "3"}, 3, "parallelTrialCount 3: .* at least 9"),
    ],
)
def test_a_hyperband_that_katib_would_refuse_is_refused(
    settings: dict[str, str], parallel: int, said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        experiment("hyperband", parallel=parallel, **settings)


def test_cmaes_needs_two_numbers() -> None:
    with pytest.raises(BadInputError, match="cmaes needs two or more"):
        experiment("cmaes", DOUBLE, WORD)


@pytest.mark.parametrize(
    ("kind", "distribution", "low", "high", "step"),
    [
        ("double", "uniform", "0", "1", None),
        ("double", "logUniform", "0.001", "1", None),
        ("double", "logUniform", "1", "9", "0.5"),
        ("double", "normal", "-3", "3", None),
        ("double", "logNormal", "0.001", "1000", None),
        ("int", "uniform", "2", "20", "3"),
        ("int", "logUniform", "1", "1000", None),
        ("int", "normal", "0", "60", None),
    ],
)
def test_every_distribution_is_honoured_and_can_be_read_back(
    tmp_path: Path, kind: str, distribution: str, low: str, high: str, step: str | None
) -> None:
    space = {"min": low, "max": high, "distribution": distribution}
    if step:
        space["step"] = step
    made = experiment(
        "random",
        {"name": "q", "parameterType": kind, "feasibleSpace": space},
        count=60,
        random_state="1",
    )
    (parameter,) = made.parameters
    found = [p["q"] for p in search(made, tmp_path, 60)]
    values = sorted(map(float, found))
    assert float(low) <= values[0] < values[-1] <= float(high)
    assert [to_text(parameter, from_text(parameter, text)) for text in found] == pytest.approx(
        found
    ) or [float(to_text(parameter, from_text(parameter, t))) for t in found] == pytest.approx(
        list(map(float, found))
    )
    if step:
        assert all((v - float(low)) / float(step) % 1 in (0.0, 1.0) for v in values)
    middle = values[30]
    if distribution == "normal":  # two thirds lie within a sixth of the range around the middle
        sixth = (float(high) - float(low)) / 6
        centre = (float(high) + float(low)) / 2
        assert sum(abs(v - centre) < sixth for v in values) > 30
    if distribution in ("logUniform", "logNormal") and not step:
        centre = (float(low) * float(high)) ** 0.5
        assert centre / 4 < middle < centre * 4


def test_a_value_outside_of_the_space_cannot_be_taken_over() -> None:
    (parameter,) = experiment("random", DOUBLE).parameters
    with pytest.raises(ValueError, match="1.5"):
        from_text(parameter, "1.5")


def test_a_search_may_begin_with_earlier_results(tmp_path: Path) -> None:
    """The sampler learns from them; they are none of its trials."""
    made = experiment("tpe", DOUBLE, count=12, random_state="1")
    earlier = [EarlierResult({"x": repr(i / 30)}, (i / 30 - 0.7) ** 2) for i in range(31)]
    warm = search(made, tmp_path / "warm", 5, earlier)
    cold = search(made, tmp_path / "cold", 5)
    assert warm != cold
    proposer = Proposer(made, tmp_path / "warm", earlier)
    assert [trial.number for trial in proposer.trials()] == [0, 1, 2, 3, 4]
    assert proposer.earlier == 31
    with pytest.raises(BadInputError, match="began without earlier results"):
        Proposer(made, tmp_path / "cold", earlier)


def test_what_was_proposed_when_the_engine_died_is_proposed_once_more(tmp_path: Path) -> None:
    """However often the recovery itself is cut off."""
    made = experiment("tpe", random_state="1")
    tmp_path.mkdir(exist_ok=True)
    proposer = Proposer(made, tmp_path)
    proposer.recover()
    _, lost = proposer.ask()
    again = Proposer(made, tmp_path)
    again.study.enqueue_trial(again.study.trials[0].params, {"repeats": 0})  # and then it died
    for _ in range(3):
        Proposer(made, tmp_path).recover()
    follower = Proposer(made, tmp_path)
    follower.recover()
    proposed = [follower.ask()[1].parameters for _ in range(4)]
    assert proposed[0] == lost.parameters
    assert proposed.count(lost.parameters) == 1


GRID = [
    {"name": name, "parameterType": "int", "feasibleSpace": {"min": "1", "max": "3"}}
    for name in ("a", "b")
]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_grid_that_dies_while_it_proposes_loses_no_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Optuna writes the point first and then each parameter; any of these may be the last."""
    made = experiment("grid", *GRID, count=9)
    proposer = Proposer(made, tmp_path)
    storage, real, left = proposer.study._storage, proposer.study._storage.set_trial_param, written

    def dies(*args: Any, **kwargs: Any) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(*args, **kwargs)

    monkeypatch.setattr(storage, "set_trial_param", dies)
    with contextlib.suppress(KeyboardInterrupt):
        proposer.ask()
    found = []
    for _ in range(9):
        proposer = Proposer(made, tmp_path)
        proposer.recover()
        handle, trial = proposer.ask()
        found.append((trial.parameters["a"], trial.parameters["b"]))
        observed = {"value": Observed(1.0, 1.0, 1.0)}
        proposer.ended(handle, replace(trial, status="Succeeded", metrics=observed))
    assert sorted(found) == [(a, b) for a in "123" for b in "123"]


def test_another_name_is_another_search(tmp_path: Path) -> None:
    made = experiment("random", DOUBLE)
    Proposer(made, tmp_path)
    with pytest.raises(BadInputError, match="holds the search .*, this is second"):
        Proposer(made.with_name("second"), tmp_path)


def test_other_earlier_results_than_it_began_with_are_refused(tmp_path: Path) -> None:
    made = experiment("tpe", DOUBLE)
    first, second = ([EarlierResult({"x": x}, 1.0)] for x in ("0.5", "0.6"))
    Proposer(made, tmp_path, first)
    assert Proposer(made, tmp_path, first).earlier == 1
    assert Proposer(made, tmp_path).earlier == 1
    with pytest.raises(BadInputError, match="began with other earlier results"):
        Proposer(made, tmp_path, second)


def test_what_would_be_judged_too_late_is_refused_by_name() -> None:
    late = {
        "algorithmName": "medianstop",
        "algorithmSettings": [{"name": "start_step", "value": "1200"}],
    }
    made = experiment("random", DOUBLE)
    made = parse_experiment(
        {**made.document, "spec": {**made.document["spec"], "earlyStopping": late}}
    )
    with pytest.raises(BadInputError, match="start_step 1200: .* the first 1000 values"):
        refuse_unsupported(made)
