"""The main job, for real: images in, an endpoint that hides the plates out, and the plates back."""

import io
import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from platecrypt.cipher import Keyring
from platecrypt.datasets.manifest import Manifest, manifest_key, parse_manifest
from platecrypt.datasets.training_set import training_set_key
from platecrypt.imaging import decode, recover
from platecrypt.serving.client import Client
from platecrypt.settings import Settings, load
from platecrypt.storage import ObjectStore
from platecrypt.tracking import Tracker
from platecrypt.tuning import load_experiment
from platecrypt.tuning.steps import SHORT as FEW_SEARCHED

from .conftest import ROOT, Workplace

pytestmark = [pytest.mark.slow, pytest.mark.alone]

DATASET = "synthetic://?images=96&seed=7&difficulty=easy"


def with_set(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


# The default run, but for a search that is as short as can be, and fewer steps.
SHORT = ("trials=1", "trial_steps=8", "training_steps=240", "pretrained=never")
RUN = ("run", "--dataset", DATASET, *with_set(*SHORT))
STEPS = (
    "import-dataset",
    "validate-dataset",
    "build-features",
    "select-training-set",
    "tune",
    "train",
    "find-champion",
    "evaluate",
    "register",
    "deploy",
    "smoke-test",
    "promote",
    "summarise",
)
REAL = ROOT.parent / "shared" / "data" / "plates-ro"
CACHEABLE = {*STEPS[:6], "evaluate"}


def settings_of(workplace: Workplace) -> Settings:
    return load(home=workplace.home, s3_port=workplace.s3_port, port=workplace.port, root=ROOT)


def dataset_of(workplace: Workplace) -> tuple[ObjectStore, Manifest]:
    store = ObjectStore(settings_of(workplace).store())
    digest = workplace.ask("lineage")["dataset"]
    return store, parse_manifest(store.get(manifest_key(digest)), expected_digest=digest)


def sample(workplace: Workplace, path: Path) -> Path:
    assert workplace.run("sample", "-o", str(path)).returncode == 0
    return path


@pytest.fixture(scope="module")
def first(workplace: Workplace) -> Any:
    """`make run` as the README tells it, on a smaller dataset."""
    _, _, dataset, *settings = RUN
    arguments = " ".join([*settings, "--json"])
    done = subprocess.run(
        ["make", "-s", "run", f"DATASET={dataset}", f"ARGS={arguments}"],
        cwd=ROOT,
        env=workplace.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_command_runs_every_step(first: Any) -> None:
    states = {name: step["state"] for name, step in first["steps"].items()}
    assert tuple(states) == STEPS
    assert set(states.values()) == {"done"}


def test_the_endpoint_hides_the_plate_and_the_key_gives_it_back(
    workplace: Workplace, first: Any, tmp_path: Path
) -> None:
    """What the README tells: curl, then recover."""
    car, protected, back = tmp_path / "car.jpg", tmp_path / "protected.jpg", tmp_path / "back.png"
    sample(workplace, car)
    assert first["endpoint"] == workplace.endpoint
    subprocess.run(
        [
            "curl",
            "-sSf",
            "-H",
            "Content-Type: image/jpeg",
            "-H",
            "Accept: image/jpeg",
            "--data-binary",
            f"@{car}",
            first["endpoint"],
            "-o",
            str(protected),
        ],
        check=True,
    )
    assert workplace.ask("recover", str(protected), "-o", str(back))["plates"] >= 1
    original = decode(car.read_bytes()).pixels
    published = decode(protected.read_bytes()).pixels
    recovered = decode(back.read_bytes()).pixels
    keyring = Keyring.load(workplace.home / "keys" / "keyring.json")
    for region in recover(protected.read_bytes(), keyring).regions:
        area = np.s_[region.y1 : region.y2, region.x1 : region.x2]
        assert np.array_equal(recovered[area], original[area])
        assert (published[area] != original[area]).any(axis=2).mean() > 0.5


def test_another_key_gives_nothing_back(workplace: Workplace, first: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    Keyring.create(other)
    car = sample(workplace, tmp_path / "car.jpg")
    workplace.ask("predict", first["endpoint"], str(car), "-o", str(tmp_path / "out"))
    protected = tmp_path / "out" / "car.jpg"
    done = workplace.run(
        "recover", str(protected), "-o", str(tmp_path / "x.png"), "--keys", str(other)
    )
    assert done.returncode == 2
    assert "none of the keys" in done.stderr
    assert not (tmp_path / "x.png").exists()


def test_the_master_key_is_its_owners_alone_and_in_no_log(workplace: Workplace, first: Any) -> None:
    path = workplace.home / "keys" / "keyring.json"
    assert path.stat().st_mode & 0o777 == 0o600
    (secret,) = [text for text in _strings(json.loads(path.read_text())) if len(text) >= 43]
    for log in [*workplace.home.glob("logs/*"), *workplace.home.glob("runs/*/run.log")]:
        assert secret not in log.read_text(errors="replace"), log


def test_lineage_leads_from_the_endpoint_to_the_images(workplace: Workplace, first: Any) -> None:
    chain = workplace.ask("lineage")
    assert chain["endpoint"] == first["endpoint"]
    assert "champion" in chain["model"]
    assert chain["held-out figures"]["map50"] >= 0.9
    for name in ("run", "git commit", "tuning", "training set", "feature service"):
        assert chain[name], f"the chain is broken at {name}"
    assert chain["pipeline run"] == Path(first["summary"]).name
    tracker = Tracker(settings_of(workplace))
    assert tracker.run_tags(chain["tuning"])["pipeline_run"] == chain["pipeline run"]
    assert len(tracker.children(chain["tuning"])) == 1, "the trial is a child of its search"
    store, manifest = dataset_of(workplace)
    assert manifest.digest == chain["dataset"]
    assert all(store.stat(image.key) for image in manifest.images)


def test_pages_for_people_are_there(workplace: Workplace, first: Any) -> None:
    pages = {path.stem for path in (workplace.home / "reports").glob("*.html")}
    assert pages == {"validation", "tuning", "curves", "evaluation", "smoke-test", "summary"}
    for path in (workplace.home / "reports").glob("*.html"):
        assert "<script" not in path.read_text()


def test_a_second_run_takes_every_cacheable_step_from_the_cache(
    workplace: Workplace, first: Any
) -> None:
    second = workplace.ask(*RUN)
    cached = {name for name, step in second["steps"].items() if step["state"] == "cached"}
    assert cached == CACHEABLE
    assert second["endpoint"] == first["endpoint"]


def test_a_changed_object_is_imported_again(workplace: Workplace, first: Any) -> None:
    words = (*RUN, "--dataset", "synthetic://?images=24&seed=55")
    found = workplace.ask("import", words[-1])
    store = ObjectStore(settings_of(workplace).store())
    manifest = parse_manifest(store.get(manifest_key(found["digest"])))
    assert run_until(workplace, "build-features", *words)["import-dataset"] == "done"
    assert run_until(workplace, "build-features", *words)["import-dataset"] == "cached"
    key = manifest.images[0].key
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    assert run_until(workplace, "build-features", *words)["import-dataset"] == "done"
    assert store.get(key) == data


def test_status_says_what_runs_and_what_has_crashed(workplace: Workplace, first: Any) -> None:
    rows = {row["name"]: row for row in workplace.ask("status")}
    assert set(rows) == {"object-store", "predictor", "transformer"}
    assert {row["state"] for row in rows.values()} == {"running"}
    assert all(Path(row["log"]).exists() for row in rows.values())
    subprocess.run(["kill", "-9", str(rows["predictor"]["pid"])], check=True)
    deadline = time.monotonic() + 10
    while True:
        done = workplace.run("status")
        if done.returncode == 1 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert done.returncode == 1
    (line,) = [row for row in done.stdout.splitlines() if row.startswith("predictor")]
    assert "crashed" in line
    # The next run puts it right.
    workplace.ask(*RUN)
    assert {row["state"] for row in workplace.ask("status")} == {"running"}


def test_a_model_that_does_not_pass_the_gate_does_not_serve(
    workplace: Workplace, first: Any
) -> None:
    before = workplace.ask("lineage")["model"]
    done = workplace.run(*RUN, *with_set("min_map50=1.0", "min_recall=1.0"))
    assert done.returncode == 1
    assert "did not pass the gate" in done.stderr.splitlines()[-1]
    assert workplace.ask("lineage")["model"] == before
    page = (workplace.home / "reports" / "summary.html").read_text()
    assert "FAILED" in page


@pytest.mark.parametrize("step", ["import-dataset", "build-features", "tune", "train"])
def test_ctrl_c_leaves_nothing_half_done_and_the_next_run_goes_on(
    workplace: Workplace, first: Any, step: str
) -> None:
    before = workplace.ask("lineage")["model"]
    # A dataset of its own for each step, so that no step before it is in the cache.
    other = f"synthetic://?images=48&seed={100 + STEPS.index(step)}&difficulty=easy"
    words = (*RUN, "--dataset", other, *with_set(f"trials={int(step == 'tune')}"))
    done = set(STEPS[: STEPS.index(step)])
    assert set(run_until(workplace, step, *words)) == done
    assert workplace.ask("lineage")["model"] == before
    assert {row["state"] for row in workplace.ask("status")} == {"running"}
    assert not stray_steps(workplace)
    states = run_until(workplace, step, *words)
    assert states == dict.fromkeys(done, "cached")


def test_every_line_of_the_readme_does_what_it_says(
    workplace: Workplace, first: Any, tmp_path: Path
) -> None:
    """The blocks that need the endpoint run as they stand, in order, but for port and folder."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- test: needs the endpoint -->\n```(\w+)\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 8
    env = {**workplace.environment, "PLATECRYPT_ROOT": str(ROOT)}
    for language, text in blocks:
        script = text.replace(":8080/", f":{workplace.port}/")
        shell = ["bash", "-euc"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, script], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        if language == "python":
            assert re.fullmatch(r"[1-9]\d* plates sealed\n", done.stdout)
    assert (tmp_path / "back.png").exists()
    assert (tmp_path / "protected" / "car.jpg").exists()
    assert (tmp_path / "whole.jpg").stat().st_size > 0
    assert (tmp_path / "one.jpg").stat().st_size > 0
    assert workplace.ask("status") == [], "the last block stops everything"


def test_every_line_of_the_tuning_readme_does_what_it_says(
    workplace: Workplace, first: Any, tmp_path: Path
) -> None:
    """The commands for this machine as they stand, with the names filled in and short trials."""
    assert workplace.run("up").returncode == 0
    chain = workplace.ask("lineage")
    text = (ROOT / "katib" / "README.md").read_text()
    found = re.search(r"## On this machine\n\n```text\n(.*?)```", text, re.DOTALL)
    assert found
    short = ["--work-dir", str(tmp_path / "work"), "--max-trials", "2", "--env", "TRIAL_STEPS=2"]
    short += ["--fix=model=yolov8n", "--fix=image_size=320"]  # the quickest of the space
    printed = []
    for line in found.group(1).splitlines():
        named = line.replace("DIGEST", chain["dataset"])
        words = named.replace("KEY", training_set_key(chain["training set"])).split()
        assert words[0] == "platecrypt"
        more = [] if "--validate" in words else [*short, "--env", "TRIAL_SEED=1"]
        done = workplace.run(*words[1:], *more)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        printed.append(done.stdout)
    valid, forecast, searched = printed
    assert valid.endswith("is valid\n")
    assert "device hours" in forecast
    assert "2 trials" in searched
    # The search of the pipeline run is a place to begin: its id stands in the chain. It searched
    # few dimensions, so the others are fixed.
    whole = load_experiment(ROOT / "katib" / "experiment.yaml")
    fixed = [f"--fix={p.name}=1" for p in whole.parameters if p.name not in FEW_SEARCHED]
    begun = workplace.run(
        *words[1:],
        *fixed,
        "--max-trials=2",
        "--max-device-hours=0",
        f"--work-dir={tmp_path / 'warm'}",
        f"--warm-start={chain['tuning']}",
    )
    assert f"1 results of MLflow run {chain['tuning']}, 0 do not fit" in begun.stderr


def test_a_zip_with_umlauts_and_spaces_is_imported(workplace: Workplace, tmp_path: Path) -> None:
    archive = tmp_path / "Bilder für später.zip"
    pixels = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(9):
            pixels[:20, :20] = number
            data = io.BytesIO(bytes(cv2.imencode(".jpg", pixels)[1])).getvalue()
            file.writestr(f"images/Fähre {number} a-1.jpg", data)
            file.writestr(f"labels/Fähre {number} a-1.txt", "0 0.5 0.5 0.4 0.2\n")
    found = workplace.ask("import", str(archive))
    assert (found["form"], found["images"], found["plates"]) == ("yolo", 9, 9)
    again = workplace.ask("import", str(archive))
    assert again["digest"] == found["digest"]


def test_stop_ends_everything(workplace: Workplace, first: Any) -> None:
    assert workplace.run("up").returncode == 0
    assert [row["name"] for row in workplace.ask("status")] == ["object-store"]
    assert workplace.run("stop").returncode == 0
    assert workplace.ask("status") == []
    assert workplace.run("stop").stderr.strip() == "nothing was running"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def run_until(workplace: Workplace, step: str, *words: str) -> dict[str, str]:
    """Start a run, interrupt it in that step; the states of the steps that ended before."""
    process = workplace.start(*words)
    assert process.stderr is not None
    states = {}
    for line in process.stderr:
        found = re.match(r"  ([\w-]+) +(\.\.\.|done|cached|failed)", line)
        if found and found.groups() == (step, "..."):
            break
        if found and found.group(2) != "...":
            states[found.group(1)] = found.group(2)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "interrupted" in err
    assert "Traceback" not in err
    return states


def stray_steps(workplace: Workplace) -> list[str]:
    """Steps and trials of this state folder that still run."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        home = (process.info["environ"] or {}).get("PLATECRYPT_HOME")
        if home == str(workplace.home) and re.search(r"executor_main|tuning\.trial", line):
            found.append(line)
    return found


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/plates-ro is not there")
def test_sixty_real_photographs_end_in_a_decrypted_answer(workplace: Workplace, first: Any) -> None:
    """From scratch sixty photographs teach nothing in minutes: it goes on from the first model."""
    settings = with_set("limit=60", "trials=0", "training_steps=30", "image_size=640")
    gate = with_set("pretrained=1", "min_map50=0", "min_recall=0")
    done = subprocess.run(
        ["make", "-s", "run", f"DATASET={REAL}", f"ARGS={' '.join([*settings, *gate])} --json"],
        cwd=ROOT,
        env=workplace.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    chain = workplace.ask("lineage")
    assert chain["images"] == "60 (voc, split by ride)"
    assert "champion" in chain["model"]
    store, manifest = dataset_of(workplace)
    keyring = Keyring.load(workplace.home / "keys" / "keyring.json")
    with Client(workplace.endpoint) as client:
        for image in (*manifest.split("test"), *manifest.split("train")):
            data = store.get(image.key)
            answer = client.protect(data)
            if answer.plates:
                break
    assert answer.plates, "the endpoint found no plate in any photograph"
    original, recovered = decode(data).pixels, recover(answer.data, keyring)
    for region in recovered.regions:
        area = np.s_[region.y1 : region.y2, region.x1 : region.x2]
        assert np.array_equal(recovered.pixels[area], original[area])
