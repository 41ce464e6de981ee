"""The training set: which images of a dataset are trained on, how often, and why."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from platecrypt.errors import BadInputError

VERSION = 1


@dataclass(frozen=True)
class Selected:
    """One image's part in training.

    Attributes:
        image_id: the image in the manifest.
        weight: how often an epoch shows it; 0 leaves it out.
        reason: why it has that weight, one phrase.
    """

    image_id: str
    weight: int
    reason: str


@dataclass(frozen=True)
class TrainingSet:
    """What the selection decided for the images of the train split.

    Attributes:
        manifest_digest: the dataset it was selected from.
        feature_service: the Feast service that gave the features.
        selected: every image of the train split, sorted by image id.
    """

    manifest_digest: str
    feature_service: str
    selected: tuple[Selected, ...]

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        document = {"training_set": VERSION, **asdict(self)}
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def weights(self) -> dict[str, int]:
        """Image id -> weight, of those that are trained on."""
        return {item.image_id: item.weight for item in self.selected if item.weight > 0}


def parse_training_set(data: bytes) -> TrainingSet:
    """Read a training set; BadInputError when the bytes are none."""
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw.pop("training_set") != VERSION:
            raise ValueError("unknown version")
        selected = tuple(Selected(**item) for item in raw.pop("selected"))
        return TrainingSet(selected=selected, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(f"not a training set of version {VERSION}: {error}") from None


def training_set_key(digest: str) -> str:
    """Where the training set of that digest lives in the object store."""
    return f"training_sets/{digest}.json"
