"""A folder goes through the endpoint's own core, on several processes, without an endpoint."""

import io
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from platecrypt import imaging
from platecrypt.cipher import Keyring
from platecrypt.commands.pictures import protect
from platecrypt.errors import BadInputError
from platecrypt.imaging import bulk
from platecrypt.imaging.bulk import Options, Worker, jobs_for, protect_all
from platecrypt.serving.bulk import EndpointWorker
from platecrypt.serving.keys import KeyFile
from platecrypt.serving.local import LocalDetector
from platecrypt.serving.protector import Limits, Protector
from platecrypt.serving.requests import Options as Asked
from platecrypt.serving.requests import Picture

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
PLATES = ((40, 60, 120, 100), (400, 200, 520, 240))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Pictures of every format, one of them damaged, a model and a keyring."""
    folder = tmp_path / "in"
    folder.mkdir()
    street = MARKER["picture"](640, 360, *PLATES)
    for name, form in (("a.jpg", "jpeg"), ("b.png", "png"), ("c.webp", "webp"), ("d.jpg", "jpeg")):
        (folder / name).write_bytes(imaging.encode(street, form, quality=95, lossless=True))
    Image.fromarray(street).save(folder / "e.tiff")
    (folder / "f.jpg").write_bytes((folder / "a.jpg").read_bytes()[:3000])
    MARKER["build"](tmp_path / "model.onnx", 320)
    Keyring.create(tmp_path / "keys.json")
    return tmp_path


def test_a_folder_comes_out_as_the_endpoint_answers(desk: Path) -> None:
    options = Options(desk / "keys.json", desk / "model.onnx")
    jobs = jobs_for([desk / "in"], desk / "out")
    outcomes = {
        outcome.source.name: outcome
        for outcome in protect_all(jobs, options, workers=2, worker=EndpointWorker)
    }
    assert outcomes.pop("f.jpg").state == "failed"
    assert {outcome.state for outcome in outcomes.values()} == {"protected"}
    assert {outcome.plates for outcome in outcomes.values()} == {2}
    keyring = Keyring.load(desk / "keys.json")
    finder = LocalDetector(Worker(options)._detector, "1")  # type: ignore[arg-type]
    core = Protector(
        "m", finder=finder, keys=KeyFile(desk / "keys.json"), limits=Limits(2**24, 10**7)
    )
    for name in outcomes:
        source, made = (desk / "in" / name).read_bytes(), (desk / "out" / name).read_bytes()
        back = imaging.recover(made, keyring)
        if name == "e.tiff":  # not the endpoint's: without loss
            assert Image.open(io.BytesIO(made)).format == "TIFF"
            continue
        answer = core.protect(Picture(source), Asked(), headers={}).protected
        assert back.regions == answer.regions
        one, two = imaging.decode(made).pixels, imaging.decode(answer.data).pixels
        outside = np.ones(one.shape[:2], bool)
        for x1, y1, x2, y2 in back.regions:
            outside[max(y1 - 16, 0) : y2 + 16, max(x1 - 16, 0) : x2 + 16] = False
            before = imaging.decode(source).pixels[y1:y2, x1:x2]
            np.testing.assert_array_equal(back.pixels[y1:y2, x1:x2], before)
        np.testing.assert_array_equal(one[outside], two[outside])
    again = protect_all(jobs[:5], options, workers=1, worker=EndpointWorker)
    assert [outcome.state for outcome in again] == ["skipped"] * 5


def test_what_was_measured_once_is_not_measured_by_every_process(desk: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    auto = Options(desk / "keys.json", desk / "model.onnx", backend="auto")
    settled = Worker(auto).settled()
    assert settled.backend in ("onnxruntime", "openvino")
    assert Worker(settled)._detector.provider  # type: ignore[union-attr]
    assert Worker(Options(desk / "keys.json")).settled() == Options(desk / "keys.json")


@pytest.mark.parametrize(("files", "expected"), [(bulk.MANY - 1, False), (bulk.MANY, True)])
def test_many_files_are_worth_the_compiled_cipher(
    desk: Path, files: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bool] = []
    monkeypatch.setattr(bulk, "warm_up", lambda: loaded.append(True))
    (job, *_) = jobs_for([desk / "in"], desk / "out")
    options = Options(desk / "keys.json", desk / "model.onnx")
    outcomes = list(protect_all([job] * files, options))  # all but the first are done already
    assert [outcome.state for outcome in outcomes[:2]] == ["protected", "skipped"]
    assert bool(loaded) == expected


def command(desk: Path, *sources: str, output: str, **more: Any) -> None:
    protect(
        [str(desk / source) for source in sources],
        output=str(desk / output),
        **{"keys": desk / "keys.json", "model": desk / "model.onnx", "workers": 1, **more},
    )


def test_the_command_takes_both_ways(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(desk, "in/a.jpg", output="lossless.jpg")
    command(desk, "in/a.jpg", output="fast.jpg", fast=True)
    assert capsys.readouterr().out.count("2 plates sealed") == 2
    source = imaging.decode((desk / "in" / "a.jpg").read_bytes()).pixels[300:, 200:300]
    same = [
        bool((imaging.decode((desk / name).read_bytes()).pixels[300:, 200:300] == source).all())
        for name in ("lossless.jpg", "fast.jpg")
    ]
    assert same == [True, False]
    (desk / "boxes.json").write_text('[{"box": [40, 30, 95, 58]}]')
    for wrong in ({"sidecar": True}, {"boxes": desk / "boxes.json"}):
        with pytest.raises(BadInputError, match="--fast"):
            command(desk, "in/a.jpg", output="x.jpg", fast=True, **wrong)


@pytest.mark.parametrize(("backend", "precision"), [("openvino", "f32"), ("auto", "auto")])
def test_the_command_takes_every_backend(
    desk: Path, capsys: pytest.CaptureFixture[str], backend: str, precision: str
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    command(
        desk, "in/a.jpg", "in/d.jpg", output="out", workers=2, backend=backend, precision=precision
    )
    assert "2 protected (4 plates sealed)" in capsys.readouterr().out


def test_pixels_that_nobody_wants_back_are_not_kept(desk: Path) -> None:
    """A call may hold many large pictures, and its answer none of them."""
    options = Options(desk / "keys.json", desk / "model.onnx")
    finder = LocalDetector(Worker(options)._detector, "1")  # type: ignore[arg-type]
    core = Protector(
        "m", finder=finder, keys=KeyFile(desk / "keys.json"), limits=Limits(2**24, 10**7)
    )
    source = next(path for path in (desk / "in").iterdir() if path.suffix == ".png").read_bytes()
    made = core.protect(Picture(source), Asked(image="none"), headers={})
    assert made.protected.envelopes
    assert made.pixels.nbytes == 0
    pixels = imaging.decode(source).pixels
    assert core.protect(Picture(pixels), Asked(), headers={}).pixels.shape == pixels.shape
