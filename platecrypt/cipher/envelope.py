"""SLE1, the sealed envelope: LCL-1 under AES-256-GCM, committed to its key and to its context.

Byte for byte as `docs/format.md` lays it down. All integers are little-endian.
"""

import hashlib
import hmac
import json
import os
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from platecrypt.cipher.errors import EnvelopeError
from platecrypt.cipher.keyring import Keyring, Master
from platecrypt.cipher.lcl1 import apply

PIXELS = 1
"""Content type: H x W x C uint8, row-major."""
RECORD = 2
"""Content type: one JSON record."""
FRAME = 3
"""Content type: a whole frame."""
DETACHED = 0b10
"""Flag (bit 1, counted from bit 0): the envelope is kept apart from the picture."""

HEAD_BYTES = 84
TAG_BYTES = 16
OVERHEAD = HEAD_BYTES + TAG_BYTES
"""Bytes an envelope is longer than plaintext and ctx together."""
RECORD_STEP = 512
"""Sealed records are padded to a multiple of this many bytes, so their length says little."""

_MAGIC = b"SLE1"
_VERSION = 1
_SUITE = 1
_INFO = b"SLE1 LCL1+A256GCM v1"
_SHA256 = SHA256()
_HEAD = struct.Struct("<4s4B8s24s32sIQ")


class EnvelopeKeys(NamedTuple):
    """What opens one envelope: 32, 12, 32 and 32 bytes."""

    gcm: bytes
    iv: bytes
    chaos: bytes
    commit: bytes

    def __repr__(self) -> str:
        return "EnvelopeKeys(...)"


@dataclass(frozen=True)
class EnvelopeInfo:
    """The public part of an envelope: readable without a key, and unverified until it is opened.

    Attributes:
        content_type: `PIXELS`, `RECORD` or `FRAME`.
        flags: 0 or `DETACHED`.
        kid: the 8-byte id of the master that sealed it, hexadecimal.
        nonce: N, 24 bytes, hexadecimal: (kid, nonce) names the envelope, for replay checks.
        ctx: the context bytes.
        plaintext_bytes: length of what is sealed.
    """

    content_type: int
    flags: int
    kid: str
    nonce: str
    ctx: bytes
    plaintext_bytes: int


def canonical_json(value: Any) -> bytes:
    """`value` as canonical JSON: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: it holds a NaN or an infinity, or text that is not Unicode.
        TypeError: it holds something JSON has no form for.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def padded_record(value: Any) -> bytes:
    """`value` as canonical JSON, padded with spaces to the next multiple of 512 bytes."""
    data = canonical_json(value)
    return data + b" " * (-len(data) % RECORD_STEP)


def seal(
    plaintext: bytes | memoryview,
    ctx: bytes,
    keyring: Keyring,
    *,
    content_type: int,
    flags: int = 0,
) -> bytes:
    """Seal `plaintext` with the newest master; `ctx` is bound to it and stays readable.

    Args:
        plaintext: any length; a contiguous buffer of bytes.
        ctx: canonical JSON by convention (see `canonical_json`); authenticated, not encrypted.
        keyring: its newest master seals.
        content_type: `PIXELS`, `RECORD` or `FRAME`.
        flags: 0 or `DETACHED`.

    Returns:
        The envelope: `OVERHEAD` + len(ctx) + len(plaintext) bytes.

    Raises:
        ValueError: an unknown content type or flag.
        KeyringError: the keyring is empty.
    """
    return _seal(plaintext, ctx, keyring.newest, content_type, flags, os.urandom(32))


def open_sealed(envelope: bytes, keyring: Keyring, *, expected_ctx: bytes | None = None) -> bytes:
    """The plaintext of `envelope`.

    Args:
        envelope: the whole envelope.
        keyring: any of its masters may have sealed it.
        expected_ctx: if given, the envelope opens only with exactly this context.

    Raises:
        EnvelopeError: it does not open, whatever the reason.
    """
    return open_with_keys(envelope, envelope_keys(envelope, keyring, expected_ctx))


def inspect(envelope: bytes) -> EnvelopeInfo:
    """The public part of `envelope`; no key is needed and nothing is verified.

    Raises:
        EnvelopeError: it is no well-formed envelope.
    """
    content_type, flags, kid, nonce, _, ctx_bytes, n = _head(envelope)
    ctx = bytes(envelope[HEAD_BYTES : HEAD_BYTES + ctx_bytes])
    return EnvelopeInfo(content_type, flags, kid.hex(), nonce.hex(), ctx, n)


def envelope_keys(
    envelope: bytes, keyring: Keyring, expected_ctx: bytes | None = None
) -> EnvelopeKeys:
    """The keys of one envelope, after its key commitment held.

    Raises:
        EnvelopeError: no master fits, the commitment fails, or the context is not the expected.
    """
    _, _, kid, nonce, commit, ctx_bytes, _ = _head(envelope)
    master = keyring.find(kid)
    if master is None:
        raise EnvelopeError
    ctx = envelope[HEAD_BYTES : HEAD_BYTES + ctx_bytes]
    keys = _derive(master, nonce, envelope[:8], hashlib.sha256(ctx).digest())
    expected = expected_ctx is None or hmac.compare_digest(ctx, expected_ctx)
    if not (hmac.compare_digest(keys.commit, commit) and expected):
        raise EnvelopeError
    return keys


def open_with_keys(envelope: bytes, keys: EnvelopeKeys) -> bytes:
    """Verify and open `envelope` with its own keys (its commitment is not looked at here).

    Raises:
        EnvelopeError: it does not verify.
    """
    ctx_bytes = _head(envelope)[5]
    start = HEAD_BYTES + ctx_bytes
    view = memoryview(envelope)
    try:
        masked = AESGCM(keys.gcm).decrypt(keys.iv, view[start:], view[:start])
    except InvalidTag:
        raise EnvelopeError from None
    return bytes(apply(keys.chaos, masked))


def nonce_of(envelope: bytes) -> bytes:
    """N of a well-formed envelope, 24 bytes; EnvelopeError where it is none."""
    return _head(envelope)[3]


def _seal(
    plaintext: bytes | memoryview,
    ctx: bytes,
    master: Master,
    content_type: int,
    flags: int,
    random32: bytes,
) -> bytes:
    """`seal` with its randomness handed in, so that known answers can be computed."""
    if content_type not in (PIXELS, RECORD, FRAME):
        raise ValueError(f"content type {content_type} is none of 1 (pixels), 2 (JSON), 3 (frame)")
    if flags not in (0, DETACHED):
        raise ValueError(f"flags {flags:#x} are none of 0 and {DETACHED:#x} (detached)")
    plain = memoryview(plaintext).cast("B")
    hdr8 = _MAGIC + bytes([_VERSION, _SUITE, content_type, flags])
    ctx_hash = hashlib.sha256(ctx).digest()
    hedge = hmac.new(master.nonce_key, random32 + ctx_hash, hashlib.sha256)
    hedge.update(plain)
    nonce = hedge.digest()[:24]
    keys = _derive(master, nonce, hdr8, ctx_hash)
    lengths = struct.pack("<IQ", len(ctx), len(plain))
    head = b"".join((hdr8, master.kid, nonce, keys.commit, lengths, ctx))
    return head + AESGCM(keys.gcm).encrypt(keys.iv, apply(keys.chaos, plain), head)


def _derive(master: Master, nonce: bytes, hdr8: bytes, ctx_hash: bytes) -> EnvelopeKeys:
    info = _INFO + hdr8 + master.kid + ctx_hash
    okm = HKDF(_SHA256, 108, salt=nonce, info=info).derive(master.key)
    return EnvelopeKeys(okm[:32], okm[32:44], okm[44:76], okm[76:])


def _head(envelope: bytes) -> tuple[int, int, bytes, bytes, bytes, int, int]:
    """Content type, flags, kid, N, commit, length of ctx, length of plaintext."""
    if len(envelope) < OVERHEAD:
        raise EnvelopeError
    magic, version, suite, content_type, flags, kid, nonce, commit, ctx_bytes, n = (
        _HEAD.unpack_from(envelope)
    )
    known = (magic, version, suite) == (_MAGIC, _VERSION, _SUITE)
    typed = content_type in (PIXELS, RECORD, FRAME) and flags in (0, DETACHED)
    if not (known and typed and len(envelope) == OVERHEAD + ctx_bytes + n):
        raise EnvelopeError
    return content_type, flags, kid, nonce, commit, ctx_bytes, n
