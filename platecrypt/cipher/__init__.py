"""The cipher: LCL-1 keystream, SLE1 envelopes, keyrings, disclosure. Imports nothing of ours."""

from platecrypt.cipher.disclosure import disclosure_token, open_with_token
from platecrypt.cipher.envelope import (
    DETACHED,
    FRAME,
    OVERHEAD,
    PIXELS,
    RECORD,
    EnvelopeInfo,
    canonical_json,
    inspect,
    open_sealed,
    padded_record,
    seal,
)
from platecrypt.cipher.errors import EnvelopeError, KeyringError
from platecrypt.cipher.keyring import Keyring
from platecrypt.cipher.lcl1 import keystream, warm_up

__all__ = [
    "DETACHED",
    "FRAME",
    "OVERHEAD",
    "PIXELS",
    "RECORD",
    "EnvelopeError",
    "EnvelopeInfo",
    "Keyring",
    "KeyringError",
    "canonical_json",
    "disclosure_token",
    "inspect",
    "keystream",
    "open_sealed",
    "open_with_token",
    "padded_record",
    "seal",
    "warm_up",
]
