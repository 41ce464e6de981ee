"""How many cores are ours."""

import os
from pathlib import Path

import pytest

from platecrypt.machine import cores

BOUND = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", BOUND),
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("99999900000 100000\n", BOUND),
        ("150000 100000\n", min(2, BOUND)),
        ("", BOUND),
        ("100000 0\n", BOUND),
        ("nonsense\n", BOUND),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, text: str, expected: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert cores(file) == expected


def test_without_control_groups_it_is_what_the_process_is_bound_to(tmp_path: Path) -> None:
    assert cores(tmp_path / "absent") == BOUND
