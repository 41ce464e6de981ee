"""The pipeline steps that put a model into service."""

import base64
import html

from platecrypt.artifacts import Artifact, write_page
from platecrypt.datasets.manifest import ImageRecord, Manifest, Split
from platecrypt.datasets.steps import DATASET, load_manifest
from platecrypt.deployment.engines import choose_deployer
from platecrypt.deployment.inference_service import InferenceService
from platecrypt.deployment.smoke import NothingFoundError, SmokeResult
from platecrypt.deployment.smoke import smoke_test as run_smoke_test
from platecrypt.errors import PlatecryptError, RefusedError, UnavailableError
from platecrypt.imaging.sealing import load_keyring
from platecrypt.settings import Settings
from platecrypt.steps import say, step
from platecrypt.storage import ObjectStore
from platecrypt.tracking import Tracker
from platecrypt.training.steps import check_verdict, model_key

# Images of a split that are tried before it is said that the model finds nothing in it.
TRIES = 20


@step
def deploy(settings: Settings, version: str, model: Artifact, verdict: Artifact) -> str:
    """Start the new version beside the live one; returns its URL."""
    digest = check_verdict(settings, model, verdict)
    service = InferenceService.load(settings.root / "kserve" / "inference_service.yaml")
    endpoint = choose_deployer(settings).start(
        service, ObjectStore(settings.store()), model_key(digest), version, digest
    )
    say(f"version {endpoint.version} {'serves already' if endpoint.live else 'is up'}")
    return endpoint.url


@step
def smoke_test(settings: Settings, url: str, manifest: Artifact, report: Artifact) -> None:
    """Send images until one shows a plate; the plates must be gone and come back.

    Held-out images come first. How well the model finds plates is the gate's business; here the
    others do as well. A version that fails is ended; the one that served goes on serving.
    """
    dataset = load_manifest(manifest)
    store = ObjectStore(settings.store())
    shown = [*_widest_first(dataset, "test"), *_widest_first(dataset, "train")]
    try:
        keyring, token = load_keyring(settings.keyring_path), settings.endpoint_token
        for image in shown:
            data = store.get(image.key)
            try:
                result = run_smoke_test(url, data, keyring, token=token)
            except NothingFoundError:
                continue
            page = _page(data, result)
            write_page(settings, report, "smoke-test", page, {DATASET: dataset.digest})
            say(
                f"{result.plates} plates gone and back again, {result.seconds * 1000:.0f} ms "
                f"({image.split} image {image.name})"
            )
            return
        raise RefusedError(
            f"smoke test failed: the model found no plate in {len(shown)} images; train longer"
        )
    except PlatecryptError:
        _discard(settings)
        raise


@step
def promote(settings: Settings, version: str) -> str:
    """Let the tried version serve, then make it the champion; returns the endpoint's URL."""
    deployer = choose_deployer(settings)
    endpoints = (deployer.waiting(), deployer.live())
    endpoint = next((found for found in endpoints if found and found.version == version), None)
    if endpoint is None:
        raise UnavailableError(f"version {version} is not deployed; run the pipeline again")
    served = deployer.promote(endpoint)
    tracker = Tracker(settings)
    champion = tracker.champion()
    if champion is None or str(champion.version) != version:
        tracker.set_alias("champion", int(version))
    challenger = tracker.challenger()
    if challenger and str(challenger.version) == version:
        tracker.remove_alias("challenger")
    say(f"version {version} is the champion and serves at {served.url}")
    return served.url


def _widest_first(dataset: Manifest, split: Split) -> list[ImageRecord]:
    """The images of a split that are tried: those with the widest plates, TRIES at most."""
    shown = [image for image in dataset.split(split) if image.plates]
    shown.sort(key=lambda image: -max(plate.box[2] - plate.box[0] for plate in image.plates))
    return shown[:TRIES]


def _discard(settings: Settings) -> None:
    deployer = choose_deployer(settings)
    candidate = deployer.waiting()
    if candidate:
        deployer.discard(candidate)


def _page(sent: bytes, result: SmokeResult) -> str:
    def picture(data: bytes, title: str) -> str:
        text = base64.b64encode(data).decode()
        return (
            f'<figure><img alt="{html.escape(title)}" style="max-width:100%" '
            f'src="data:image/jpeg;base64,{text}"><figcaption>{html.escape(title)}</figcaption>'
            "</figure>"
        )

    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Smoke test</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem}"
        "main{display:flex;gap:1rem}figure{margin:0;flex:1}</style><h1>Smoke test</h1>"
        "<p>The left picture shows readable plates: keep this page as private as the dataset.</p>"
        f"<main>{picture(sent, 'sent to the endpoint')}"
        f"{picture(result.published, f'published: {result.plates} plates sealed')}</main></html>"
    )
