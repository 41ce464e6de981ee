"""What `platecrypt serve` prepares before it starts anything."""

from pathlib import Path

import pytest
import typer.testing

from platecrypt.cipher import Keyring
from platecrypt.cli import app
from platecrypt.commands.shared import ensure_keys
from platecrypt.errors import BadInputError


def test_the_first_time_makes_a_key_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys" / "keyring.json"
    ensure_keys(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in capsys.readouterr().err
    before = Keyring.load(path).kids
    ensure_keys(path)
    assert Keyring.load(path).kids == before
    assert capsys.readouterr().err == ""


def test_a_key_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file where the folder would be")
    with pytest.raises(BadInputError, match="no keyring can be made"):
        ensure_keys(tmp_path / "keys" / "keyring.json")


def test_keys_that_were_named_are_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATECRYPT_HOME", str(tmp_path / "home"))
    model = tmp_path / "model.onnx"
    model.write_bytes(b"any")
    words = ["serve", "--model", str(model), "--keys", str(tmp_path / "keys.json")]
    done = typer.testing.CliRunner().invoke(app, words)
    assert isinstance(done.exception, BadInputError)
    assert "keys.json" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
