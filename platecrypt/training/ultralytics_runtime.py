"""ultralytics, made quiet and usable: no network of its own, no trackers, operators that exist.

It reads its configuration while it is imported, so everything here happens before the first
import. A process prepares it once; later calls return what is there.
"""

import functools
import importlib.metadata
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from platecrypt.errors import UnavailableError

QUIET_SETTINGS = {
    "sync": False,
    "clearml": False,
    "comet": False,
    "dvc": False,
    "mlflow": False,
    "raytune": False,
    "tensorboard": False,
    "wandb": False,
    "vscode_msg": False,
    "openvino_msg": False,
}

logger = logging.getLogger(__name__)


def load_ultralytics(config_dir: Path) -> Any:
    """The `ultralytics` module, imported with the network and the trackers off.

    Args:
        config_dir: folder for its settings and its font; the first call of a process decides.

    Raises:
        UnavailableError: ultralytics is not installed.
    """
    return _load(str(config_dir.absolute()))


@functools.cache
def torch_threads() -> int:
    """Threads that torch was given (cores, or OMP_NUM_THREADS).

    ultralytics lowers the number to cores - 1 while it selects the CPU, which on two cores
    halves the speed; the trainer sets this one again.
    """
    import torch

    return int(torch.get_num_threads())


_loaded: list[Any] = []


def _load(config_dir: str) -> Any:
    if _loaded:
        return _loaded[0]
    try:
        importlib.metadata.version("ultralytics")
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError(
            "ultralytics is not installed; install the extra: pip install 'platecrypt[train]'"
        ) from None
    torch_threads()
    _silence(Path(config_dir))
    provide_torchvision_operators()
    import ultralytics
    from PIL import Image
    from ultralytics.utils import patches

    # It replaces Pillow's `open`, for a format of telephones: a damaged picture would then ask for
    # a package to be installed, where everybody else in this process expects Pillow's own error.
    Image.open = patches._image_open
    ultralytics.settings.update(QUIET_SETTINGS)
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    _loaded.append(ultralytics)
    return ultralytics


def _silence(config_dir: Path) -> None:
    import matplotlib

    folder = config_dir / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        YOLO_CONFIG_DIR=str(config_dir),
        YOLO_OFFLINE="True",
        YOLO_AUTOINSTALL="False",
        YOLO_VERBOSE="False",
        ULTRALYTICS_SAFE_LOAD="True",  # a .pt is a pickle: rebuild known classes only
    )
    # It asks the network for this font even when it is told to be offline.
    font = folder / "Arial.ttf"
    if not font.exists():
        temporary = folder / f".Arial.{os.getpid()}"
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", temporary)
        temporary.replace(font)
    # Parallel trials share this folder: a torn settings file would be "reset" to the defaults.
    settings = folder / "settings.json"
    if settings.exists():
        try:
            json.loads(settings.read_text())
        except ValueError:
            settings.unlink(missing_ok=True)


@functools.cache
def provide_torchvision_operators() -> bool:
    """Make `torchvision::nms` exist where torchvision was built for a GPU that torch lacks.

    ultralytics imports torchvision, and that import fails on a missing operator. Where the
    compiled operators load this does nothing.

    Returns:
        Whether the compiled operators are in use.
    """
    import torch

    found = importlib.metadata.distribution("torchvision").locate_file("torchvision")
    for library in sorted(Path(str(found)).glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl(name, _nms, "CompositeExplicitAutograd")
    _registrations.append(library)
    import torchvision

    # torchvision.ops.nms asks this before it calls the operator, which now exists.
    torchvision.extension._has_ops = lambda: True
    logger.info("torchvision's compiled operators do not load here; using torch's own for NMS")
    return False


_registrations: list[Any] = []  # torch forgets an operator when its library object is collected


NMS_BLOCK = 512  # rows of the overlap matrix that exist at once


def _nms(dets: Any, scores: Any, iou_threshold: float) -> Any:
    """Greedy suppression of `(N, 4)` boxes: indices that stay, best first, as torchvision's.

    Overlaps are computed a block of rows at a time and only the choice is a loop: an untrained
    network yields thousands of boxes an image, and box by box that takes longer than its epoch.
    """
    import torch

    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order].float()
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    area = (x2 - x1) * (y2 - y1)
    gone = torch.zeros(len(boxes), dtype=torch.bool).numpy()
    kept: list[int] = []
    for start in range(0, len(boxes), NMS_BLOCK):
        a, b = slice(start, start + NMS_BLOCK), slice(start, None)
        width = torch.minimum(x2[a, None], x2[b]) - torch.maximum(x1[a, None], x1[b])
        height = torch.minimum(y2[a, None], y2[b]) - torch.maximum(y1[a, None], y1[b])
        common = width.clamp_(min=0).mul_(height.clamp_(min=0))
        union = area[a, None] + area[b] - common
        covered = (common > iou_threshold * union).cpu().numpy()
        for row, covers in enumerate(covered):
            if not gone[start + row]:
                kept.append(start + row)
                gone[start:] |= covers
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
