"""The three keystream engines are one function; choosing between them only saves time."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platecrypt.cipher import keystream, lcl1, warm_up
from platecrypt.cipher.lcl1 import ROW, SEGMENT, Engine

keys = st.binary(min_size=32, max_size=32)
# Lengths and offsets around the borders of rows and segments are where engines would differ.
edges = st.sampled_from([0, 1, ROW, SEGMENT, 8 * SEGMENT, 9 * SEGMENT])
near = st.builds(lambda edge, off: max(0, edge + off), edges, st.integers(-3, 3))
lengths = st.one_of(near, st.integers(0, 3 * SEGMENT))


@settings(max_examples=60, deadline=None)
@given(key=keys, n=lengths, start=lengths)
def test_compiled_and_numpy_agree_everywhere(key: bytes, n: int, start: int) -> None:
    compiled = keystream(key, n, start=start, engine="compiled")
    assert len(compiled) == n
    assert keystream(key, n, start=start, engine="numpy") == compiled


@settings(max_examples=10, deadline=None)
@given(key=keys, n=st.integers(0, 3 * ROW), start=st.integers(0, 6 * ROW))
def test_the_readable_engine_agrees(key: bytes, n: int, start: int) -> None:
    for engine in ("numpy", "compiled"):
        assert keystream(key, n, start=start, engine="python") == keystream(
            key, n, start=start, engine=engine
        )


@settings(max_examples=4, deadline=None)
@given(key=keys, back=st.integers(1, ROW), n=st.integers(1, 2 * ROW), segment=st.integers(1, 2**40))
def test_the_engines_agree_across_a_border_far_out(
    key: bytes, back: int, n: int, segment: int
) -> None:
    # Bytes before and after the border of two segments, up to where the counter needs 49 bits.
    start = segment * SEGMENT - back
    compiled = keystream(key, n, start=start, engine="compiled")
    assert keystream(key, n, start=start, engine="numpy") == compiled
    assert keystream(key, n, start=start, engine="python") == compiled


@pytest.mark.parametrize("engine", ["numpy", "compiled"])
def test_any_window_equals_the_same_bytes_of_the_whole(engine: Engine) -> None:
    key = bytes(range(1, 33))
    whole = keystream(key, 66 * SEGMENT + 5, engine=engine)  # more than one batch
    for start in (0, 1, ROW - 1, SEGMENT - 1, SEGMENT, 63 * SEGMENT, 65 * SEGMENT + 7):
        end = min(start + SEGMENT + 3, len(whole))
        window = keystream(key, end - start, start=start, engine=engine)
        assert window == whole[start:end]


def test_keys_that_differ_in_one_bit_share_nothing() -> None:
    a = keystream(bytes(32), 4096)
    b = keystream(bytes(31) + b"\1", 4096)
    equal = sum(x == y for x, y in zip(a, b, strict=True))
    assert equal < 64  # 16 expected of 4096


def test_threads_do_not_disturb_each_other() -> None:
    wanted = {i: keystream(bytes([i]) * 32, 50_000 + i, engine="python") for i in (1, 2)}
    for engine in ("numpy", "compiled"):
        with ThreadPoolExecutor(4) as pool:
            jobs = [
                (i, pool.submit(keystream, bytes([i]) * 32, 50_000 + i, engine=engine))
                for i in (1, 2) * 20
            ]
            assert all(job.result() == wanted[i] for i, job in jobs)


@pytest.mark.parametrize(
    ("key", "n", "start", "message"),
    [
        (bytes(31), 1, 0, "32 bytes, not 31"),
        (bytes(33), 1, 0, "32 bytes, not 33"),
        (bytes(32), -1, 0, "n = -1"),
        (bytes(32), 1, -5, "start = -5"),
    ],
)
def test_wrong_arguments_are_named(key: bytes, n: int, start: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keystream(key, n, start=start)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="'cuda' is none of"):
        keystream(bytes(32), 1, engine="cuda")  # type: ignore[arg-type]


def test_a_kernel_that_disagrees_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from platecrypt.cipher import _kernel

    monkeypatch.setattr(lcl1._State, "kernel", None)
    monkeypatch.setattr(_kernel, "fill", lambda seeds, out, weyl: out.fill(7))
    with pytest.raises(RuntimeError, match="disagrees"):
        warm_up()
    assert lcl1._State.kernel is None


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_fresh_process_starts_with_numpy_and_earns_the_compiled_engine() -> None:
    answer = _python(
        "import sys; from platecrypt.cipher import keystream, lcl1\n"
        "keystream(bytes(32), 100); a = 'numba' in sys.modules\n"
        "lcl1.AUTO_WARM_UP = 1000; keystream(bytes(32), 2000)\n"
        "print(a, 'numba' in sys.modules, lcl1._pick(1))"
    )
    assert answer == "False True compiled"


def test_without_numba_everything_still_works() -> None:
    answer = _python(
        "import sys; sys.modules['numba'] = None\n"
        "from platecrypt.cipher import keystream, warm_up\n"
        "print(warm_up(), keystream(bytes(range(32)), 4).hex())"
    )
    assert answer == "numpy 51ae3333"


def test_importing_the_cipher_costs_little_beyond_numpy_and_nothing_of_ours() -> None:
    answer = _python(
        "import time, sys, numpy\n"
        "best = time.process_time(); import platecrypt.cipher\n"
        "spent = time.process_time() - best\n"
        "ours = sorted(m for m in sys.modules if m.startswith('platecrypt.')\n"
        "              and not m.startswith('platecrypt.cipher'))\n"
        "print(ours, spent < 0.1, spent)"
    )
    assert answer.startswith("[] True"), answer
