"""A camera's profile comes in time or not at all; whatever the store does, the picture goes on."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from platecrypt.serving import metrics
from platecrypt.serving.profiles import DEFAULT, Profile, Profiles, read_profile

STRICT = {"confidence": 0.1, "margin": 0.2, "policy": "protect"}


def count(outcome: str) -> float:
    return float(metrics.LOOKUPS.labels(outcome)._value.get())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def opened(look_up: Any, **arguments: Any) -> Profiles:
    profiles = Profiles(lambda: look_up, **arguments)
    until(lambda: profiles._look_up is not None)
    return profiles


def test_a_profile_is_looked_up_once_and_kept() -> None:
    asked: list[str] = []
    profiles = opened(lambda camera: asked.append(camera) or STRICT, deadline_s=10)
    before = count("found"), count("cached")
    assert [profiles.of("gate-1") for _ in range(3)] == [Profile(0.1, 0.2)] * 3
    assert asked == ["gate-1"]
    assert (count("found"), count("cached")) == (before[0] + 1, before[1] + 2)


def test_a_slow_store_is_not_waited_for_and_its_answer_is_used_later() -> None:
    free = threading.Event()
    profiles = opened(lambda camera: (free.wait(20), STRICT)[1], deadline_s=0.005)
    before = count("late")
    assert profiles.of("gate-1") == DEFAULT
    assert count("late") == before + 1
    free.set()
    until(lambda: profiles.of("gate-1") == Profile(0.1, 0.2))


def test_a_store_that_fails_means_defaults_and_a_stale_profile_is_used_on() -> None:
    answers = [STRICT]

    def look_up(camera: str) -> Any:
        return answers.pop()  # IndexError from the second time on

    profiles = opened(look_up, deadline_s=10, fresh_s=0)
    assert profiles.of("gate-1") == Profile(0.1, 0.2)
    before = count("failed")
    assert profiles.of("gate-1") == Profile(0.1, 0.2)
    assert profiles.of("gate-2") == DEFAULT
    assert count("failed") == before + 2


def test_a_store_that_does_not_open_means_defaults() -> None:
    def broken() -> Any:
        raise OSError("no such store")

    profiles = Profiles(broken)
    before = count("closed")
    assert profiles.of("gate-1") == DEFAULT
    assert count("closed") == before + 1


def test_a_store_that_hangs_does_not_pile_up_work() -> None:
    free = threading.Event()
    profiles = opened(lambda camera: (free.wait(20), STRICT)[1], deadline_s=0.0001)
    before = count("busy")
    for number in range(50):
        assert profiles.of(f"gate-{number}") == DEFAULT
    assert count("busy") >= before + 10
    free.set()


@pytest.mark.parametrize("value", [None, -1, 2, float("nan"), "0.5", True])
def test_what_makes_no_sense_counts_as_not_set(value: Any) -> None:
    raw = {"confidence": value, "margin": value, "policy": "publish everything"}
    assert read_profile(raw) == DEFAULT
