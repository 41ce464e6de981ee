"""What KServe's webhook would refuse is named by its field, all at once."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.deployment.checks import problems

ROOT = Path(__file__).parents[2]
TOPOLOGIES = ("inference_service", "inference_service_split", "inference_service_single")
MODE = "serving.kserve.io/deploymentMode"
SCALER = "serving.kserve.io/autoscalerClass"
CPU = {
    "type": "Resource",
    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
}
QUEUE = {
    "type": "External",
    "external": {
        "metric": {"backend": "prometheus", "query": "up"},
        "target": {"type": "Value", "value": "5"},
    },
}


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "kserve" / "inference_service.yaml").read_text())


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_what_is_shipped_is_right_in_both_modes(topology: str, mode: str) -> None:
    shipped = yaml.safe_load((ROOT / "kserve" / f"{topology}.yaml").read_text())
    shipped["metadata"]["annotations"][MODE] = mode
    assert problems(shipped) == []


def runtime() -> dict[str, Any]:
    return {"modelFormat": {"name": "onnx"}, "runtime": "platecrypt", "storageUri": "s3://a/b"}


WRONG: list[tuple[str, dict[str, str], dict[str, Any], str]] = [
    ("Standard", {}, {"minReplicas": -1}, "spec.predictor.minReplicas: -1"),
    ("Standard", {}, {"maxReplicas": -1}, "spec.predictor.maxReplicas: -1"),
    ("Standard", {}, {"minReplicas": 4}, "spec.predictor.minReplicas: 4 is above"),
    ("Standard", {}, {"minReplicas": 0}, "only Knative and KEDA scale to zero"),
    ("Knative", {}, {"containerConcurrency": -1}, "spec.predictor.containerConcurrency: -1"),
    ("Standard", {}, {"logger": {"mode": "some"}}, "spec.predictor.logger.mode: 'some'"),
    ("Standard", {}, {"canaryTrafficPercent": 10}, "only Knative splits traffic"),
    ("Knative", {}, {"canaryTrafficPercent": 101}, "spec.predictor.canaryTrafficPercent: 101"),
    ("Knative", {}, {"deploymentStrategy": {}}, "spec.predictor.deploymentStrategy: only Standard"),
    ("Knative", {}, {"scaleMetric": "cpu"}, "'cpu': one of concurrency, rps"),
    ("Knative", {}, {"scaleTarget": 0}, "spec.predictor.scaleTarget: 0"),
    ("Standard", {}, {"scaleMetric": "rps"}, "'rps': one of cpu, memory"),
    ("Standard", {}, {"scaleTarget": 101}, "spec.predictor.scaleTarget: 101"),
    ("Standard", {SCALER: "keda"}, {"scaleMetric": "cpu"}, "KEDA takes autoScaling.metrics"),
    ("Standard", {SCALER: "vpa"}, {}, "'vpa': one of hpa, keda, external, none"),
    ("Standard", {}, {"autoScaling": {"metrics": [QUEUE]}}, "'External': one of Resource; set"),
    (
        "Standard",
        {SCALER: "keda"},
        {"autoScaling": {"metrics": [{**QUEUE, "external": {"target": {"value": "1"}}}]}},
        "spec.predictor.autoScaling.metrics[0].external.metric.query: missing",
    ),
    (
        "Standard",
        {SCALER: "keda"},
        {"autoScaling": {"metrics": [{"type": "External"}]}},
        "spec.predictor.autoScaling.metrics[0].external: missing",
    ),
    (
        "Standard",
        {},
        {"autoScaling": {"metrics": [{**CPU, "resource": {"name": "gpu"}}]}},
        "'gpu': cpu or memory",
    ),
    (
        "Standard",
        {},
        {
            "autoScaling": {
                "metrics": [{**CPU, "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]
            }
        },
        "target.averageUtilization: missing for the type Utilization",
    ),
    ("Standard", {}, {"model": runtime()}, "one of model and containers, not model and containers"),
    ("Standard", {}, {"storageUris": [{"uri": "s3://a"}]}, "STORAGE_URI is set already"),
]


@pytest.mark.parametrize(("mode", "annotations", "changes", "said"), WRONG)
def test_what_the_webhook_refuses_is_told(
    document: dict[str, Any],
    mode: str,
    annotations: dict[str, str],
    changes: dict[str, Any],
    said: str,
) -> None:
    document["metadata"]["annotations"].update({MODE: mode, **annotations})
    document["spec"]["predictor"].update(copy.deepcopy(changes))
    (one,) = problems(document)
    assert said in one


def test_what_the_autoscalers_take_is_taken(document: dict[str, Any]) -> None:
    predictor = document["spec"]["predictor"]
    predictor["autoScaling"] = {"metrics": [CPU]}
    assert problems(document) == []
    document["metadata"]["annotations"][SCALER] = "keda"
    predictor.update(minReplicas=0, autoScaling={"metrics": [CPU, QUEUE]})
    assert problems(document) == []
    document["metadata"]["annotations"] = {MODE: "Knative"}
    del predictor["autoScaling"]
    predictor.update(scaleMetric="concurrency", scaleTarget=4, canaryTrafficPercent=10)
    assert problems(document) == []


def test_a_model_of_a_runtime_is_taken(document: dict[str, Any]) -> None:
    document["spec"]["predictor"] = {"model": runtime()}
    assert problems(document) == []
    document["spec"]["predictor"]["model"]["name"] = "plates"
    (one,) = problems(document)
    assert one.startswith("spec.predictor.model.name: KServe sets it")


def test_everything_is_told_at_once(document: dict[str, Any]) -> None:
    document["metadata"] = {"name": "Plates", "annotations": {MODE: "RawDeployment"}}
    predictor = document["spec"]["predictor"]
    transformer = predictor["containers"][1]
    transformer["env"].append({"name": "STORAGE_URI", "value": "s3://a/b"})
    told = problems(document)
    assert [line.split(": ")[0] for line in told] == [
        "metadata.name",
        f"metadata.annotations.{MODE}",
        "spec.predictor.containers[1].env",
    ]
    assert problems({}) != []
