"""Training end to end on tiny images: repeatable, whole or not there, the same in ONNX."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate
from platecrypt.datasets.training_set import Selected, TrainingSet
from platecrypt.detection import Detector
from platecrypt.errors import BadInputError, RefusedError, UnavailableError
from platecrypt.training.export import agreement, export_onnx
from platecrypt.training.pretrained import find_pretrained
from platecrypt.training.recipe import Recipe
from platecrypt.training.train import EpochMetrics, TrainResult, train
from platecrypt.training.yolo_folder import YoloFolder, materialise

SIZE = 96
RECIPE = Recipe(image_size=SIZE, steps=10, batch=4, pretrained="never", seed=3)
SPLITS = ("train",) * 8 + ("val",) * 4 + ("test",) * 2


def build(root: Path) -> tuple[YoloFolder, Manifest]:
    """Noise with a white plate; big enough that nothing is filtered."""
    store: dict[str, bytes] = {}
    records = []
    for index, split in enumerate(SPLITS):
        generator = np.random.default_rng(index)
        pixels = generator.integers(0, 90, (SIZE, SIZE, 3), dtype=np.uint8)
        x, y = (int(v) for v in generator.integers(2, SIZE - 46, 2))
        pixels[y : y + 14, x : x + 42] = 240
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")
        digest = hashlib.sha256(out.getvalue()).hexdigest()
        store[digest] = out.getvalue()
        box = (float(x), float(y), float(x + 42), float(y + 14))
        records.append(
            ImageRecord(
                digest,
                digest,
                "n",
                1,
                SIZE,
                SIZE,
                (Plate(box),),
                "c",
                "g",
                None,
                split,  # type: ignore[arg-type]
            )
        )
    keyed = tuple(
        ImageRecord(**{**vars(record), "key": f"{record.image_id}.jpg"}) for record in records
    )
    manifest = Manifest(keyed, "test", "image")

    class Store:
        def get(self, key: str) -> bytes:
            return store[key.removesuffix(".jpg")]

    chosen = tuple(Selected(image.image_id, 1, "all") for image in manifest.split("train"))
    return materialise(Store(), manifest, TrainingSet(manifest.digest, "s", chosen), root), manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[YoloFolder, Manifest]:
    return build(tmp_path_factory.mktemp("dataset with spaces ü"))


@pytest.fixture(scope="module")
def trained(
    folder: tuple[YoloFolder, Manifest], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, list[EpochMetrics]]:
    rows: list[EpochMetrics] = []
    work = tmp_path_factory.mktemp("work")
    return train(folder[0].data_yaml, RECIPE, work, on_epoch=rows.append), rows


def losses(result: TrainResult) -> list[tuple[float, float, float, float]]:
    return [(r.box_loss, r.cls_loss, r.dfl_loss, r.map50) for r in result.curves]


@pytest.mark.slow
@pytest.mark.alone
def test_training_leaves_weights_and_curves_and_nothing_else(
    trained: tuple[TrainResult, list[EpochMetrics]],
) -> None:
    result, rows = trained
    assert tuple(rows) == result.curves
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5]  # 10 steps, 2 an epoch
    assert {path.name for path in result.weights.parent.iterdir()} - {"ultralytics"} == {
        "model.pt",
        "curves.csv",
    }
    assert len(result.curves_csv.read_text().splitlines()) == 6
    assert result.best in result.curves
    assert result.pretrained is None
    assert rows[0].cls_loss > 0


@pytest.mark.slow
@pytest.mark.alone
def test_the_same_seed_gives_the_same_training_and_another_does_not(
    folder: tuple[YoloFolder, Manifest],
    trained: tuple[TrainResult, list[EpochMetrics]],
    tmp_path: Path,
) -> None:
    again = train(folder[0].data_yaml, RECIPE, tmp_path / "again")
    assert losses(again) == losses(trained[0])
    other = train(folder[0].data_yaml, RECIPE.with_values({"seed": 4}), tmp_path / "other")
    assert losses(other) != losses(trained[0])


@pytest.mark.slow
@pytest.mark.alone
def test_onnx_sees_what_pytorch_sees_and_a_changed_onnx_is_refused(
    folder: tuple[YoloFolder, Manifest],
    trained: tuple[TrainResult, list[EpochMetrics]],
    tmp_path: Path,
) -> None:
    weights = trained[0].weights
    images = [folder[0].image_path(image) for image in folder[1].images]
    path = export_onnx(weights, tmp_path / "m.onnx", image_size=SIZE, config_dir=tmp_path)
    assert Detector.load(path).stride == 32
    assert [p.name for p in tmp_path.iterdir() if p.name != "Ultralytics"] == ["m.onnx"]
    # One of them wide and one of them tall: neither network looks at a square then.
    for index, cut in enumerate(((0, 0, SIZE, SIZE // 2), (0, 0, SIZE // 2, SIZE))):
        images[index] = tmp_path / f"{index}.png"
        Image.open(folder[0].image_path(folder[1].images[index])).crop(cut).save(images[index])
    found = agreement(weights, path, images, config_dir=tmp_path)
    assert found.boxes > 0
    assert found.max_box_diff_px < 0.1
    assert found.max_score_diff < 1e-5
    # The biases of the scores: the file still runs, the boxes stay, their scores are others.
    model = onnx.load(path)
    biases = [t for t in model.graph.initializer if list(t.dims) == [1] and t.data_type == 1]
    assert biases
    for tensor in biases:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.5, tensor.name))
    onnx.save(model, path)
    with pytest.raises(RefusedError, match="disagree"):
        agreement(weights, path, images, config_dir=tmp_path)
    with pytest.raises(BadInputError, match="no images"):
        agreement(weights, path, [], config_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.alone
def test_what_on_epoch_raises_ends_the_training_and_nothing_is_left(
    folder: tuple[YoloFolder, Manifest], tmp_path: Path
) -> None:
    def stop(row: EpochMetrics) -> None:
        raise KeyboardInterrupt

    (tmp_path / "model.pt").write_bytes(b"of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        train(folder[0].data_yaml, RECIPE, tmp_path, on_epoch=stop)
    assert {path.name for path in tmp_path.iterdir()} <= {"ultralytics"}


@pytest.mark.slow
@pytest.mark.alone
def test_sigterm_leaves_no_half_written_model(tmp_path: Path) -> None:
    built, _ = build(tmp_path / "data")
    program = f"""
import signal, sys
from pathlib import Path
from platecrypt.training.recipe import Recipe
from platecrypt.training.train import train
signal.signal(signal.SIGTERM, lambda n, f: sys.exit(143))
train(Path({str(built.data_yaml)!r}), Recipe(image_size=96, steps=4000, batch=4,
      pretrained="never"), Path({str(tmp_path / "work")!r}),
      on_epoch=lambda r: print(r.epoch, flush=True))
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        assert child.stdout.readline().strip() == "1"
        assert (tmp_path / "work" / "run").is_dir()
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 143
    finally:
        child.kill()
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"ultralytics"}


@pytest.mark.slow
@pytest.mark.alone
def test_damaged_weights_and_missing_data_are_one_clear_line(tmp_path: Path) -> None:
    damaged = tmp_path / "model.pt"
    damaged.write_bytes(os.urandom(2000))
    with pytest.raises(BadInputError, match="no readable YOLO checkpoint"):
        agreement(damaged, tmp_path / "m.onnx", [damaged], config_dir=tmp_path)
    with pytest.raises(BadInputError, match="does not exist"):
        export_onnx(tmp_path / "a.pt", tmp_path / "m.onnx", image_size=96, config_dir=tmp_path)
    with pytest.raises(BadInputError, match="no materialised dataset"):
        train(tmp_path / "absent.yaml", RECIPE, tmp_path / "w")
    with pytest.raises(BadInputError, match="image_size is 0"):
        train(tmp_path / "absent.yaml", Recipe(), tmp_path / "w")


@pytest.mark.slow
@pytest.mark.alone
def test_the_operator_that_torchvision_may_lack_is_the_real_suppression(tmp_path: Path) -> None:
    import torch

    from platecrypt.training.ultralytics_runtime import _nms, load_ultralytics

    load_ultralytics(tmp_path)
    import torchvision
    from ultralytics.utils.nms import TorchNMS

    generator = np.random.default_rng(0)
    for count in (0, 1, 700, 1500):
        low = generator.uniform(0, 200, (count, 2))
        boxes = np.concatenate([low, low + generator.uniform(2, 80, (count, 2))], axis=1)
        scores = torch.from_numpy(generator.random(count).astype(np.float32))
        tensor = torch.from_numpy(boxes.astype(np.float32))
        expected = TorchNMS.nms(tensor, scores, 0.5).tolist()
        assert _nms(tensor, scores, 0.5).tolist() == expected
        assert torchvision.ops.nms(tensor, scores, 0.5).tolist() == expected


def test_loading_it_leaves_pillow_as_it_was(tmp_path: Path) -> None:
    """ultralytics puts a function of its own there, which wants to install packages."""
    from PIL import Image, UnidentifiedImageError

    from platecrypt.training.ultralytics_runtime import load_ultralytics

    load_ultralytics(tmp_path)
    assert Image.open.__module__ == "PIL.Image"
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"no picture"))


def test_published_weights_are_tried_once_and_then_from_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    web = tmp_path / "web"
    web.mkdir()
    cache = tmp_path / "cache"
    began = time.monotonic()
    assert find_pretrained("yolov8n", cache, base_url="http://127.0.0.1:9") is None
    assert time.monotonic() - began < 10
    assert "starts from scratch" in caplog.text
    caplog.clear()
    (web / "yolov8n.pt").write_bytes(b"w" * 2_000_000)
    assert find_pretrained("yolov8n", cache, base_url=web.as_uri()) is None  # it remembers
    (cache / "yolov8n.unavailable").unlink()
    found = find_pretrained("yolov8n", cache, base_url=web.as_uri())
    assert found is not None
    assert found.digest == hashlib.sha256(b"w" * 2_000_000).hexdigest()
    (web / "yolov8n.pt").unlink()
    assert find_pretrained("yolov8n", cache, base_url=web.as_uri()) == found


def test_an_error_page_is_not_taken_for_weights(tmp_path: Path) -> None:
    (tmp_path / "yolov8s.pt").write_bytes(b"<html>please sign in</html>")
    assert find_pretrained("yolov8s", tmp_path / "c", base_url=tmp_path.as_uri()) is None
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["yolov8s.unavailable"]


def test_a_diverged_training_says_so() -> None:
    from types import SimpleNamespace

    from platecrypt.training.train import _Watch

    watch = _Watch(3, 0.0, lambda row: None)
    losses = {"box_loss": float("nan"), "cls_loss": 1.0, "dfl_loss": 1.0}
    trainer = SimpleNamespace(epoch=0, metrics={}, tloss=losses)
    with pytest.raises(UnavailableError, match=r"diverged in epoch 1.*smaller lr0"):
        watch._epoch_done(trainer)
