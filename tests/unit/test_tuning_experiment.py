"""An Experiment is read whole or refused with every field that is wrong."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.errors import BadInputError
from platecrypt.tuning import Experiment, load_experiment, parse_experiment
from platecrypt.tuning.command import build_command
from platecrypt.tuning.proposer import refuse_unsupported

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "katib" / "experiment.yaml"
Change = Callable[[dict[str, Any]], object]


def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(OURS.read_text())
    return found


def container(raw: dict[str, Any]) -> dict[str, Any]:
    pod = raw["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    found: dict[str, Any] = pod["containers"][0]
    return found


def test_our_experiment_says_what_it_searches() -> None:
    experiment = load_experiment(OURS)
    assert [parameter.name for parameter in experiment.parameters] == ["lr0", "scale", "mosaic"]
    assert experiment.objective.metric == "mAP50-95"
    assert experiment.objective.strategies == dict.fromkeys(("mAP50-95", "mAP50", "recall"), "max")
    assert experiment.container.command == ("python", "-m", "platecrypt.tuning.trial")
    refuse_unsupported(experiment)
    assert parse_experiment(yaml.safe_load(experiment.to_yaml())) == experiment


def test_every_parameter_of_ours_is_a_field_of_the_recipe() -> None:
    from platecrypt.training.recipe import Recipe

    for parameter in load_experiment(OURS).parameters:
        values = parameter.choices or (str(parameter.low), str(parameter.high))
        for value in values:
            Recipe().with_values({parameter.name: value})


def put(*path: str | int) -> Callable[[Any], Change]:
    def with_value(value: Any) -> Change:
        def change(raw: dict[str, Any]) -> None:
            place: Any = raw
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value

        return change

    return with_value


SPEC = "spec"
PARAMETER = (SPEC, "parameters", 0)
SPACE = (*PARAMETER, "feasibleSpace")
WRONG: list[tuple[Change, str]] = [
    (put("metadata", "name")("Plates"), "metadata.name"),
    (put("metadata", "name")("a" * 41), "metadata.name"),
    (put("metadata")({}), "metadata.name"),
    (put(SPEC, "algorithm", "algorithmName")("annealing"), "spec.algorithm.algorithmName"),
    (put(SPEC, "objective", "type")("maximise"), "spec.objective.type"),
    (put(SPEC, "objective", "objectiveMetricName")(""), "objectiveMetricName is missing"),
    (put(SPEC, "objective", "additionalMetricNames")(["mAP50-95"]), "does not belong there"),
    (put(SPEC, "objective", "metricStrategies")([{"name": "x", "value": "max"}]), "no metric"),
    (put(SPEC, "objective", "metricStrategies")([{"name": "mAP50", "value": "mean"}]), "mean"),
    (put(SPEC, "maxTrialCount")(0), "spec.maxTrialCount 0"),
    (put(SPEC, "parallelTrialCount")(4), "not more than maxTrialCount"),
    (put(SPEC, "maxFailedTrialCount")(-1), "spec.maxFailedTrialCount -1"),
    (put(SPEC, "maxTrialCount")("3"), "maxTrialCount"),
    (put(SPEC, "parameters")([]), "at least one"),
    (put(*PARAMETER, "name")("scale"), "stands there twice"),
    (put(*PARAMETER, "parameterType")("float"), "int, double, discrete"),
    (put(*SPACE, "min")("abc"), r"parameters\[0\].feasibleSpace.min 'abc'"),
    (put(*SPACE, "min")("nan"), "feasibleSpace.min"),
    (put(*SPACE, "min")("0"), "begins above 0"),
    (put(*SPACE, "max")("0.0001"), "is above max"),
    (put(*SPACE, "step")("-1"), "step -1"),
    (put(*SPACE, "list")(["1"]), "a list is for"),
    (put(*SPACE, "distribution")("log"), "distribution 'log'"),
    (put(*SPACE, "minimum")("1"), r"parameters\[0\].feasibleSpace.minimum: no such field"),
    (put(SPEC, "parameters", 2, "feasibleSpace")({"min": "0", "max": "1"}), "has a list"),
    (put(SPEC, "parameters", 2, "feasibleSpace")({"list": ["a"]}), "lists numbers"),
    (put(SPEC, "paralellTrialCount")(1), "spec.paralellTrialCount: no such field"),
    (put(SPEC, "resumePolicy")("Always"), "spec.resumePolicy 'Always'"),
    (
        put(SPEC, "metricsCollectorSpec", "source")({"filter": {"metricsFormat": ["(a"]}}),
        "metricsCollectorSpec.source.filter",
    ),
    (
        put(SPEC, "metricsCollectorSpec", "source")({"filter": {"metricsFormat": ["(a)"]}}),
        "needs two groups",
    ),
    (put(SPEC, "trialTemplate", "trialParameters", 0, "reference")("lr"), "no parameter"),
    (put(SPEC, "trialTemplate", "trialParameters", 0, "name")("rate"), "not among trialParameters"),
    (put(SPEC, "trialTemplate", "primaryContainerName")("main"), "primaryContainerName 'main'"),
    (put(SPEC, "trialTemplate", "trialSpec", "metadata")({"name": "x"}), "Katib sets it"),
    (lambda raw: container(raw).pop("command"), "needs a command"),
    (lambda raw: raw[SPEC]["trialTemplate"].pop("trialSpec"), "trialSpec is missing"),
    (lambda raw: container(raw).update(args=[1, "${trialParameters.lr0}"]), "no text"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said for _, said in WRONG])
def test_each_mistake_is_named_by_its_field(change: Change, said: str) -> None:
    raw = document()
    change(raw)
    with pytest.raises(BadInputError, match=said):
        parse_experiment(raw)


def test_all_mistakes_are_named_at_once() -> None:
    raw = document()
    raw["metadata"]["name"] = "X"
    raw["spec"]["algorithm"]["algorithmName"] = "luck"
    raw["spec"]["parameters"][1]["feasibleSpace"]["max"] = "-1"
    with pytest.raises(BadInputError, match=r"metadata.name.*algorithmName.*parameters\[1\]"):
        parse_experiment(raw)


@pytest.mark.parametrize(
    "text", ["", "a: [", "- 1", "kind: Experiment", "apiVersion: v1\nkind: Pod", "\x00"]
)
def test_what_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"no (Experiment|YAML)"):
        load_experiment(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"absent.yaml: No such file"):
        load_experiment(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(SPEC, "algorithm", "algorithmName")("cmaes"), "runs random, tpe"),
        (
            put(SPEC, "algorithm", "algorithmSettings")([{"name": "gamma", "value": "1"}]),
            "setting gamma",
        ),
        (
            put(SPEC, "algorithm", "algorithmSettings")([{"name": "random_state", "value": "x"}]),
            "random_state 'x'",
        ),
        (put(*SPACE, "distribution")("logNormal"), "logNormal"),
        (put(SPEC, "earlyStopping")({"algorithmName": "medianstop"}), "earlyStopping"),
        (put(SPEC, "metricsCollectorSpec", "collector", "kind")("Push"), "collector Push"),
        (
            lambda raw: [raw[SPEC].pop(n) for n in ("maxTrialCount", "maxFailedTrialCount")],
            "never end",
        ),
    ],
)
def test_what_the_local_engine_would_have_to_ignore_is_refused(change: Change, said: str) -> None:
    raw = document()
    change(raw)
    with pytest.raises(BadInputError, match=said):
        refuse_unsupported(parse_experiment(raw))


def test_counts_change_and_the_search_stays_the_same() -> None:
    experiment = load_experiment(OURS)
    smaller = experiment.with_counts(max_trials=1)
    assert (smaller.max_trials, smaller.max_failed, smaller.parallel_trials) == (1, 1, 1)
    assert smaller.digest == experiment.digest
    assert experiment.max_trials == 3
    other = experiment.with_algorithm_settings({"random_state": "8"})
    assert other.algorithm_settings == {"random_state": "8"}
    assert other.digest != experiment.digest


def command(experiment: Experiment, **environment: str) -> list[str]:
    parameters = {"lr0": "0.002", "scale": "0.5", "mosaic": "0"}
    return list(build_command(experiment, parameters, environment).argv)


def test_the_command_is_the_templates_own_with_its_placeholders_filled() -> None:
    import sys

    experiment = load_experiment(OURS).with_environment({"TRIAL_DATASET": "abc"})
    words = command(experiment, TRIAL_TRAINING_SET="sets/1")
    assert words[:3] == [sys.executable, "-m", "platecrypt.tuning.trial"]
    assert "--dataset=abc" in words
    assert "--training-set=sets/1" in words
    assert "--lr0=0.002" in words
    assert not [word for word in words if "$" in word]


def test_references_are_expanded_as_kubernetes_does() -> None:
    raw = document()
    container(raw)["args"] += ["$(ABSENT)", "$$(TRIAL_STEPS)", "$(TRIAL_STEPS)$(TRIAL_SEED)"]
    assert command(parse_experiment(raw))[-3:] == ["$(ABSENT)", "$(TRIAL_STEPS)", "2000"]


def test_a_secret_that_is_needed_must_be_supplied() -> None:
    raw = document()
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    container(raw)["env"].append({"name": "TOKEN", "valueFrom": copy.deepcopy(reference)})
    with pytest.raises(BadInputError, match=r"TOKEN.*environment of the engine"):
        command(parse_experiment(raw))
    assert command(parse_experiment(raw), TOKEN="t")
    reference["secretKeyRef"]["optional"] = True  # type: ignore[assignment]
    container(raw)["env"][-1]["valueFrom"] = reference
    assert command(parse_experiment(raw))
    container(raw)["envFrom"] = [{"secretRef": {"name": "needed"}}]
    with pytest.raises(BadInputError, match="secretRef needed"):
        command(parse_experiment(raw))
