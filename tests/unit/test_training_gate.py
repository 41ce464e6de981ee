"""The gate: what it asks, and that its verdict cannot be forged, moved or talked past."""

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from platecrypt.errors import BadInputError, RefusedError
from platecrypt.training.evaluate import Evaluation, SliceMetrics, parse_evaluation
from platecrypt.training.gate import (
    Thresholds,
    Verdict,
    judge,
    load_gate_key,
    read_verdict,
    sign,
    verify_verdict,
)

MODEL, DATASET, KEY = "a" * 64, "b" * 64, b"k" * 32


def evaluation(map50: float | None, recall: float | None, **changes: object) -> Evaluation:
    overall = SliceMetrics("all", 10, 10, map50, 0.5, 1.0, recall, 5, 0, 5)
    made = Evaluation(MODEL, DATASET, "test", "ride", 0.25, 320, overall, (), (), 1.0)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def decide(
    new: Evaluation, champion: Evaluation | None = None, thresholds: Thresholds | None = None
) -> Verdict:
    return judge(
        new, thresholds or Thresholds(), champion, model_digest=MODEL, dataset_digest=DATASET
    )


@pytest.mark.parametrize(
    ("map50", "recall", "passed"),
    [(0.5, 0.5, True), (0.499, 0.9, False), (0.9, 0.499, False), (None, None, False)],
)
def test_both_thresholds_must_be_reached(
    map50: float | None, recall: float | None, passed: bool
) -> None:
    verdict = decide(evaluation(map50, recall))
    assert verdict.passed is passed
    assert bool(verdict.reasons) is not passed


@pytest.mark.parametrize(
    ("map50", "recall", "passed"),
    [(0.89, 0.9, True), (0.88, 0.9, False), (0.9, 0.88, False), (0.95, 0.95, True)],
)
def test_a_model_may_hardly_be_worse_than_the_champion(
    map50: float, recall: float, passed: bool
) -> None:
    champion = evaluation(0.9, 0.9, model_digest="c" * 64)
    verdict = decide(evaluation(map50, recall), champion)
    assert verdict.passed is passed
    assert (verdict.champion_map50, verdict.champion_recall) == (0.9, 0.9)


def test_a_champion_measured_on_other_images_is_no_comparison() -> None:
    for other in ({"dataset_digest": "d" * 64}, {"split": "val"}):
        with pytest.raises(RefusedError, match="other images"):
            decide(evaluation(0.9, 0.9), evaluation(0.9, 0.9, **other))


def test_an_evaluation_of_something_else_is_refused() -> None:
    for other in ({"dataset_digest": "d" * 64}, {"model_digest": "d" * 64}):
        with pytest.raises(RefusedError, match="evaluate it"):
            decide(evaluation(0.9, 0.9, **other))


def test_a_passing_verdict_is_read_back() -> None:
    verdict = decide(evaluation(0.9, 0.8))
    read = verify_verdict(sign(verdict, KEY), KEY, model_digest=MODEL, dataset_digest=DATASET)
    assert read == verdict


def test_a_failed_verdict_allows_nothing() -> None:
    signed = sign(decide(evaluation(0.1, 0.1)), KEY)
    assert not read_verdict(signed, KEY).passed
    with pytest.raises(RefusedError, match=r"did not pass.*mAP50 is 0\.100"):
        verify_verdict(signed, KEY, model_digest=MODEL, dataset_digest=DATASET)


def test_a_verdict_about_another_model_or_dataset_allows_nothing() -> None:
    signed = sign(decide(evaluation(0.9, 0.9)), KEY)
    with pytest.raises(RefusedError, match="about model"):
        verify_verdict(signed, KEY, model_digest="c" * 64, dataset_digest=DATASET)
    with pytest.raises(RefusedError, match="about dataset"):
        verify_verdict(signed, KEY, model_digest=MODEL, dataset_digest="c" * 64)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Verdict)])
def test_no_field_can_be_changed_afterwards(field: str) -> None:
    document = json.loads(sign(decide(evaluation(0.1, 0.1)), KEY))
    changed = {
        "passed": True,
        "reasons": [],
        "thresholds": {"min_map50": 0.0, "min_recall": 0.0, "max_drop": 1.0},
    }
    document["verdict"][field] = changed.get(field, "e" * 64 if "digest" in field else 0.99)
    with pytest.raises(RefusedError, match="gate key"):
        read_verdict(json.dumps(document).encode(), KEY)


def test_another_key_or_no_signature_is_refused() -> None:
    signed = sign(decide(evaluation(0.9, 0.9)), KEY)
    with pytest.raises(RefusedError, match="gate key"):
        read_verdict(signed, b"x" * 32)
    document = json.loads(signed)
    document["hmac"] = ""
    with pytest.raises(RefusedError, match="gate key"):
        read_verdict(json.dumps(document).encode(), KEY)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b'{"hmac": 1, "verdict": {}, "version": 1}', b" " * 100_000],
)
def test_what_is_no_verdict_is_bad_input(data: bytes) -> None:
    with pytest.raises(BadInputError, match="not a verdict"):
        read_verdict(data, KEY)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "gate.key"
    key = load_gate_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_gate_key(path) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["gate.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.key"
    load_gate_key(path)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(BadInputError, match="chmod 600"):
            load_gate_key(path)


def test_a_key_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.key"
    path.write_bytes(b"short")
    os.chmod(path, 0o600)  # noqa: PTH101
    with pytest.raises(BadInputError, match="5 bytes"):
        load_gate_key(path)


def test_thresholds_are_shares() -> None:
    with pytest.raises(BadInputError, match=r"min_recall = 1\.5"):
        Thresholds(min_recall=1.5)


def test_an_evaluation_survives_json() -> None:
    made = evaluation(0.5, None)
    assert parse_evaluation(made.to_json()) == made
    with pytest.raises(BadInputError, match="not an evaluation"):
        parse_evaluation(b"{}")
