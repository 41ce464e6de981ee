"""A container that cannot serve says why in one line and ends with 2; imports stay cheap."""

import importlib
import json
import logging
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MARKER = runpy.run_path(str(Path(__file__).parents[1] / "support" / "marker_model.py"))
CASES = {
    "no model folder": ("predictor", ["--model_dir={tmp}/gone"], "gone does not exist"),
    "empty model folder": ("predictor", ["--model_dir={tmp}"], "exactly one .onnx"),
    "damaged model": ("predictor", ["--model_dir={tmp}/bad"], "cannot be loaded"),
    "no predictor": ("transformer", ["--keys_file={tmp}/k"], "--predictor_host"),
    "another protocol": (
        "transformer",
        ["--keys_file={tmp}/k", "--predictor_host=h:1", "--predictor_protocol=v2"],
        "grpc-v2",
    ),
    "no room in a batch": (
        "predictor",
        ["--model_dir={tmp}/good", "--batch_size=0"],
        "--batch_size 0",
    ),
    "no keys": ("transformer", ["--keys_file={tmp}/k", "--predictor_host=h:1"], "does not exist"),
}


@pytest.fixture
def own_logging() -> Iterator[None]:
    """A server configures the logging of its process; here that is given back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("name", CASES)
def test_it_says_why_it_cannot_start(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    room, args, sentence = CASES[name]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.onnx").write_bytes(b"bad")
    (tmp_path / "good").mkdir()
    MARKER["build"](tmp_path / "good" / "model.onnx")
    argv = [arg.format(tmp=tmp_path) for arg in args]
    module = importlib.import_module(f"platecrypt.serving.{room}")
    assert module.main(["--http_port=1", *argv]) == 2
    told = capsys.readouterr().err
    line = json.loads(told.strip().splitlines()[-1])
    assert sentence in line["message"]
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_container_ends_with_the_code_of_its_server(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "platecrypt.serving.predictor", f"--model_dir={tmp_path}/gone"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "gone does not exist" in json.loads(ended.stderr.strip().splitlines()[-1])["message"]


@pytest.mark.parametrize("room", ["detection", "serving", "deployment"])
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    code = (
        f"import platecrypt.{room}, sys; "
        "heavy = {'kserve', 'cv2', 'onnxruntime', 'torch', 'grpc', 'fastapi', 'numba', 'httpx'}; "
        "print(*(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
