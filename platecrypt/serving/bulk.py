"""Many files through the endpoint's own core: quicker than without loss, and encoded again."""

import uuid
from typing import ClassVar

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging.boxes import Quads
from platecrypt.imaging.bulk import Options, Worker
from platecrypt.imaging.codec import MAX_BYTES, MAX_PIXELS
from platecrypt.imaging.containers import read_header
from platecrypt.imaging.files import ProtectedFile
from platecrypt.serving import requests
from platecrypt.serving.door import REQUEST_ID
from platecrypt.serving.local import LocalDetector
from platecrypt.serving.protector import Limits, Protector, open_keys
from platecrypt.serving.refusals import HttpError


class EndpointWorker(Worker):
    """Protects a file as `--single` protects a request: decoded, covered, encoded again.

    TIFF, which the endpoint does not take, goes the way without loss.
    """

    preload: ClassVar[tuple[str, ...]] = (*Worker.preload, "platecrypt.serving.bulk")

    def __init__(self, options: Options) -> None:
        """Load what is needed.

        Raises:
            BadInputError: the keyring or the model cannot be used, or there is no model.
        """
        super().__init__(options)
        if self._detector is None or options.model is None or options.sidecar:
            raise BadInputError("the endpoint's way needs a detector, and has no sidecar")
        self._confidence = options.confidence
        self._protector = Protector(
            options.model.stem,
            finder=LocalDetector(self._detector, self._detector.digest[:12]),
            keys=open_keys(options.keys),
            limits=Limits(MAX_BYTES, MAX_PIXELS),
            margin=options.margin,
            measuring=False,
        )

    def protect(self, data: bytes, boxes: Quads | None) -> ProtectedFile:
        """Protect one file's bytes.

        Raises:
            BadInputError: see `protect_file`.
            UnavailableError: there is no key to seal with any more.
        """
        if boxes is not None or read_header(data).format == "tiff":
            return super().protect(data, boxes)
        try:
            made = self._protector.protect(
                requests.Picture(data),
                requests.Options(confidence=self._confidence),
                headers={REQUEST_ID: uuid.uuid4().hex},
            ).file
        except HttpError as error:
            kind = BadInputError if error.status < 500 else UnavailableError
            raise kind(str(error)) from None
        record = () if made.record is None else (made.record,)
        return ProtectedFile(
            made.data, made.format, made.regions, made.envelopes + record, None, False, ()
        )
