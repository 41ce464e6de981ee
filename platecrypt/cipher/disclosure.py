"""Disclosure: a token that opens one envelope, for somebody who must not have the master.

A token carries the envelope's own keys, not what the key commitment and the LCL-1 key are checked
with. So whoever issues a token vouches for it: the envelope's bytes are verified, but a token whose
last 32 bytes were changed opens to noise instead of being refused.
"""

import base64
import binascii
import hmac

from platecrypt.cipher.envelope import EnvelopeKeys, envelope_keys, nonce_of, open_with_keys
from platecrypt.cipher.errors import EnvelopeError
from platecrypt.cipher.keyring import Keyring

_MAGIC = b"SLT1"
_TOKEN_BYTES = 104


def disclosure_token(envelope: bytes, keyring: Keyring) -> str:
    """The token of exactly this envelope: base64url without padding, 139 characters.

    The envelope is opened first: no token is issued for a changed one.

    Raises:
        EnvelopeError: the envelope does not open.
    """
    keys = envelope_keys(envelope, keyring)
    open_with_keys(envelope, keys)
    token = _MAGIC + nonce_of(envelope) + keys.gcm + keys.iv + keys.chaos
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def open_with_token(envelope: bytes, token: str) -> bytes:
    """The plaintext of `envelope`, with its token (padded or not).

    Raises:
        EnvelopeError: the token is damaged (but for its LCL-1 key, see above) or another
            envelope's, or the envelope was changed.
    """
    try:
        padded = token.rstrip("=") + "=" * (-len(token.rstrip("=")) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise EnvelopeError from None
    fits = len(raw) == _TOKEN_BYTES and raw[:4] == _MAGIC
    if not fits or not hmac.compare_digest(raw[4:28], nonce_of(envelope)):
        raise EnvelopeError
    return open_with_keys(envelope, EnvelopeKeys(raw[28:60], raw[60:72], raw[72:104], commit=b""))
