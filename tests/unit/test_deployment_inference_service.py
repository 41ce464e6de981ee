"""The InferenceService that is shipped is one that KServe takes and that the runner understands."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.deployment import InferenceService
from platecrypt.deployment.inference_service import expand
from platecrypt.errors import BadInputError

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "kserve" / "inference_service.yaml"
CRDS = ROOT.parent / "shared" / "crds"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load(MANIFEST.read_text())


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as `kubectl --validate=strict` refuses them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    new = {key: closed(value) for key, value in schema.items()}
    fields = schema.get("properties")
    open_ended = "additionalProperties" in schema or schema.get(
        "x-kubernetes-preserve-unknown-fields"
    )
    if isinstance(fields, dict) and "type" in schema and not open_ended:
        new["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        new.pop("type", None)
        new["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return new


def spec_schema(crd: Path, version: str = "v1beta1") -> Any:
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(crd.read_text(), Loader=fast)  # noqa: S506 - both loaders are safe ones
    (found,) = [v for v in definition["spec"]["versions"] if v["name"] == version]
    return closed(found["schema"]["openAPIV3Schema"]["properties"]["spec"])


@pytest.mark.parametrize("folder", [".", "kserve-0.18"])
def test_the_schema_of_kserve_takes_it(document: dict[str, Any], folder: str) -> None:
    crd = CRDS / folder / "inferenceservices.serving.kserve.io.yaml"
    if not crd.exists():
        pytest.skip("the folder with KServe's CRDs is not beside this checkout")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(spec_schema(crd))
    validator.validate(document["spec"])
    broken = copy.deepcopy(document["spec"])
    broken["predictor"]["containers"][0]["comand"] = ["python"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        validator.validate(broken)


def test_it_says_how_it_is_deployed_and_where_the_model_comes_from(
    document: dict[str, Any],
) -> None:
    service = InferenceService(document)
    assert service.name == "plates"
    annotations = document["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert service.predictor.resolved_environment()["STORAGE_URI"].startswith("s3://")
    assert "--model_version=0" in service.predictor.argv()


TOPOLOGIES = {
    "collocated": "inference_service.yaml",
    "split": "inference_service_split.yaml",
    "single": "inference_service_single.yaml",
}


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("folder", [".", "kserve-0.18"])
def test_each_topology_is_one_that_kserve_takes(topology: str, folder: str) -> None:
    path = ROOT / "kserve" / TOPOLOGIES[topology]
    assert InferenceService.load(path).topology == topology
    crd = CRDS / folder / "inferenceservices.serving.kserve.io.yaml"
    if not crd.exists():
        pytest.skip("the folder with KServe's CRDs is not beside this checkout")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = jsonschema.Draft202012Validator(spec_schema(crd))
    schema.validate(yaml.safe_load(path.read_text())["spec"])


def runtimes() -> dict[str, Any]:
    text = (ROOT / "kserve" / "serving_runtimes.yaml").read_text()
    found = {item["metadata"]["name"]: item for item in yaml.safe_load_all(text) if item}
    return {name.removeprefix("platecrypt-"): item for name, item in found.items()}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_runtime_of_a_topology_runs_the_same_containers(topology: str) -> None:
    service = yaml.safe_load((ROOT / "kserve" / TOPOLOGIES[topology]).read_text())
    pod, runtime = service["spec"]["predictor"], runtimes()[topology]["spec"]
    for container in pod["containers"]:
        # KServe sets it from `storageUri` where a runtime is named.
        container["env"] = [v for v in container.get("env", []) if v["name"] != "STORAGE_URI"]
        # A runtime has no context for the pod, so each container has the pod's; without an fsGroup
        # a key of mode 0400 would be root's alone.
        whole = {k: v for k, v in pod["securityContext"].items() if k != "fsGroup"}
        container["securityContext"] |= whole
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o400
            volume["secret"]["defaultMode"] = 0o444
    assert runtime["containers"] == pod["containers"]
    assert runtime["volumes"] == pod["volumes"]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_container_that_lacks_a_key_is_not_killed_for_it(topology: str) -> None:
    """It is not ready, and goes on by itself when the key is back."""
    service = yaml.safe_load((ROOT / "kserve" / TOPOLOGIES[topology]).read_text())["spec"]
    pods = [part for part in service.values() if "containers" in part]
    for container in [c for pod in pods for c in pod["containers"]]:
        assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_each_runtime_is_one_that_kserve_takes(topology: str) -> None:
    runtime = runtimes()[topology]["spec"]
    crd = CRDS / "servingruntimes.serving.kserve.io.yaml"
    if not crd.exists():
        pytest.skip("the folder with KServe's CRDs is not beside this checkout")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = jsonschema.Draft202012Validator(spec_schema(crd, "v1alpha1"))
    schema.validate(runtime)
    runtime["containers"][0]["comand"] = ["python"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        schema.validate(runtime)


def test_the_predictor_outlives_the_transformer_of_its_pod() -> None:
    service = InferenceService.load(MANIFEST)
    seconds = [
        float(container.resolved_environment()["DRAIN_SECONDS"])
        for container in (service.transformer, service.predictor)
    ]
    patience = 10  # --predictor_request_timeout_seconds
    assert seconds[0] + patience < seconds[1]
    assert all("--drain_seconds=" in " ".join(c.args) for c in (service.transformer,))


def test_variables_are_replaced_and_none_is_added() -> None:
    container = InferenceService.load(MANIFEST).transformer
    changed = container.with_values({"DRAIN_SECONDS": "0", "NOBODY": "1"})
    assert "--drain_seconds=0" in changed.argv()
    assert "NOBODY" not in changed.resolved_environment()


def test_the_wires_between_the_containers_fit() -> None:
    service = InferenceService.load(MANIFEST)
    grpc = service.predictor.ports["grpc-predictor"]
    assert f"--grpc_port={grpc}" in service.predictor.args
    assert f"--predictor_host=127.0.0.1:{grpc}" in service.transformer.args
    assert "--predictor_protocol=grpc-v2" in service.transformer.args
    for container in (service.predictor, service.transformer):
        assert f"--http_port={container.readiness.port}" in container.args


def test_the_keys_are_a_secret_that_nobody_else_reads(document: dict[str, Any]) -> None:
    pod = document["spec"]["predictor"]
    (keys,) = [volume for volume in pod["volumes"] if "secret" in volume]
    assert keys["secret"]["defaultMode"] == 0o400
    mounted = {
        container["name"]
        for container in pod["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == keys["name"] and mount["readOnly"]
    }
    assert mounted == {"transformer-container"}


def test_the_containers_run_restricted(document: dict[str, Any]) -> None:
    pod = document["spec"]["predictor"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_another_model_changes_only_what_names_it(document: dict[str, Any]) -> None:
    service = InferenceService(document)
    changed = service.with_model(version="7", storage_uri="s3://b/m/7")
    assert changed.predictor.resolved_environment()["STORAGE_URI"] == "s3://b/m/7"
    assert "--model_version=7" in changed.predictor.argv()
    assert service.predictor.resolved_environment()["MODEL_VERSION"] == "0"
    assert yaml.safe_load(changed.to_yaml())["metadata"] == document["metadata"]


def test_references_expand_as_in_kubernetes() -> None:
    values = {"A": "1", "B_2": "$(A)"}
    assert expand("x$(A)y$(B_2)", values) == "x1y$(A)"
    assert expand("$$(A) $(missing) $A", values) == "$(A) $(missing) $A"


def first(document: dict[str, Any], number: int = 0) -> Any:
    return document["spec"]["predictor"]["containers"][number]


MODE = {"serving.kserve.io/deploymentMode": "RawDeployment"}
BREAKS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "kind": (lambda d: d.update(kind="Deployment"), "Deployment"),
    "no annotation": (lambda d: d["metadata"].pop("annotations"), "deploymentMode"),
    "old mode": (lambda d: d["metadata"].update(annotations=MODE), "RawDeployment"),
    "one container": (lambda d: d["spec"]["predictor"]["containers"].pop(), "transformer-cont"),
    "renamed": (lambda d: first(d, 1).update(name="transformer"), "transformer-container"),
    "no command": (lambda d: first(d).pop("command"), "command"),
    "no probe": (lambda d: first(d).pop("readinessProbe"), "probe"),
    "probe elsewhere": (lambda d: first(d)["readinessProbe"]["httpGet"].update(port=1), "probe"),
    "no such volume": (lambda d: d["spec"]["predictor"]["volumes"].pop(0), "keys"),
    "no spec": (lambda d: d.pop("spec"), "spec"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_document_is_refused_in_one_line(
    document: dict[str, Any], tmp_path: Path, name: str
) -> None:
    break_it, word = BREAKS[name]
    break_it(document)
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(BadInputError, match=word) as caught:
        InferenceService.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "\x00", "just text"])
def test_what_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"service\.yaml"):
        InferenceService.load(path)
    with pytest.raises(BadInputError, match=r"gone\.yaml"):
        InferenceService.load(tmp_path / "gone.yaml")


def test_what_only_a_cluster_has_is_refused_with_a_remedy(document: dict[str, Any]) -> None:
    document["spec"]["predictor"]["containers"][0]["env"].append(
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    )
    with pytest.raises(BadInputError, match=r"TOKEN comes from secretKeyRef.*give it a value"):
        InferenceService(document).predictor.resolved_environment()
