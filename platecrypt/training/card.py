"""The model card: what a model is, what it was made from, what it is not good for."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from platecrypt import __version__
from platecrypt.datasets.manifest import Manifest
from platecrypt.datasets.training_set import TrainingSet
from platecrypt.training.recipe import Recipe
from platecrypt.training.train import TrainResult

NAME = "card.json"
LIMITATIONS = (
    "A plate that the detector misses is published as it is: set the recall threshold and the "
    "margin for your pictures, and measure on them.",
    "The figures are of the held-out split of one dataset; other cameras, countries and weather "
    "will differ.",
    "Faces, people and lettering other than plates are not covered.",
)
ETHICS = (
    "The model is made to hide plates. It finds them too: who holds the key can read them, so the "
    "key belongs to the person entitled to the plates."
)


def make(
    dataset: Manifest,
    selected: TrainingSet,
    recipe: Recipe,
    result: TrainResult,
    figures: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    """The card as JSON."""
    document = {
        "name": "SafeLicensing plates",
        "platecrypt": __version__,
        "architecture": recipe.model,
        "started_from": result.pretrained or "scratch",
        "input": f"{result.image_size} x {result.image_size} px, RGB",
        "licence": "AGPL-3.0-or-later (trained with ultralytics)",
        "dataset": {
            "digest": dataset.digest,
            "form": dataset.form,
            "split by": dataset.grouping,
            "images": {name: len(dataset.split(name)) for name in ("train", "val", "test")},
            "trained on": len(selected.weights),
        },
        "recipe": asdict(recipe),
        "device": result.device,
        "figures": dict(figures),
        "origin": dict(tags),
        "limitations": LIMITATIONS,
        "ethics": ETHICS,
    }
    return json.dumps(document, indent=1)


def git_commit(root: Path) -> str:
    """The commit of the checkout, with '+' where files differ from it; '' outside of one."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()
