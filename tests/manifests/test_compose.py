"""The services for one machine with Docker: hardened, and the same as the cluster's."""

import json
import os
import re
import runpy
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.settings import Settings, load
from platecrypt.storage import ObjectStore
from platecrypt.tracking import Tracker

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "compose"
KUSTOMIZE = ROOT / "infra" / "kustomize"
MONITORING = KUSTOMIZE / "components" / "monitoring"
CONTENT = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = CONTENT["services"]
OURS = {name for name, service in SERVICES.items() if "platecrypt-" in service["image"]}
ENDPOINT = yaml.safe_load((ROOT / "kserve" / "inference_service.yaml").read_text())
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL")
WAITED_FOR = {"service_healthy", "service_completed_successfully"}


def by_name(name: str) -> dict[str, Any]:
    (found,) = (c for c in ENDPOINT["spec"]["predictor"]["containers"] if c["name"] == name)
    return dict(found)


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


def arguments(container: dict[str, Any]) -> list[str]:
    """Command and arguments of a container, its variables filled in."""
    known = variables(container)
    words = [*container["command"], *container["args"]]
    return [re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], word) for word in words]


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "devices"}
    limits = service["deploy"]["resources"]["limits"]
    assert limits["cpus"]
    assert limits["memory"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), f"{port} is open to the network"
    tag = service["image"].rpartition(":")[2]
    assert tag not in ("latest", "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_checked_and_waits_for_what_it_needs(name: str) -> None:
    service = SERVICES[name]
    ends = service["restart"] in ("no", "on-failure")
    # An image of ours has a health check in its Dockerfile (test_images.py).
    assert ends or name in OURS or "healthcheck" in service
    for other, how in service.get("depends_on", {}).items():
        assert how["condition"] in WAITED_FOR
        ends = SERVICES[other]["restart"] in ("no", "on-failure")
        assert ends == (how["condition"] == "service_completed_successfully")


def test_what_is_mounted_and_used_is_there() -> None:
    volumes = set()
    secrets = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), source
                assert volume.endswith(":ro"), f"{volume} could be written to"
            else:
                volumes.add(source)
        secrets |= {s if isinstance(s, str) else s["source"] for s in service.get("secrets", [])}
    assert volumes == set(CONTENT["volumes"])
    assert secrets == set(CONTENT["secrets"])


def test_secrets_are_files_and_git_does_not_see_them(tmp_path: Path) -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET_NAME.search(variable):
                assert variable.endswith("_FILE"), f"{name} has a secret in {variable}"
                assert value.startswith("/run/secrets/")
                assert value.rpartition("/")[2] in service["secrets"]
    script = tmp_path / "secrets.sh"
    script.write_bytes((FOLDER / "secrets.sh").read_bytes())
    script.chmod(0o755)
    subprocess.run([script], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    wanted = {Path(entry["file"]) for entry in CONTENT["secrets"].values()}
    assert set(made) == {path.name for path in wanted if path.parent == Path("secrets")}
    assert all(re.fullmatch(r"\w{32}", value) for value in made.values())
    assert len(set(made.values())) == len(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    owner = (tmp_path / ".env").read_text()
    assert owner == f"KEYRING_OWNER={os.getuid()}:{os.getgid()}\n"
    subprocess.run([script], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made
    assert {"secrets/", ".env"} <= set((FOLDER / ".gitignore").read_text().splitlines())


@pytest.mark.parametrize(
    ("service", "container"),
    [("predictor", "kserve-container"), ("transformer", "transformer-container")],
)
def test_the_endpoint_starts_as_on_the_cluster(service: str, container: str) -> None:
    here, there = SERVICES[service], by_name(container)
    command = [word.replace("${MODEL_VERSION:-0}", "0") for word in here["command"]]
    # In a pod the two share an address; here the predictor is another machine.
    wanted = [word.replace("=127.0.0.1:", "=predictor:") for word in arguments(there)]
    assert command == wanted
    kept = {k: v for k, v in variables(there).items() if k.startswith("MALLOC_")}
    assert here["environment"] == kept
    assert f"}}platecrypt-{service}:" in here["image"]
    assert here["deploy"]["resources"]["limits"] == {
        "cpus": there["resources"]["limits"]["cpu"],
        "memory": there["resources"]["limits"]["memory"].replace("Gi", "g"),
    }


def test_images_of_others_are_those_of_the_cluster() -> None:
    used = set(
        re.findall(r"image: (\S+)", "".join(p.read_text() for p in KUSTOMIZE.rglob("*.yaml")))
    )
    same = {name for name in SERVICES if name not in OURS} - {"prometheus", "grafana"}
    assert {SERVICES[name]["image"] for name in same} <= used


def test_stores_are_set_as_on_the_cluster() -> None:
    """Settings that are no secret and no address are the same."""
    stack = KUSTOMIZE / "components" / "mlflow" / "stack" / "mlflow.yaml"
    (server,) = (d for d in documents(stack) if d["kind"] == "Deployment")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    there = {v["name"]: v.get("value") for v in container["env"]}
    here = SERVICES["mlflow"]["environment"]
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "AWS_DEFAULT_REGION"):
        assert here[name] == there[name]
    # The bootstrap script names the store, and the users by their files.
    script = KUSTOMIZE / "components" / "object-store-minio" / "bootstrap.sh"
    endpoint = re.search(r"^endpoint=http://([\w-]+):(\d+)$", script.read_text(), re.MULTILINE)
    assert endpoint
    assert endpoint[1] in SERVICES
    assert f":{endpoint[2]}" in " ".join(SERVICES[endpoint[1]]["command"])
    users = re.search(r"for user in (.*); do", script.read_text())
    assert users
    targets = [s["target"] for s in SERVICES["object-store-bootstrap"]["secrets"] if "target" in s]
    assert [target.rpartition("/")[2] for target in targets] == users[1].split()


def converted(folder: Path) -> dict[str, Any]:
    """The rules files, made by the very line that the service runs."""
    (script,) = SERVICES["prometheus"]["command"]
    script = script.replace("$$", "$").replace("/tmp/rules", str(folder / "rules"))
    script = script.replace("/objects", str(MONITORING)).partition("exec ")[0]
    subprocess.run(["/bin/sh", "-ec", script], check=True)
    return {path.name: yaml.safe_load(path.read_text()) for path in (folder / "rules").iterdir()}


def test_prometheus_has_the_rules_of_the_cluster(tmp_path: Path) -> None:
    rules = converted(tmp_path)
    objects = {path.name: documents(path) for path in MONITORING.glob("rules-*.yaml")}
    assert rules.keys() == objects.keys()
    assert len(rules) >= 2
    for name, (document,) in objects.items():
        assert rules[name] == document["spec"]


def test_prometheus_scrapes_what_is_here_under_the_names_of_the_cluster() -> None:
    text = (FOLDER / "prometheus.yml").read_text()
    monitors = "".join(path.read_text() for path in MONITORING.rglob("*-monitor*.yaml"))
    for job in yaml.safe_load(text)["scrape_configs"]:
        name = job["job_name"]
        for target in (t for config in job["static_configs"] for t in config["targets"]):
            host, _, port = target.partition(":")
            if name == "prometheus":
                continue
            assert f"replacement: {name}\n" in monitors
            assert host in SERVICES
            assert port in " ".join(SERVICES[host]["command"])
        path = job.get("metrics_path", "/metrics")
        assert name == "prometheus" or f"path: {path}\n" in monitors


def test_grafana_shows_the_dashboards_of_the_cluster() -> None:
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"]
    folder = provider["options"]["path"]
    (source,) = (v for v in SERVICES["grafana"]["volumes"] if v.endswith(f":{folder}:ro"))
    found = list((FOLDER / source.split(":")[0]).glob("*.json"))
    assert len(found) >= 3
    (datasource,) = yaml.safe_load((FOLDER / "grafana" / "datasource.yaml").read_text())[
        "datasources"
    ]
    for path in found:
        kinds = re.findall(r'"type": *"(\w+)", *"uid": *"\$\{datasource\}"', path.read_text())
        assert set(kinds) <= {datasource["type"]}
        assert json.loads(path.read_text())["title"]


def test_the_pipeline_is_pointed_at_these_services(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (FOLDER / "pipeline.env").read_text().splitlines()
    for line in lines:
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    settings = load()  # a misspelt name is refused
    ports = {port.rsplit(":", 2)[1] for s in SERVICES.values() for port in s.get("ports", [])}
    for url in (settings.s3_endpoint, settings.mlflow_tracking_uri):
        assert url
        assert url.rpartition(":")[2] in ports
    assert str(settings.port) not in ports
    assert settings.s3_access_key == SERVICES["model"]["environment"]["PLATECRYPT_S3_ACCESS_KEY"]
    assert settings.s3_secret_key_file == Path("infra/compose/secrets/store-plates")


@pytest.mark.slow
def test_the_champions_file_is_fetched(
    settings: Settings, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fetch_model.py` against a real store and a real registry."""
    import hashlib

    from platecrypt.training.steps import model_key

    data = b"an ONNX file"
    digest = hashlib.sha256(data).hexdigest()
    store.put(model_key(digest), data)
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    script = runpy.run_path(str(FOLDER / "fetch_model.py"))
    with pytest.raises(SystemExit, match="no champion"):
        script["fetch"](tmp_path)
    tracker = Tracker(settings)
    (folder := tmp_path / "model").mkdir()
    (folder / "model.onnx").write_bytes(data)
    run = tracker.begin("train")
    tags = {"model_digest": digest, "dataset_digest": "d" * 64}
    version = tracker.register_model(run, folder, tags)
    tracker.set_alias("champion", version.version)
    assert script["fetch"](tmp_path).endswith(f"version {version.version}")
    assert (tmp_path / "model.onnx").read_bytes() == data
    store.put(model_key(digest), b"something else")
    with pytest.raises(SystemExit, match="not the one that was registered"):
        script["fetch"](tmp_path)
