"""The gate: may this model be registered and deployed? Its answer is signed, so it can be trusted.

A verdict binds a decision to one model and one dataset by their digests, under HMAC-SHA256 with a
key that only the platform holds. Who deploys checks the verdict, not the word of a step before.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platecrypt.cipher.keyring import on_read_only_mount
from platecrypt.errors import BadInputError, RefusedError
from platecrypt.training.evaluate import Evaluation

VERSION = 1
KEY_BYTES = 32
LARGEST_VERDICT = 64 * 1024


@dataclass(frozen=True)
class Thresholds:
    """What a model must reach on the held-out split; shares, 0..1.

    The defaults only keep out what is broken: a detector that hides less than half the plates
    protects nobody. Who publishes pictures sets them much higher.

    Attributes:
        min_map50: average precision at IoU 0.5.
        min_recall: plates found at the working threshold; a missed plate stays readable.
        max_drop: how far mAP50 and recall may lie below the champion's on the same split; 0.01 is
            about the noise between two seeds.
    """

    min_map50: float = 0.5
    min_recall: float = 0.5
    max_drop: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise BadInputError(f"threshold {name} = {value} is outside 0..1")


@dataclass(frozen=True)
class Verdict:
    """A decision about one model on one dataset.

    Attributes:
        passed: whether it may be registered and deployed.
        reasons: why not, one sentence each; empty when it passed.
        model_digest, dataset_digest: SHA-256 of the ONNX file and of the manifest.
        map50, recall: the figures it rests on.
        champion_map50, champion_recall: the champion's on the same split; None without one.
        thresholds: what was asked.
    """

    passed: bool
    reasons: tuple[str, ...]
    model_digest: str
    dataset_digest: str
    map50: float
    recall: float
    champion_map50: float | None
    champion_recall: float | None
    thresholds: Thresholds


def judge(
    evaluation: Evaluation,
    thresholds: Thresholds,
    champion: Evaluation | None,
    *,
    model_digest: str,
    dataset_digest: str,
) -> Verdict:
    """Compare a model with the thresholds and with the present champion.

    Args:
        evaluation: of the model.
        thresholds: what it must reach.
        champion: the champion's evaluation on the same split of the same dataset, or None.
        model_digest: SHA-256 of the ONNX file that the caller is about to register.
        dataset_digest: the manifest that it was trained from.

    Raises:
        RefusedError: an evaluation is of another model, dataset or split.
    """
    if (evaluation.model_digest, evaluation.dataset_digest) != (model_digest, dataset_digest):
        raise RefusedError(
            f"the evaluation is of model {evaluation.model_digest} on dataset "
            f"{evaluation.dataset_digest}, not of {model_digest} on {dataset_digest}; evaluate it"
        )
    if champion and (champion.dataset_digest, champion.split) != (dataset_digest, evaluation.split):
        raise RefusedError(
            "the champion was evaluated on other images; evaluate it on this split before comparing"
        )
    map50, recall = evaluation.overall.map50 or 0.0, evaluation.overall.recall or 0.0
    reasons: list[str] = []
    for name, value, least in (
        ("mAP50", map50, thresholds.min_map50),
        ("recall", recall, thresholds.min_recall),
    ):
        if value < least:
            reasons.append(f"{name} is {value:.3f}, at least {least:.3f} is asked")
    before = champion.overall if champion else None
    for name, value, reference in (
        ("mAP50", map50, before.map50 if before else None),
        ("recall", recall, before.recall if before else None),
    ):
        if reference is not None and value < reference - thresholds.max_drop:
            reasons.append(
                f"{name} is {value:.3f}, the champion's is {reference:.3f} and "
                f"{thresholds.max_drop:.3f} less is allowed"
            )
    return Verdict(
        passed=not reasons,
        reasons=tuple(reasons),
        model_digest=model_digest,
        dataset_digest=dataset_digest,
        map50=map50,
        recall=recall,
        champion_map50=before.map50 if before else None,
        champion_recall=before.recall if before else None,
        thresholds=thresholds,
    )


def sign(verdict: Verdict, gate_key: bytes) -> bytes:
    """The verdict as JSON with its HMAC-SHA256 (hexadecimal) over the canonical verdict."""
    document = {"verdict": asdict(verdict), "version": VERSION}
    return json.dumps(
        {**document, "hmac": _mac(document, gate_key)}, indent=1, sort_keys=True
    ).encode()


def verify_verdict(
    data: bytes, gate_key: bytes, *, model_digest: str, dataset_digest: str
) -> Verdict:
    """Read a verdict and insist that it allows this model on this dataset.

    Raises:
        RefusedError: it is not signed with `gate_key`, is about something else, or did not pass.
        BadInputError: it is no verdict at all.
    """
    verdict = read_verdict(data, gate_key)
    for name, said, asked in (
        ("model", verdict.model_digest, model_digest),
        ("dataset", verdict.dataset_digest, dataset_digest),
    ):
        if said != asked:
            raise RefusedError(
                f"the verdict is about {name} {said}, not {asked}; evaluate this {name}"
            )
    if not verdict.passed:
        raise RefusedError(f"the model did not pass the gate: {'; '.join(verdict.reasons)}")
    return verdict


def read_verdict(data: bytes, gate_key: bytes) -> Verdict:
    """Read a signed verdict, passed or not; errors as in `verify_verdict`."""
    try:
        if len(data) > LARGEST_VERDICT:
            raise ValueError(f"{len(data)} bytes")
        document: dict[str, Any] = json.loads(data)
        given = document.pop("hmac")
        if document.keys() != {"verdict", "version"} or document["version"] != VERSION:
            raise ValueError("unknown version")
        if not isinstance(given, str):
            raise ValueError("its HMAC is no text")
        genuine = hmac.compare_digest(given.encode(), _mac(document, gate_key).encode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"not a verdict of version {VERSION}: {error}") from None
    if not genuine:
        raise RefusedError(
            "the verdict is not signed with this platform's gate key: it was changed, or comes "
            "from elsewhere; evaluate the model here"
        )
    raw = document["verdict"]
    raw["reasons"] = tuple(raw["reasons"])
    raw["thresholds"] = Thresholds(**raw["thresholds"])
    return Verdict(**raw)


def load_gate_key(path: Path) -> bytes:
    """The key that signs verdicts, 32 bytes; made on first use with mode 0600.

    Raises:
        BadInputError: others may read the file, or it does not hold 32 bytes.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                _create(path)
    except OSError as error:
        raise BadInputError(
            f"gate key {path} does not exist and cannot be made: {error.strerror}; "
            "PLATECRYPT_GATE_KEY_FILE names it"
        ) from None
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077 and not on_read_only_mount(file.fileno()):
            raise BadInputError(f"{path} has mode {mode:04o}: others may use it; chmod 600 {path}")
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise BadInputError(
            f"{path} holds {len(key)} bytes, a gate key has {KEY_BYTES}; remove it for a new one"
        )
    return key


def _create(path: Path) -> None:
    """Write a new key under a name of our own, then link it: nobody ever reads half a key."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        os.link(temporary, path)
    finally:
        temporary.unlink()


def _mac(document: dict[str, Any], key: bytes) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, canonical, hashlib.sha256).hexdigest()
