"""Our Experiment is one that a cluster takes, and its trial runs against a real object store."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate, manifest_key
from platecrypt.datasets.training_set import Selected, TrainingSet
from platecrypt.errors import BadInputError
from platecrypt.processes import Supervisor, free_port
from platecrypt.settings import Settings
from platecrypt.storage.embedded import ensure_store
from platecrypt.tracking import Tracker
from platecrypt.training.recipe import Recipe
from platecrypt.tuning import LocalTuner, load_experiment
from platecrypt.tuning.trial import main

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "katib" / "experiment.yaml"
PARAMETERS = [parameter.name for parameter in load_experiment(OURS).parameters]
DEFAULT_FINDS = re.compile("mAP50-95=")
CRD = ROOT.parent / "shared" / "crds" / "experiments.kubeflow.org.yaml"


@pytest.mark.skipif(not CRD.exists(), reason="the custom resource definitions are not here")
def test_it_is_valid_by_the_custom_resource_definition() -> None:
    from jsonschema import Draft202012Validator

    definition = yaml.safe_load(CRD.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    document = yaml.safe_load(OURS.read_text())
    validator = Draft202012Validator(schema)
    assert not [error.message for error in validator.iter_errors(document)]
    document["spec"]["algorithm"]["algorithmName"] = "luck"
    assert list(validator.iter_errors(document)), "the schema checks nothing"


def test_the_job_in_it_is_a_job_that_kubernetes_knows() -> None:
    """Every field of the pod template has a name and a type that the Kubernetes client knows."""
    from kubernetes import client

    job = yaml.safe_load(OURS.read_text())["spec"]["trialTemplate"]["trialSpec"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    _known(job["spec"], client.V1JobSpec, client)


@pytest.fixture(scope="module")
def gpu_search(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The Experiment as kustomize makes it of the overlay."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not here")
    done = subprocess.run(
        [kubectl, "kustomize", str(ROOT / "katib")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("gpu") / "experiment.yaml"
    path.write_text(done.stdout)
    return load_experiment(path)


def test_the_gpu_overlay_asks_for_what_a_gpu_trial_needs(gpu_search: Any) -> None:
    from kubernetes import client

    base = load_experiment(OURS)
    assert gpu_search.parameters == base.parameters
    assert gpu_search.container.args == base.container.args
    assert gpu_search.container.gpus == 1
    assert gpu_search.container.env == {
        **base.container.env,
        "TRIAL_REDUCE": "1",
        "TRIAL_STEPS": "4000",
    }
    job = gpu_search.document["spec"]["trialTemplate"]["trialSpec"]["spec"]
    _known(job, client.V1JobSpec, client)
    assert job["activeDeadlineSeconds"]
    assert job["ttlSecondsAfterFinished"]
    pod = job["template"]["spec"]
    assert pod["nodeSelector"]
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    (memory,) = [volume for volume in pod["volumes"] if volume["emptyDir"].get("medium")]
    assert {"name": memory["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert load_experiment(OURS, ROOT / "katib" / "experiment-gpu.yaml") == gpu_search, (
        "kustomize and we patch alike"
    )
    resources = pod["containers"][0]["resources"]
    assert resources["requests"].keys() >= {"cpu", "memory"}
    assert resources["limits"].keys() >= {"memory", "nvidia.com/gpu"}


def _known(given: Any, kind: Any, client: Any) -> None:
    names = {label: name for name, label in kind.attribute_map.items()}
    for label, value in given.items():
        assert label in names, f"{kind.__name__} has no field {label}"
        type_name = kind.openapi_types[names[label]]
        inner = type_name.removeprefix("list[").rstrip("]")
        if hasattr(client, inner) and hasattr(getattr(client, inner), "attribute_map"):
            for item in value if isinstance(value, list) else [value]:
                _known(item, getattr(client, inner), client)
        elif type_name == "str":
            assert isinstance(value, str), f"{label} is text, not {value!r}"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("home")
    made = Settings(home=home, s3_port=free_port())
    ensure_store(made)
    yield made
    supervisor = Supervisor(home)
    for record in supervisor.list():
        supervisor.stop(record.name)


@pytest.fixture(scope="module")
def data(settings: Settings) -> dict[str, str]:
    """A few images in the store; the arguments that name them."""
    import hashlib

    store = ensure_store(settings)
    records = []
    for index, split in enumerate(("train",) * 6 + ("val",) * 2 + ("test",)):
        pixels = np.random.default_rng(index).integers(0, 90, (96, 96, 3), dtype=np.uint8)
        pixels[20:40, 20:80] = 240
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        digest = hashlib.sha256(out.getvalue()).hexdigest()
        store.put(f"images/{digest}.jpg", out.getvalue())
        plates = (Plate((20.0, 20.0, 80.0, 40.0)),)
        records.append(
            ImageRecord(
                digest,
                f"images/{digest}.jpg",
                "n",
                1,
                96,
                96,
                plates,
                "c",
                "g",
                None,
                split,  # type: ignore[arg-type]
            )
        )
    manifest = Manifest(tuple(records), "test", "image")
    store.put(manifest_key(manifest.digest), manifest.to_bytes())
    chosen = tuple(Selected(image.image_id, 1, "all") for image in manifest.split("train"))
    store.put("sets/one.json", TrainingSet(manifest.digest, "s", chosen).to_bytes())
    return {"TRIAL_DATASET": manifest.digest, "TRIAL_TRAINING_SET": "sets/one.json"}


@pytest.mark.slow
@pytest.mark.alone
def test_our_experiment_runs_here_with_its_own_command(
    settings: Settings, data: dict[str, str], tmp_path: Path
) -> None:
    (settings.home / "cache" / "weights").mkdir(parents=True, exist_ok=True)
    (settings.home / "cache" / "weights" / "yolov8n.unavailable").write_text("not in a test")
    searched = ("lr0", "scale", "mosaic")
    defaults = {name: str(getattr(Recipe(), name)) for name in PARAMETERS if name not in searched}
    made = load_experiment(OURS).with_counts(max_trials=1).with_fixed(defaults)
    made = made.with_environment({**data, "TRIAL_STEPS": "4"})
    result = LocalTuner(settings.as_environment()).run(made, tmp_path / "work")
    assert result.succeeded, result.trials[0].message
    trial = result.trials[0]
    assert set(trial.metrics) == {"mAP50-95", "mAP50", "recall"}
    assert len(trial.history) == 2  # 6 images in batches of 4: two steps an epoch
    assert set(result.best_parameters) == {"lr0", "scale", "mosaic"}
    assert [p.name for p in (tmp_path / "work/trials" / trial.name).iterdir()] == ["output.log"]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset=" + "0" * 64, "--training-set=sets/one.json"], "does not exist; import"),
        (["--dataset=", "--training-set=x"], "--dataset is empty"),
        (["--dataset=x", "--training-set=y", "--lr0=fast"], "lr0 = 'fast' is not a float"),
        (["--dataset=x", "--training-set=y", "--reduce=0"], "--reduce 0.0 is outside"),
    ],
)
def test_a_trial_that_cannot_run_says_why_in_one_line(
    settings: Settings, arguments: list[str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "platecrypt.tuning.trial", *arguments],
        env={**os.environ, **settings.as_environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert said in lines[0]


@pytest.mark.slow
@pytest.mark.alone
def test_a_trial_reports_to_mlflow_as_a_child_and_ends_cleanly_on_sigterm(
    settings: Settings, data: dict[str, str], tmp_path: Path
) -> None:
    tracker = Tracker(settings)
    parent = tracker.begin("search")
    words = [sys.executable, "-m", "platecrypt.tuning.trial", "--pretrained=never", "--steps=4000"]
    words += [f"--dataset={data['TRIAL_DATASET']}", f"--work-dir={tmp_path}", "--image-size=96"]
    words += [f"--training-set={data['TRIAL_TRAINING_SET']}", f"--parent-run={parent}"]
    running = subprocess.Popen(
        [*words, "--name=plates-0007"],
        env={**os.environ, **settings.as_environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout
        line = running.stdout.readline()
        assert DEFAULT_FINDS.search(line), line
        datetime.fromisoformat(line.split()[0])
        running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir()), "what was half-written is removed"
    child = tracker.find_run({"mlflow.parentRunId": parent, "trial": "plates-0007"})
    assert child
    assert tracker.run_status(child) == "KILLED"


@pytest.fixture
def broken_training(
    settings: Settings, data: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[Callable[[Path], None]], int]]:
    """Run a trial in this process whose training does something else."""

    def run(training: Callable[[Path], None]) -> int:
        def train(data_yaml: Path, recipe: object, place: Path, **options: object) -> None:
            place.mkdir(parents=True)
            (place / "half-written").touch()
            training(place)

        monkeypatch.setattr("platecrypt.tuning.trial.train", train)
        monkeypatch.setattr("platecrypt.tuning.trial.configuration.load", lambda: settings)
        dataset, chosen = data["TRIAL_DATASET"], data["TRIAL_TRAINING_SET"]
        words = [f"--dataset={dataset}", f"--training-set={chosen}", f"--work-dir={tmp_path}"]
        return main(words)

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_memory_that_runs_out_is_one_line(broken_training: Any, capsys: Any) -> None:
    def training(place: Path) -> None:
        raise MemoryError

    assert broken_training(training) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "out of memory; use a smaller batch" in said[0]


def test_sigterm_leaves_nothing_half_written(broken_training: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        broken_training(lambda place: os.kill(os.getpid(), signal.SIGTERM))
    assert ended.value.code == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--dataset=x", "--training-set=y", "--learning-rate=1"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- {op: replace, path: /spec/absent/deeper, value: 1}", "does not fit"),
        ("- {op: test, path: /spec/parallelTrialCount, value: 99}", "does not fit"),
        ("- {op: add}", "does not fit"),
        ("just words", "does not fit"),
        ("- {op: replace, path: /spec/parallelTrialCount, value: many}", "parallelTrialCount"),
    ],
)
def test_a_patch_that_does_not_fit_is_one_clear_line(tmp_path: Path, text: str, told: str) -> None:
    patch = tmp_path / "patch.yaml"
    patch.write_text(text)
    with pytest.raises(BadInputError, match=told):
        load_experiment(OURS, patch)
