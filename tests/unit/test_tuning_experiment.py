"""An Experiment is read whole or refused with every field that is wrong."""

import contextlib
import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.errors import BadInputError
from platecrypt.tuning import Experiment, load_experiment, parse_experiment
from platecrypt.tuning.command import Supply, build_command
from platecrypt.tuning.experiment import InvalidExperimentError
from platecrypt.tuning.proposer import refuse_unsupported

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "katib" / "experiment.yaml"
READ: dict[str, Any] = yaml.safe_load(OURS.read_text())
Change = Callable[[dict[str, Any]], object]


def document() -> dict[str, Any]:
    return copy.deepcopy(READ)


def pod(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    return found


def container(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pod(raw)["containers"][0]
    return found


def test_our_experiment_says_what_it_searches() -> None:
    experiment = load_experiment(OURS)
    assert {parameter.name for parameter in experiment.parameters} == {
        *("lr0", "lrf", "momentum", "weight_decay", "warmup_epochs"),
        *("box", "cls", "dfl", "mosaic", "scale", "hsv_h", "hsv_s", "hsv_v"),
        *("image_size", "model"),
    }
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


def test_few_trials_search_few_parameters() -> None:
    from platecrypt.training.recipe import Recipe
    from platecrypt.tuning.steps import FEW, SHORT, narrowed

    whole = load_experiment(OURS)
    assert narrowed(whole, FEW) == whole
    made = narrowed(whole, 3)
    assert tuple(parameter.name for parameter in made.parameters) == SHORT
    words = build_command(made, dict.fromkeys(SHORT, "0.1"), Supply()).argv
    given = dict(word[2:].split("=") for word in words[3:])
    for parameter in whole.parameters:
        if parameter.name not in SHORT:
            value = given[parameter.name.replace("_", "-")]
            assert value == str(getattr(Recipe(), parameter.name))


def put(*path: str | int) -> Callable[[Any], Change]:
    def with_value(value: Any) -> Change:
        def change(raw: dict[str, Any]) -> None:
            place: Any = raw
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value

        return change

    return with_value


def tpe(**settings: str) -> Change:
    rows = [{"name": name, "value": value} for name, value in settings.items()]
    return put("spec", "algorithm")({"algorithmName": "tpe", "algorithmSettings": rows})


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
    (put(SPEC, "parallelTrialCount")(31), "not more than maxTrialCount"),
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
    (
        put(SPEC, "algorithm", "algorithmSettings")([{"name": "gama", "value": "1"}]),
        r"algorithmSettings\[0\].name 'gama': tpe has the settings",
    ),
    (
        put(SPEC, "algorithm", "algorithmSettings")([{"name": "random_state", "value": "x"}]),
        r"algorithmSettings\[0\].value 'x': random_state is a whole number from 0",
    ),
    (
        put(SPEC, "algorithm", "algorithmSettings")([{"name": "random_state", "value": "1"}] * 2),
        r"algorithmSettings\[1\].name 'random_state' stands there twice",
    ),
    (put(SPEC, "algorithm", "algorithmName")("hyperband"), "hyperband needs resource_name"),
    (put(SPEC, "earlyStopping")({"algorithmName": "median"}), "one of medianstop"),
    (
        put(SPEC, "earlyStopping")(
            {
                "algorithmName": "medianstop",
                "algorithmSettings": [{"name": "start_step", "value": "0"}],
            }
        ),
        "start_step is a whole number from 1",
    ),
    (put(SPEC, "objective", "goal")(float("inf")), "spec.objective.goal inf"),
    (put(SPEC, "nasConfig")({}), "spec.nasConfig"),
    (put(SPEC, "metricsCollectorSpec", "collector", "kind")("StdErr"), "kind 'StdErr': one of"),
    (
        put(SPEC, "metricsCollectorSpec")(
            {
                "collector": {"kind": "File"},
                "source": {
                    "filter": {"metricsFormat": []},
                    "fileSystemPath": {"kind": "Directory", "path": "m.log", "format": "JSON"},
                },
            }
        ),
        "kind 'Directory'.*absolute path.*a JSON file has none",
    ),
    (
        put(SPEC, "metricsCollectorSpec", "source")({"fileSystemPath": {"path": "/x"}}),
        "StdOut reads no file",
    ),
    (put(*PARAMETER, "feasibleSpace")("0..1"), r"parameters\[0\].feasibleSpace"),
    (put(SPEC, "parameters", 0)("lr0"), r"parameters\[0\]: Input should be"),
    (put(SPEC, "trialTemplate", "configMap")({}), "trialTemplate.configMap"),
    (put(SPEC, "trialTemplate", "trialSpec", "kind")(""), "trialSpec.kind is missing"),
    *(
        (
            put(SPEC, "trialTemplate", "trialSpec", "spec", "activeDeadlineSeconds")(value),
            "activeDeadlineSeconds",
        )
        for value in ("10m", 0, True, 1.5)
    ),
    (put(SPEC, "trialTemplate", "trialSpec", "metadata")({"namespace": "x"}), "namespace: Katib"),
    (
        lambda raw: raw[SPEC]["trialTemplate"]["trialParameters"].append(
            {"name": "again", "reference": "lr0"}
        ),
        "reference 'lr0' stands there twice",
    ),
    (
        lambda raw: container(raw)["env"].append({"name": "N", "value": 3}),
        r"env\[\d+\].value 3: no text; quote it",
    ),
    (lambda raw: container(raw).update(args=[1, "${trialParameters.lr0}"]), "no text"),
    (lambda raw: container(raw).update(command="python x.py"), r"\.command: a list, not 'python x"),
    (lambda raw: container(raw).update(args="--lr=1"), r"\.args: a list, not '--lr=1'"),
    (lambda raw: container(raw).update(comand=["x"]), r"\.comand: no such field; there are args, "),
    (lambda raw: container(raw).update(env={"A": "1"}), r"\.env: a list, not"),
    (lambda raw: container(raw).update(envFrom=["x"]), r"\.envFrom\[0\]: a mapping, not 'x'"),
    (lambda raw: container(raw)["env"].append({"name": "N", "valueFrom": "x"}), "valueFrom: a map"),
    (
        lambda raw: container(raw).update(resources={"limits": []}),
        r"resources\.limits: a mapping, not",
    ),
    *(
        (
            lambda raw, given=given: container(raw).update(
                resources={"limits": {"nvidia.com/gpu": given}}
            ),
            r"limits\[nvidia.com/gpu\] .*: a whole number from 0",
        )
        for given in ("abc", "-1", "1.5", "2k", True)
    ),
    (
        lambda raw: pod(raw)["containers"].insert(0, {"image": "i"}),
        r"containers\[0\].name is missing",
    ),
    (
        put(SPEC, "trialTemplate", "trialSpec", "spec", "backofLimit")(1),
        "backofLimit: no such field; there are .*backoffLimit",
    ),
    (
        put(SPEC, "trialTemplate", "trialSpec", "spec", "backoffLimit")("1"),
        "backoffLimit '1': no whole number",
    ),
    (
        put(SPEC, "trialTemplate", "trialSpec", "spec", "suspend")("no"),
        "suspend 'no': neither true nor false",
    ),
    (
        put(SPEC, "trialTemplate", "trialSpec", "metadata")({"labels": {1: "a", "b": "c"}}),
        r"labels\.1: the key 1 is no text; quote it",
    ),
    (
        put(SPEC, "metricsCollectorSpec", "source")(
            {"filter": {"metricsFormat": [r"(\w+)=(\d+)(?= )"]}}
        ),
        "RE2 looks neither around nor back",
    ),
    (
        put(*PARAMETER, "feasibleSpace")({"min": "-1e308", "max": "1e308"}),
        "wider than a double can tell",
    ),
    (
        tpe(n_startup_trials="5.0", random_state="4294967296"),
        "n_startup_trials is a whole number.*random_state is a whole number from 0 to 4294967295",
    ),
    (
        tpe(n_EI_candidates="5", n_ei_candidates="9"),
        "n_EI_candidates and n_ei_candidates are the same",
    ),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said for _, said in WRONG])
def test_each_mistake_is_named_by_its_field(change: Change, said: str) -> None:
    raw = document()
    change(raw)
    with pytest.raises(BadInputError, match=said):
        parse_experiment(raw)


def test_all_mistakes_are_named_at_once() -> None:
    """Those of shape and of meaning, each once, with its path."""
    raw = document()
    raw["metadata"]["name"] = "X"
    raw["spec"]["algorithm"]["algorithmName"] = "luck"
    raw["spec"]["parameters"][1]["feasibleSpace"]["max"] = "-1"
    raw["spec"]["maxTrialCount"] = "three"
    raw["spec"]["colour"] = "red"
    with pytest.raises(InvalidExperimentError) as refused:
        parse_experiment(raw)
    found = [problem.split(" ")[0].rstrip(":") for problem in refused.value.problems]
    assert sorted(found) == [
        "metadata.name",
        "spec.algorithm.algorithmName",
        "spec.colour",
        "spec.maxTrialCount",
        "spec.parameters[1].feasibleSpace",
    ]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_broken_is_refused_and_nothing_stumbles(seed: int) -> None:
    """Any part of the document replaced by something else: an error with a text, never another."""
    rng = random.Random(seed)
    for _ in range(20):
        raw = document()
        for _ in range(rng.randint(1, 3)):
            place: Any = raw
            while isinstance(place, dict | list) and place:
                key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
                if rng.random() < 0.3 or not isinstance(place[key], dict | list):
                    place[key] = rng.choice([None, 0, "", "x", [], {}, [1], {"a": 1}, 1.5, True])
                    break
                place = place[key]
        with contextlib.suppress(BadInputError):
            assert parse_experiment(raw).name


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "- 1", "kind: Experiment", "apiVersion: v1\nkind: Pod", "\x00", "a: 1\na: 2"],
)
def test_what_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"no (Experiment|YAML)"):
        load_experiment(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"absent.yaml: No such file"):
        load_experiment(tmp_path / "absent.yaml")


ALGORITHM = (SPEC, "algorithm")


def algorithm(name: str, **settings: str) -> Change:
    pairs = [{"name": key, "value": value} for key, value in settings.items()]
    return put(*ALGORITHM)({"algorithmName": name, "algorithmSettings": pairs})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (algorithm("pbt"), "algorithm pbt"),
        (algorithm("tpe", gamma="0.2"), "setting gamma '0.2' of tpe is not honoured"),
        (algorithm("cmaes", restart_strategy="ipop"), "restart_strategy 'ipop'"),
        (algorithm("bayesianoptimization", base_estimator="RF"), "base_estimator 'RF'"),
        (algorithm("bayesianoptimization", acq_func="LCB"), "acq_func 'LCB'"),
        (put(SPEC, "metricsCollectorSpec", "collector", "kind")("Push"), "collector Push"),
        (put(SPEC, "metricsCollectorSpec", "collector", "kind")("File"), "must stand in command"),
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


def test_what_is_honoured_only_in_one_value_is_honoured_in_that_one() -> None:
    raw = document()
    algorithm("bayesianoptimization", base_estimator="GP", acq_func="EI", acq_optimizer="auto")(raw)
    refuse_unsupported(parse_experiment(raw))


def test_counts_change_and_the_search_stays_the_same() -> None:
    experiment = load_experiment(OURS)
    smaller = experiment.with_counts(max_trials=1)
    assert (smaller.max_trials, smaller.max_failed, smaller.parallel_trials) == (1, 1, 1)
    assert smaller.digest == experiment.digest
    assert experiment.max_trials == 30
    other = experiment.with_algorithm_settings({"random_state": "8"})
    assert other.algorithm_settings == {"random_state": "8"}
    assert other.digest != experiment.digest


DEFAULTS = {
    parameter.name: "0.002" if parameter.name == "lr0" else "1"
    for parameter in load_experiment(OURS).parameters
}


def command(experiment: Experiment, **environment: str) -> list[str]:
    return list(build_command(experiment, DEFAULTS, Supply(environment)).argv)


def test_the_command_is_the_templates_own_with_its_placeholders_filled() -> None:
    import sys

    experiment = load_experiment(OURS).with_environment({"TRIAL_DATASET": "abc"})
    words = command(experiment, TRIAL_TRAINING_SET="sets/1")
    assert words[:3] == [sys.executable, "-m", "platecrypt.tuning.trial"]
    assert "--dataset=abc" in words
    assert "--training-set=sets/1" in words
    assert "--lr0=0.002" in words
    assert not [word for word in words if "$" in word]


def test_parameters_that_are_fixed_are_searched_no_more() -> None:
    made = load_experiment(OURS).with_fixed({"scale": "0.4"})
    assert "scale" not in {parameter.name for parameter in made.parameters}
    assert "--scale=0.4" in command(made)
    with pytest.raises(BadInputError, match="has no parameter speed"):
        made.with_fixed({"speed": "1"})


def test_a_trial_is_judged_from_a_sixth_of_its_epochs() -> None:
    from platecrypt.tuning.steps import first_judged

    experiment = load_experiment(OURS)
    assert [first_judged(epochs) for epochs in (1, 6, 7, 12, 36)] == [1, 1, 2, 2, 6]
    judged = experiment.judged_from(first_judged(36))
    assert judged.early_stopping is not None
    assert judged.early_stopping.settings == {"min_trials_required": "3", "start_step": "6"}
    document = {**experiment.document, "spec": dict(experiment.document["spec"])}
    del document["spec"]["earlyStopping"]
    without = parse_experiment(document)
    assert without.judged_from(6) is without


def test_a_template_may_ask_for_the_name_of_its_trial() -> None:
    raw = document()
    template = raw["spec"]["trialTemplate"]
    template["trialSpec"]["metadata"] = {"labels": {"team": "plates"}}
    for name, reference in (("kind", "Kind"), ("team", "Labels[team]")):
        template["trialParameters"].append(
            {"name": name, "reference": f"${{trialSpec.{reference}}}"}
        )
    container(raw)["args"].append("${trialParameters.kind} ${trialParameters.team}")
    built = build_command(parse_experiment(raw), DEFAULTS, Supply(), trial="plates-0003")
    assert built.argv[-1] == "Job plates"
    assert "--name=plates-0003" in built.argv


def test_references_are_expanded_as_kubernetes_does() -> None:
    raw = document()
    container(raw)["args"] += ["$(ABSENT)", "$$(TRIAL_STEPS)", "$(TRIAL_STEPS)$(TRIAL_SEED)"]
    assert command(parse_experiment(raw))[-3:] == ["$(ABSENT)", "$(TRIAL_STEPS)", "2000"]


def test_a_secret_that_is_needed_must_be_supplied() -> None:
    raw = document()
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    container(raw)["env"].append({"name": "TOKEN", "valueFrom": copy.deepcopy(reference)})
    with pytest.raises(BadInputError, match=r"TOKEN.*--env TOKEN=VALUE"):
        command(parse_experiment(raw))
    assert command(parse_experiment(raw), TOKEN="t")
    reference["secretKeyRef"]["optional"] = True  # type: ignore[assignment]
    container(raw)["env"][-1]["valueFrom"] = reference
    assert command(parse_experiment(raw))
    container(raw)["envFrom"] = [{"secretRef": {"name": "needed"}}]
    with pytest.raises(BadInputError, match="--env-from needed=FILE"):
        command(parse_experiment(raw))


def test_a_container_of_another_kind_is_read_as_strictly() -> None:
    raw = document()
    raw["spec"]["trialTemplate"]["trialSpec"]["kind"] = "Other"
    container(raw)["args"] = "--lr0=${trialParameters.lr0}"
    with pytest.raises(BadInputError, match=r"\.args: a list"):
        parse_experiment(raw)


def test_without_a_count_of_trials_as_many_run_at_once_as_it_says() -> None:
    raw = document()
    del raw["spec"]["maxTrialCount"]
    raw["spec"].update(parallelTrialCount=8)
    raw["spec"].pop("maxFailedTrialCount", None)
    assert parse_experiment(raw).parallel_trials == 8


@pytest.mark.parametrize("rule", [r"\((\w+)\) \(?=(\d+)", r"(?P<n>\w+)=(?:\s*)(\d+)"])
def test_a_filter_that_go_reads_too_is_taken(rule: str) -> None:
    raw = document()
    raw["spec"]["metricsCollectorSpec"]["source"] = {"filter": {"metricsFormat": [rule]}}
    parse_experiment(raw)
