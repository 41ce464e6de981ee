"""The recipe: everything that decides how a model is trained, in one frozen object.

The defaults learn from scratch on little data. ultralytics' own defaults do not: with 64 images
and its nominal batch of 64 an epoch is one optimiser step, so nothing has moved after 30 epochs.
Here a batch is a step, and length is counted in steps, not in epochs. Batches are small on
purpose: in one comparison from scratch (68 synthetic images, 160 px, lr0 0.003, 14 and 15 epochs)
batches of 8 reached mAP50-95 0.06 on the validation split, batches of 4 reached 0.30. A GPU and a
large dataset take larger ones.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from platecrypt.datasets.manifest import ImageRecord
from platecrypt.errors import BadInputError

Model = Literal["yolov8n", "yolov8s", "yolov8m"]
Pretrained = Literal["auto", "never"]
IMAGE_SIZES = (320, 640)
# YOLOv8's finest grid has cells of 8 px. Photographs whose median plate had 25 px at 320 reached
# mAP50 0.16 on another ride; at 640, with the same steps, several times that (docs/decisions.md).
SMALLEST_USEFUL_PX = 32.0
MAX_EPOCHS = 1000


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        model: size of YOLOv8: n (3.2 M parameters), s (11 M), m (26 M).
        image_size: side of the square the network sees, a multiple of 32 from 96 to 1280
            pixels; 0 chooses 320 or 640 from the plates.
        steps: optimiser steps in all, 1..1 000 000; the epochs follow from the data.
        batch: images a step, 1..512.
        lr0: first learning rate (AdamW), 1e-6..1.
        lrf: last learning rate as a share of lr0, 1e-4..1.
        momentum: beta1 of AdamW, 0..0.999.
        weight_decay: 0..0.1.
        warmup_epochs: epochs over which the rate rises, 0..20.
        box, cls, dfl: gains of the three losses, 0..50.
        mosaic: chance of a mosaic of four images, 0..1.
        scale: image scale is drawn from 1 +- this, 0..0.9.
        hsv_h, hsv_s, hsv_v: how far hue, saturation, value are shifted, 0..1.
        translate: shift as a share of the image, 0..0.9.
        fliplr: chance of a mirror image, 0..1.
        seed: seeds weights, order and augmentation.
        pretrained: "auto" starts from published weights where they can be had.
    """

    model: Model = "yolov8n"
    image_size: int = 0
    steps: int = 480
    batch: int = 4
    lr0: float = 0.003
    lrf: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0005
    warmup_epochs: float = 1.0
    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5
    mosaic: float = 0.0
    scale: float = 0.3
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    translate: float = 0.1
    fliplr: float = 0.5
    seed: int = 0
    pretrained: Pretrained = "auto"

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadInputError(f"recipe: {name} = {value!r} is not a number")
            if not (math.isfinite(value) and low <= value <= high):
                raise BadInputError(f"recipe: {name} = {value} is outside {low}..{high}")
        for name, choices in {"model": get_args(Model), "pretrained": get_args(Pretrained)}.items():
            if getattr(self, name) not in choices:
                raise BadInputError(
                    f"recipe: {name} = {getattr(self, name)!r} is none of {', '.join(choices)}"
                )
        if self.image_size and (self.image_size % 32 or self.image_size < 96):
            raise BadInputError(
                f"recipe: image_size = {self.image_size} is not a multiple of 32 from 96 to 1280; "
                "0 chooses one"
            )

    def epochs(self, images: int) -> int:
        """Epochs that give at least `steps` steps with `images` training images (1..1000)."""
        a_epoch = max(1, math.ceil(images / self.batch))
        return min(MAX_EPOCHS, max(1, math.ceil(self.steps / a_epoch)))

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """A copy with some fields changed; text is read as the field's own type.

        Raises:
            BadInputError: no such field, or a value outside its range.
        """
        known = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        changed: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise BadInputError(f"recipe: no field {name!r}; there are {', '.join(known)}")
            changed[name] = _read(name, value, known[name])
        return replace(self, **changed)


BOUNDS: dict[str, tuple[float, float]] = {
    "image_size": (0, 1280),
    "steps": (1, 1_000_000),
    "batch": (1, 512),
    "lr0": (1e-6, 1.0),
    "lrf": (1e-4, 1.0),
    "momentum": (0.0, 0.999),
    "weight_decay": (0.0, 0.1),
    "warmup_epochs": (0.0, 20.0),
    "box": (0.0, 50.0),
    "cls": (0.0, 50.0),
    "dfl": (0.0, 50.0),
    "mosaic": (0.0, 1.0),
    "scale": (0.0, 0.9),
    "hsv_h": (0.0, 1.0),
    "hsv_s": (0.0, 1.0),
    "hsv_v": (0.0, 1.0),
    "translate": (0.0, 0.9),
    "fliplr": (0.0, 1.0),
    "seed": (0, 2**31 - 1),
}


def choose_image_size(images: Sequence[ImageRecord]) -> int:
    """320 where the median plate stays at least 32 px wide in it, else 640.

    The image is letterboxed, so a plate shrinks with the longer side of its image.
    """
    shares = [
        (plate.box[2] - plate.box[0]) / max(image.width, image.height)
        for image in images
        for plate in image.plates
    ]
    if not shares:
        return IMAGE_SIZES[-1]
    median = statistics.median(shares)
    return next((s for s in IMAGE_SIZES if median * s >= SMALLEST_USEFUL_PX), IMAGE_SIZES[-1])


def recipe_for(image_size: int) -> Recipe:
    """What teaches a network of that input from scratch, before anything was searched for.

    The defaults of `Recipe` are for small, simple pictures. Larger ones are photographs: with these
    values 800 steps reached mAP50 0.7 on a ride that training had not seen, with the defaults they
    did not come past 0.1 on the validation split.
    """
    if image_size <= IMAGE_SIZES[0]:
        return Recipe(image_size=image_size)
    return Recipe(image_size=image_size, steps=800, lr0=0.0017, mosaic=0.5)


def _read(name: str, value: Any, kind: type[Any]) -> Any:
    try:
        if kind is int:
            number = float(value)
            if not number.is_integer():
                raise ValueError
            return int(number)
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise BadInputError(f"recipe: {name} = {value!r} is not a {kind.__name__}") from None
