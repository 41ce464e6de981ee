"""A container that cannot serve says why in one line and ends with 2; imports stay cheap."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    "no keys": ("transformer", ["--keys_file={tmp}/k", "--predictor_host=h:1"], "does not exist"),
}


@pytest.mark.slow  # each starts a process
@pytest.mark.parametrize("name", CASES)
def test_it_says_why_it_cannot_start(tmp_path: Path, name: str) -> None:
    room, args, sentence = CASES[name]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.onnx").write_bytes(b"bad")
    argv = [arg.format(tmp=tmp_path) for arg in args]
    ended = subprocess.run(
        [sys.executable, "-m", f"platecrypt.serving.{room}", "--http_port=1", *argv],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    line = json.loads(ended.stderr.strip().splitlines()[-1])
    assert sentence in line["message"]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("room", ["detection", "serving", "deployment"])
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    code = (
        f"import platecrypt.{room}, sys; "
        "heavy = {'kserve', 'cv2', 'onnxruntime', 'torch', 'grpc', 'fastapi', 'numba', 'httpx'}; "
        "print(*(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
