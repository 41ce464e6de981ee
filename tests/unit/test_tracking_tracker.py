"""Runs always end, models are registered once, aliases move, and the lineage is whole."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError
from platecrypt.settings import Settings
from platecrypt.tracking import ModelVersion, Tracker
from platecrypt.tracking import tracker as tracker_module

pytestmark = pytest.mark.slow  # MLflow takes seconds to import, and makes a database for each test

DATASET = "d" * 64


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """One tracker for all tests here: making the database takes seconds."""
    return Tracker(Settings(home=tmp_path_factory.mktemp("home with ümlaut")))


def model(folder: Path, content: bytes) -> tuple[Path, dict[str, str]]:
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return folder, {"model_digest": digest, "dataset_digest": DATASET}


def registered(tracker: Tracker, folder: Path, content: bytes) -> ModelVersion:
    with tracker.start_run("train", {"dataset_digest": DATASET}) as run:
        return tracker.register_model(run.run_id, *model(folder, content))


def test_a_run_records_what_it_is_given(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("epoch\n1\n")
    with tracker.start_run("train", {"dataset_digest": DATASET}) as run:
        assert tracker.run_status(run.run_id) == "RUNNING"
        run.log_params({"lr0": 0.002})
        run.log_curve([{"mAP50": 0.1}, {"mAP50": 0.7}])
        run.log_artifact(tmp_path / "curves.csv")
    assert tracker.run_status(run.run_id) == "FINISHED"
    client = tracker._connect()
    data = client.get_run(run.run_id).data
    assert data.params == {"lr0": "0.002"}
    history = client.get_metric_history(run.run_id, "mAP50")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.7)]
    assert [item.path for item in client.list_artifacts(run.run_id)] == ["curves.csv"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_run_that_is_interrupted_is_closed(
    tracker: Tracker, error: type[BaseException], status: str
) -> None:
    ids = []

    def interrupted() -> None:
        with tracker.start_run("broken") as run:
            ids.append(run.run_id)
            raise error

    with pytest.raises(error):
        interrupted()
    assert tracker.run_status(ids[0]) == status


def test_mlflow_that_is_gone_at_the_end_hides_nothing(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def whole(**how: bool) -> None:
        with tracker.start_run("done", **how) as run:
            monkeypatch.setattr(run._client, "set_terminated", gone)

    def broken() -> None:
        with tracker.start_run("broken"):
            raise BadInputError("the real reason")

    def gone(*_: str) -> None:
        from mlflow.exceptions import MlflowException

        raise MlflowException("the server does not answer")

    with pytest.raises(PlatecryptError, match="does not answer"):
        whole()
    with pytest.raises(BadInputError, match="the real reason"):
        broken()
    assert "stays open" in caplog.text
    whole(must_close=False)


def test_sigterm_closes_the_run(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from platecrypt.settings import Settings
from platecrypt.tracking import Tracker
with Tracker(Settings(home=Path({str(tmp_path)!r}))).start_run("slow") as run:
    print(run.run_id, flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        run_id = child.stdout.readline().strip()
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 128 + signal.SIGTERM
    finally:
        child.kill()
    assert Tracker(Settings(home=tmp_path)).run_status(run_id) == "KILLED"


def test_a_signal_at_any_moment_closes_the_run_and_leaves_no_lock(tmp_path: Path) -> None:
    """Cut off within a transaction, the database would stay locked, now and then."""
    program = f"""
import itertools, os, random, signal
from pathlib import Path
from platecrypt.settings import Settings
from platecrypt.tracking import Tracker
random.seed(2)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(next(signals)))
signals = itertools.cycle((signal.SIGTERM, signal.SIGINT))
tracker = Tracker(Settings(home=Path({str(tmp_path)!r})))
tracker.end(tracker.begin("first"))
for turn in range(150):
    try:
        with tracker.start_run("slow") as run:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.02))
            for step in itertools.count():
                run.log_metrics({{"loss": 0.5, "recall": 0.5}}, step=step)
    except (SystemExit, KeyboardInterrupt):
        print(tracker.run_status(run.run_id), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["KILLED"] * 150, done.stderr


def test_a_second_signal_does_not_wait_for_the_call() -> None:
    went_on = False

    def call() -> None:
        nonlocal went_on
        with tracker_module._undisturbed():
            time.sleep(30)
            went_on = True

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.4)
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not went_on
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_same_model_is_registered_once(tracker: Tracker, tmp_path: Path) -> None:
    first = registered(tracker, tmp_path / "m", b"one")
    again = registered(tracker, tmp_path / "m", b"one")
    assert again == first
    other = registered(tracker, tmp_path / "n", b"two")
    assert other.version > first.version
    assert other.run_id != first.run_id


def test_one_model_belongs_to_one_dataset(tracker: Tracker, tmp_path: Path) -> None:
    version = registered(tracker, tmp_path / "m", b"mine")
    folder, tags = model(tmp_path / "m", b"mine")
    with pytest.raises(RefusedError, match="registered as version"):
        tracker.register_model(version.run_id, folder, {**tags, "dataset_digest": "e" * 64})


def test_a_model_without_digests_or_of_other_bytes_is_not_registered(
    tracker: Tracker, tmp_path: Path
) -> None:
    folder, tags = model(tmp_path / "m", b"bytes")
    before = tracker.versions()
    with pytest.raises(BadInputError, match="dataset_digest"):
        tracker.register_model("run", folder, {"model_digest": tags["model_digest"]})
    with pytest.raises(BadInputError, match="no model files"):
        tracker.register_model("run", tmp_path / "absent", tags)
    with pytest.raises(RefusedError, match="no file in"):
        tracker.register_model("run", folder, {**tags, "model_digest": "f" * 64})
    assert tracker.versions() == before


def test_an_alias_leaves_the_version_that_had_it(tracker: Tracker, tmp_path: Path) -> None:
    first = registered(tracker, tmp_path / "m", b"alias one")
    second = registered(tracker, tmp_path / "n", b"alias two")
    tracker.set_alias("champion", first.version)
    tracker.set_alias("challenger", second.version)
    assert tracker.champion() == tracker.version(first.version)
    tracker.set_alias("champion", second.version)
    found = tracker.champion()
    assert found is not None
    assert (found.version, found.aliases) == (second.version, ("challenger", "champion"))
    assert tracker.version(first.version).aliases == ()


def test_only_known_aliases_and_versions(tracker: Tracker) -> None:
    with pytest.raises(BadInputError, match="neither"):
        tracker.set_alias("production", 1)
    with pytest.raises(BadInputError, match="no version 9999"):
        tracker.set_alias("champion", 9999)


def test_an_empty_registry_has_no_champion(tmp_path: Path) -> None:
    fresh = Tracker(Settings(home=tmp_path))
    assert fresh.champion() is None
    assert fresh.versions() == ()


def test_a_download_is_whole_verified_and_reused(tracker: Tracker, tmp_path: Path) -> None:
    version = registered(tracker, tmp_path / "m", b"download me")
    target = tmp_path / "cache" / "model"
    assert (tracker.download_model(version, target) / "model.onnx").read_bytes() == b"download me"
    assert tracker.download_model(version, target) == target
    (target / "model.onnx").write_bytes(b"something else")
    with pytest.raises(BadInputError, match="holds something else"):
        tracker.download_model(version, target)


def test_a_changed_file_in_the_registry_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    version = registered(tracker, tmp_path / "m", b"registered bytes")
    stored = next(
        path
        for path in tracker._artifacts.rglob("model.onnx")
        if path.read_bytes() == b"registered bytes"
    )
    stored.write_bytes(b"tampered")
    target = tmp_path / "out"
    with pytest.raises(RefusedError, match="were changed"):
        tracker.download_model(version, target)
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_lineage_leads_from_the_version_to_the_first_run(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.start_run("pipeline", {"git_commit": "c0ffee"}) as parent:
        pass
    with tracker.start_run("train", {"trial": "t-1"}, parent=parent.run_id) as run:
        run.log_params({"lr0": 0.1})
        version = tracker.register_model(run.run_id, *model(tmp_path / "m", b"lineage"))
    chain = tracker.lineage(version)
    assert chain["version"] == version.version
    assert chain["tags"]["dataset_digest"] == DATASET
    assert [row["name"] for row in chain["runs"]] == ["train", "pipeline"]
    assert chain["runs"][0]["params"] == {"lr0": "0.1"}
    assert chain["runs"][1]["tags"] == {"git_commit": "c0ffee"}


def test_a_run_is_found_by_its_tags(tracker: Tracker) -> None:
    with tracker.start_run("one", {"pipeline_run": "p-1"}) as run:
        pass
    assert tracker.find_run({"pipeline_run": "p-1"}) == run.run_id
    assert tracker.find_run({"pipeline_run": "p-2"}) is None


def test_a_server_that_does_not_answer_is_one_clear_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="PLATECRYPT_MLFLOW_TRACKING_URI"):
        Tracker(settings).champion()


def test_nothing_is_written_beside_the_home(tracker: Tracker) -> None:
    assert not Path("mlruns").exists()
    assert not Path("mlflow.db").exists()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
