"""The compiled pipeline that a user can upload as it is."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster import COMPILED, compile_training
from pipelines.training import SETTINGS, images
from platecrypt.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
GPU_STEPS = {"train"}
NEVER_CACHED = {"find-champion", "register", "deploy", "smoke-test", "promote"}
# Beside the key of the object store, which every step has.
SECRETS = {
    "tune": {"platecrypt-tune-token"},
    "evaluate": {"platecrypt-gate"},
    "register": {"platecrypt-gate"},
    "deploy": {"platecrypt-gate", "platecrypt-endpoint", "platecrypt-deploy-token"},
    "smoke-test": {"platecrypt-keys", "platecrypt-endpoint", "platecrypt-deploy-token"},
    "promote": {"platecrypt-endpoint", "platecrypt-deploy-token"},
    "summarise": {"platecrypt-deploy-token"},
}


@pytest.fixture(scope="module")
def compiled() -> tuple[dict[str, Any], dict[str, Any]]:
    pipeline, platform = yaml.safe_load_all((ROOT / COMPILED).read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_the_checked_in_file_is_what_the_source_compiles_to() -> None:
    assert (ROOT / COMPILED).read_text() == compile_training(), "stale: run `make compile`"


def test_gpu_steps_ask_for_what_they_need(compiled: Any) -> None:
    pipeline, platform = compiled
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        step = name.removeprefix("exec-")
        accelerator = executor["container"]["resources"].get("accelerator")
        kubernetes = platform[name]
        if step in GPU_STEPS:
            assert accelerator["resourceType"] == "nvidia.com/gpu"
            assert accelerator["resourceCount"] == "1"
            assert kubernetes["tolerations"][0]["key"] == "nvidia.com/gpu"
            assert kubernetes["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
        else:
            assert accelerator is None
        assert executor["container"]["resources"]["resourceMemoryLimit"]


def test_without_a_gpu_no_step_waits_for_one() -> None:
    text = compile_training(gpu=False)
    assert "nvidia.com/gpu" not in text
    pipeline, _ = yaml.safe_load_all(text)
    train = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert train["resources"]["resourceMemoryLimit"] == "16Gi"


def test_a_step_sees_the_secrets_that_it_needs_and_no_other(compiled: Any) -> None:
    pipeline, platform = compiled
    for name in pipeline["deploymentSpec"]["executors"]:
        seen = {volume["secretName"] for volume in platform[name]["secretAsVolume"]}
        step = name.removeprefix("exec-")
        assert seen == {"platecrypt-s3", *SECRETS.get(step, ())}, name


def test_steps_with_effects_outside_are_never_cached(compiled: Any) -> None:
    pipeline, _ = compiled
    tasks = {**pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]}
    cached = {n for n, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert set(tasks) - cached == NEVER_CACHED


def test_every_step_has_the_library_in_its_cache_key(compiled: Any) -> None:
    pipeline, _ = compiled
    for name, component in pipeline["components"].items():
        if "executorLabel" in component:
            assert "library" in component["inputDefinitions"]["parameters"], name


def test_steps_that_a_retry_helps_have_one(compiled: Any) -> None:
    pipeline, _ = compiled
    tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    retried = {name for name, task in tasks.items() if "retryPolicy" in task}
    assert retried == {"import-dataset", "build-features"}


def test_the_settings_that_a_cluster_sets_exist() -> None:
    assert {name.lower() for name in SETTINGS} <= set(Settings.model_fields)


def test_images_come_from_one_place() -> None:
    text = compile_training(images("registry.example/team", "7"))
    used = {line.split("image: ")[1] for line in text.splitlines() if " image: " in line}
    assert used == {f"registry.example/team/platecrypt-{f}:7" for f in ("data", "train", "deploy")}
