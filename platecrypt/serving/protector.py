"""From a picture to what may leave: decode, look up, find, seal and cover. The one core.

Every wire and every topology ends here; so does bulk work. It blocks, and belongs into a worker
thread. It fails closed: what was not found, sealed and covered without a hitch is not returned.
"""

import datetime
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from platecrypt import cipher, imaging
from platecrypt.detection import Detections
from platecrypt.errors import BadInputError
from platecrypt.imaging.containers import read_header
from platecrypt.serving import metrics
from platecrypt.serving.door import REQUEST_ID
from platecrypt.serving.keys import KeyFile
from platecrypt.serving.profiles import DEFAULT, Profiles
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.requests import MEDIA, Format, Options, Picture

NOTHING = np.empty((0, 0, 3), np.uint8)
Made = imaging.Protected | imaging.Covered

logger = logging.getLogger("platecrypt.serving")


class Finder(Protocol):
    """Who finds plates: a network in this process, or a predictor behind an address."""

    def ready(self) -> bool:
        """Whether it could find any now."""

    def detect(
        self, pixels: NDArray[np.uint8], *, confidence: float | None, headers: Mapping[str, str]
    ) -> tuple[Detections, str]:
        """Boxes and scores, and the version of the model that saw them."""


@dataclass(frozen=True)
class Outcome:
    """A protected picture, what was found in it, its name, and the version that looked.

    It is a file where one came and one is wanted back, else it is covered pixels.
    """

    protected: Made
    found: Detections
    request_id: str
    version: str

    @property
    def file(self) -> imaging.Protected:
        """The file of who sent one and wanted one back."""
        if not isinstance(self.protected, imaging.Protected):
            raise TypeError("no file was wanted, so none was made")
        return self.protected

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The covered pixels of who sent pixels."""
        if not isinstance(self.protected, imaging.Covered):
            raise TypeError("a file was made, and its pixels were not kept")
        return self.protected.pixels


@dataclass(frozen=True)
class Limits:
    """What one picture may be: bytes of its file, pixels; checked before it is decoded."""

    max_bytes: int
    max_pixels: int


class Protector:
    """Protects pictures.

    Args:
        model_name: who finds the plates; readable in every envelope.
        finder: that finds them.
        keys: the keyring file that seals.
        limits: of one picture.
        margin: of a plate's region, as a share of the box's size, where nobody sets another.
        profiles: of cameras; None: every camera has the default.
        measuring: whether brightness and sharpness of a sample are told on `/metrics`.
    """

    def __init__(
        self,
        model_name: str,
        *,
        finder: Finder,
        keys: KeyFile,
        limits: Limits,
        margin: float = imaging.MARGIN,
        profiles: Profiles | None = None,
        measuring: bool = True,
    ) -> None:
        self._model_name = model_name
        self._finder = finder
        self._keys = keys
        self.limits = limits
        self._margin = margin
        self._profiles = profiles
        self._sampler = metrics.Sampler() if measuring else None

    def ready(self) -> bool:
        """Whether the keys are there and plates can be found."""
        try:
            _tell_key_age(self._keys.current())
        except cipher.KeyringError as error:
            logger.error("%s", error)
            return False
        return self._finder.ready()

    def protect(
        self,
        picture: Picture,
        options: Options,
        *,
        headers: Mapping[str, str],
        form: Format | None = None,
    ) -> Outcome:
        """Protect one picture.

        Args:
            picture: a file or pixels.
            options: of the call.
            headers: request id and trace context.
            form: of the published file; None: as it came.

        Raises:
            HttpError: anything that keeps the answer from being a protected one.
        """
        profile = (
            self._profiles.of(picture.camera_id)
            if self._profiles is not None and picture.camera_id
            else DEFAULT
        )
        with metrics.timed("decode"):
            image = self._decode(picture)
        confidence = profile.confidence if options.confidence is None else options.confidence
        with metrics.timed("predict"):
            found, version = self._finder.detect(
                image.pixels, confidence=confidence, headers=headers
            )
        margin = profile.margin if options.margin is None else options.margin
        request_id = picture.request_id or headers.get(REQUEST_ID, "")
        came_as_file = isinstance(picture.source, bytes)
        wanted = came_as_file and options.image == "protected"
        with metrics.timed("protect"):
            origin = imaging.Origin(
                self._model_name, version, request_id, datetime.datetime.now(datetime.UTC)
            )
            margin = self._margin if margin is None else margin
            covered = self._seal(image, found, origin, margin=margin, for_file=wanted)
        made: Made = covered
        if wanted:
            with metrics.timed("encode"):
                made = _written(image, covered, form)
        elif came_as_file:  # what nobody wants back is not kept until the call ends
            made = replace(covered, pixels=NOTHING)
        self._count(image, found, made)
        return Outcome(made, found, request_id, version)

    def _decode(self, picture: Picture) -> imaging.Image:
        if not isinstance(picture.source, bytes):
            pixels = np.ascontiguousarray(picture.source)
            digest = hashlib.sha256(pixels.data).hexdigest()
            return imaging.Image(pixels, "png", True, b"", digest, ())
        limits = self.limits
        try:
            image = imaging.decode(
                picture.source, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels
            )
            if image.format not in MEDIA.values():
                raise BadInputError(f"the image is {image.format}; send JPEG, PNG or WebP")
            return image
        except BadInputError as error:
            status = 413 if self._has_too_many_pixels(picture.source) else 400
            raise HttpError(status, str(error)) from None

    def _has_too_many_pixels(self, data: bytes) -> bool:
        try:
            header = read_header(data)
        except BadInputError:
            return False
        return header.width * header.height > self.limits.max_pixels

    def _seal(
        self,
        image: imaging.Image,
        found: Detections,
        origin: imaging.Origin,
        *,
        margin: float,
        for_file: bool,
    ) -> imaging.Covered:
        try:
            return imaging.cover_and_seal(
                image,
                found.boxes,
                self._keys.current(),
                origin=origin,
                margin=margin,
                scores=found.scores.tolist(),
                copied=imaging.swapped if for_file else np.copy,
            )
        except BadInputError as error:
            raise HttpError(400, str(error)) from None
        except cipher.KeyringError as error:
            logger.error("%s", error, extra={"fields": {"request_id": origin.request_id}})
            raise HttpError(503, "no key to seal with; nothing is published") from None

    def _count(self, image: imaging.Image, found: Detections, made: Made) -> None:
        metrics.PLATES.observe(len(found))
        for score in found.scores.tolist():
            metrics.CONFIDENCE.observe(score)
        sealed = sum(map(len, made.envelopes)) + len(made.record or b"")
        metrics.SEALED_BYTES.inc(sealed)
        if self._sampler is not None and self._sampler.due():
            _measure(image.pixels)


def _written(image: imaging.Image, covered: imaging.Covered, form: Format | None) -> Made:
    try:
        return imaging.written(image, covered, format=form)
    except BadInputError as error:
        raise HttpError(400, str(error)) from None


def warm_up() -> None:
    """Prepare what the first request would otherwise wait for."""
    import cv2

    cv2.setNumThreads(1)  # one thread a request; requests run beside each other
    cipher.warm_up()


def open_keys(path: Path) -> KeyFile:
    """The keyring file, followed.

    Raises:
        BadInputError: it is missing or unusable.
    """
    try:
        return KeyFile(path)
    except cipher.KeyringError as error:
        raise BadInputError(str(error)) from None


def _measure(pixels: NDArray[np.uint8]) -> None:
    """Brightness and sharpness as the features of the training pictures have them."""
    import cv2

    from platecrypt.features.quality import SHARPNESS_SIDE

    luma: Any = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, SHARPNESS_SIDE / max(luma.shape))
    size = (max(round(luma.shape[1] * scale), 1), max(round(luma.shape[0] * scale), 1))
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    metrics.BRIGHTNESS.observe(float(cv2.mean(small)[0]))
    metrics.SHARPNESS.observe(float(cv2.Laplacian(small, cv2.CV_32F).var()))


def _tell_key_age(keyring: cipher.Keyring) -> None:
    """Called by readiness probes: an endpoint without traffic tells it, and a rotation shows."""
    try:
        made = datetime.datetime.fromisoformat(keyring.newest.created).timestamp()
    except ValueError:
        return
    metrics.KEY_CREATED.set(made)
    metrics.KEY_AGE.set(max(0.0, time.time() - made))
