"""The compiled LCL-1 kernel. Importing this module loads numba, so only `lcl1.warm_up` does.

A step is split into an update loop and two emit loops over the half-lattices: each then reads
memory at a constant distance and the compiler turns it into vector instructions (one fused loop
does not, and is several times slower). Serial and without the GIL: crops go across threads.
"""

from typing import Any

import numba
import numpy as np

LANES = 512
HALF = LANES // 2
STEPS = 64
WARM_UP_STEPS = 8


def _fill(seeds: Any, out: Any, weyl: Any) -> None:
    """Fill `out` (rows, 512) from `seeds` (segments, 1024), both uint32; `weyl` is (512,)."""
    x = np.empty(LANES + 1, np.uint32)
    after = np.empty(LANES + 1, np.uint32)
    w = np.empty(LANES, np.uint32)
    m = np.empty(LANES + 1, np.uint32)
    s14, s30 = np.uint64(14), np.uint64(30)
    for segment in range(seeds.shape[0]):
        for i in range(LANES):
            x[i] = seeds[segment, i]
            w[i] = seeds[segment, LANES + i]
        x[LANES] = x[0]
        steps = min(STEPS, out.shape[0] - segment * STEPS)
        for t in range(-WARM_UP_STEPS, steps):
            for i in range(LANES):
                p = np.uint64(x[i]) * np.uint64(~x[i])
                m[i] = np.uint32(p >> s14)
                w[i] += weyl[i]
                after[i] = np.uint32(p >> s30) + w[i] + x[i + 1]
            after[LANES] = after[0]
            m[LANES] = m[0]
            if t >= 0:
                row = out[segment * STEPS + t]
                for i in range(HALF):
                    row[i] = (m[i] + m[i + 1]) ^ after[i + HALF]
                for i in range(HALF):
                    row[HALF + i] = (m[HALF + i] + m[HALF + i + 1]) ^ after[i]
            x, after = after, x


try:
    fill = numba.njit(_fill, cache=True, nogil=True)
except RuntimeError:  # no folder that a cache may be written to: compiled once a process
    fill = numba.njit(_fill, nogil=True)
