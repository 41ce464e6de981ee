"""Seal again with the newest key what an older one sealed; the picture is not touched."""

from platecrypt.cipher import EnvelopeError, Keyring, inspect, open_sealed, seal
from platecrypt.errors import BadInputError
from platecrypt.imaging.containers import embed, pack, read_sealed, read_sidecar, without_sealed


def reseal_file(data: bytes, keyring: Keyring) -> bytes | None:
    """A published file whose envelopes are sealed with the newest key.

    Returns:
        The file, or None where there was nothing to do.

    Raises:
        BadInputError: no sealed plates, no fitting key, or sealed data that was changed.
    """
    envelopes = read_sealed(data)
    if not envelopes:
        raise BadInputError(
            "the image contains no sealed plates (re-saved by software that drops them?)"
        )
    fresh = _resealed(envelopes, keyring)
    return None if fresh == envelopes else embed(without_sealed(data), fresh)


def reseal_sidecar(data: bytes, keyring: Keyring) -> bytes | None:
    """A sidecar, likewise.

    Raises:
        BadInputError: see `reseal_file`.
    """
    envelopes = read_sidecar(data)
    fresh = _resealed(envelopes, keyring)
    return None if fresh == envelopes else pack(fresh)


def _resealed(envelopes: list[bytes], keyring: Keyring) -> list[bytes]:
    return [_reseal(envelope, keyring) for envelope in envelopes]


def _reseal(envelope: bytes, keyring: Keyring) -> bytes:
    try:
        info = inspect(envelope)
        if info.kid not in keyring.kids:
            raise BadInputError(
                f"none of the keys in {keyring.path or 'the keyring'} opens this: sealed with key "
                f"id {info.kid}"
            )
        plain = open_sealed(envelope, keyring)
    except EnvelopeError:
        raise BadInputError(
            "the sealed data was tampered with or damaged; nothing was resealed"
        ) from None
    if info.kid == keyring.newest.kid.hex():
        return envelope
    return seal(plain, info.ctx, keyring, content_type=info.content_type, flags=info.flags)
