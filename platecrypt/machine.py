"""What of this machine is ours to use."""

import math
import os
from pathlib import Path

# Control groups, version 2: "QUOTA PERIOD" in microseconds, or "max PERIOD" without a limit.
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def cores(limit: Path = CPU_LIMIT) -> int:
    """CPU cores that this process may use, at least 1.

    The machine's, fewer where the process is bound to some, fewer again where its container has a
    CPU limit: a pod with two of a node's 64 cores must not start a hundred threads. Part of a core
    counts as one.
    """
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
        allowed = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return bound
    return max(1, min(bound, allowed))
