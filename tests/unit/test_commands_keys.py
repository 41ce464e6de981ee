"""`platecrypt keys` and `platecrypt audit`: what they print, how they end, and no key in sight."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from platecrypt.audit import log_path, record, verify
from platecrypt.cipher import Keyring, open_sealed, seal
from platecrypt.commands import audit, keys
from platecrypt.errors import BadInputError

KID, NONCE = "9494fff6a31c7b48", "ab" * 24


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder that the settings name."""
    monkeypatch.setenv("PLATECRYPT_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys with ü" / "ring.json"


def run(app: Any, *words: object, code: int = 0) -> str:
    """What the command prints; it must print no master of any keyring it was given."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, BadInputError):
        raise result.exception
    assert result.exit_code == code, result.output
    for word in words:
        if isinstance(word, Path) and word.suffix == ".json" and word.exists():
            for master in json.loads(word.read_text())["masters"]:
                assert master["key"] not in result.output
    return result.stdout.strip()


def as_json(app: Any, *words: object, code: int = 0) -> Any:
    return json.loads(run(app, *words, "--json", code=code))


# keys


def test_new_makes_a_keyring_with_one_master(file: Path) -> None:
    said = run(keys.app, "new", file)
    ring = Keyring.load(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(ring) == 1
    assert ring.kids[0] in said
    other = file.with_name("other.json")
    assert as_json(keys.app, "new", other) == {
        "file": str(other),
        "kid": Keyring.load(other).kids[0],
    }


def test_new_never_replaces_a_file(file: Path) -> None:
    run(keys.app, "new", file)
    before = file.read_bytes()
    with pytest.raises(BadInputError, match="exists") as caught:
        run(keys.app, "new", file)
    assert caught.value.exit_code == 2
    assert file.read_bytes() == before


def test_id_prints_the_id_of_the_master_that_seals_and_nothing_else(file: Path) -> None:
    ring = Keyring.create(file)
    ring.rotate()
    assert run(keys.app, "id", file) == ring.kids[-1]
    assert as_json(keys.app, "id", file) == {"file": str(file), "kid": ring.kids[-1]}


def test_rotate_seals_with_a_fresh_master_and_keeps_the_old_ones(file: Path) -> None:
    old = Keyring.create(file)
    envelope = seal(b"plate", b"", old, content_type=1)
    assert "1 older ones still open" in run(keys.app, "rotate", file)
    found = as_json(keys.app, "rotate", file)
    ring = Keyring.load(file)
    assert found == {"file": str(file), "kid": ring.kids[2], "older": list(ring.kids[:2])}
    assert ring.kids[0] == old.kids[0]
    assert open_sealed(envelope, ring) == b"plate"


def test_list_names_the_masters_oldest_first_and_which_one_seals(file: Path) -> None:
    ring = Keyring.create(file)
    ring.rotate()
    lines = run(keys.app, "list", file).splitlines()
    assert [line.split()[0] for line in lines] == list(ring.kids)
    assert ["seals" in line for line in lines] == [False, True]
    found = as_json(keys.app, "list", file)
    assert [row["kid"] for row in found["masters"]] == list(ring.kids)
    assert [row["seals"] for row in found["masters"]] == [False, True]
    assert [row["created"] for row in found["masters"]] == list(ring.created.values())
    assert {name for row in found["masters"] for name in row} == {"kid", "created", "seals"}


def test_without_a_file_the_keyring_of_the_settings_is_meant(
    home: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Keyring.create(home / "keys" / "keyring.json")
    assert run(keys.app, "id") == ring.kids[-1]
    assert as_json(keys.app, "rotate")["file"] == str(home / "keys" / "keyring.json")
    assert len(as_json(keys.app, "list")["masters"]) == 2
    other = Keyring.create(file)
    monkeypatch.setenv("PLATECRYPT_KEYS_FILE", str(file))
    assert run(keys.app, "id") == other.kids[-1]


@pytest.mark.parametrize("command", ["id", "rotate", "list"])
def test_keyrings_that_cannot_be_used_are_bad_input(file: Path, command: str) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        run(keys.app, command, file)
    Keyring.create(file)
    file.chmod(0o644)
    with pytest.raises(BadInputError, match="chmod 600"):
        run(keys.app, command, file)
    key = json.loads(file.read_text())["masters"][0]["key"]
    file.chmod(0o600)
    file.write_text(file.read_text().replace(key, "00" + key[2:]))
    with pytest.raises(BadInputError, match="does not fit its key") as caught:
        run(keys.app, command, file)
    assert key[2:] not in str(caught.value)


# audit


def disclose(path: Path) -> None:
    record(path, event="disclose", kid=KID, nonce=NONCE, file="car.jpg", reason="asked for")


def test_an_intact_log_is_said_to_be(home: Path) -> None:
    path = log_path(home)
    disclose(path)
    disclose(path)
    last = verify(path).last
    said = run(audit.app, "verify")
    assert "intact, 2 lines" in said
    assert last in said
    assert run(audit.app, "verify", path) == said
    assert as_json(audit.app, "verify", "--known", last) == {
        "file": str(path),
        "intact": True,
        "count": 2,
        "last": last,
        "line": None,
        "problem": None,
    }


def test_a_broken_log_ends_with_one_and_names_the_line(home: Path) -> None:
    path = log_path(home)
    for _ in range(3):
        disclose(path)
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + third)
    assert "BROKEN at line 2: it is entry 3" in run(audit.app, "verify", code=1)
    found = as_json(audit.app, "verify", path, code=1)
    assert (found["intact"], found["count"], found["line"]) == (False, 1, 2)


def test_a_log_that_lost_what_was_known_ends_with_one(home: Path) -> None:
    disclose(log_path(home))
    run(audit.app, "verify", "--known", verify(log_path(home)).last)
    assert "no line has the digest" in run(audit.app, "verify", "--known", "12" * 32, code=1)


def test_a_missing_log_is_bad_input(home: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        run(audit.app, "verify")
