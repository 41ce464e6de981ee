"""Train YOLOv8 by a recipe: seeded, repeatable, and whole or not there."""

import contextlib
import csv
import fcntl
import io
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from platecrypt.errors import BadInputError, PlatecryptError, UnavailableError
from platecrypt.machine import cores
from platecrypt.training import pretrained as published
from platecrypt.training.recipe import Recipe
from platecrypt.training.ultralytics_runtime import load_ultralytics, torch_threads

WEIGHTS = "model.pt"
CURVES = "curves.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch, measured on the val split.

    Attributes:
        epoch, epochs: this one, from 1, and how many there are.
        map50, map50_95, precision, recall: 0..1, by ultralytics' validator.
        box_loss, cls_loss, dfl_loss: mean training losses of the epoch.
        lr: learning rate at its end.
        seconds: since training began.
    """

    epoch: int
    epochs: int
    map50: float
    map50_95: float
    precision: float
    recall: float
    box_loss: float
    cls_loss: float
    dfl_loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What training left behind.

    Attributes:
        weights: the best epoch's `.pt`.
        curves_csv: `curves` as a table.
        curves: one row an epoch.
        best: the row whose weights these are (ultralytics' fitness on the val split).
        image_size: side of the network's input, pixels.
        pretrained: SHA-256 of the weights it started from; None: from scratch.
        device: "cpu" or "cuda:0".
        seconds: wall time.
    """

    weights: Path
    curves_csv: Path
    curves: tuple[EpochMetrics, ...]
    best: EpochMetrics
    image_size: int
    pretrained: str | None
    device: str
    seconds: float


def train(
    data_yaml: Path,
    recipe: Recipe,
    work_dir: Path,
    *,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    weights_dir: Path | None = None,
    start_from: Path | None = None,
) -> TrainResult:
    """Train on a materialised dataset.

    Args:
        data_yaml: from `yolo_folder.materialise`.
        recipe: its `image_size` must be chosen (not 0).
        work_dir: `model.pt` and `curves.csv` appear in it when all is done; what an interrupted
            run left there is removed.
        on_epoch: called after each epoch; what it raises ends the training.
        weights_dir: where published weights are kept; unset: `work_dir`.
        start_from: weights of an earlier training, to go on from instead.

    Raises:
        BadInputError: no such dataset, or the recipe has no image size.
        UnavailableError: memory or disk ran out, or training diverged.
    """
    if not recipe.image_size:
        raise BadInputError("recipe: image_size is 0; choose_image_size(manifest.images) gives one")
    images = _count_images(data_yaml)
    started = time.monotonic()
    run_dir = work_dir / "run"
    for leftover in (run_dir, work_dir / WEIGHTS, work_dir / CURVES):
        _remove(leftover)
    work_dir.mkdir(parents=True, exist_ok=True)
    start = None
    if start_from:
        start = published.at(start_from)
    elif recipe.pretrained == "auto":
        start = published.find_pretrained(recipe.model, weights_dir or work_dir)
    ultralytics = load_ultralytics((weights_dir or work_dir) / "ultralytics")
    epochs = recipe.epochs(images)
    device = _device()
    watch = _Watch(epochs, started, on_epoch)
    model = ultralytics.YOLO(str(start.path) if start else f"{recipe.model}.yaml")
    for event, function in watch.callbacks().items():
        model.add_callback(event, function)
    arguments = _arguments(recipe, epochs, device)
    try:
        with _explained(), watch.scanning(data_yaml.parent):
            model.train(
                data=str(data_yaml),
                project=str(work_dir.absolute()),
                name=run_dir.name,
                exist_ok=True,
                pretrained=start is not None,
                **arguments,
            )
        if not watch.rows:
            raise UnavailableError("training ended without a single epoch; see the log")
        return _keep(work_dir, run_dir, watch, recipe, start, device, started)
    finally:
        _remove(run_dir)


def _arguments(recipe: Recipe, epochs: int, device: str) -> dict[str, Any]:
    """The recipe in ultralytics' words; numbers of the kind it insists on."""
    ours = {"model", "image_size", "steps", "batch", "pretrained"}
    same = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in ours}
    on_gpu = device != "cpu"
    return {
        **{name: value if name == "seed" else float(value) for name, value in same.items()},
        "epochs": epochs,
        "patience": epochs,
        "imgsz": recipe.image_size,
        "batch": recipe.batch,
        "nbs": recipe.batch,  # a batch is a step: no accumulation
        "optimizer": "AdamW",
        "close_mosaic": max(1, epochs // 10) if recipe.mosaic else 0,
        "deterministic": True,
        "single_cls": True,
        "device": device,
        "amp": on_gpu,  # half precision is for GPUs; its check would also ask the network
        "workers": min(8, cores()) if on_gpu else 0,
        "cache": False,
        "plots": False,
        "verbose": False,
        "val": True,
    }


def _device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


class _Watch:
    """Follows a training through ultralytics' callbacks."""

    def __init__(
        self, epochs: int, started: float, on_epoch: Callable[[EpochMetrics], None]
    ) -> None:
        self.epochs = epochs
        self.started = started
        self.on_epoch = on_epoch
        self.rows: list[EpochMetrics] = []
        self.best = 0
        self._best_fitness = -math.inf
        self._scan_lock: io.TextIOWrapper | None = None

    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        return {
            "on_pretrain_routine_end": self._scanned,
            "on_fit_epoch_end": self._epoch_done,
        }

    @contextlib.contextmanager
    def scanning(self, folder: Path) -> Iterator[None]:
        """Let one process at a time scan a dataset: the label cache is not made for two."""
        with (folder / "scan.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._scan_lock = lock
            yield

    def _scanned(self, trainer: Any) -> None:
        import torch

        if self._scan_lock is not None:
            fcntl.flock(self._scan_lock, fcntl.LOCK_UN)
        if trainer.device.type == "cpu":
            torch.set_num_threads(torch_threads())

    def _epoch_done(self, trainer: Any) -> None:
        epoch = int(trainer.epoch) + 1
        if epoch > self.epochs or epoch <= len(self.rows):
            return  # the last call repeats the best epoch under the next number
        found = trainer.metrics
        box, cls, dfl = (float(trainer.tloss[f"{name}_loss"]) for name in ("box", "cls", "dfl"))
        if not all(map(math.isfinite, (box, cls, dfl))):
            raise UnavailableError(
                f"training diverged in epoch {epoch} (loss is not a number); use a smaller lr0"
            )
        row = EpochMetrics(
            epoch=epoch,
            epochs=self.epochs,
            map50=float(found.get("metrics/mAP50(B)", 0.0)),
            map50_95=float(found.get("metrics/mAP50-95(B)", 0.0)),
            precision=float(found.get("metrics/precision(B)", 0.0)),
            recall=float(found.get("metrics/recall(B)", 0.0)),
            box_loss=box,
            cls_loss=cls,
            dfl_loss=dfl,
            lr=float(trainer.optimizer.param_groups[0]["lr"]),
            seconds=round(time.monotonic() - self.started, 2),
        )
        fitness = float(trainer.fitness or 0.0)
        if fitness > self._best_fitness:
            self._best_fitness, self.best = fitness, len(self.rows)
        self.rows.append(row)
        self.on_epoch(row)


def _keep(
    work_dir: Path,
    run_dir: Path,
    watch: _Watch,
    recipe: Recipe,
    start: published.Pretrained | None,
    device: str,
    started: float,
) -> TrainResult:
    rows = tuple(watch.rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(EpochMetrics)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    curves = work_dir / CURVES
    temporary = curves.with_suffix(".tmp")
    temporary.write_text(table.getvalue())
    temporary.replace(curves)
    weights = work_dir / WEIGHTS
    # Last and by renaming: where model.pt is, everything else is too.
    (run_dir / "weights" / "best.pt").replace(weights)
    return TrainResult(
        weights=weights,
        curves_csv=curves,
        curves=rows,
        best=rows[watch.best],
        image_size=recipe.image_size,
        pretrained=start.digest if start else None,
        device=device,
        seconds=round(time.monotonic() - started, 2),
    )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what torch and ultralytics raise into one line with a remedy."""
    try:
        yield
    except PlatecryptError:
        raise
    except MemoryError:
        raise UnavailableError("training ran out of memory; use a smaller batch") from None
    except FileNotFoundError as error:
        raise BadInputError(f"training cannot read its data: {_first_line(error)}") from error
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        text = _first_line(error)
        if "out of memory" in text or "can't allocate memory" in text:
            text += "; use a smaller batch or image_size"
        raise UnavailableError(f"training failed: {text}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _count_images(data_yaml: Path) -> int:
    try:
        document = yaml.safe_load(data_yaml.read_text())
        return len(Path(document["train"]).read_text().split("\n"))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BadInputError(f"{data_yaml} is no materialised dataset: {error}") from None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
