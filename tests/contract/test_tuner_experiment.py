"""Our Experiment is one that a cluster takes, and its trial runs against a real object store."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate, manifest_key
from platecrypt.datasets.training_set import Selected, TrainingSet
from platecrypt.processes import Supervisor, free_port
from platecrypt.settings import Settings
from platecrypt.storage.embedded import ensure_store
from platecrypt.tuning import LocalTuner, load_experiment
from platecrypt.tuning.trial import main

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "katib" / "experiment.yaml"
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
def test_our_experiment_runs_here_with_its_own_command(
    settings: Settings, data: dict[str, str], tmp_path: Path
) -> None:
    (settings.home / "cache" / "weights").mkdir(parents=True, exist_ok=True)
    (settings.home / "cache" / "weights" / "yolov8n.unavailable").write_text("not in a test")
    made = load_experiment(OURS).with_counts(max_trials=1)
    made = made.with_environment({**data, "TRIAL_STEPS": "4"})
    result = LocalTuner(settings.as_environment()).run(made, tmp_path / "work")
    assert result.succeeded, result.trials[0].message
    trial = result.trials[0]
    assert set(trial.metrics) == {"mAP50-95", "mAP50", "recall"}
    assert len(trial.history) == 2  # 6 images in batches of 4: two steps an epoch
    assert set(result.best_parameters) == {"lr0", "scale", "mosaic"}
    assert [p.name for p in (tmp_path / "work/trials" / trial.name).iterdir()] == ["output.log"]


@pytest.mark.slow
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


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--dataset=x", "--training-set=y", "--learning-rate=1"])
    assert ended.value.code == 2
