"""One trial: `python -m platecrypt.tuning.trial --dataset=... --training-set=... --lr0=...`.

Trains once and prints its figures as `name=value`, one line an epoch, which is all that a metrics
collector needs; with `--parent-run` it also reports to MLflow as a child of that run. It is a
program of its own, so it reads the settings itself.
"""

import argparse
import contextlib
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from platecrypt import settings as configuration
from platecrypt.datasets.manifest import Manifest, manifest_key, parse_manifest
from platecrypt.datasets.training_set import TrainingSet, parse_training_set
from platecrypt.errors import BadInputError, PlatecryptError, UnavailableError
from platecrypt.settings import Settings
from platecrypt.storage import ObjectStore
from platecrypt.storage.objects import MissingObjectError
from platecrypt.tracking import Tracker
from platecrypt.training.recipe import Recipe, choose_image_size
from platecrypt.training.train import EpochMetrics, train
from platecrypt.training.yolo_folder import materialise

SMALLEST_SIZE = 96
logger = logging.getLogger(__name__)
GRID = 32  # YOLOv8's coarsest stride: an image size is a multiple of it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one trial; the exit code is 0, 1 (failed) or 2 (bad input)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        options, values = _parse(sys.argv[1:] if argv is None else argv)
        run_trial(
            configuration.load(),
            dataset=options.dataset,
            training_set=options.training_set,
            values=values,
            reduce=options.reduce,
            work_dir=Path(options.work_dir),
            name=options.name,
            parent_run=options.parent_run,
        )
    except PlatecryptError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except MemoryError:
        sys.stderr.write("error: out of memory; use a smaller batch or a larger --reduce\n")
        return 1
    return 0


def run_trial(
    settings: Settings,
    *,
    dataset: str,
    training_set: str,
    values: dict[str, str],
    reduce: float,
    work_dir: Path,
    name: str = "trial",
    parent_run: str = "",
) -> None:
    """Train with some values of the recipe changed, printing `name=value` lines.

    Args:
        settings: name the store; datasets and weights are cached under their home.
        dataset: digest of the manifest.
        training_set: key of the training set in the store.
        values: fields of the recipe, as text.
        reduce: the automatic image size is divided by this: a trial may be cruder than training.
        work_dir: for the training; its own subfolder is removed at the end.
        name: of the trial, for its MLflow run.
        parent_run: id of the MLflow run that it reports to as a child; "": it does not report.

    Raises:
        BadInputError: a value is wrong, or the data are not in the store.
        PlatecryptError: the store, the memory or the training failed.
    """
    recipe = Recipe().with_values(values)
    manifest, selected = _read(ObjectStore(settings.store()), dataset, training_set)
    if not recipe.image_size:
        size = choose_image_size(manifest.split("train")) / reduce
        recipe = recipe.with_values({"image_size": max(SMALLEST_SIZE, round(size / GRID) * GRID)})
    cache = settings.home / "cache"
    folder = materialise(ObjectStore(settings.store()), manifest, selected, cache / "datasets")
    place = work_dir / "training"
    tags = {"dataset_digest": dataset, "training_set": training_set}
    try:
        with _reporting(settings, name, parent_run, recipe, tags) as report:

            def on_epoch(row: EpochMetrics) -> None:
                figures = _figures(row)
                _print(row.epoch, figures)
                report(row.epoch, figures)

            train(folder.data_yaml, recipe, place, on_epoch=on_epoch, weights_dir=cache / "weights")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _figures(row: EpochMetrics) -> dict[str, float]:
    """What an epoch says of itself, by the names that the Experiment collects."""
    return {
        "mAP50": row.map50,
        "mAP50-95": row.map50_95,
        "recall": row.recall,
        "loss": row.box_loss + row.cls_loss + row.dfl_loss,
    }


def _print(epoch: int, figures: Mapping[str, float]) -> None:
    """One line; Katib takes its first word for the time, which early stopping needs."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    pairs = " ".join(f"{name}={value:.5f}" for name, value in figures.items())
    sys.stdout.write(f"{now} epoch={epoch} {pairs}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _reporting(
    settings: Settings, name: str, parent_run: str, recipe: Recipe, tags: Mapping[str, str]
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield a function that is told each epoch's figures; the MLflow run ends whatever happens."""
    if not parent_run:
        yield lambda epoch, figures: None
        return
    # The hours of training are worth more than a curve.
    with Tracker(settings).start_run(
        name, tags={**tags, "trial": name}, parent=parent_run, must_close=False
    ) as run:
        run.log_params(asdict(recipe))

        def report(epoch: int, figures: Mapping[str, float]) -> None:
            try:
                run.log_metrics(figures, step=epoch)
            except UnavailableError as error:
                logger.warning("epoch %d is not in MLflow: %s", epoch, error)

        yield report


def _read(store: ObjectStore, dataset: str, training_set: str) -> tuple[Manifest, TrainingSet]:
    try:
        manifest = parse_manifest(store.get(manifest_key(dataset)), expected_digest=dataset)
        return manifest, parse_training_set(store.get(training_set))
    except MissingObjectError as error:
        raise BadInputError(f"{error}; import the dataset and select a training set") from None


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(prog="python -m platecrypt.tuning.trial", allow_abbrev=False)
    parser.add_argument("--dataset", required=True, help="digest of the manifest")
    parser.add_argument("--training-set", required=True, help="key of the training set")
    parser.add_argument("--name", default="trial", help="of the trial, in MLflow")
    parser.add_argument("--parent-run", default="", help="MLflow run to report to as a child")
    parser.add_argument("--work-dir", default=".", help="folder to train in")
    parser.add_argument("--reduce", type=float, default=1.0, help="divides the image size")
    names = [field.name for field in fields(Recipe)]
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE")
    options = parser.parse_args(argv)
    if not 1 <= options.reduce <= 8:
        raise BadInputError(f"--reduce {options.reduce} is outside 1..8")
    for name in ("dataset", "training_set"):
        if not getattr(options, name):
            raise BadInputError(f"--{name.replace('_', '-')} is empty; the trial has no data")
    given = {name: getattr(options, name) for name in names}
    return options, {name: value for name, value in given.items() if value is not None}


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Let SIGTERM unwind the stack: what is half-written is removed on the way."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
