"""The second implementation, in JavaScript, opens what ours seals and refuses what ours refuses."""

import base64
import hashlib
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import platecrypt.cipher
from platecrypt.cipher import (
    DETACHED,
    EnvelopeError,
    Keyring,
    canonical_json,
    disclosure_token,
    inspect,
    keystream,
    seal,
)
from platecrypt.cipher.lcl1 import ROW, SEGMENT
from platecrypt.imaging.codec import encode
from platecrypt.imaging.containers import embed

ROOT = Path(__file__).resolve().parents[2]
MODULES = Path(platecrypt.cipher.__file__).parent / "js"
DRIVER = ROOT / "tests" / "support" / "sle1_answers.mjs"
PUBLISHED = ROOT.parent / "shared" / "kat" / "sle1.json"
NODE = shutil.which("node")
MASTERS = [b"a" * 32, b"b" * 32]
RING = Keyring(MASTERS)
Question = dict[str, Any]

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed (18 or newer)")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def node(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    assert NODE is not None
    return subprocess.run(
        [NODE, *words], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def ask(questions: list[Question]) -> list[dict[str, Any]]:
    """What JavaScript answers to each: {"ok": ...} or {"error": ..., "message": ...}."""
    done = node(str(DRIVER), MODULES.as_uri(), text=json.dumps(questions))
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def opening(envelope: bytes, masters: list[bytes] = MASTERS, **more: Any) -> Question:
    return {
        "ask": "open",
        "envelope": b64(envelope),
        "masters": [b64(key) for key in masters],
        **more,
    }


def refusals(questions: list[Question]) -> list[int]:
    """Positions of the questions that were NOT refused with the one error and its one message."""
    wanted = {"error": "EnvelopeError", "message": EnvelopeError.MESSAGE}
    return [at for at, answer in enumerate(ask(questions)) if answer != wanted]


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    if not PUBLISHED.exists():
        pytest.skip("the folder with the published known answers is not beside this checkout")
    found: dict[str, Any] = json.loads(PUBLISHED.read_text())
    return found


def test_the_published_known_answers(known: dict[str, Any]) -> None:
    key = b64(bytes.fromhex(known["key"]))
    digests = {int(n): digest for n, digest in known["ks_sha256"].items() if n.isdigit()}
    small = bytes.fromhex(known["env_small"]["hex"])
    first, kid, plain, *found = ask(
        [
            {"ask": "keystream", "key": key, "n": 32, "start": 0},
            {"ask": "kid", "key": key},
            opening(small, [bytes.fromhex(known["key"])], expected=b64(b"ctx")),
            *({"ask": "digest", "key": key, "n": n} for n in digests),
        ]
    )
    assert base64.b64decode(first["ok"]).hex() == known["ks_first32"]
    assert kid["ok"] == known["kid"]
    assert base64.b64decode(plain["ok"]) == b"34ABC123"
    assert [answer["ok"] for answer in found] == list(digests.values())


def test_the_keystream_from_any_byte_on() -> None:
    random = Random(1)
    edges = [0, 1, 3, ROW, SEGMENT, 64 * SEGMENT, 2**33, 2**45 + 5]
    cases = [
        (random.randbytes(32), random.randrange(3 * ROW), max(0, edge + random.randint(-3, 3)))
        for edge in edges
        for _ in range(4)
    ]
    cases.append((bytes(32), 2 * SEGMENT + 9, SEGMENT - 4))
    answers = ask(
        [{"ask": "keystream", "key": b64(key), "n": n, "start": start} for key, n, start in cases]
    )
    for (key, n, start), answer in zip(cases, answers, strict=True):
        assert base64.b64decode(answer["ok"]) == keystream(key, n, start=start), (n, start)


def test_what_python_sealed_opens_byte_for_byte() -> None:
    random = Random(2)
    sizes = [0, 1, ROW - 1, ROW, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 77]
    sizes += [random.randrange(50_000) for _ in range(24)]
    sealed = []
    for size in sizes:
        plain, ctx = random.randbytes(size), random.randbytes(random.choice([0, 3, 330]))
        flags = random.choice([0, DETACHED])
        ring = Keyring([random.choice(MASTERS)])  # any of the masters, not only the newest
        kind = random.choice([1, 2, 3])
        sealed.append((plain, ctx, seal(plain, ctx, ring, content_type=kind, flags=flags)))
    answers = ask([opening(envelope, expected=b64(ctx)) for _, ctx, envelope in sealed])
    public = ask([{"ask": "inspect", "envelope": b64(envelope)} for _, _, envelope in sealed])
    tokens = ask(
        [
            {"ask": "token", "envelope": b64(envelope), "token": disclosure_token(envelope, RING)}
            for _, _, envelope in sealed
        ]
    )
    for (plain, _, envelope), opened, seen, token in zip(
        sealed, answers, public, tokens, strict=True
    ):
        assert base64.b64decode(opened["ok"]) == plain
        assert base64.b64decode(token["ok"]) == plain
        info = inspect(envelope)
        assert seen["ok"] == {
            "contentType": info.content_type,
            "flags": info.flags,
            "kid": info.kid,
            "nonce": info.nonce,
            "ctx": b64(info.ctx),
            "plaintextBytes": info.plaintext_bytes,
        }


def test_every_flipped_byte_is_refused() -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    changed = []
    for at in range(len(envelope)):
        for bit in (0x01, 0x80):
            copy = bytearray(envelope)
            copy[at] ^= bit
            changed.append(bytes(copy))
    token = disclosure_token(envelope, RING)
    assert refusals([opening(one) for one in changed]) == []
    # A token brings its own keys, so nothing but GCM stands between it and a changed envelope.
    assert (
        refusals([{"ask": "token", "envelope": b64(one), "token": token} for one in changed]) == []
    )
    assert refusals([opening(envelope)]) == [0]


def test_every_truncation_and_extension_is_refused() -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    cut = [envelope[:size] for size in range(len(envelope))]
    cut += [envelope[size:] for size in range(1, len(envelope))]
    cut += [envelope + b"\0", b"\0" + envelope]
    assert refusals([opening(one) for one in cut]) == []
    assert refusals([{"ask": "inspect", "envelope": b64(one)} for one in cut]) == []


def test_lengths_that_lie_are_refused() -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    lies = [
        envelope[:72] + struct.pack("<IQ", ctx, plain) + envelope[84:]
        for ctx, plain in [(2**32 - 1, 8), (3, 2**64 - 1), (11, 0), (0, 11), (3, 2**53 + 8)]
    ]
    assert refusals([opening(one) for one in lies]) == []


def test_fields_swapped_between_envelopes_are_refused() -> None:
    # Of one key and one length, so that only what the fields hold tells them apart.
    one = seal(b"34ABC123", b"ctx", Keyring([MASTERS[0]]), content_type=2)
    two = seal(b"06XYZ789", b"abc", Keyring([MASTERS[0]]), content_type=1, flags=DETACHED)
    other = seal(b"34ABC123", b"ctx", Keyring([MASTERS[1]]), content_type=2)
    fields = [(6, 7), (7, 8), (16, 40), (40, 72), (84, 87), (87, 95), (95, 111)]
    mixed = [one[:a] + two[a:b] + one[b:] for a, b in fields]
    mixed += [one[:a] + other[a:b] + one[b:] for a, b in [(8, 16), *fields[2:4], *fields[5:]]]
    assert one not in mixed
    assert refusals([opening(envelope) for envelope in mixed]) == []


def test_another_key_and_another_context_are_refused() -> None:
    envelope = seal(b"x", b"ctx", RING, content_type=1)
    assert (
        refusals(
            [
                opening(envelope, [b"c" * 32]),
                opening(envelope, []),
                opening(
                    envelope[:8] + Keyring([b"c" * 32]).newest.kid + envelope[16:], [b"c" * 32]
                ),
                *(opening(envelope, expected=b64(ctx)) for ctx in (b"", b"cty", b"ctx ")),
            ]
        )
        == []
    )


def test_the_key_commitment_is_checked_by_itself() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from platecrypt.cipher.envelope import envelope_keys

    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    keys, head = envelope_keys(envelope, RING), bytearray(envelope[:87])
    head[71] ^= 1  # the last byte of the commitment; GCM is made to agree with it
    forged = bytes(head) + AESGCM(keys.gcm).encrypt(keys.iv, bytes(8), bytes(head))
    assert refusals([opening(forged)]) == []


def test_tokens_of_others_and_damaged_tokens_are_refused() -> None:
    one, two = (seal(plain, b"ctx", RING, content_type=1) for plain in (b"one", b"two"))
    token = disclosure_token(one, RING)
    verified = (4 + 24 + 32 + 12) * 4 // 3  # characters before the LCL-1 key
    wrong = [
        token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(verified)
    ]
    wrong += [token[:size] for size in range(len(token))]
    wrong += [
        "=",
        "ä" * 139,
        token + "A",
        token + "\n",
        " " + token,
        token[:70] + "\n" + token[70:],
    ]
    questions = [{"ask": "token", "envelope": b64(one), "token": each} for each in wrong]
    questions.append({"ask": "token", "envelope": b64(two), "token": token})
    swapped = two[:16] + one[16:40] + two[40:]
    questions.append({"ask": "token", "envelope": b64(swapped), "token": token})
    assert refusals(questions) == []
    padded = ask([{"ask": "token", "envelope": b64(one), "token": token + "="}])
    assert base64.b64decode(padded[0]["ok"]) == b"one"


def test_keyring_files_are_read_and_damaged_ones_are_not_quoted(tmp_path: Path) -> None:
    ring = Keyring.create(tmp_path / "keyring.json")
    ring.rotate()
    whole = (tmp_path / "keyring.json").read_text()
    document = json.loads(whole)
    key = document["masters"][0]["key"]
    other = json.dumps({**document, "keyring": 2})
    bent = whole.replace(key, "00" + key[2:])
    short = whole.replace(key, key[:-2])
    empty = json.dumps({**document, "masters": []})
    wrong = [other, bent, short, empty, "", "null", "[]", '{"keyring": 1}', key, whole[:-5]]
    good, *refused = ask([{"ask": "keyring", "file": text} for text in (whole, *wrong)])
    assert tuple(good["ok"]) == ring.kids
    for answer in refused:
        assert answer["error"] == "KeyringError"
        assert key[:16] not in answer["message"]


# Files


def blob_of(envelopes: list[bytes]) -> bytes:
    parts = [b"SLEB\1\0\0\0", struct.pack("<I", len(envelopes))]
    for envelope in envelopes:
        parts += [struct.pack("<I", len(envelope)), envelope]
    return b"".join(parts)


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


@pytest.fixture(scope="module")
def envelopes() -> list[bytes]:
    random = Random(3)
    sizes = [0, 9_000, 150_000]  # more than one JPEG segment
    return [
        seal(random.randbytes(size), canonical_json({"region": at}), RING, content_type=1)
        for at, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def carriers(envelopes: list[bytes]) -> dict[str, bytes]:
    pixels = np.random.default_rng(4).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    return {
        "JPEG": embed(encode(pixels, "jpeg"), envelopes),
        "PNG": embed(encode(pixels, "png"), envelopes),
        "WebP": embed(encode(pixels, "webp"), envelopes),
        "TIFF": embed(encode(pixels, "tiff"), envelopes),
        "sidecar": blob_of(envelopes),
    }


def test_envelopes_are_found_in_every_kind_of_file(
    carriers: dict[str, bytes], envelopes: list[bytes]
) -> None:
    wanted = [b64(envelope) for envelope in envelopes]
    answers = ask([{"ask": "sealed", "file": b64(data)} for data in carriers.values()])
    for kind, answer in zip(carriers, answers, strict=True):
        assert answer == {"ok": wanted}, kind
    # A chunk of odd length in front is followed by a byte that belongs to none.
    shifted = riff(b"XTRA" + struct.pack("<I", 3) + b"odd\0" + carriers["WebP"][12:])
    plain = encode(np.zeros((9, 9, 3), np.uint8), "png")
    answers = ask([{"ask": "sealed", "file": b64(data)} for data in (shifted, plain)])
    assert answers == [{"ok": wanted}, {"ok": []}]


def test_segments_of_two_pictures_in_one_file_are_named(
    carriers: dict[str, bytes], envelopes: list[bytes]
) -> None:
    jpeg = carriers["JPEG"]
    other = embed(encode(np.zeros((9, 9, 3), np.uint8), "jpeg"), envelopes[::-1])
    start, segment = jpeg.index(b"SLE1\0") - 4, other[other.index(b"SLE1\0") - 4 :][:65537]
    (answer,) = ask([{"ask": "sealed", "file": b64(jpeg[:start] + segment + jpeg[start:])}])
    assert answer["error"] == "ContainerError"
    assert "several pictures is mixed" in answer["message"]


def test_damaged_files_are_refused(carriers: dict[str, bytes], envelopes: list[bytes]) -> None:
    jpeg, png, webp, tiff, blob = carriers.values()
    cut = [data[:size] for data in carriers.values() for size in (3, 11, 40, len(data) // 2)]
    first, last = jpeg.index(b"SLE1\0"), jpeg.rindex(b"SLE1\0")
    flipped = bytearray(jpeg)
    flipped[first + 5000] ^= 1
    count = struct.pack("<I", 4)
    sealed_chunk = webp[webp.index(b"SLE1") :]
    wrong = [
        *cut,
        bytes(flipped),
        jpeg[: first - 4] + jpeg[last - 4 :],  # a segment is missing
        jpeg[: first + 5] + b"other id" + jpeg[first + 13 :],  # of another picture
        png[: png.index(b"slEp") + 40] + b"\0" + png[png.index(b"slEp") + 41 :],
        riff(webp[12:] + sealed_chunk),  # two of them
        tiff.replace(struct.pack("<HH", 65211, 7), struct.pack("<HH", 65211, 4)),
        tiff.replace(b"SLEB", b"SLEC"),
        blob[:8] + count + blob[12:],
        blob[:8] + struct.pack("<I", 2**32 - 1) + blob[12:],
        blob[:4] + b"\2" + blob[5:],
        blob + b"\0",
        blob_of([]),
        b"GIF89a",
    ]
    for at, answer in enumerate(ask([{"ask": "sealed", "file": b64(data)} for data in wrong])):
        assert answer.get("error") == "ContainerError", at


# The page


def test_the_page_is_made_of_these_modules() -> None:
    done = node(str(MODULES / "bundle.mjs"), "--check")
    assert done.returncode == 0, done.stderr


def test_the_script_of_the_page_is_whole_and_the_only_one_allowed(tmp_path: Path) -> None:
    page = (MODULES / "open.html").read_text()
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    assert not re.search(r"^(import|export) ", scripts[0], re.MULTILINE)
    script = tmp_path / "page.mjs"
    script.write_text(scripts[0])
    assert node("--check", str(script)).returncode == 0
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'" in page
    assert "http:" not in page
    assert "https:" not in page
