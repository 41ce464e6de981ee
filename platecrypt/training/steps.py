"""The pipeline steps that train, evaluate and register."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from platecrypt.artifacts import Artifact, describe, digest_of, write_metrics, write_page
from platecrypt.datasets.manifest import Manifest
from platecrypt.datasets.steps import DATASET, load_manifest
from platecrypt.datasets.training_set import TrainingSet, parse_training_set
from platecrypt.errors import RefusedError
from platecrypt.progress import progress
from platecrypt.settings import Settings
from platecrypt.steps import library_digest, say, step
from platecrypt.storage import ObjectStore
from platecrypt.tracking import ModelVersion, Tracker
from platecrypt.tracking.tracker import TUNING_RUN
from platecrypt.training import card
from platecrypt.training.curves import curves_page
from platecrypt.training.evaluate import (
    HIGHEST_THRESHOLD,
    Evaluation,
    Looked,
    working_threshold,
)
from platecrypt.training.evaluate import evaluate as measure
from platecrypt.training.export import agreement, export_onnx, write_threshold
from platecrypt.training.gate import Thresholds, judge, load_gate_key, sign, verify_verdict
from platecrypt.training.recipe import choose_image_size, recipe_for
from platecrypt.training.report import to_html
from platecrypt.training.train import EpochMetrics
from platecrypt.training.train import train as run_training
from platecrypt.training.yolo_folder import YoloFolder, materialise

RUN_ID = "run_id"
MODEL_DIGEST = "model_digest"
ONNX, WEIGHTS, CURVES = "model.onnx", "model.pt", "curves.csv"


class ConfusionArtifact(Artifact, Protocol):
    """An artifact that the dashboard draws as a confusion matrix."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Rows are the truth, columns what was said."""


LEAST_LEARNED = 0.01
"""mAP50-95 under which a trial has learned nothing."""


@step
def train(
    settings: Settings,
    manifest: Artifact,
    training_set: Artifact,
    best: Artifact,
    training_steps: int,
    image_size: int,
    pretrained: str,
    seed: int,
    model: Artifact,
    curves: Artifact,
    metrics: Artifact,
) -> None:
    """Train, export to ONNX, and insist that both models see the same."""
    dataset, selected = load_manifest(manifest), load_training_set(training_set)
    tuned = _tuned(Path(best.path))
    values: dict[str, Any] = {"seed": seed}
    start_from = _earlier_weights(settings, pretrained) if pretrained.isdigit() else None
    values = {**values, "pretrained": "never" if start_from else pretrained}
    recipe = recipe_for(image_size or choose_image_size(dataset.split("train")))
    values |= {"steps": training_steps} if training_steps else {}
    recipe = recipe.with_values({**tuned, **values})
    folder = _local_copy(settings, dataset, selected)
    out = Path(model.path)
    out.mkdir(parents=True, exist_ok=True)
    tags = {
        DATASET: dataset.digest,
        "training_set_digest": selected.digest,
        "feature_service": selected.feature_service,
        "tuning": str(best.metadata.get("sha256", "")),
        TUNING_RUN: str(best.metadata.get(TUNING_RUN, "")),
        "library": library_digest(),
        "git_commit": card.git_commit(settings.root),
    }
    with Tracker(settings).start_run(f"train-{dataset.digest[:8]}", tags=tags) as run:
        run.log_params(asdict(recipe))
        result = run_training(
            folder.data_yaml,
            recipe,
            out,
            on_epoch=lambda epoch: _say_epoch(epoch, recipe.image_size),
            weights_dir=settings.home / "cache" / "weights",
            start_from=start_from,
        )
        run.log_curve([_curve(epoch) for epoch in result.curves])
        config = settings.home / "cache" / "ultralytics"
        onnx = export_onnx(
            out / WEIGHTS, out / ONNX, image_size=result.image_size, config_dir=config
        )
        threshold = _choose_threshold(onnx, dataset, folder)
        say(f"works at a threshold of {threshold:g}, chosen on the validation split")
        held_out = [folder.image_path(image) for image in dataset.split("test")]
        agreed = agreement(out / WEIGHTS, onnx, held_out, config_dir=config)
        say(
            f"ONNX agrees with PyTorch on {agreed.boxes} boxes: {agreed.max_box_diff_px:.3f} px, "
            f"score {agreed.max_score_diff:.6f}"
        )
        figures = {
            **{f"last_{name}": value for name, value in _curve(result.curves[-1]).items()},
            "train_seconds": result.seconds,
            "onnx_box_diff_px": agreed.max_box_diff_px,
            "onnx_score_diff": agreed.max_score_diff,
            "threshold": threshold,
        }
        run.log_metrics(figures)
        page = curves_page(result, recipe)
        write_page(settings, curves, "curves", page, {DATASET: dataset.digest})
        run.log_artifact(Path(curves.path), "curves")
        (out / card.NAME).write_text(card.make(dataset, selected, recipe, result, figures, tags))
        run.log_artifact(out / card.NAME)
    write_metrics(metrics, figures)
    describe(
        model,
        {
            **tags,
            RUN_ID: run.run_id,
            MODEL_DIGEST: digest_of(onnx),
            "image_size": result.image_size,
        },
    )


def _tuned(best: Path) -> dict[str, Any]:
    """The parameters that the search found; none where no trial learned anything.

    Short trials on hard pictures all end near zero: which of them is best then is chance.
    """
    found: dict[str, Any] = json.loads(best.read_text())
    parameters: dict[str, Any] = found["parameters"]
    value = (found.get("search") or {}).get("best_value")
    if parameters and value is not None and value < LEAST_LEARNED:
        say(f"no trial learned anything (best {value:.3f}): the recipe for the size is used")
        return {}
    return parameters


def _choose_threshold(onnx: Path, dataset: Manifest, folder: YoloFolder) -> float:
    """Choose the working threshold on the validation split, and write it into the model."""
    threshold = HIGHEST_THRESHOLD
    if any(image.plates for image in dataset.split("val")):
        seen = measure(onnx, dataset, folder.image_path, split="val")
        threshold = working_threshold(seen.curve)
    write_threshold(onnx, threshold)
    return threshold


@step
def find_champion(settings: Settings, model: Artifact) -> str:
    """The version that the new model must beat, or ''.

    The model may be the champion itself, when nothing changed since it was trained: then there is
    nobody to beat.
    """
    champion = Tracker(settings).champion()
    if champion is None or champion.model_digest == model.metadata[MODEL_DIGEST]:
        say("no other champion to beat")
        return ""
    say(f"the champion to beat is version {champion.version}")
    return str(champion.version)


@step
def evaluate(
    settings: Settings,
    manifest: Artifact,
    training_set: Artifact,
    model: Artifact,
    champion: str,
    min_map50: float,
    min_recall: float,
    verdict: Artifact,
    metrics: Artifact,
    curve: ConfusionArtifact,
    report: Artifact,
) -> None:
    """Measure on the held-out split and write the verdict; a failed verdict is a result too."""
    dataset, selected = load_manifest(manifest), load_training_set(training_set)
    folder = _local_copy(settings, dataset, selected)
    looked: list[Looked] = []
    found = measure(Path(model.path) / ONNX, dataset, folder.image_path, on_image=looked.append)
    rival = _evaluate_champion(settings, champion, dataset, folder)
    decided = judge(
        found,
        Thresholds(min_map50=min_map50, min_recall=min_recall),
        rival,
        model_digest=model.metadata[MODEL_DIGEST],
        dataset_digest=dataset.digest,
    )
    Path(verdict.path).write_bytes(sign(decided, load_gate_key(settings.gate_key_path)))
    origin = {DATASET: dataset.digest, MODEL_DIGEST: model.metadata[MODEL_DIGEST]}
    describe(verdict, {**origin, "passed": decided.passed})
    write_metrics(metrics, found.metrics())
    write_page(settings, report, "evaluation", to_html(found, looked), origin)
    _write_confusion(curve, found)
    run = Tracker(settings).resume(model.metadata[RUN_ID])
    run.log_metrics({f"test/{name}": value for name, value in found.metrics().items()})
    run.log_artifact(Path(verdict.path), "verdict")
    run.log_artifact(Path(report.path), "evaluation")
    for part in (found.overall, *found.slices):
        say(_slice_line(part.name, part.images, part.plates, part.map50, part.recall))
    outcome = "pass" if decided.passed else f"fail: {'; '.join(decided.reasons)}"
    say(f"verdict: {outcome}")


@step
def register(settings: Settings, model: Artifact, verdict: Artifact) -> str:
    """Register the model as challenger, and put what serves into the object store."""
    folder = Path(model.path)
    digest = check_verdict(settings, model, verdict)
    store = ObjectStore(settings.store())
    store.put(model_key(digest), (folder / ONNX).read_bytes())
    store.put(f"models/{digest}/{card.NAME}", (folder / card.NAME).read_bytes())
    tracker = Tracker(settings)
    names = (DATASET, "training_set_digest", "feature_service", "git_commit")
    tags = {name: str(model.metadata[name]) for name in names}
    version = tracker.register_model(model.metadata[RUN_ID], folder, {**tags, MODEL_DIGEST: digest})
    if "champion" not in version.aliases:
        tracker.set_alias("challenger", version.version)
    say(f"{version.name} version {version.version} ({', '.join(_aliases(tracker, version))})")
    return str(version.version)


def check_verdict(settings: Settings, model: Artifact, verdict: Artifact) -> str:
    """The model's digest, if its bytes have it and a passing verdict is about it.

    Raises:
        RefusedError: they have not, or it is not.
    """
    digest = digest_of(Path(model.path) / ONNX)
    if digest != model.metadata[MODEL_DIGEST]:
        raise RefusedError(
            f"{ONNX} has the digest {digest}, the model that was trained has "
            f"{model.metadata[MODEL_DIGEST]}: it was changed"
        )
    verify_verdict(
        Path(verdict.path).read_bytes(),
        load_gate_key(settings.gate_key_path),
        model_digest=digest,
        dataset_digest=model.metadata[DATASET],
    )
    return digest


def load_training_set(artifact: Artifact) -> TrainingSet:
    """The training set of an artifact, checked against its digest."""
    found = parse_training_set(Path(artifact.path).read_bytes())
    said = artifact.metadata.get("training_set_digest")
    if found.digest != said:
        raise RefusedError(f"the training set has the digest {found.digest}, not {said}")
    return found


def model_key(digest: str) -> str:
    """Where the ONNX file of that digest lives in the object store."""
    return f"models/{digest}/{ONNX}"


def _local_copy(settings: Settings, dataset: Manifest, selected: TrainingSet) -> YoloFolder:
    store = ObjectStore(settings.store())
    with progress("fetching images") as bar:
        return materialise(
            store, dataset, selected, settings.home / "cache" / "datasets", progress=bar
        )


def _registered(settings: Settings, version: str) -> Path:
    """The files of a registered version, on this machine."""
    tracker = Tracker(settings)
    found = tracker.version(int(version))
    return tracker.download_model(found, settings.home / "cache" / "models" / found.model_digest)


def _earlier_weights(settings: Settings, version: str) -> Path:
    weights = _registered(settings, version) / WEIGHTS
    say(f"training goes on from version {version}")
    return weights


def _evaluate_champion(
    settings: Settings, champion: str, dataset: Manifest, folder: YoloFolder
) -> Evaluation | None:
    if not champion:
        return None
    return measure(_registered(settings, champion) / ONNX, dataset, folder.image_path)


def _write_confusion(curve: ConfusionArtifact, found: Evaluation) -> None:
    """Plates against background: a detector has no count of true negatives, so it stays 0."""
    whole = found.overall
    matrix = [[whole.hits, whole.missed], [whole.false, 0]]
    Path(curve.path).write_text(json.dumps({"plate, background": matrix}))
    curve.log_confusion_matrix(["plate", "background"], matrix)
    describe(curve, {MODEL_DIGEST: found.model_digest})


def _aliases(tracker: Tracker, version: ModelVersion) -> tuple[str, ...]:
    return tracker.version(version.version).aliases


def _curve(epoch: EpochMetrics) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in asdict(epoch).items()
        if name not in ("epoch", "epochs", "seconds")
    }


def _say_epoch(epoch: EpochMetrics, image_size: int) -> None:
    if epoch.epoch == epoch.epochs or epoch.epoch % max(1, epoch.epochs // 8) == 0:
        say(
            f"epoch {epoch.epoch}/{epoch.epochs} at {image_size} px: mAP50 {epoch.map50:.3f}, "
            f"box loss {epoch.box_loss:.2f}, {epoch.seconds:.0f} s"
        )


def _slice_line(
    name: str, images: int, plates: int, map50: float | None, recall: float | None
) -> str:
    shown = " ".join(
        f"{label} {'-' if value is None else format(value, '.3f')}"
        for label, value in (("mAP50", map50), ("recall", recall))
    )
    return f"{name:<6} {images:>4} images {plates:>4} plates  {shown}"
