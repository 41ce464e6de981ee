"""GPUs of this machine, given out to trials by what the trial template asks for."""

import os
import subprocess
from collections.abc import Sequence

from platecrypt.errors import BadInputError
from platecrypt.tuning.checks_template import GPU

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> tuple[str, ...]:
    """Indices or names of the GPUs that a process of ours may use; none without a driver."""
    limited = os.environ.get(VISIBLE)
    if limited is not None:
        return tuple(part.strip() for part in limited.split(",") if part.strip())
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


class GpuPool:
    """Hands GPUs out to trials; each has its own.

    Args:
        gpus: of this machine.
        each: how many a trial asks for; 0 leaves the choice to the trial, and without any GPU
            trials run on the CPU.

    Raises:
        BadInputError: a trial asks for more than there are.
    """

    def __init__(self, gpus: Sequence[str], each: int) -> None:
        if gpus and each > len(gpus):
            raise BadInputError(
                f"a trial asks for {each} {GPU}, this machine has {len(gpus)}; change the limits "
                "of the trial template, or run it on a cluster"
            )
        self._free = list(gpus) if each else []
        self._each = each
        self.at_once = len(gpus) // each if gpus and each else None

    def take(self) -> tuple[str, ...]:
        """The GPUs of the next trial; none where none are given out."""
        taken = tuple(self._free[: self._each])
        del self._free[: self._each]
        return taken

    def give_back(self, gpus: Sequence[str]) -> None:
        """The trial that had them has ended."""
        self._free.extend(gpus)
