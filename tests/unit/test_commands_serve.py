"""What `platecrypt serve` prepares before it starts anything."""

from pathlib import Path

import pytest

from platecrypt.cipher import Keyring
from platecrypt.commands.serve import _ensure_keys
from platecrypt.errors import BadInputError
from platecrypt.settings import Settings


def test_the_first_time_makes_a_key_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=tmp_path)
    _ensure_keys(settings, given=False)
    path = settings.keyring_path
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(path) in capsys.readouterr().err
    before = Keyring.load(path).kids
    _ensure_keys(settings, given=False)
    assert Keyring.load(path).kids == before
    assert capsys.readouterr().err == ""


def test_keys_that_were_named_are_never_made(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, keys_file=tmp_path / "keys.json")
    with pytest.raises(BadInputError, match="keys.json"):
        _ensure_keys(settings, given=True)
    assert list(tmp_path.iterdir()) == []
