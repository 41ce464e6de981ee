"""The published known answers of LCL-1 and SLE1, by every engine."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from platecrypt.cipher import Keyring, inspect, keystream, open_sealed
from platecrypt.cipher.envelope import _derive, _seal
from platecrypt.cipher.lcl1 import Engine, _seeds

OWN = Path(__file__).parent / "data" / "sle1_known_answers.json"
PUBLISHED = Path(__file__).parents[3] / "shared" / "kat" / "sle1.json"
KAT: dict[str, Any] = json.loads(OWN.read_text())
KEY = bytes.fromhex(KAT["key"])
LENGTHS = [int(n) for n in KAT["ks_sha256"] if n.isdigit()]
ENGINES: tuple[Engine, ...] = ("compiled", "numpy", "python")
MASTER = Keyring([KEY]).newest


def test_our_copy_of_the_known_answers_is_the_published_one() -> None:
    if not PUBLISHED.exists():
        pytest.skip("the folder with the published known answers is not beside this checkout")
    assert json.loads(PUBLISHED.read_text()) == KAT


def test_seeds_are_the_aes_ctr_stream_lanes_first_weyl_second() -> None:
    words = [int.from_bytes(_seeds(KEY, 0, 1)[i : i + 4], "little") for i in range(0, 4096, 4)]
    assert [f"0x{word:08x}" for word in words[:4]] == KAT["seed_x0_3"]
    assert [f"0x{word:08x}" for word in words[512:516]] == KAT["seed_w0_3"]


@pytest.mark.parametrize("engine", ENGINES)
def test_first_32_keystream_bytes(engine: Engine) -> None:
    assert keystream(KEY, 32, engine=engine).hex() == KAT["ks_first32"]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("engine", ["compiled", "numpy"])
def test_keystream_digests(engine: Engine, n: int) -> None:
    assert hashlib.sha256(keystream(KEY, n, engine=engine)).hexdigest() == KAT["ks_sha256"][str(n)]


@pytest.mark.parametrize("n", [n for n in LENGTHS if n < 200_000])  # 6 MB take it 20 s
def test_keystream_digests_of_the_readable_engine(n: int) -> None:
    digest = hashlib.sha256(keystream(KEY, n, engine="python")).hexdigest()
    assert digest == KAT["ks_sha256"][str(n)]


def test_key_id_and_nonce_key_of_a_master() -> None:
    assert MASTER.kid.hex() == KAT["kid"]
    assert MASTER.nonce_key.hex() == KAT["kn"]


def test_envelope_keys() -> None:
    answer = KAT["derive_N0"]
    keys = _derive(MASTER, bytes(24), b"SLE1\1\1\1\0", hashlib.sha256(b"ctx").digest())
    assert keys.gcm.hex() == answer["kg"]
    assert keys.iv.hex() == answer["iv"]
    assert keys.chaos.hex() == answer["kc"]
    assert keys.commit.hex() == answer["com"]


def test_the_small_envelope_seals_to_its_known_bytes_and_opens() -> None:
    known = bytes.fromhex(KAT["env_small"]["hex"])
    assert _seal(b"34ABC123", b"ctx", MASTER, 2, 0, bytes(32)) == known
    assert open_sealed(known, Keyring([KEY]), expected_ctx=b"ctx") == b"34ABC123"
    info = inspect(known)
    assert (info.kid, info.ctx, info.plaintext_bytes) == (KAT["kid"], b"ctx", 8)
    assert (info.content_type, info.flags) == (2, 0)
