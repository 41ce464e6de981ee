"""Key files: their owner's alone on a disk, as the platform mounts them in a container."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from platecrypt.cipher import Keyring, KeyringError
from platecrypt.errors import BadInputError
from platecrypt.training.gate import load_gate_key


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small file system; `mount -o remount,ro` is what Kubernetes does with a Secret."""
    folder = tmp_path / "secret"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_open_modes_are_refused_on_a_disk_and_taken_from_a_read_only_mount(mounted: Path) -> None:
    Keyring.create(mounted / "keyring.json")
    gate = load_gate_key(mounted / "gate.key")
    for path in mounted.iterdir():
        path.chmod(0o644)
    with pytest.raises(KeyringError, match="0644"):
        Keyring.load(mounted / "keyring.json")
    with pytest.raises(BadInputError, match="0644"):
        load_gate_key(mounted / "gate.key")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    assert len(Keyring.load(mounted / "keyring.json")) == 1
    assert load_gate_key(mounted / "gate.key") == gate
