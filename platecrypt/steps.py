"""What every pipeline step does around its work: say how long it took, and how it failed.

A step runs as a process of its own, in a container or on this machine. A failure that the library
raised on purpose becomes one line on standard error, `error[2]: message`, that names the exit
code it stands for; the local engine reads it there, and on the dashboard it ends the log.
"""

import functools
import gc
import hashlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from platecrypt.errors import PlatecryptError

P = ParamSpec("P")
R = TypeVar("R")
# A line that begins so is meant for a person; everything else a step prints is for its log.
MARK = "| "
ERROR_LINE = re.compile(r"^\s*error\[(\d)\]: (.*)$")


def step(work: Callable[P, R]) -> Callable[P, R]:
    """Wrap the function that a component calls."""

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        began = time.monotonic()
        try:
            result = work(*args, **kwargs)
        except PlatecryptError as error:
            fail(error)
        sys.stderr.write(f"{work.__name__} took {time.monotonic() - began:.1f} s\n")
        # The process ends now. Without this the interpreter first searches all that Feast, MLflow
        # or PyTorch left behind for garbage: 0.6 to 1.4 s a step, measured, against 0.1.
        gc.freeze()
        return result

    return run


def fail(error: PlatecryptError) -> NoReturn:
    """End the process with the error's one line and its exit code."""
    message = " ".join(str(error).split())
    sys.stderr.write(f"error[{error.exit_code}]: {message}\n")
    raise SystemExit(error.exit_code)


def say(message: str) -> None:
    """One line about what a step did, for a person."""
    sys.stderr.write(f"{MARK}{message}\n")
    sys.stderr.flush()


def library_digest() -> str:
    """SHA-256 over the library's own source: part of every cache key, because the engine's key
    covers only the few lines of the component.
    """
    package = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package).as_posix()}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()
