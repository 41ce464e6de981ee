"""What people read after a run: the summary, and the chain from the endpoint back to the images."""

import html
from datetime import UTC, datetime
from typing import Any

from platecrypt.artifacts import Artifact, write_page
from platecrypt.datasets.manifest import manifest_key, parse_manifest
from platecrypt.datasets.steps import DATASET
from platecrypt.deployment.engines import choose_deployer
from platecrypt.errors import BadInputError, PlatecryptError
from platecrypt.settings import Settings
from platecrypt.steps import step
from platecrypt.storage import ObjectStore
from platecrypt.tracking import Tracker
from platecrypt.tracking.tracker import PIPELINE_RUN, TUNING_RUN
from platecrypt.training.steps import MODEL_DIGEST, model_key


@step
def summarise(
    settings: Settings, job: str, state: str, error: str, dataset: str, summary: Artifact
) -> None:
    """Write the summary of a run; it must work whatever failed before."""
    rows = {
        "run": job,
        "state": state,
        "error": error or "-",
        "dataset": dataset,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **_served(settings),
    }
    table = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Run</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem}"
        "th,td{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}</style>"
        f"<h1>Training run: {html.escape(state)}</h1><table>{table}</table></html>"
    )
    write_page(settings, summary, "summary", page, {"state": state})


def lineage(settings: Settings, version: str = "") -> dict[str, Any]:
    """The chain from the endpoint back to the images, of a version or of the champion.

    Raises:
        BadInputError: there is no such version.
    """
    tracker = Tracker(settings)
    if version and not version.isdigit():
        raise BadInputError(f"model version {version!r} is not a number")
    model = tracker.version(int(version)) if version else tracker.champion()
    if model is None:
        raise BadInputError("no model serves yet; `platecrypt run` makes one")
    live = choose_deployer(settings).live()
    serves = live is not None and live.digest == model.model_digest
    store = ObjectStore(settings.store())
    manifest = parse_manifest(
        store.get(manifest_key(model.dataset_digest)), expected_digest=model.dataset_digest
    )
    run = tracker.lineage(model)["runs"][0]
    figures = {
        name.removeprefix("test/"): round(value, 4)
        for name, value in run["metrics"].items()
        if name in ("test/map50", "test/recall", "test/precision")
    }
    return {
        "endpoint": live.url if live and serves else "not served now",
        "model": f"{model.name} version {model.version} ({', '.join(model.aliases) or 'no alias'})",
        "model digest": model.tags[MODEL_DIGEST],
        "model object": f"s3://{store.bucket}/{model_key(model.model_digest)}",
        "held-out figures": figures,
        "run": model.run_id,
        "git commit": model.tags.get("git_commit", ""),
        "pipeline run": run["tags"].get(PIPELINE_RUN, ""),
        "tuning": run["tags"].get(TUNING_RUN, "") or "none",
        "training set": model.tags.get("training_set_digest", ""),
        "feature service": model.tags.get("feature_service", ""),
        "dataset": model.tags[DATASET],
        "images": f"{len(manifest.images)} ({manifest.form}, split by {manifest.grouping})",
        "manifest": f"s3://{store.bucket}/{manifest_key(model.dataset_digest)}",
    }


def sample_image(settings: Settings) -> bytes:
    """A held-out picture of the champion's dataset: the one with the widest plate.

    Raises:
        BadInputError: no model serves yet.
    """
    champion = Tracker(settings).champion()
    if champion is None:
        raise BadInputError("no model serves yet; `platecrypt run` makes one")
    store = ObjectStore(settings.store())
    dataset = champion.dataset_digest
    manifest = parse_manifest(store.get(manifest_key(dataset)), expected_digest=dataset)
    shown = [image for image in manifest.split("test") if image.plates]
    widest = max(shown, key=lambda image: max(p.box[2] - p.box[0] for p in image.plates))
    return store.get(widest.key)


def _served(settings: Settings) -> dict[str, str]:
    try:
        live = choose_deployer(settings).live()
    except PlatecryptError as error:  # the cluster does not answer, or refuses
        return {"endpoint": str(error)}
    if live is None:
        return {"endpoint": "nothing is served"}
    found = {"endpoint": live.url, "serves version": live.version}
    try:
        champion = Tracker(settings).champion()
    except PlatecryptError as error:
        return {**found, "registry": str(error)}
    if champion:
        found["champion"] = f"version {champion.version}, dataset {champion.dataset_digest[:12]}"
    return found
