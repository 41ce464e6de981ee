"""What is sealed of one picture: its plates, a record of what was found, what else had to go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platecrypt.cipher import (
    FRAME,
    RECORD,
    Keyring,
    KeyringError,
    canonical_json,
    padded_record,
    seal,
)
from platecrypt.errors import BadInputError
from platecrypt.imaging.regions import Boxes, Region, grown, hull_boxes, region_of

METADATA, TRAILER = "metadata", "trailer"
"""Names of sealed parts that are no plates: segments of a JPEG, and what follows the picture."""


@dataclass(frozen=True)
class Origin:
    """Who protected a picture, and when: readable in every envelope, and bound to it.

    Attributes:
        model_name: what found the plates.
        model_version: its version, or a digest.
        request_id: names this one protection.
        time: when, with a time zone; written in UTC.
    """

    model_name: str
    model_version: str
    request_id: str
    time: datetime

    def context(self, source_sha256: str) -> dict[str, Any]:
        """The fields that all envelopes of one picture share.

        Raises:
            ValueError: `time` has no time zone.
        """
        if self.time.tzinfo is None:
            raise ValueError(
                f"time {self.time.isoformat()} has no time zone; hand in an aware datetime"
            )
        time = self.time.astimezone(UTC).isoformat(timespec="milliseconds")
        return {
            "model": self.model_name,
            "model_version": self.model_version,
            "request_id": self.request_id,
            "source_sha256": source_sha256,
            "time": time.replace("+00:00", "Z"),
        }


@dataclass(frozen=True)
class Sealer:
    """Seals everything of one picture under one context.

    Attributes:
        keyring: its newest master seals.
        context: see `Origin.context`.
        flags: 0, or `DETACHED` for a sidecar.
    """

    keyring: Keyring
    context: dict[str, Any]
    flags: int = 0

    def plate(
        self,
        number: int,
        plaintext: bytes | memoryview,
        content_type: int,
        fields: Mapping[str, Any],
    ) -> bytes:
        """The envelope of one region."""
        ctx = canonical_json({**self.context, "region": number, **fields})
        return seal(plaintext, ctx, self.keyring, content_type=content_type, flags=self.flags)

    def part(self, name: str, plaintext: bytes) -> bytes:
        """The envelope of something that is no plate but must not be published."""
        ctx = canonical_json({**self.context, "part": name})
        return seal(plaintext, ctx, self.keyring, content_type=FRAME, flags=self.flags)

    def record(
        self, boxes: Boxes, within: Sequence[int], count: int, scores: Sequence[float] | None
    ) -> bytes:
        """What was found, sealed and padded; `regions` tells if an envelope was taken out."""
        plates: list[dict[str, Any]] = [
            {"box": [round(value, 2) for value in box], "class": "plate", "region": region}
            for box, region in zip(hull_boxes(boxes).tolist(), within, strict=True)
        ]
        for plate, score in zip(plates, scores or (), strict=False):
            plate["score"] = round(float(score), 6)
        record = padded_record({"plates": plates, "regions": count})
        ctx = canonical_json(self.context)
        return seal(record, ctx, self.keyring, content_type=RECORD, flags=self.flags)


def load_keyring(path: Path) -> Keyring:
    """The keyring in a file.

    Raises:
        BadInputError: it cannot be used; the message names the file and the remedy.
    """
    try:
        return Keyring.load(path)
    except KeyringError as error:
        raise BadInputError(str(error)) from None


def check_scores(boxes: Boxes, scores: Sequence[float] | None) -> None:
    """Refuse scores that do not belong to the boxes.

    Raises:
        BadInputError: another number of them; or boxes that cannot be used.
    """
    count = len(hull_boxes(boxes))
    if scores is not None and len(scores) != count:
        raise BadInputError(f"{count} boxes but {len(scores)} scores")


def containing(
    boxes: Boxes, width: int, height: int, found: Sequence[Region], *, margin: float
) -> list[int]:
    """For each box the index of the region that holds it."""
    return [region_of(part, found) for part in grown(boxes, width, height, margin=margin)]
