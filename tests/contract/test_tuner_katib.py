"""The cluster engine bears what a Kubernetes API does on a bad day, and tells what it cannot."""

import time
from pathlib import Path
from typing import Any

import pytest

from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError
from platecrypt.processes import free_port
from platecrypt.tuning import Experiment, Limits, TuningEvent, TuningResult, parse_experiment
from platecrypt.tuning.katib import KatibTuner
from platecrypt.tuning.proposer import EarlierResult

from ..support.kubernetes_api import LATER, KubernetesApi, condition, frame, trial
from .test_tuner_engines import CREATED, RUNNING, SCENARIOS, experiment

pytestmark = pytest.mark.slow  # it waits as it does on a cluster

SCENARIO = SCENARIOS["succeeded"]
EXPERIMENT = experiment(SCENARIO)
FAST = (0.01, 0.05)
ONE = {"value": ("1", "1", "1")}
ENDLESS = [frame([trial("made-a", {"x": "1"}, "Running")], CREATED, RUNNING)]


def follow(
    api: KubernetesApi, tmp_path: Path, events: list[TuningEvent] | None = None, **options: Any
) -> TuningResult:
    tuner = KatibTuner(
        kubeconfig=api.kubeconfig(tmp_path / "config"),
        **{"poll_s": FAST, "timeout_s": 60, **options},
    )
    told = events if events is not None else []
    return tuner.run(EXPERIMENT, tmp_path / "work", told.append)


def test_it_creates_the_experiment_strictly_and_in_the_contexts_namespace(tmp_path: Path) -> None:
    with KubernetesApi(SCENARIO.life).serving() as api:
        assert follow(api, tmp_path).succeeded
        method, path, query, body = api.seen[0]
        assert (method, query) == ("POST", {"fieldValidation": ["Strict"]})
        assert path == "/apis/kubeflow.org/v1beta1/namespaces/plates/experiments"
        assert body["spec"] == EXPERIMENT.document["spec"]
        assert "status" not in body
        assert api.experiment is not None, "it is kept"


def test_it_is_deleted_in_the_end_where_that_is_wanted(tmp_path: Path) -> None:
    with KubernetesApi(SCENARIO.life).serving() as api:
        assert follow(api, tmp_path, keep=False).succeeded
        assert api.experiment is None


@pytest.mark.parametrize("code", [429, 500, 503, 0])
def test_a_server_that_stumbles_is_asked_again(tmp_path: Path, code: int) -> None:
    """Throttled, broken, restarting, cut off in the middle of an answer: on every request."""
    events: list[TuningEvent] = []
    with KubernetesApi(SCENARIO.life).serving() as api:
        api.faults = [("POST", code, {"Retry-After": "1"}), ("GET", code, {}), ("GET", code, {})]
        result = follow(api, tmp_path, events)
        assert result.succeeded
        assert not api.faults
    notes = [event.message for event in events if event.kind == "note"]
    assert len(notes) == 3
    assert all("asking again" in note for note in notes)
    if code == 429:
        assert "in 1.0 s" in notes[0]


def test_an_api_that_is_away_for_a_while_is_waited_for(tmp_path: Path) -> None:
    import threading

    port = free_port()
    api = KubernetesApi(SCENARIO.life)
    config = api.kubeconfig(tmp_path / "config", port=port)
    found: list[Any] = []

    def run() -> None:
        tuner = KatibTuner(kubeconfig=config, poll_s=FAST, timeout_s=60)
        found.append(tuner.run(EXPERIMENT, tmp_path / "work"))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.5)
    with api.serving(port):
        thread.join(60)
    assert found
    assert found[0].succeeded


def test_patience_ends(tmp_path: Path) -> None:
    api = KubernetesApi([])
    config = api.kubeconfig(tmp_path / "config", port=free_port())
    tuner = KatibTuner(kubeconfig=config, patience_s=1.0)
    with pytest.raises(UnavailableError, match="did not answer within 1 s"):
        tuner.run(EXPERIMENT, tmp_path / "work")


def test_a_token_that_expired_is_read_again(tmp_path: Path) -> None:
    events: list[TuningEvent] = []

    class Renewed(list[TuningEvent]):
        def append(self, event: TuningEvent) -> None:
            events.append(event)
            if event.kind == "note":  # the token is renewed while we wait
                api.kubeconfig(tmp_path / "config", token="new")

    with KubernetesApi(SCENARIO.life).serving() as api:
        api.token = "new"
        assert follow(api, tmp_path, Renewed()).succeeded
    assert any("401" in event.message for event in events)


def test_the_same_experiment_is_followed_and_another_of_its_name_refused(tmp_path: Path) -> None:
    with KubernetesApi(SCENARIO.life).serving() as api:
        assert follow(api, tmp_path).succeeded
        events: list[TuningEvent] = []
        assert follow(api, tmp_path, events).succeeded
        assert "is there already" in events[0].message
        assert sum(method == "POST" for method, *_ in api.seen) == 2
        assert api.experiment is not None
        api.experiment["metadata"]["annotations"] = {}
        with pytest.raises(BadInputError, match="another Experiment made; .* --name"):
            follow(api, tmp_path)


def test_what_the_webhook_says_is_told(tmp_path: Path) -> None:
    with KubernetesApi([]).serving() as api:
        api.refuses = "admission webhook denied the request: spec.objective is wrong"
        with pytest.raises(BadInputError, match="spec.objective is wrong"):
            follow(api, tmp_path)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [(403, RefusedError, "may not do this"), (404, UnavailableError, "is Katib installed")],
)
def test_what_cannot_be_waited_out_is_told_at_once(
    tmp_path: Path, code: int, kind: type[PlatecryptError], said: str
) -> None:
    with KubernetesApi([]).serving() as api:
        api.faults = [("POST", code, {})]
        with pytest.raises(kind, match=said):
            follow(api, tmp_path)


def test_an_experiment_that_somebody_deletes_is_told_with_what_was_last_seen(
    tmp_path: Path,
) -> None:
    life = [*SCENARIO.life[1:4], {"deleted": True, "trials": SCENARIO.life[3]["trials"]}]
    with KubernetesApi(life).serving() as api, pytest.raises(UnavailableError) as told:
        follow(api, tmp_path)
    assert "was deleted while it ran" in str(told.value)
    assert "1 Succeeded, 1 Running" in str(told.value)
    assert "best 4 of made-a" in str(told.value)


def test_when_the_time_is_over_it_says_what_it_last_saw(tmp_path: Path) -> None:
    events: list[TuningEvent] = []
    with KubernetesApi(ENDLESS).serving() as api:
        result = follow(api, tmp_path, events, timeout_s=0.3, keep=False)
        assert api.experiment is not None, "what still runs is never deleted"
    assert not result.ended
    assert not result.succeeded
    assert result.conditions[-1].type == "Running"
    assert [t.status for t in result.trials] == ["Running"]
    assert any("last seen: 1 Running" in event.message for event in events)


def test_without_a_cluster_it_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="set KUBECONFIG"):
        KatibTuner(kubeconfig=tmp_path / "absent").run(EXPERIMENT, tmp_path / "work")


@pytest.mark.parametrize(
    "options", [{"earlier": [EarlierResult({"x": "1"}, 1.0)]}, {"limits": Limits(device_hours=1.0)}]
)
def test_what_katib_cannot_do_is_refused_by_name(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="Katib (cannot begin|has no budget)"):
        KatibTuner().run(EXPERIMENT, tmp_path / "work", **options)


@pytest.mark.slow
def test_the_pipelines_step_lets_the_trials_report_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial is told the MLflow run of the search; asked again, it is the same Experiment."""
    from platecrypt.settings import Settings
    from platecrypt.tracking import Tracker
    from platecrypt.tuning.earlier import KEPT
    from platecrypt.tuning.steps import search

    settings = Settings(home=tmp_path / "home", tuning_engine="katib")
    with KubernetesApi(SCENARIO.life).serving() as api:
        config = str(api.kubeconfig(tmp_path / "config"))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", config)
        for _ in range(2):
            result, run = search(settings, EXPERIMENT, tmp_path / "work", {"dataset_digest": "d"})
            assert result.best_value == SCENARIO.best
        posted = [body for method, _, _, body in api.seen if method == "POST"]
    assert posted[0]["spec"] == posted[1]["spec"]
    assert posted[0]["metadata"]["name"].startswith("made-")
    pod = posted[0]["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    (variable,) = pod["containers"][0]["env"]
    assert variable["name"] == "TRIAL_PARENT_RUN"
    assert variable["value"] == run
    assert Tracker(settings).run_status(run) == "FINISHED"
    assert Tracker(settings).read_artifact(run, KEPT), "a later search may begin with it"


def test_the_experiments_own_namespace_wins_over_the_contexts(tmp_path: Path) -> None:
    document = {**EXPERIMENT.document, "metadata": {"name": "made", "namespace": "kubeflow"}}
    with KubernetesApi(SCENARIO.life).serving() as api:
        config = api.kubeconfig(tmp_path / "config")
        for namespace, taken in (("", "kubeflow"), ("flag", "flag")):
            api.experiment, api.frame = None, 0
            tuner = KatibTuner(kubeconfig=config, namespace=namespace, poll_s=FAST, timeout_s=60)
            tuner.run(parse_experiment(document), tmp_path / namespace)
            assert f"/namespaces/{taken}/" in api.seen[-1][1]


def ended(policy: str, count: int) -> Experiment:
    spec = {
        **EXPERIMENT.document["spec"],
        "algorithm": {"algorithmName": "random"},
        "resumePolicy": policy,
        "maxTrialCount": count,
    }
    return parse_experiment({**EXPERIMENT.document, "spec": spec})


def test_more_trials_go_on_as_the_resume_policy_says(tmp_path: Path) -> None:
    """The state from before is no end of what goes on."""
    first = [trial(f"made-{i}", {"x": "1"}, "Succeeded", metrics=ONE) for i in range(4)]
    more = [trial(f"made-{i}", {"x": "1"}, "Succeeded", metrics=ONE) for i in range(8)]
    done = condition("Succeeded", "ExperimentMaxTrialsReached")
    again = {**done, "lastTransitionTime": LATER}
    for policy in ("LongRunning", "Never"):
        life = [frame(first, CREATED, done)]
        with KubernetesApi(life).serving() as api:
            tuner = KatibTuner(
                kubeconfig=api.kubeconfig(tmp_path / "config"), poll_s=FAST, timeout_s=60
            )
            assert len(tuner.run(ended(policy, 4), tmp_path / policy).trials) == 4
            if policy == "Never":
                with pytest.raises(BadInputError, match="does not go on with maxTrialCount 8"):
                    tuner.run(ended(policy, 8), tmp_path / policy)
                continue
            fewer = ended(policy, 3)  # nothing to go on with: the end that there is counts
            assert len(tuner.run(fewer, tmp_path / policy).trials) == 4
            api.life += [frame(first, CREATED, done), frame(more, CREATED, RUNNING)]
            api.life += [frame(more, CREATED, again)]
            api.frame = 0
            assert len(tuner.run(ended(policy, 8), tmp_path / policy).trials) == 8
            assert api.experiment is not None
            assert api.experiment["spec"]["maxTrialCount"] == 8


def test_an_api_that_goes_away_does_not_outlast_the_timeout(tmp_path: Path) -> None:
    """It tells and keeps what it last saw."""
    events: list[TuningEvent] = []
    with KubernetesApi(ENDLESS).serving() as api:

        class Leaving(list[TuningEvent]):
            def append(self, event: TuningEvent) -> None:
                events.append(event)
                api.faults = [("GET", 503, {})] * 1000

        began = time.monotonic()
        result = follow(api, tmp_path, Leaving(), timeout_s=2.0)
    assert time.monotonic() - began < 10
    assert not result.ended
    assert "last seen: 1 Running" in events[-2].message
    assert (tmp_path / "work" / "result.json").exists()


def test_a_measurement_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    nan = {"value": ("NaN", "NaN", "NaN")}
    trials = [
        trial("made-a", {"x": "1"}, "Succeeded", metrics=nan),
        trial("made-b", {"x": "2"}, "Succeeded", metrics=ONE),
    ]
    life = [frame(trials, CREATED, condition("Succeeded", "ExperimentMaxTrialsReached"))]
    with KubernetesApi(life).serving() as api:
        assert follow(api, tmp_path).best_value == 1.0
