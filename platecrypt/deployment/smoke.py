"""The smoke test of an endpoint: one picture through it, and the plates back with the key.

It proves what users rely on: every sealed region is covered in the published file, and the key
holder gets the very pixels back.
"""

import time
from dataclasses import dataclass

import numpy as np

from platecrypt import cipher, imaging
from platecrypt.errors import BadInputError, RefusedError
from platecrypt.serving.client import Client

CHANGED = 0.5  # of a region's pixels; noise leaves fewer than one in fifty as they were


class NothingFoundError(RefusedError):
    """The endpoint answered, and saw no plate in the picture."""


@dataclass(frozen=True)
class SmokeResult:
    """What a smoke test saw.

    Attributes:
        plates: regions that were covered, sealed and opened again.
        seconds: the call, from the client's side.
        request_id: the call's name in the server's log.
        published: the protected file that came back.
    """

    plates: int
    seconds: float
    request_id: str
    published: bytes


def smoke_test(
    url: str, image: bytes, keyring: cipher.Keyring, *, token: str | None = None
) -> SmokeResult:
    """Send an image with plates to an endpoint and take the answer apart.

    Args:
        url: of `:predict`.
        image: an encoded image (JPEG, PNG or WebP) in which the model finds at least one plate.
        keyring: the one that the endpoint seals with.
        token: a bearer token, where the endpoint wants one.

    Raises:
        UnavailableError: the endpoint does not answer.
        NothingFoundError: it answers that there is no plate.
        RefusedError: it answers, and the answer breaks a promise.
    """
    before = imaging.decode(image)
    started = time.perf_counter()
    with Client(url, token=token) as client:
        answer = client.protect(image)
    seconds = time.perf_counter() - started
    if answer.plates == 0:
        raise NothingFoundError(
            f"smoke test failed: no plate was found (request {answer.request_id}); send a picture "
            "that shows one"
        )
    published = imaging.decode(answer.data)
    try:
        recovered = imaging.recover(answer.data, keyring)
    except BadInputError as error:
        raise _failed(answer.request_id, f"the plates do not open: {error}") from None
    if len(recovered.regions) != answer.plates:
        raise _failed(
            answer.request_id,
            f"{answer.plates} plates were announced, {len(recovered.regions)} opened",
        )
    for number, region in enumerate(recovered.regions, 1):
        area = np.s_[region.y1 : region.y2, region.x1 : region.x2]
        changed = (published.pixels[area] != before.pixels[area]).any(axis=2).mean()
        if changed < CHANGED:
            raise _failed(answer.request_id, f"plate {number} is readable in the published file")
        if not np.array_equal(recovered.pixels[area], before.pixels[area]):
            raise _failed(answer.request_id, f"plate {number} did not come back as it was")
    return SmokeResult(len(recovered.regions), seconds, answer.request_id, answer.data)


def _failed(request_id: str, why: str) -> RefusedError:
    return RefusedError(f"smoke test failed: {why} (request {request_id})")
