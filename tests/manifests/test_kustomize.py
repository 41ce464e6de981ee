"""The parts of `infra/kustomize`: each overlay builds fast, each part can be left out or exchanged,
and what is said in two places is the same in both.
"""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster import compile_training
from pipelines.objects import OBJECTS, pipeline_objects
from pipelines.training import ENDPOINT, GATE, KEYS, SETTINGS, SETTINGS_CONFIG, STORE
from platecrypt.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ("kind", "cpu", "gpu", "production")
TREES = ("infra/kustomize", "kserve", "katib")
OURS = "ghcr.io/safelicensing/platecrypt-"
MOUNTS = (STORE, GATE, KEYS, ENDPOINT)
Documents = list[dict[str, Any]]

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed; overlays are built with it"
)


def components(overlay: str) -> list[str]:
    path = ROOT / "infra" / "kustomize" / "overlays" / overlay / "kustomization.yaml"
    return [Path(line).as_posix() for line in yaml.safe_load(path.read_text())["components"]]


def built_text(folder: Path) -> str:
    ended = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def build(folder: Path) -> Documents:
    found = yaml.load_all(built_text(folder), Loader=yaml.CSafeLoader)
    return [document for document in found if document]


@pytest.fixture(scope="module")
def built() -> dict[str, Documents]:
    return {name: build(ROOT / "infra" / "kustomize" / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests in a folder where a test may write."""
    folder = tmp_path_factory.mktemp("checkout")
    for tree in TREES:
        shutil.copytree(ROOT / tree, folder / tree, ignore=shutil.ignore_patterns("values"))
    return folder


def changed(copy: Path, overlay: str, lines: list[str], **more: Any) -> Path:
    """An overlay with other components."""
    source = copy / "infra" / "kustomize" / "overlays" / overlay / "kustomization.yaml"
    document = yaml.safe_load(source.read_text())
    folder = source.parents[1] / f"{overlay}-changed"
    folder.mkdir(exist_ok=True)
    (folder / source.name).write_text(yaml.safe_dump({**document, "components": lines, **more}))
    return folder


def build_with(copy: Path, overlay: str, lines: list[str], **more: Any) -> Documents:
    return build(changed(copy, overlay, lines, **more))


def walk(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from walk(inner)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_without_network(overlay: str) -> None:
    folder = ROOT / "infra" / "kustomize" / "overlays" / overlay
    # A proxy that does not exist: whoever asks the network fails.
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        check=True,
        capture_output=True,
        env={**os.environ, **nowhere},
    )


# Each part once, in the largest overlay that has it.
PARTS = {line: overlay for overlay in OVERLAYS for line in components(overlay)}


@pytest.mark.slow
@pytest.mark.parametrize("line", PARTS, ids=lambda line: line.removeprefix("../../components/"))
def test_each_part_can_be_left_out(copy: Path, line: str) -> None:
    overlay = PARTS[line]
    rest = [other for other in components(overlay) if other != line]
    assert built_text(changed(copy, overlay, rest))


@pytest.mark.parametrize(
    ("overlay", "old", "new"),
    [
        ("kind", "object-store-minio", "object-store-seaweedfs"),
        ("kind", "feast", "feast-operator"),
        ("cpu", "autoscaling-hpa", "autoscaling-keda"),
        ("cpu", "autoscaling-hpa", "serving-knative"),
        ("production", "retraining", "retraining-scheduled-workflow"),
        ("production", "feast-operator", "feast"),
    ],
)
def test_one_line_exchanges_a_part(copy: Path, overlay: str, old: str, new: str) -> None:
    before = [f"../../components/{old}", f"../../components/{new}"]
    lines = [before[1] if line == before[0] else line for line in components(overlay)]
    assert lines != components(overlay)
    assert built_text(changed(copy, overlay, lines))


@pytest.mark.parametrize(
    "part",
    [
        "canary-standard",
        "camera-profiles",
        "endpoint-tokens",
        "secrets-external/object-store",
        "serving-gpu",
    ],
)
def test_a_part_that_no_small_overlay_has_can_be_added(copy: Path, part: str) -> None:
    assert built_text(changed(copy, "kind", [*components("kind"), f"../../components/{part}"]))


def test_a_canary_on_knative(copy: Path) -> None:
    lines = [line for line in components("cpu") if "autoscaling" not in line]
    lines += ["../../components/serving-knative", "../../components/canary-knative"]
    (service,) = of(build_with(copy, "cpu", lines), "InferenceService")
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == 10
    # Knative takes one port a pod, and no security context of the pod.
    pods = service["spec"]["predictor"]
    assert [len(c.get("ports", [])) for c in pods["containers"]] == [0, 1]
    assert "securityContext" not in pods


def test_a_canary_in_the_mode_standard_is_the_same_endpoint_beside_it(copy: Path) -> None:
    lines = [*components("cpu"), "../../components/canary-standard"]
    documents = build_with(copy, "cpu", lines)
    first, second = of(documents, "InferenceService")
    assert {first["metadata"]["name"], second["metadata"]["name"]} == {"plates", "plates-canary"}
    containers = [service["spec"]["predictor"]["containers"] for service in (first, second)]
    assert [c["args"] for c in containers[0]] == [c["args"] for c in containers[1]]
    (route,) = of(documents, "HTTPRoute")
    assert sum(b["weight"] for b in route["spec"]["rules"][0]["backendRefs"]) == 100


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production"])
def test_the_namespace_has_the_owner_of_the_profile(
    built: dict[str, Documents], overlay: str
) -> None:
    (profile,) = of(built[overlay], "Profile")
    namespace = next(d for d in of(built[overlay], "Namespace") if identity(d)[1] == "plates")
    assert namespace["metadata"]["annotations"]["owner"] == profile["spec"]["owner"]["name"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production"])
def test_every_image_of_ours_follows_the_overlay(copy: Path, overlay: str) -> None:
    source = copy / "infra" / "kustomize" / "overlays" / overlay / "kustomization.yaml"
    chosen = yaml.safe_load(source.read_text())["images"]
    moved = [
        {"name": row["name"], "newName": "registry.example/x", "newTag": "7"} for row in chosen
    ]
    documents = build_with(copy, overlay, components(overlay), images=moved)
    # The steps' images are compiled into the pipeline: `platecrypt compile --registry`.
    others = [d for d in documents if d["kind"] != "PipelineVersion"]
    left = {v["image"] for d in others for v in walk(d) if isinstance(v, dict) and "image" in v}
    assert "registry.example/x:7" in left
    assert not {image for image in left if str(image).startswith(OURS)}


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production"])
def test_data_is_never_pruned(built: dict[str, Documents], overlay: str) -> None:
    for kind in ("Namespace", "Profile", "StatefulSet"):
        for document in of(built[overlay], kind):
            options = document["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]
            assert options == "Prune=false,Delete=false", document["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "production"])
def test_stores_come_before_what_uses_them(built: dict[str, Documents], overlay: str) -> None:
    def wave(kind: str, name: str) -> int:
        document = next(d for d in of(built[overlay], kind) if d["metadata"]["name"] == name)
        found = document["metadata"].get("annotations", {})
        return int(found.get("argocd.argoproj.io/sync-wave", "0"))

    order = [
        wave("Namespace", "plates"),
        wave("StatefulSet", "postgres"),
        wave("Deployment", "mlflow"),
        wave("InferenceService", "plates"),
        wave("PodMonitor", "plates"),
    ]
    assert order == sorted(set(order))
    # Without a pipeline there is no first model, so no healthy endpoint to wait for.
    (version,) = of(built[overlay], "PipelineVersion")
    assert wave("PipelineVersion", version["metadata"]["name"]) < wave("InferenceService", "plates")


def test_trials_know_what_the_steps_know(built: dict[str, Documents]) -> None:
    for documents in built.values():
        data = {d["metadata"]["name"]: d["data"] for d in of(documents, "ConfigMap")}
        steps = data["platecrypt-settings"]
        for name, value in data["platecrypt"].items():
            assert value == steps[name.removeprefix("PLATECRYPT_")]
            assert value


def test_only_where_there_are_gpus_does_a_step_wait_for_one(built: dict[str, Documents]) -> None:
    asks = {
        name: "accelerator" in yaml.safe_dump(of(documents, "PipelineVersion"))
        for name, documents in built.items()
        if of(documents, "PipelineVersion")
    }
    assert asks == {"cpu": False, "gpu": True, "production": True}


def test_the_pipeline_objects_are_fresh() -> None:
    assert (ROOT / OBJECTS).read_text() == pipeline_objects(compile_training())


@pytest.fixture(scope="module")
def secrets(copy: Path) -> Documents:
    """The Secrets that are made by hand, made."""
    folder = copy / "infra" / "kustomize" / "components" / "secrets-plain"
    made = folder / "fake-platecrypt"
    made.write_text('#!/bin/sh\nprintf "{}" > "$3"\n')
    made.chmod(0o700)
    for _ in range(2):
        subprocess.run(
            [str(folder / "generate.sh")],
            check=True,
            # As the documents write it: relative to where the command is given.
            env={**os.environ, "PLATECRYPT": f"{folder.name}/{made.name}"},
            cwd=folder.parent,
            capture_output=True,
        )
    values = {path.name: path.read_bytes() for path in (folder / "values").iterdir()}
    assert len({values[name] for name in ("store-plates", "store-mlflow", "store-backup")}) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "values").iterdir()} == {0o600}
    return build(folder)


def test_made_secrets_stay(copy: Path, secrets: Documents) -> None:
    folder = copy / "infra" / "kustomize" / "components" / "secrets-plain"
    env = {**os.environ, "PLATECRYPT": "/nonexistent"}
    subprocess.run([str(folder / "generate.sh")], check=True, env=env, capture_output=True)
    assert build(folder) == secrets


def test_secret_values_are_ignored_by_git() -> None:
    folder = "infra/kustomize/components/secrets-plain/values/keyring.json"
    ended = subprocess.run(["git", "check-ignore", "-q", folder], cwd=ROOT, check=False)
    assert ended.returncode == 0


def test_both_kinds_of_secrets_have_the_same_names_and_keys(secrets: Documents) -> None:
    folder = ROOT / "infra" / "kustomize" / "components" / "secrets-external"
    external = {}
    for path in folder.glob("*/secrets.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            spec = document["spec"]
            template = spec["target"].get("template", {}).get("data")
            listed = [row["secretKey"] for row in spec.get("data", [])]
            # A whole object of the secret manager: its keys are its owner's.
            keys = set(template or listed) if template or listed else None
            external[identity(document)] = keys
    plain = {identity(document): set(document["data"]) for document in secrets}
    assert external.keys() == plain.keys()
    assert {k: v for k, v in external.items() if v} == {
        k: v for k, v in plain.items() if external[k]
    }


def test_every_secret_that_an_overlay_names_is_made(
    built: dict[str, Documents], secrets: Documents
) -> None:
    made = {identity(document): set(document["data"]) for document in secrets}
    for overlay in ("kind", "cpu", "gpu"):
        there = {identity(document) for document in of(built[overlay], "Secret")}
        for document in built[overlay]:
            space = document["metadata"].get("namespace", "")
            for name, key in named_secrets(document):
                if (space, name) not in there:
                    assert key in made[space, name] or not key, (overlay, space, name, key)


@pytest.mark.parametrize("overlay", ["kind", "cpu", "gpu"])
def test_files_of_secrets_are_called_by_their_keys(
    built: dict[str, Documents], secrets: Documents, overlay: str
) -> None:
    keys = {identity(document): set(document["data"]) for document in secrets}
    scripts = {identity(d): d.get("data", {}) for d in of(built[overlay], "ConfigMap")}
    looked = set()
    for document in built[overlay]:
        space = identity(document)[0]
        for pod in walk(document):
            if not isinstance(pod, dict) or not isinstance(pod.get("containers"), list):
                continue
            volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                mounts = [
                    # What is no volume here comes from a claim's template.
                    (mount["mountPath"], volumes.get(mount["name"], {}))
                    for mount in container["volumeMounts"]
                ]
                told = [container.get("command"), container.get("args"), container.get("env")]
                told += [
                    scripts[space, volume["configMap"]["name"]]
                    for _, volume in mounts
                    if "configMap" in volume
                ]
                for path, volume in mounts:
                    if "secret" not in volume:
                        continue
                    name = volume["secret"]["secretName"]
                    files = set(re.findall(rf"{path}/([\w.-]+)", str(told)))
                    assert files <= keys[space, name], (space, name, container["name"])
                    looked |= {(name, file) for file in files}
    assert {("object-store-root", "root-user"), ("plates-keys", "keyring.json")} <= looked


def test_the_settings_name_files_of_the_steps_secrets(
    built: dict[str, Documents], secrets: Documents
) -> None:
    made = {identity(d)[1]: set(d["data"]) for d in secrets}
    files = {f"{mount.folder}/{key}" for mount in MOUNTS for key in made[mount.secret]}
    needed = {
        f"{KEYS.folder}/keyring.json",
        f"{GATE.folder}/gate.key",
        f"{STORE.folder}/PLATECRYPT_S3_SECRET_KEY",
    }
    token = f"{ENDPOINT.folder}/token"  # only where the endpoint asks for one
    for name, documents in built.items():
        (steps,) = (d for d in of(documents, "ConfigMap") if identity(d)[1] == SETTINGS_CONFIG)
        named = {
            value
            for value in steps["data"].values()
            if value.startswith(tuple(f"{mount.folder}/" for mount in MOUNTS))
        }
        guarded = any("plates-tokens" in str(d) for d in of(documents, "InferenceService"))
        assert guarded or name != "production"
        assert named == needed | ({token} if guarded else set()), name
        assert named <= files, name
        # A key that a step asks for and that is not there keeps its pod from starting.
        assert set(SETTINGS) <= set(steps["data"])
        assert {name.lower() for name in steps["data"]} <= set(Settings.model_fields)


def named_secrets(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for value in walk(document):
        if not isinstance(value, dict):
            continue
        if isinstance(value.get("secretKeyRef"), dict):
            yield value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
        if isinstance(value.get("secret"), dict) and "secretName" in value["secret"]:
            keys = [item["key"] for item in value["secret"].get("items", [])] or [""]
            yield from ((value["secret"]["secretName"], key) for key in keys)
        for volume in value.get("secretAsVolume", []) if "secretAsVolume" in value else []:
            yield volume["secretName"], ""


def test_nothing_secret_is_in_the_manifests(built: dict[str, Documents]) -> None:
    for documents in built.values():
        for document in of(documents, "Secret"):
            assert "data" not in document, document["metadata"]["name"]
            for value in document.get("stringData", {}).values():
                # Passwords are put in from the environment.
                found = re.findall(r"(?:password=|://\w+:)([^@\s]+)", value)
                assert found
                assert all(re.fullmatch(r"\$\{\w+\}", password) for password in found)


def identity(document: dict[str, Any]) -> tuple[str, str]:
    return document["metadata"].get("namespace", ""), document["metadata"]["name"]


def of(documents: Documents, kind: str) -> Documents:
    return [document for document in documents if document["kind"] == kind]
