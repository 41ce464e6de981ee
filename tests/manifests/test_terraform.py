"""The Terraform modules: formatted, valid, strict about their inputs, and useful to kustomize."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow  # each starts terraform

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "terraform"
MODULES = ("gke", "eks")
# A folder of providers (`terraform providers mirror FOLDER`), where there is one.
MIRROR = os.environ.get("TERRAFORM_MIRROR", "")
GOOD: dict[str, dict[str, Any]] = {
    "gke": {"project": "plates-prod", "admin_networks": {"office": "198.51.100.0/24"}},
    "eks": {
        "region": "eu-central-1",
        "zones": ["eu-central-1a", "eu-central-1b"],
        "admin_networks": ["198.51.100.0/24"],
    },
}
GPU = {"machine_type": "g2-standard-8", "accelerator": "nvidia-l4", "per_node": 3, "max": 1}
BAD: list[tuple[str, str, Any]] = [
    ("gke", "project", "Plates"),
    ("gke", "region", "europe-west4-a"),
    ("gke", "name", "a-name-that-is-too-long-for-accounts"),
    ("gke", "admin_networks", {"all": "0.0.0.0/0"}),
    ("gke", "admin_networks", {}),
    ("gke", "gpu_pool", GPU),
    ("gke", "gpu_zones", ["us-central1-a"]),
    ("gke", "cpu_pool", {"machine_type": "e2-standard-8", "min": 2, "max": 1}),
    ("gke", "namespaces", ["Plates"]),
    ("gke", "store_access_id", "the secret half"),
    ("eks", "region", "eu-central-1a"),
    ("eks", "zones", ["eu-central-1a"]),
    ("eks", "zones", ["eu-central-1a", "eu-west-1a"]),
    ("eks", "admin_networks", ["0.0.0.0/0"]),
    ("eks", "cidr", "10.10.0.0/20"),
    ("eks", "gpu_pool", {"instance_type": "m7i.large", "max": 1}),
    ("eks", "kubernetes_version", "1.20"),
]


def terraform(*arguments: str, cwd: Path, **more: Any) -> Any:
    if not shutil.which("terraform"):
        pytest.skip("terraform is neither a pip nor a Debian package; the workflow ci has it")
    # Nobody's own configuration: it may name folders that are not there.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.run(
        ["terraform", *arguments],
        cwd=cwd,
        env={**environment, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        **more,
    )


def text(module: str) -> str:
    return "\n".join(file.read_text() for file in (FOLDER / "modules" / module).glob("*.tf"))


def test_files_are_formatted() -> None:
    done = terraform("fmt", "-check", "-diff", "-recursive", ".", cwd=FOLDER)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_valid(module: str, tmp_path: Path) -> None:
    provider = {"gke": "google", "eks": "aws"}[module]
    if not list(Path(MIRROR).glob(f"*/hashicorp/{provider}")) or not MIRROR:
        pytest.skip(f"no folder of providers with {provider}: set TERRAFORM_MIRROR")
    folder = shutil.copytree(FOLDER / "modules" / module, tmp_path / module)
    done = terraform("init", "-backend=false", f"-plugin-dir={MIRROR}", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = terraform("validate", "-no-color", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def plan(module: str, folder: Path, given: dict[str, Any]) -> Any:
    """Plan a module's variables alone: that needs no provider."""
    shutil.copy(FOLDER / "modules" / module / "variables.tf", folder)
    (folder / "terraform.tfvars.json").write_text(json.dumps({**GOOD[module], **given}))
    return terraform("plan", "-no-color", "-input=false", cwd=folder)


@pytest.mark.parametrize("module", MODULES)
def test_good_inputs_are_taken(module: str, tmp_path: Path) -> None:
    done = plan(module, tmp_path, {})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("module", "name", "value"), BAD, ids=lambda v: str(v)[:24])
def test_a_wrong_input_is_refused_with_the_remedy(
    module: str, name: str, value: Any, tmp_path: Path
) -> None:
    done = plan(module, tmp_path, {name: value})
    assert done.returncode == 1
    # Terraform breaks the lines of a message.
    said = " ".join(re.sub(r"[│╷╵]", " ", done.stderr).split())
    message = re.search(
        rf'variable "{name}" \{{.*?error_message\s*=\s*"(.*?)"\n', text(module), re.DOTALL
    )
    assert message
    assert message[1].replace('\\"', '"') in said


@pytest.mark.parametrize("module", MODULES)
def test_every_variable_is_described_and_checked(module: str) -> None:
    blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text(module), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    for name, body in blocks:
        assert "description" in body, name
        # There is nothing to check about yes or no.
        assert "error_message" in body or "= bool" in body, name


@pytest.mark.parametrize("module", MODULES)
def test_no_credentials_and_no_place_of_the_state(module: str) -> None:
    found = text(module)
    assert not re.search(r"^(provider|  backend) \"", found, re.MULTILINE)
    assert not re.search(r"secret_key|private_key|password|credentials\s*=", found)
    # Keys of an account would lie in the state.
    assert "google_storage_hmac_key" not in found
    assert "aws_iam_access_key" not in found


@pytest.mark.parametrize("module", MODULES)
def test_gpu_nodes_are_what_the_steps_ask_for(module: str) -> None:
    """Label and taint of the GPU pool; idle it has no nodes."""
    search = (ROOT / "katib" / "experiment-gpu.yaml").read_text()
    label = re.search(r"nodeSelector\n  value:\n    (\S+): (\S+)", search)
    assert label
    assert f'"{label[1]}" = {label[2]}' in text(module)
    for name in ("pipelines/training.py", "katib/experiment-gpu.yaml"):
        assert "nvidia.com/gpu" in (ROOT / name).read_text()
    assert re.search(r'key\s*= "nvidia.com/gpu"', text(module))
    assert re.search(r"gpu\s*= (merge\(var.gpu_pool, )?\{[^}]*min\s*= 0", text(module))


@pytest.mark.parametrize("module", MODULES)
def test_checkov_skips_have_reasons(module: str) -> None:
    for skip in re.findall(r"checkov:skip=(.*)", text(module)):
        number, _, reason = skip.partition(":")
        assert re.fullmatch(r"CKV2?_(AWS|GCP)_\d+", number)
        assert reason.strip()


VALUES = {
    "gke": {
        "project": "plates-prod",
        "location": "europe-west9",
        "cluster": "ours",
        "account": "external-secrets@plates-prod.iam.gserviceaccount.com",
        "access_id": "GOOG1EXAMPLE",
        "bucket": "plates-prod-platecrypt",
        "mlflow": "plates-prod-mlflow",
        "backups": "plates-prod-backups",
        "registry": "europe-west9-docker.pkg.dev/plates-prod/ours",
    },
    "eks": {
        "region": "eu-north-1",
        "role": "arn:aws:iam::123456789012:role/ours-external-secrets",
        "access_id": "AKIAEXAMPLE",
        "bucket": "ours-123456789012-platecrypt",
        "mlflow": "ours-123456789012-mlflow",
        "backups": "ours-123456789012-backups",
        "registry": "123456789012.dkr.ecr.eu-north-1.amazonaws.com/ours",
    },
}
FOREIGN = {
    "gke": ("safelicensing-example", "europe-west1"),
    "eks": ("safelicensing-example", "gcpsm", "iam.gke.io", "storage.googleapis.com"),
}


def keys(value: Any, path: str = "") -> set[str]:
    """Where something stands in a document."""
    if isinstance(value, dict):
        found = {
            key: keys(inner, f"{path}/{key.replace('/', '~1')}") for key, inner in value.items()
        }
        return {path}.union(*found.values())
    if isinstance(value, list):
        return {path}.union(*(keys(inner, f"{path}/{n}") for n, inner in enumerate(value)))
    return {path}


def places(built: str) -> set[str]:
    """The same of all objects; where secrets come from differs between clouds."""
    found = set()
    for document in yaml.load_all(built, Loader=yaml.CSafeLoader):
        meta = document["metadata"]
        name = f"{document['kind']} {meta.get('namespace')}/{meta['name']}"
        found |= keys(document, name)
    return {
        path for path in found if not re.search(r"/spec/provider/|/annotations/(iam|eks)", path)
    }


def secret_store(built: str) -> Any:
    documents = yaml.load_all(built, Loader=yaml.CSafeLoader)
    return next(document for document in documents if document["kind"] == "SecretStore")


@pytest.mark.parametrize("module", MODULES)
def test_the_output_is_an_overlay_of_this_cluster(module: str, tmp_path: Path) -> None:
    """The template that the output `kustomization` fills, rendered and built."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is neither a pip nor a current Debian package")
    template = FOLDER / "modules" / module / "kustomization.yaml.tftpl"
    assert set(re.findall(r"\$\{(\w+)\}", template.read_text())) - {"name"} <= set(VALUES[module])
    (scratch := tmp_path / "scratch").mkdir()
    call = f"base64encode(templatefile({json.dumps(str(template))}, {json.dumps(VALUES[module])}))"
    done = terraform("console", cwd=scratch, input=call)
    assert done.returncode == 0, done.stderr
    for folder in ("infra/kustomize", "kserve", "katib"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (overlay := tmp_path / "infra" / "kustomize" / "overlays" / "ours").mkdir()

    (overlay / "kustomization.yaml").write_bytes(base64.b64decode(done.stdout.strip()))
    built, plain = (
        subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
        for folder in (overlay, overlay.parent / "production")
    )
    assert built.returncode == 0, built.stderr
    # A patch of something that is not there would add it, and nobody would read it.
    assert places(built.stdout) == places(plain.stdout)
    if module == "gke":
        assert keys(secret_store(built.stdout)) == keys(secret_store(plain.stdout))
    for name, value in VALUES[module].items():
        assert value in built.stdout, f"{name} arrives nowhere"
    for leftover in FOREIGN[module]:
        assert leftover not in built.stdout, f"{leftover} is still there"
    used = set(re.findall(r"image: (\S*platecrypt-\S+)", built.stdout))
    ours = {image for image in used if image.startswith(VALUES[module]["registry"])}
    # The pipeline's own images are compiled in: `platecrypt compile --registry`.
    compiled = {image for image in used if re.search(r"-(data|train|deploy):", image)}
    assert used <= ours | compiled
    assert len(ours) >= 3


def test_kind_has_what_the_overlay_needs() -> None:
    cluster = yaml.safe_load((FOLDER / "kind" / "cluster.yaml").read_text())
    assert cluster["networking"]["apiServerAddress"] == "127.0.0.1"
    assert [node["role"] for node in cluster["nodes"]] == ["control-plane", "worker", "worker"]
    for node in cluster["nodes"]:
        assert re.fullmatch(r"docker.io/kindest/node:v1\.\d+\.\d+", node["image"])
        for port in node.get("extraPortMappings", []):
            assert port["listenAddress"] == "127.0.0.1"
