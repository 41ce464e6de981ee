"""A search takes over what an earlier one measured, where it fits."""

import json
from pathlib import Path

import pytest
import yaml

from platecrypt.errors import BadInputError
from platecrypt.settings import Settings
from platecrypt.tracking import Tracker
from platecrypt.tracking.tracker import TUNING_RUN
from platecrypt.tuning import Trial, TuningResult, parse_experiment
from platecrypt.tuning.earlier import KEPT, RESULT, read_earlier
from platecrypt.tuning.result import Condition, Observed

OURS = Path(__file__).resolve().parents[2] / "katib" / "experiment.yaml"
WHOLE = parse_experiment(yaml.safe_load(OURS.read_text()))
MADE = WHOLE.with_fixed({p.name: "1" for p in WHOLE.parameters if p.name != "lr0"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def result(*values: tuple[str, float | None]) -> TuningResult:
    trials = [
        Trial(
            number,
            f"t{number}",
            {"lr0": lr0},
            "Succeeded" if value is not None else "Failed",
            {"mAP50-95": Observed(0.0, value, 0.0)} if value is not None else {},
        )
        for number, (lr0, value) in enumerate(values)
    ]
    ended = Condition("Succeeded", "ExperimentMaxTrialsReached", "", "")
    return TuningResult(MADE, tuple(trials), None, None, (ended,), 1.0)


FOUND = result(("0.002", 0.5), ("0.9", 0.6), ("0.003", None))


def test_results_are_read_from_a_work_dir_by_path_or_by_name(settings: Settings) -> None:
    folder = settings.home / "tuning" / "first"
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(FOUND.to_json())
    for run in (str(folder), str(folder / RESULT), "first"):
        taken = read_earlier(MADE, run, settings)
        assert [(r.parameters, r.value) for r in taken.results] == [({"lr0": "0.002"}, 0.5)]
        assert taken.passed_over == 1


def test_what_the_pipelines_step_wrote_is_read_as_well(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "best"
    path.write_text(json.dumps({"parameters": {}, "search": json.loads(FOUND.to_json())}))
    assert len(read_earlier(MADE, str(path), settings).results) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"search": null}', '{"trials": 3}', "\x00"])
def test_what_is_no_result_is_refused(tmp_path: Path, settings: Settings, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match="is no result of a search"):
        read_earlier(MADE, str(path), settings)


def test_another_objective_cannot_be_compared(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "r.json"
    other = json.loads(FOUND.to_json())
    path.write_text(json.dumps({**other, "objective": "accuracy"}))
    with pytest.raises(BadInputError, match="cannot be compared"):
        read_earlier(MADE, str(path), settings)


def test_a_search_that_never_was_is_named(settings: Settings) -> None:
    with pytest.raises(BadInputError, match="--warm-start absent: no search there"):
        read_earlier(MADE, "absent", settings)


@pytest.mark.slow  # MLflow makes its database
def test_a_search_is_found_by_its_mlflow_run_its_trials_and_the_training_that_used_it(
    settings: Settings, tmp_path: Path
) -> None:
    tracker = Tracker(settings)
    path = tmp_path / RESULT
    path.write_text(FOUND.to_json())
    with tracker.start_run("tune") as search:
        search.log_artifact(path, KEPT.rpartition("/")[0])
        with tracker.start_run("t0", parent=search.run_id) as trial:
            pass
    with tracker.start_run("train", tags={TUNING_RUN: search.run_id}) as training:
        pass
    for run in (search, trial, training):
        taken = read_earlier(MADE, run.run_id, settings)
        assert [(r.parameters, r.value) for r in taken.results] == [({"lr0": "0.002"}, 0.5)]
        assert taken.source == f"MLflow run {search.run_id}"
    with tracker.start_run("other") as other:
        pass
    with pytest.raises(BadInputError, match="neither a search, nor one of its trials"):
        read_earlier(MADE, other.run_id, settings)
    with pytest.raises(BadInputError, match="MLflow has no run"):
        read_earlier(MADE, "0" * 32, settings)


def test_a_value_between_two_steps_does_not_fit(tmp_path: Path, settings: Settings) -> None:
    document = yaml.safe_load(OURS.read_text())
    (lr0,) = [p for p in document["spec"]["parameters"] if p["name"] == "lr0"]
    lr0["feasibleSpace"] = {"min": "0.001", "max": "0.005", "step": "0.001"}
    stepped = parse_experiment(document)
    stepped = stepped.with_fixed({p.name: "1" for p in stepped.parameters if p.name != "lr0"})
    path = tmp_path / "r.json"
    path.write_text(result(("0.002", 0.5), ("0.0025", 0.6)).to_json())
    taken = read_earlier(stepped, str(path), settings)
    assert [r.parameters for r in taken.results] == [{"lr0": "0.002"}]
    assert taken.passed_over == 1
