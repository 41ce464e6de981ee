"""Selecting the training set: by what the features say of each image, and with a reason."""

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from platecrypt.datasets.manifest import Manifest
from platecrypt.datasets.training_set import Selected, TrainingSet
from platecrypt.features.layout import TRAINING_SERVICE

if TYPE_CHECKING:
    import pandas as pd

# Below these an image shows nothing that could be learned: a lens cap, a white-out, a test card.
FLAT_CONTRAST = 4.0
BLANK_SHARPNESS = 0.5
# An exposure class rarer than this share of the readable images counts twice, so that an epoch
# shows more of it; twice only, because a few images shown often are learned by heart.
RARE_SHARE = 0.25
RARE_WEIGHT = 2


def select(manifest: Manifest, features: "pd.DataFrame") -> TrainingSet:
    """Decide on every image of the train split.

    Args:
        manifest: the dataset.
        features: rows of the training feature service, joined in time, with `image_id`,
            `contrast`, `sharpness` and `exposure`.
    """
    rows = {row["image_id"]: row for row in features.to_dict("records")}
    train = sorted(manifest.split("train"), key=lambda image: image.image_id)
    decided: dict[str, Selected] = {}
    exposures: dict[str, str] = {}
    for image in train:
        row = rows.get(image.image_id, {})
        contrast, sharpness = row.get("contrast", math.nan), row.get("sharpness", math.nan)
        if contrast is None or math.isnan(contrast):
            reason = "no features were known when it was labelled"
            decided[image.image_id] = Selected(image.image_id, 1, reason)
        elif contrast < FLAT_CONTRAST or sharpness < BLANK_SHARPNESS:
            reason = f"unreadable: contrast {contrast:.1f}, sharpness {sharpness:.1f}"
            decided[image.image_id] = Selected(image.image_id, 0, reason)
        else:
            exposures[image.image_id] = row["exposure"]
    counts = Counter(exposures.values())
    for image_id, exposure in exposures.items():
        share = counts[exposure] / len(exposures)
        if share < RARE_SHARE:
            reason = f"rare exposure: {exposure} ({share:.0%} of the readable images)"
            decided[image_id] = Selected(image_id, RARE_WEIGHT, reason)
        else:
            decided[image_id] = Selected(image_id, 1, f"exposure: {exposure}")
    return TrainingSet(
        manifest_digest=manifest.digest,
        feature_service=TRAINING_SERVICE,
        selected=tuple(decided[image.image_id] for image in train),
    )


def describe(training_set: TrainingSet) -> str:
    """What the selection did, in one line."""
    reasons = Counter(
        f"{re.split(r' [(]|: contrast', item.reason)[0]} (weight {item.weight})"
        for item in training_set.selected
    )
    parts = ", ".join(f"{count} with {reason}" for reason, count in sorted(reasons.items()))
    return f"{len(training_set.weights)} of {len(training_set.selected)} images: {parts}"
