"""LCL-1: the keystream of coupled integer logistic maps, in three engines that agree bit for bit.

A layer under AES-256-GCM, never the only one: by itself it protects nothing.

`python` is `docs/format.md` written out, for reading and for checking the others. `numpy` needs
no preparation and does the first work of a process. `compiled` (numba) is about ten times faster
but costs a third of a second to load, and a few seconds to compile once a machine: a server calls
`warm_up` before it reports ready, any other process switches by itself after `AUTO_WARM_UP` bytes.
"""

import struct
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32
LANES = 512
STEPS = 64
WARM_UP_STEPS = 8
GOLDEN = 0x9E3779B9
ROW = 4 * LANES
"""Bytes that one step emits."""
SEGMENT = ROW * STEPS
"""Bytes that one seeding gives."""
AUTO_WARM_UP = 128 * 1024 * 1024
"""Bytes after which a process has earned the compiled engine."""

Engine = Literal["compiled", "numpy", "python"]
Words = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
_Kernel = Callable[[npt.NDArray[Any], Words, Words], None]

_BATCH = 64
"""Segments computed at once, so that the memory in use does not grow with the length."""
_KEPT_ROWS = 8 * STEPS
"""Rows of scratch that a thread keeps: 1 MiB."""
_WEYL: Words = np.uint32(GOLDEN) * (2 * np.arange(LANES, dtype=np.uint32) + np.uint32(1))


class _State:
    """What the process has drawn so far, and the compiled kernel once there is one."""

    kernel: _Kernel | None = None
    numba_missing = False
    drawn = 0


def keystream(key: bytes, n: int, *, start: int = 0, engine: Engine | None = None) -> bytes:
    """`n` bytes of the keystream of `key`, from byte `start` on.

    Args:
        key: 32 bytes.
        n: how many bytes, at least 0.
        start: offset in bytes, at least 0; costs at most one segment (128 KiB) of extra work.
        engine: which engine computes; None picks the fastest that is ready.

    Raises:
        ValueError: the key has another length, `n` or `start` is negative, or `engine` is
            unknown or cannot be had (numba is not installed).
    """
    return _stream(key, n, start, engine).tobytes()


def apply(key: bytes, data: bytes | memoryview) -> memoryview:
    """`data` XOR the keystream of `key`: encrypts and decrypts.

    Made for sealing many plates without fresh memory: what is returned is scratch of this thread,
    good until its next call of anything in this module.
    """
    words = _stream(key, len(data), 0, None)
    np.bitwise_xor(np.frombuffer(data, np.uint8), words, words)
    return words.data


def _stream(key: bytes, n: int, start: int, engine: Engine | None) -> Bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"an LCL-1 key has {KEY_BYTES} bytes, not {len(key)}")
    if n < 0 or start < 0:
        raise ValueError(f"n = {n} and start = {start} must not be negative")
    fill = _engine(engine or _pick(n))
    first, skip = divmod(start, SEGMENT)
    need = skip + n
    if need <= _BATCH * SEGMENT:
        return fill(_seeds(key, first, need), need)[skip:]
    whole = np.empty(need, np.uint8)
    for at in range(0, need, _BATCH * SEGMENT):
        size = min(_BATCH * SEGMENT, need - at)
        whole[at : at + size] = fill(_seeds(key, first + at // SEGMENT, size), size)
    return whole[skip:]


def warm_up() -> Engine:
    """Load the compiled engine (compiling it where no cache has it) and use it from now on.

    Returns:
        The engine that is in force: "compiled", or "numpy" where numba is not installed.

    Raises:
        RuntimeError: the compiled engine does not agree with the NumPy one.
    """
    if _State.kernel is None and not _State.numba_missing:
        try:
            from platecrypt.cipher import _kernel
        except ImportError:
            _State.numba_missing = True
            return "numpy"
        key, n = bytes(range(KEY_BYTES)), SEGMENT + 1
        seeds = _seeds(key, 0, n)
        kernel: _Kernel = _kernel.fill
        if _run_kernel(kernel, seeds, n).tobytes() != _numpy(seeds, n).tobytes():
            raise RuntimeError(
                "the compiled LCL-1 engine disagrees with the NumPy one; remove numba's cache "
                "(NUMBA_CACHE_DIR or __pycache__) and try again"
            )
        _State.kernel = kernel
    return "numpy" if _State.kernel is None else "compiled"


def _pick(n: int) -> Engine:
    if _State.kernel is None and not _State.numba_missing:
        _State.drawn += n
        if _State.drawn > AUTO_WARM_UP:
            return warm_up()
    return "numpy" if _State.kernel is None else "compiled"


def _engine(name: Engine) -> Callable[[bytes, int], Bytes]:
    if name == "compiled":
        if warm_up() != "compiled":
            raise ValueError("engine 'compiled' needs numba, which is not installed")
        return _compiled
    if name == "numpy":
        return _numpy
    if name == "python":
        return _python
    raise ValueError(f"engine {name!r} is none of 'compiled', 'numpy', 'python'")


def _seeds(key: bytes, first: int, n: int) -> bytes:
    """The seeds of the segments that hold `n` bytes, from segment `first` on."""
    count = -(-n // SEGMENT)
    seed_bytes = 2 * ROW
    counter = (first * (seed_bytes // 16)) % 2**128
    aes = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "big")))
    return aes.encryptor().update(bytes(seed_bytes * count))


def _python(seeds: bytes, n: int) -> Bytes:
    """`docs/format.md`, step by step."""
    mask = 0xFFFFFFFF
    out: list[bytes] = []
    for segment in range(0, -(-n // SEGMENT)):
        words = struct.unpack_from(f"<{2 * LANES}I", seeds, segment * 2 * ROW)
        x, w = list(words[:LANES]), list(words[LANES:])
        steps = min(STEPS, -(-(n - segment * SEGMENT) // ROW))
        for t in range(-WARM_UP_STEPS, steps):
            p = [value * (~value & mask) for value in x]
            m = [(value >> 14) & mask for value in p]
            w = [(value + GOLDEN * (2 * i + 1)) & mask for i, value in enumerate(w)]
            x = [((p[i] >> 30) + w[i] + x[(i + 1) % LANES]) & mask for i in range(LANES)]
            if t >= 0:
                emitted = [
                    ((m[i] + m[(i + 1) % LANES]) & mask) ^ x[(i + LANES // 2) % LANES]
                    for i in range(LANES)
                ]
                out.append(struct.pack(f"<{LANES}I", *emitted))
    return np.frombuffer(bytearray().join(out), np.uint8)[:n]


def _compiled(seeds: bytes, n: int) -> Bytes:
    if _State.kernel is None:
        raise ValueError("the compiled engine is not loaded; call warm_up()")
    return _run_kernel(_State.kernel, seeds, n)


def _run_kernel(kernel: _Kernel, seeds: bytes, n: int) -> Bytes:
    out = _scratch(-(-n // ROW))
    kernel(np.frombuffer(seeds, "<u4").reshape(-1, 2 * LANES), out, _WEYL)
    return out.reshape(-1).view(np.uint8)[:n]


_thread = threading.local()


def _scratch(rows: int) -> Words:
    """(rows, LANES) words to fill; up to a mebibyte they are the thread's own, used again.

    Fresh memory of this size comes from the system page by page, which takes several times as long
    as filling it.
    """
    if rows > _KEPT_ROWS:
        return np.empty((rows, LANES), np.uint32)
    kept: Words | None = getattr(_thread, "scratch", None)
    if kept is None:
        kept = _thread.scratch = np.empty((_KEPT_ROWS, LANES), np.uint32)
    return kept[:rows]


# The NumPy engine. Two things make it fast: the lanes of several segments lie in one flat row, each
# segment followed by a copy of its lane 0, so that "x[i+1]" is the same row shifted by one word and
# every operation runs over contiguous memory; and words are emitted several steps at a time, few
# enough to stay in the processor's cache.
_TOGETHER = 8
"""Segments in one row."""
_BLOCK = 8
"""Steps emitted at a time; divides the warm-up steps and the steps of a segment."""
_LOW = np.uint64(0xFFFFFFFF)
_S14 = np.uint64(14)
_S30 = np.uint64(30)


def _numpy(seeds: bytes, n: int) -> Bytes:
    seed = np.frombuffer(seeds, "<u4").reshape(-1, 2, LANES)
    rows = -(-n // ROW)
    # One segment alone runs only the steps that are needed; several run all theirs.
    steps = rows if len(seed) == 1 else STEPS
    out = _scratch(len(seed) * steps)
    for at in range(0, len(seed), _TOGETHER):
        part = seed[at : at + _TOGETHER]
        emitted = out[at * steps : (at + len(part)) * steps].reshape(len(part), steps, LANES)
        _numpy_segments(part, emitted.transpose(1, 0, 2))
    return out.reshape(-1).view(np.uint8)[:n]


class _Work:
    """The arrays of the NumPy engine for `count` segments, about 130 KiB each.

    A thread keeps the last one it used, for the reason that `_scratch` gives.
    """

    def __init__(self, count: int) -> None:
        shape = (count, LANES + 1)
        width = count * (LANES + 1)
        x = np.zeros((_BLOCK + 1, width + 1), np.uint64)
        self.x = x
        self.x_lanes = x[:, :width].reshape(_BLOCK + 1, *shape)
        self.p = np.empty((_BLOCK, width), np.uint64)
        self.p_lanes = self.p.reshape(_BLOCK, *shape)
        self.w = np.zeros(shape, np.uint64)
        self.weyl = np.zeros(shape, np.uint64)
        self.weyl[:, :LANES] = _WEYL
        self.high = np.empty(width, np.uint64)
        self.m = np.empty((_BLOCK, *shape), np.uint32)
        self.state = np.empty((_BLOCK, *shape), np.uint32)
        edges = self.x_lanes[1:, :, LANES], self.x_lanes[1:, :, 0]
        self.block = list(zip(x[:-1, :-1], x[:-1, 1:], self.p, x[1:, :-1], *edges, strict=True))


def _work(count: int) -> _Work:
    kept: _Work | None = getattr(_thread, "work", None)
    if kept is None or len(kept.w) != count:
        kept = _thread.work = _Work(count)
    return kept


def _numpy_segments(seed: Words, out: Words) -> None:
    """Fill `out` (steps, segments, LANES) from `seed` (segments, 2, LANES)."""
    steps, count, _ = out.shape
    work = _work(count)
    x, x_lanes, high = work.x, work.x_lanes, work.high
    x_lanes[_BLOCK, :, :LANES], work.w[:, :LANES] = seed[:, 0], seed[:, 1]
    x_lanes[_BLOCK, :, LANES] = seed[:, 0, 0]
    w, weyl = work.w.reshape(-1), work.weyl.reshape(-1)
    for t in range(-WARM_UP_STEPS, steps, _BLOCK):
        x[0] = x[_BLOCK]
        for now, right, product, after, edge, lane0 in work.block[: steps - t]:
            np.bitwise_xor(now, _LOW, product)
            np.multiply(now, product, product)
            np.add(w, weyl, w)
            np.right_shift(product, _S30, high)
            np.add(high, w, high)
            np.add(high, right, high)
            np.bitwise_and(high, _LOW, after)
            edge[...] = lane0
        if t >= 0:
            _emit(work, out[t : t + _BLOCK])


def _emit(work: _Work, out: Words) -> None:
    """The words of one block: (m[i] + m[i+1]) XOR x'[i + L/2]."""
    half, steps = LANES // 2, len(out)
    m, state = work.m[:steps], work.state[:steps]
    np.right_shift(work.p_lanes, _S14, work.p_lanes)
    m[...] = work.p_lanes[:steps]
    m[..., LANES] = m[..., 0]
    state[...] = work.x_lanes[1 : steps + 1]
    np.add(m[..., :LANES], m[..., 1:], out=out)
    out[..., :half] ^= state[..., half:LANES]
    out[..., half:] ^= state[..., :half]
