"""Whatever is sent as a picture, a sidecar or an envelope: one clear error, no crash, no bomb."""

import runpy
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FUZZ: dict[str, Any] = runpy.run_path(str(HERE / "fuzz_containers.py"))
KEPT = sorted((HERE / "seeds").glob("*.bin"))


def test_what_once_broke_a_promise_keeps_it_now() -> None:
    assert {path.name: FUZZ["check"](path.read_bytes()) for path in KEPT} == dict.fromkeys(
        (path.name for path in KEPT), ""
    )


@pytest.mark.parametrize("name", FUZZ["seeds"]())
def test_every_cut_is_refused_or_read(name: str) -> None:
    data = FUZZ["seeds"]()[name]
    for length in range(0, len(data), max(1, len(data) // 40)):
        FUZZ["headers"](data[:length])
        FUZZ["pictures"](data[:length])


def test_a_few_hundred_changed_files_break_nothing(tmp_path: Path) -> None:
    FUZZ["run"].__globals__["SEEDS"] = tmp_path
    count, kept = FUZZ["run"](0, 20260301, least=400)
    assert count == 400
    assert kept == []


def test_the_fuzzer_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_: bytes) -> None:
        raise KeyError("a defect")

    monkeypatch.setitem(FUZZ["run"].__globals__, "SEEDS", tmp_path)
    monkeypatch.setitem(FUZZ["check"].__globals__, "headers", raises)
    _, kept = FUZZ["run"](0, 1, least=2)
    assert len(kept) == 2
