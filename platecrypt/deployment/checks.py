"""What KServe's admission webhook refuses of an InferenceService, and what goes wrong behind it.

The rules are those of KServe 0.18 to 0.21 (`inference_service_validation.go`, `component.go`).
Every mistake is named at once, by its field path, where the webhook tells one at a time.
"""

import re
from collections.abc import Iterator
from typing import Any

from platecrypt.deployment.inference_service import (
    MODE_ANNOTATION,
    MODES,
    PREDICTOR,
    TRANSFORMER,
    InferenceService,
)
from platecrypt.errors import BadInputError
from platecrypt.tuning.fields import integer, items, mapping, rows, text

AUTOSCALER = "serving.kserve.io/autoscalerClass"
KNATIVE_CLASS = "autoscaling.knative.dev/class"
KNATIVE_HPA = "hpa.autoscaling.knative.dev"
AUTOSCALERS = ("hpa", "keda", "external", "none")
STANDARD_METRICS, KNATIVE_METRICS = ("cpu", "memory"), ("concurrency", "rps")
PARTS = ("predictor", "transformer", "explainer")
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 63 - len("-transformer")  # a Service of each part is made
LOGGERS = ("all", "request", "response")
SOURCES = ("Resource", "External", "PodMetric")
STORAGE = "STORAGE_URI"


def problems(document: dict[str, Any]) -> list[str]:
    """Everything that is wrong with an InferenceService, as "field: message"."""
    found = list(_service(document))
    spec = mapping(document.get("spec"))
    if not found and items(mapping(spec.get("predictor")).get("containers")):
        try:
            InferenceService(document)
        except BadInputError as error:
            found.append(f"spec: {error}")
    return found


def _service(document: dict[str, Any]) -> Iterator[str]:
    metadata, spec = mapping(document.get("metadata")), mapping(document.get("spec"))
    name = text(metadata.get("name"))
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield (
            f"metadata.name: {name!r}: at most {LONGEST_NAME} lower-case letters, digits and "
            "dashes, beginning with a letter"
        )
    annotations = mapping(metadata.get("annotations"))
    mode, scaler = annotations.get(MODE_ANNOTATION), annotations.get(AUTOSCALER)
    if mode not in MODES:
        yield (
            f"metadata.annotations.{MODE_ANNOTATION}: {mode!r}: one of {', '.join(MODES)}; it "
            "cannot be changed later"
        )
    if scaler is not None and scaler not in AUTOSCALERS:
        message = f"{scaler!r}: one of {', '.join(AUTOSCALERS)}"
        yield f"metadata.annotations.{AUTOSCALER}: {message}"
    if "predictor" not in spec:
        yield "spec.predictor: missing"
    for part in PARTS:
        if part in spec:
            yield from _part(f"spec.{part}", mapping(spec[part]))
            yield from _scaling(f"spec.{part}", mapping(spec[part]), mode, scaler, annotations)
    yield from _storage(mapping(spec.get("predictor")))


def _part(where: str, part: dict[str, Any]) -> Iterator[str]:
    """What holds for predictor and transformer alike."""
    made_of = [name for name in ("model", "containers") if part.get(name)]
    if len(made_of) != 1:
        yield f"{where}: one of model and containers, not {' and '.join(made_of) or 'none'}"
    if "name" in mapping(part.get("model")):
        yield f"{where}.model.name: KServe sets it, take it out"
    low, high = integer(part.get("minReplicas")), integer(part.get("maxReplicas"))
    for name, value in (("minReplicas", low), ("maxReplicas", high)):
        if value is not None and value < 0:
            yield f"{where}.{name}: {value}: 0 or more"
    if high and high > 0 and (1 if low is None else low) > high:
        yield f"{where}.minReplicas: {1 if low is None else low} is above maxReplicas {high}"
    concurrency = integer(part.get("containerConcurrency"))
    if concurrency is not None and concurrency < 0:
        yield f"{where}.containerConcurrency: {concurrency}: 0 or more"
    logger = part.get("logger")
    if isinstance(logger, dict) and logger.get("mode") not in LOGGERS:
        yield f"{where}.logger.mode: {logger.get('mode')!r}: one of {', '.join(LOGGERS)}"
    percent = integer(part.get("canaryTrafficPercent"))
    if percent is not None and not 0 <= percent <= 100:
        yield f"{where}.canaryTrafficPercent: {percent}: 0 to 100"


def _scaling(
    where: str, part: dict[str, Any], mode: object, scaler: object, annotations: dict[str, Any]
) -> Iterator[str]:
    """What each autoscaler takes: HPA and KEDA with Standard, Knative's own with Knative."""
    low = integer(part.get("minReplicas"))
    to_zero = mode == "Knative" or scaler in ("keda", "external", "none")
    if low == 0 and not to_zero:
        yield f"{where}.minReplicas: 0: only Knative and KEDA scale to zero; 1 or more"
    if mode != "Knative":
        if "canaryTrafficPercent" in part:
            yield f"{where}.canaryTrafficPercent: only Knative splits traffic so; take it out"
        yield from _standard(where, part, keda=scaler == "keda")
        return
    if "deploymentStrategy" in part:
        yield f"{where}.deploymentStrategy: only Standard has one; take it out"
    if annotations.get(KNATIVE_CLASS) == KNATIVE_HPA:
        yield from _standard(where, part, keda=False)
        return
    metric, target = part.get("scaleMetric"), integer(part.get("scaleTarget"))
    if metric is not None and metric not in KNATIVE_METRICS:
        yield f"{where}.scaleMetric: {metric!r}: one of {', '.join(KNATIVE_METRICS)}"
    if target is not None and target < 1:
        yield f"{where}.scaleTarget: {target}: 1 or more"


def _standard(where: str, part: dict[str, Any], *, keda: bool) -> Iterator[str]:
    """What a HorizontalPodAutoscaler takes, made by KServe or by KEDA."""
    metric, target = part.get("scaleMetric"), integer(part.get("scaleTarget"))
    if keda:
        if metric is not None:
            yield f"{where}.scaleMetric: KEDA takes autoScaling.metrics instead; take it out"
    elif metric is not None and metric not in STANDARD_METRICS:
        yield f"{where}.scaleMetric: {metric!r}: one of {', '.join(STANDARD_METRICS)}"
    elif target is not None and (target < 1 or (metric in (None, "cpu") and target > 100)):
        yield f"{where}.scaleTarget: {target}: 1 to 100, a percentage"
    for index, row in rows(mapping(part.get("autoScaling")).get("metrics")):
        yield from _metric(f"{where}.autoScaling.metrics[{index}]", row, keda=keda)


def _metric(where: str, row: dict[str, Any], *, keda: bool) -> Iterator[str]:
    kind = row.get("type")
    allowed = SOURCES if keda else SOURCES[:1]
    if kind not in allowed:
        note = "" if keda else f"; set {AUTOSCALER}: keda for others"
        yield f"{where}.type: {kind!r}: one of {', '.join(allowed)}{note}"
        return
    field = {"Resource": "resource", "External": "external", "PodMetric": "podmetric"}[str(kind)]
    source = mapping(row.get(field))
    if not source:
        yield f"{where}.{field}: missing for the type {kind}"
        return
    target = mapping(source.get("target"))
    if kind == "Resource":
        if source.get("name") not in STANDARD_METRICS:
            yield f"{where}.resource.name: {source.get('name')!r}: cpu or memory"
    else:
        if not text(mapping(source.get("metric")).get("query")):
            yield f"{where}.{field}.metric.query: missing"
        if target.get("value") is None:
            yield f"{where}.{field}.target.value: missing: the threshold"
    wanted = {
        "Utilization": "averageUtilization",
        "AverageValue": "averageValue",
        "Value": "value",
    }.get(text(target.get("type")))
    if wanted and target.get(wanted) is None:
        yield f"{where}.{field}.target.{wanted}: missing for the type {target['type']}"
    percent = integer(target.get("averageUtilization"))
    if percent is not None and not 1 <= percent <= 100:
        yield f"{where}.{field}.target.averageUtilization: {percent}: 1 to 100"


def _storage(predictor: dict[str, Any]) -> Iterator[str]:
    """Where the model comes from: said once, and never at the transformer."""
    for index, container in rows(predictor.get("containers")):
        name = container.get("name")
        given = [text(row.get("name")) for _, row in rows(container.get("env"))]
        if name == TRANSFORMER and STORAGE in given:
            yield f"spec.predictor.containers[{index}].env: {STORAGE} belongs to {PREDICTOR}"
        if name == PREDICTOR and STORAGE in given and predictor.get("storageUris"):
            yield f"spec.predictor.storageUris: {STORAGE} is set already; one of them"
    model = mapping(predictor.get("model"))
    if model.get("storageUri") and (model.get("storageUris") or predictor.get("storageUris")):
        yield "spec.predictor.storageUris: model.storageUri is set already; one of them"
