"""The cluster engine tries a version beside the live one; where it fails the old one comes back."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from platecrypt.deployment import Endpoint, InferenceService, LocalDeployer
from platecrypt.deployment.engines import choose_deployer
from platecrypt.deployment.kserve import CANARY_PERCENT, DIGEST, KServeDeployer
from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError
from platecrypt.settings import Settings
from platecrypt.storage import ObjectStore

from ..support.kserve_api import KServeApi, mode_of, percent_of, variable, version_of

pytestmark = pytest.mark.slow  # it waits as it does on a cluster

ROOT = Path(__file__).parents[2]
SERVICE = yaml.safe_load((ROOT / "kserve" / "inference_service.yaml").read_text())
ONE, TWO = "1" * 64, "2" * 64
FAST = (0.01, 0.02)
MODES = ("Standard", "Knative")


def service(mode: str = "Standard") -> InferenceService:
    document = yaml.safe_load(yaml.safe_dump(SERVICE))
    document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = mode
    return InferenceService(document)


@pytest.fixture
def api() -> Iterator[KServeApi]:
    made = KServeApi()
    with made.serving():
        yield made


@pytest.fixture
def deployer(api: KServeApi, tmp_path: Path) -> KServeDeployer:
    return KServeDeployer(
        Settings(home=tmp_path),
        kubeconfig=api.kubeconfig(tmp_path / "config"),
        timeout_s=2.0,
        patience_s=5.0,
        poll_s=FAST,
        served=api.served,
    )


def put(deployer: KServeDeployer, version: str, digest: str, mode: str = "Standard") -> Endpoint:
    isvc = service(mode)
    return deployer.candidate(isvc, f"s3://platecrypt/models/{digest}", version, digest)


def release(
    deployer: KServeDeployer, version: str, digest: str, mode: str = "Standard"
) -> Endpoint:
    return deployer.promote(put(deployer, version, digest, mode))


@pytest.mark.parametrize("mode", MODES)
def test_a_first_version_is_tried_alone_and_then_serves(
    api: KServeApi, deployer: KServeDeployer, mode: str
) -> None:
    assert deployer.live() is None
    tried = put(deployer, "1", ONE, mode)
    assert "plates" not in api.services, "nobody calls it yet"
    assert deployer.waiting() == tried
    assert (tried.version, tried.digest, tried.live) == ("1", ONE, False)
    assert re.fullmatch(
        r"http://plates-candidate(-predictor)?\.plates\.svc\.cluster\.local"
        r"/v1/models/plates:predict",
        tried.url,
    )
    served = deployer.promote(tried)
    assert (served.version, served.live) == ("1", True)
    assert deployer.live() == served
    assert set(api.services) == {"plates"}, "the candidate is gone"
    assert api.services["plates"]["metadata"]["annotations"][DIGEST] == ONE
    assert variable(api.services["plates"], "STORAGE_URI") == f"s3://platecrypt/models/{ONE}"


@pytest.mark.parametrize("mode", MODES)
def test_the_live_version_serves_until_the_next_one_is_promoted(
    api: KServeApi, deployer: KServeDeployer, mode: str
) -> None:
    release(deployer, "1", ONE, mode)
    tried = put(deployer, "2", TWO, mode)
    assert version_of(api.services["plates"]) == "1"
    assert api.answering["plates"] == "1"
    served = deployer.promote(tried)
    assert (served.version, served.digest) == ("2", TWO)
    assert api.answering["plates"] == "2"
    shares = [("2", CANARY_PERCENT), ("2", None)] if mode == "Knative" else [("2", None)]
    assert api.traffic == [("1", None), *shares]


def test_what_an_operator_set_stays(api: KServeApi, deployer: KServeDeployer) -> None:
    release(deployer, "1", ONE)
    live = api.services["plates"]
    live["spec"]["predictor"].update(minReplicas=2, maxReplicas=9)
    live["spec"]["predictor"]["containers"][0]["image"] = "registry.example/mine:1"
    live["metadata"]["labels"] = {"app.kubernetes.io/instance": "argo", "team": "a"}
    live["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] = "plates:x"
    tried = put(deployer, "2", TWO)
    candidate = api.services["plates-candidate"]
    assert candidate["spec"]["predictor"]["containers"][0]["image"] == "registry.example/mine:1"
    assert candidate["spec"]["predictor"]["minReplicas"] == 1
    assert candidate["spec"]["predictor"]["maxReplicas"] == 1
    assert candidate["metadata"]["labels"] == {"team": "a"}
    assert "argocd.argoproj.io/tracking-id" not in candidate["metadata"]["annotations"]
    deployer.promote(tried)
    after = api.services["plates"]
    assert after["spec"]["predictor"]["maxReplicas"] == 9
    assert after["spec"]["predictor"]["containers"][0]["image"] == "registry.example/mine:1"
    assert after["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] == "plates:x"


def test_a_split_candidate_asks_its_own_predictor(api: KServeApi, deployer: KServeDeployer) -> None:
    split = InferenceService.load(ROOT / "kserve" / "inference_service_split.yaml")
    deployer.candidate(split, "s3://platecrypt/models/1", "1", ONE)
    (transformer,) = api.services["plates-candidate"]["spec"]["transformer"]["containers"]
    assert "--predictor_host=plates-candidate-predictor:8083" in transformer["args"]


def test_the_same_version_is_not_deployed_twice(api: KServeApi, deployer: KServeDeployer) -> None:
    served = release(deployer, "1", ONE)
    changes = sum(method == "PATCH" for method, *_ in api.seen)
    assert put(deployer, "1", ONE) == served
    assert deployer.promote(served) == served
    assert sum(method == "PATCH" for method, *_ in api.seen) == changes


def test_a_candidate_that_was_left_over_does_not_outlive_the_return_of_the_live_one(
    api: KServeApi, deployer: KServeDeployer
) -> None:
    served = release(deployer, "1", ONE)
    put(deployer, "2", TWO)  # its run was interrupted
    assert put(deployer, "1", ONE) == served
    assert set(api.services) == {"plates"}
    assert deployer.waiting() is None


@pytest.mark.parametrize("mode", MODES)
def test_a_candidate_that_does_not_start_is_deleted_and_told(
    api: KServeApi, deployer: KServeDeployer, mode: str
) -> None:
    release(deployer, "1", ONE, mode)
    api.never_ready.add("2")
    with pytest.raises(UnavailableError, match=r"not ready within 2 s: PredictorReady Minimum"):
        put(deployer, "2", TWO, mode)
    assert set(api.services) == {"plates"}
    assert deployer.live() is not None


@pytest.mark.parametrize("mode", MODES)
def test_a_promotion_that_fails_puts_the_previous_version_back(
    api: KServeApi, deployer: KServeDeployer, mode: str
) -> None:
    release(deployer, "1", ONE, mode)
    tried = put(deployer, "2", TWO, mode)
    api.never_ready.add("2")
    with pytest.raises(UnavailableError, match="was not ready within 2 s"):
        deployer.promote(tried)
    assert version_of(api.services["plates"]) == "1"
    assert variable(api.services["plates"], "STORAGE_URI") == f"s3://platecrypt/models/{ONE}"
    assert api.answering["plates"] == "1", "it never stopped"
    if mode == "Knative":
        assert ("2", 0) in api.traffic, "no request goes to the broken one meanwhile"
    assert "plates-candidate" in api.services, "whoever looks why finds it"
    deployer.discard(tried)
    assert set(api.services) == {"plates"}


def test_a_first_promotion_that_fails_leaves_nothing(
    api: KServeApi, deployer: KServeDeployer
) -> None:
    tried = put(deployer, "1", ONE)
    api.never_ready.add("1")
    with pytest.raises(UnavailableError):
        deployer.promote(tried)
    assert "plates" not in api.services


def test_readiness_alone_is_not_believed(
    api: KServeApi, deployer: KServeDeployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling update is ready all the time: the version that answers is what counts."""
    release(deployer, "1", ONE)
    tried = put(deployer, "2", TWO)
    heard: list[str] = []
    answers = iter(["1", "2", "2", "1", "2"])

    def served(base: str, model: str) -> str:
        heard.append(next(answers, "2"))
        return heard[-1]

    monkeypatch.setattr(deployer, "_served", served)
    deployer.promote(tried)
    assert heard[-6:] == ["1", *["2"] * 5]


def test_a_candidate_that_is_gone_or_another_one_is_not_promoted(
    api: KServeApi, deployer: KServeDeployer
) -> None:
    tried = put(deployer, "1", ONE)
    other = put(deployer, "2", TWO)
    with pytest.raises(UnavailableError, match="candidate 1 .* is gone"):
        deployer.promote(tried)
    deployer.discard(other)
    with pytest.raises(UnavailableError, match="candidate 2 .* is gone"):
        deployer.promote(other)


def test_a_live_endpoint_is_not_discarded(api: KServeApi, deployer: KServeDeployer) -> None:
    served = release(deployer, "1", ONE)
    deployer.discard(served)
    assert deployer.live() == served


def test_a_service_applied_by_hand_is_nobodys_version(
    api: KServeApi, deployer: KServeDeployer
) -> None:
    """The overlay's InferenceService is there before any model: it serves nothing that we know."""
    release(deployer, "1", ONE)
    del api.services["plates"]["metadata"]["annotations"][DIGEST]
    assert deployer.live() is None


@pytest.mark.parametrize("code", [429, 500, 503, 0])
def test_a_server_that_stumbles_is_asked_again(
    api: KServeApi, deployer: KServeDeployer, code: int
) -> None:
    api.faults = [("GET", code, {}), ("PATCH", code, {}), ("GET", code, {})]
    assert release(deployer, "1", ONE).live
    assert not api.faults


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [(403, RefusedError, "may not do this"), (404, UnavailableError, "is KServe installed")],
)
def test_what_cannot_be_waited_out_is_told_at_once(
    api: KServeApi, deployer: KServeDeployer, code: int, kind: type[PlatecryptError], said: str
) -> None:
    api.faults = [("PATCH", code, {})]
    with pytest.raises(kind, match=said):
        put(deployer, "1", ONE)


def test_what_the_webhook_says_is_told(api: KServeApi, deployer: KServeDeployer) -> None:
    api.admits = "admission webhook denied the request: minReplicas"
    with pytest.raises(BadInputError, match="refuses the InferenceService: 400 .*minReplicas"):
        put(deployer, "1", ONE)


def test_the_mode_is_never_changed(api: KServeApi, deployer: KServeDeployer) -> None:
    release(deployer, "1", ONE, "Knative")
    release(deployer, "2", TWO, "Standard")
    assert mode_of(api.services["plates"]) == "Knative"
    assert percent_of(api.services["plates"]) is None


def test_the_settings_choose_the_engine(
    api: KServeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(api.kubeconfig(tmp_path / "config"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", config)
    chosen = choose_deployer(Settings(home=tmp_path, deployment_engine="kserve"))
    assert isinstance(chosen, KServeDeployer)
    assert chosen.live() is None
    assert isinstance(choose_deployer(Settings(home=tmp_path)), LocalDeployer)


@pytest.mark.slow
def test_the_store_is_named_and_its_bytes_are_looked_at(
    api: KServeApi,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = str(api.kubeconfig(tmp_path / "config"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", config)
    chosen: Any = choose_deployer(Settings(home=tmp_path, deployment_engine="kserve"))
    monkeypatch.setattr(chosen, "_poll_s", FAST)
    monkeypatch.setattr(chosen, "_served", api.served)
    digest = hashlib.sha256(b"model").hexdigest()
    key = f"models/{digest}/model.onnx"
    store.put(key, b"model")
    assert chosen.start(service(), store, key, "1", digest).version == "1"
    found = variable(api.services["plates-candidate"], "STORAGE_URI")
    assert found == f"s3://{store.bucket}/models/{digest}"
    store.put(key, b"another model")
    with pytest.raises(RefusedError, match="it is not the model that was released"):
        chosen.start(service(), store, key, "2", digest)
