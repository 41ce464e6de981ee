"""An envelope opens whole and unchanged, with its key and context, or not at all."""

import json
import struct
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from platecrypt.cipher import (
    DETACHED,
    OVERHEAD,
    EnvelopeError,
    Keyring,
    canonical_json,
    disclosure_token,
    inspect,
    lcl1,
    open_sealed,
    open_with_token,
    padded_record,
    seal,
    warm_up,
)
from platecrypt.cipher.envelope import _derive, _seal

RING = Keyring([b"a" * 32, b"b" * 32])
FIELDS = {
    "magic": (0, 4),
    "version": (4, 5),
    "suite": (5, 6),
    "content type": (6, 7),
    "flags": (7, 8),
    "kid": (8, 16),
    "N": (16, 40),
    "commit": (40, 72),
    "len ctx": (72, 76),
    "len plaintext": (76, 84),
    "ctx": (84, 87),
    "ciphertext": (87, -16),
    "tag": (-16, None),
}


def refused(envelope: bytes, ring: Keyring = RING) -> bool:
    """Whether the envelope is refused with the one error and its one message."""
    try:
        open_sealed(envelope, ring)
    except EnvelopeError as error:
        return str(error) == EnvelopeError.MESSAGE and error.__cause__ is None
    return False


@settings(max_examples=60, deadline=None)
@given(plain=st.binary(max_size=5000), ctx=st.binary(max_size=300), kind=st.sampled_from([1, 2, 3]))
def test_what_was_sealed_is_what_opens(plain: bytes, ctx: bytes, kind: int) -> None:
    envelope = seal(plain, ctx, RING, content_type=kind)
    assert len(envelope) == OVERHEAD + len(ctx) + len(plain)
    assert open_sealed(envelope, RING, expected_ctx=ctx) == plain
    info = inspect(envelope)
    assert (info.content_type, info.ctx, info.plaintext_bytes) == (kind, ctx, len(plain))
    assert info.kid == RING.kids[-1]


@settings(max_examples=20, deadline=None)
@given(plain=st.binary(max_size=5000), other=st.binary(max_size=2))
def test_whatever_engine_sealed_any_engine_opens(plain: bytes, other: bytes) -> None:
    assert warm_up() == "compiled"
    plain = plain * 30 + other
    envelopes = [_seal(plain, b"ctx", RING.newest, 1, 0, bytes(32))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcl1._State, "kernel", None)
        patch.setattr(lcl1._State, "numba_missing", True)
        envelopes.append(_seal(plain, b"ctx", RING.newest, 1, 0, bytes(32)))
    assert envelopes[0] == envelopes[1]
    assert open_sealed(envelopes[1], RING) == plain


def test_a_large_plaintext_over_several_segments() -> None:
    plain = bytes(range(256)) * 2000
    assert open_sealed(seal(plain, b"", RING, content_type=3), RING) == plain


def test_sealing_twice_gives_different_envelopes() -> None:
    one, two = (seal(b"same", b"ctx", RING, content_type=1) for _ in range(2))
    assert one[16:40] != two[16:40]
    assert one[87:] != two[87:]


def test_a_broken_random_source_repeats_nothing_but_equal_envelopes() -> None:
    master = RING.newest
    one = _seal(b"plate A", b"ctx", master, 1, 0, bytes(32))
    two = _seal(b"plate B", b"ctx", master, 1, 0, bytes(32))
    other = _seal(b"plate A", b"other", master, 1, 0, bytes(32))
    assert len({one[16:40], two[16:40], other[16:40]}) == 3


def test_every_flipped_byte_is_refused() -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    for at in range(len(envelope)):
        for bit in (0x01, 0x80):
            changed = bytearray(envelope)
            changed[at] ^= bit
            assert refused(bytes(changed)), f"byte {at}, bit {bit:#x}"
    assert not refused(envelope)


def test_every_truncation_and_extension_is_refused() -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    for size in range(len(envelope)):
        assert refused(envelope[:size]), f"first {size} bytes"
        assert size == 0 or refused(envelope[size:]), f"without the first {size} bytes"
    assert refused(envelope + b"\0")


def test_the_public_part_of_a_cut_or_extended_envelope_is_not_read() -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    for data in (envelope + b"\0", *(envelope[:size] for size in range(len(envelope)))):
        with pytest.raises(EnvelopeError):
            inspect(data)


@pytest.mark.parametrize(("at", "value"), [(0, 0), (4, 2), (5, 2), (6, 0), (6, 4), (7, 1), (7, 4)])
def test_the_public_part_of_an_unknown_kind_of_envelope_is_not_read(at: int, value: int) -> None:
    envelope = bytearray(seal(b"34ABC123", b"ctx", RING, content_type=2))
    envelope[at] = value
    with pytest.raises(EnvelopeError):
        inspect(bytes(envelope))


def test_the_key_commitment_is_checked_by_itself() -> None:
    # Its bytes are authenticated too, so a flipped one says nothing: here GCM verifies.
    head = bytearray(seal(b"34ABC123", b"ctx", RING, content_type=2)[:87])
    keys = _derive(RING.newest, bytes(head[16:40]), bytes(head[:8]), sha256(b"ctx").digest())

    def signed() -> bytes:
        return bytes(head) + AESGCM(keys.gcm).encrypt(keys.iv, bytes(8), bytes(head))

    assert not refused(signed())
    for at in range(40, 72):
        head[at] ^= 1
        assert refused(signed()), at
        head[at] ^= 1


@pytest.mark.parametrize("name", [n for n in FIELDS if n not in ("magic", "version", "suite")])
def test_every_field_swapped_between_two_envelopes_is_refused(name: str) -> None:
    one = seal(b"34ABC123", b"ctx", Keyring([b"a" * 32]), content_type=2)
    two = seal(b"06XY9876Z", b"abcd", Keyring([b"b" * 32]), content_type=1, flags=DETACHED)
    start, end = FIELDS[name]
    # `two` has other lengths, so fields behind its ctx lie one byte further.
    source = {"ctx": two[84:87], "ciphertext": two[88:96], "tag": two[-16:]}.get(
        name, two[start:end]
    )
    mixed = one[:start] + source + (one[end:] if end is not None else b"")
    assert mixed != one
    assert len(mixed) == len(one)
    assert refused(mixed)


def test_swapping_all_fields_in_turn_between_envelopes_of_one_key_is_refused() -> None:
    one, two = (seal(p, b"ctx", RING, content_type=1) for p in (b"34ABC123", b"06XYZ789"))
    for name in ("N", "commit", "ciphertext", "tag"):
        start, end = FIELDS[name]
        mixed = one[:start] + two[start:end] + (one[end:] if end is not None else b"")
        assert mixed != one
        assert refused(mixed), name


def test_a_key_that_is_not_held_is_refused() -> None:
    assert refused(seal(b"x", b"", Keyring([b"c" * 32]), content_type=1))


def test_a_forged_key_id_does_not_help() -> None:
    stranger = Keyring([b"c" * 32])
    envelope = seal(b"x", b"", stranger, content_type=1)
    assert refused(envelope[:8] + RING.newest.kid + envelope[16:])


def test_every_master_of_the_ring_opens() -> None:
    old = Keyring([b"a" * 32])
    assert open_sealed(seal(b"x", b"", old, content_type=1), RING) == b"x"


def test_another_expected_context_is_refused() -> None:
    envelope = seal(b"x", b"ctx", RING, content_type=1)
    for wrong in (b"", b"cty", b"ctx "):
        with pytest.raises(EnvelopeError):
            open_sealed(envelope, RING, expected_ctx=wrong)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert refused(data)
    assert refused(b"SLE1\1\1\1\0" + RING.newest.kid + data)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), plain=st.binary(max_size=60))
def test_an_envelope_that_was_edited_anywhere_is_refused(data: st.DataObject, plain: bytes) -> None:
    envelope = seal(plain, b"ctx", RING, content_type=1)
    start = data.draw(st.integers(0, len(envelope)))
    end = data.draw(st.integers(start, len(envelope)))
    edited = envelope[:start] + data.draw(st.binary(max_size=40)) + envelope[end:]
    assert refused(edited) or edited == envelope


@pytest.mark.parametrize(("ctx", "plain"), [(2**32 - 1, 8), (3, 2**64 - 1), (11, 0), (0, 11)])
def test_lengths_that_lie_are_refused(ctx: int, plain: int) -> None:
    envelope = seal(b"34ABC123", b"ctx", RING, content_type=2)
    assert refused(envelope[:72] + struct.pack("<IQ", ctx, plain) + envelope[84:])


@pytest.mark.parametrize(("kind", "flags"), [(0, 0), (4, 0), (1, 1), (1, 4)])
def test_content_types_and_flags_that_do_not_exist_are_not_sealed(kind: int, flags: int) -> None:
    with pytest.raises(ValueError, match="none of"):
        seal(b"", b"", RING, content_type=kind, flags=flags)


def test_the_plaintext_does_not_show() -> None:
    plain = b"34ABC123" * 100
    envelope = seal(plain, b"", RING, content_type=1)
    assert b"34ABC123" not in envelope
    assert b"34A" not in open_sealed(seal(envelope, b"", RING, content_type=1), RING)


# Disclosure


def test_a_token_opens_its_envelope_and_no_other() -> None:
    one, two = (seal(p, b"ctx", RING, content_type=1) for p in (b"one", b"two"))
    token = disclosure_token(one, RING)
    assert open_with_token(one, token) == b"one"
    assert open_with_token(one, token + "=") == b"one"
    with pytest.raises(EnvelopeError):
        open_with_token(two, token)
    with pytest.raises(EnvelopeError):
        open_with_token(two[:16] + one[16:40] + two[40:], token)


def test_no_token_for_a_changed_envelope_or_without_the_key() -> None:
    envelope = seal(b"one", b"ctx", RING, content_type=1)
    with pytest.raises(EnvelopeError):
        disclosure_token(envelope[:-1] + bytes([envelope[-1] ^ 1]), RING)
    with pytest.raises(EnvelopeError):
        disclosure_token(envelope, Keyring([b"c" * 32]))


def test_a_token_opens_no_changed_envelope() -> None:
    envelope = seal(b"one", b"ctx", RING, content_type=1)
    token = disclosure_token(envelope, RING)
    for at in range(len(envelope)):
        changed = bytearray(envelope)
        changed[at] ^= 1
        with pytest.raises(EnvelopeError):
            open_with_token(bytes(changed), token)


def test_every_damaged_token_is_refused() -> None:
    envelope = seal(b"one", b"ctx", RING, content_type=1)
    token = disclosure_token(envelope, RING)
    verified = (4 + 24 + 32 + 12) * 4 // 3  # characters before the LCL-1 key
    for at in range(verified):
        other = "A" if token[at] != "A" else "B"
        with pytest.raises(EnvelopeError):
            open_with_token(envelope, token[:at] + other + token[at + 1 :])
    changed = token[:verified] + ("A" if token[verified] != "A" else "B") + token[verified + 1 :]
    assert open_with_token(envelope, changed) != b"one"  # noise: no part of SLE1 verifies that key
    for wrong in ("", "=", "ä", token[:-4], token + "AAAA", "!!!!" + token, token + "\n"):
        with pytest.raises(EnvelopeError):
            open_with_token(envelope, wrong)


def test_a_token_carries_no_master() -> None:
    import base64

    envelope = seal(b"one", b"ctx", RING, content_type=1)
    raw = base64.urlsafe_b64decode(disclosure_token(envelope, RING) + "=")
    assert len(raw) == 104
    assert raw[:4] == b"SLT1"
    assert RING.newest.key not in raw


# Canonical JSON


def test_canonical_json_is_sorted_tight_utf8() -> None:
    assert canonical_json({"b": [1, 2], "a": "ü"}) == '{"a":"ü","b":[1,2]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_canonical_json_refuses_what_has_no_form(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  three causes, three messages of the encoder
        canonical_json({"a": value})


@pytest.mark.parametrize("size", [0, 400, 494, 495, 2000])
def test_records_are_padded_to_512(size: int) -> None:
    record = padded_record({"text": "x" * size})
    assert len(record) % 512 == 0
    assert json.loads(record) == {"text": "x" * size}
    assert len(record) - len(record.rstrip(b" ")) < 512
