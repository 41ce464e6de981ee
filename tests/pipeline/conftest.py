"""The command line as a user runs it: a process of its own, with a state folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from platecrypt.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(Path(sys.executable).parent / "platecrypt")


@dataclass
class Workplace:
    """Runs `platecrypt` in the checkout with its own state, and remembers nothing else."""

    home: Path
    port: int = field(default_factory=free_port)
    s3_port: int = field(default_factory=free_port)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PLATECRYPT_HOME": str(self.home),
            "PLATECRYPT_PORT": str(self.port),
            "PLATECRYPT_S3_PORT": str(self.s3_port),
        }

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/models/plates:predict"

    def start(self, *words: str, **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [COMMAND, *words],
            cwd=ROOT,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        with self.start(*words, **more) as process:
            out, err = process.communicate(timeout=900)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ask(self, *words: str, **more: str) -> Any:
        """Run with --json and read what it prints; it must succeed."""
        done = self.run(*words, "--json", **more)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    made = Workplace(tmp_path_factory.mktemp("state"))
    yield made
    made.run("stop")
    assert made.ask("status") == [], "something was left running"
