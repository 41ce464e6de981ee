"""A keyring file keeps its masters, shows them to nobody, and is never half-written."""

import json
import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from platecrypt.cipher import Keyring, KeyringError, open_sealed, seal

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys with ü" / "keyring.json"


def assert_tells_no_key(text: str, *rings: Keyring) -> None:
    for ring in rings:
        for kid in ring.kids:
            master = ring.find(bytes.fromhex(kid))
            assert master is not None
            for form in (master.key.hex(), repr(master.key), master.nonce_key.hex()):
                assert form not in text


def test_create_makes_a_0600_file_with_one_fresh_master(path: Path) -> None:
    before = os.umask(0)
    try:
        ring = Keyring.create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(ring) == 1
    assert Keyring.load(path).newest.key == ring.newest.key
    assert Keyring.create(path.with_name("b.json")).kids != ring.kids
    assert sorted(p.name for p in path.parent.iterdir()) == ["b.json", "keyring.json"]


def test_create_never_replaces_a_file(path: Path) -> None:
    Keyring.create(path)
    content = path.read_bytes()
    with pytest.raises(KeyringError, match="exists"):
        Keyring.create(path)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["keyring.json"]


def test_rotate_seals_with_the_newest_and_opens_with_any(path: Path) -> None:
    ring = Keyring.create(path)
    old = seal(b"old", b"", ring, content_type=1)
    kid = ring.rotate()
    new = seal(b"new", b"", ring, content_type=1)
    again = Keyring.load(path)
    assert again.kids == ring.kids
    assert again.kids[-1] == kid
    assert new[8:16].hex() == kid != old[8:16].hex()
    assert open_sealed(old, again) == b"old"
    assert open_sealed(new, again) == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_add_takes_in_a_master_once(path: Path) -> None:
    ring = Keyring.create(path)
    kid = ring.add(KEY)
    assert Keyring.load(path).newest.key == KEY
    with pytest.raises(KeyringError, match=f"already holds key id {kid}"):
        ring.add(KEY)
    assert len(Keyring.load(path)) == 2


def test_two_holders_of_one_file_lose_no_master(path: Path) -> None:
    Keyring.create(path)
    rings = [Keyring.load(path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        kids = list(pool.map(lambda ring: ring.rotate(), rings))
    assert set(kids) <= set(Keyring.load(path).kids)
    assert len(Keyring.load(path)) == 9


def test_a_keyring_in_memory_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ring = Keyring([KEY])
    ring.rotate()
    assert len(ring) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o601, 0o610])
def test_open_permissions_are_refused_with_the_remedy(path: Path, mode: int) -> None:
    Keyring.create(path)
    path.chmod(mode)
    with pytest.raises(KeyringError, match=f"open to others.*{mode:04o}.*chmod 600") as caught:
        Keyring.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_only_its_owner_reads_is_fine(path: Path) -> None:
    Keyring.create(path)
    path.chmod(0o400)
    assert len(Keyring.load(path)) == 1


def _damage(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyringError) as caught:
        Keyring.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _entry(key: bytes, changes: dict[str, str] | None = None) -> bytes:
    kid = Keyring([key]).kids[0] if len(key) == 32 else "00" * 8
    entry = {"kid": kid, "key": key.hex(), "created": "2026-01-01T00:00:00Z"}
    entry |= changes or {}
    return json.dumps({"keyring": 1, "masters": [entry]}).encode()


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_master_of_wrong_length_is_refused(path: Path, size: int) -> None:
    message = _damage(path, _entry(b"k" * size))
    assert f"32 bytes, this one {size}" in message
    assert (b"k" * size).hex() not in message or size == 0


def test_damaged_files_are_refused_without_telling_the_key(path: Path) -> None:
    whole = _entry(KEY)
    assert "is empty" in _damage(path, b"")
    assert "holds no master" in _damage(path, b'{"keyring": 1, "masters": []}')
    assert "another version" in _damage(path, whole.replace(b'"keyring": 1', b'"keyring": 2'))
    assert "damaged" in _damage(path, b"x" * (1024 * 1024 + 1))
    assert "damaged" in _damage(path, b"[" * 100_000)
    assert "does not fit its key" in _damage(path, _entry(KEY, {"kid": "00" * 8}))
    for size in range(1, len(whole)):
        assert_tells_no_key(_damage(path, whole[:size]), Keyring([KEY]))
    for content in (b"null", b"[]", b'{"masters": 1, "keyring": 1}', b"\xff\xfe", KEY, KEY.hex()):
        data = content if isinstance(content, bytes) else content.encode()
        assert_tells_no_key(_damage(path, data), Keyring([KEY]))


def test_one_changed_digit_of_a_key_is_noticed(path: Path) -> None:
    text = KEY.hex()
    for at in (0, 31, 63):
        changed = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
        assert "does not fit" in _damage(path, _entry(KEY, {"key": changed}))


def test_a_missing_file_a_folder_and_a_pipe_are_named(path: Path) -> None:
    with pytest.raises(KeyringError, match="does not exist"):
        Keyring.load(path)
    path.mkdir(parents=True)
    with pytest.raises(KeyringError, match="not a regular file"):
        Keyring.load(path)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyringError, match="not a regular file"):
        Keyring.load(path)


def test_a_disk_that_fills_up_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring.create(path)
    content, kids = path.read_bytes(), ring.kids

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyringError, match=r"No space left.*nothing was changed"):
        ring.rotate()
    assert path.read_bytes() == content
    assert ring.kids == kids
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(KeyringError, match="cannot be written"):
        Keyring.create(path.with_name("new.json"))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_sealing_with_an_empty_keyring_says_so() -> None:
    with pytest.raises(KeyringError, match="holds no master"):
        seal(b"", b"", Keyring(), content_type=1)


def test_neither_repr_nor_pickle_tells_a_key(path: Path) -> None:
    ring = Keyring.create(path)
    for text in (repr(ring), str(ring), repr(ring.newest), f"{ring.newest}", repr(vars(ring))):
        assert_tells_no_key(text, ring)
    assert ring.kids[0] in repr(ring)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(ring)
