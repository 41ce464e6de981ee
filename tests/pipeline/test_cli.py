"""The command line as a program calls it: exit codes, one clear line, nothing half done."""

import json
import re
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from platecrypt.processes import free_port

from .conftest import COMMAND, ROOT, Workplace
from .test_cluster import KubeflowPipelines

pytestmark = pytest.mark.slow

COMMANDS = (
    "run",
    "import",
    "recover",
    "predict",
    "sample",
    "lineage",
    "compile",
    "upload",
    "submit",
    "up",
    "status",
    "stop",
    "config",
    "version",
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    made = Workplace(tmp_path / "state")
    yield made
    made.run("stop")


def refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Exit 2, one line that has these words, no traceback."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("platecrypt: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_help_lists_every_command(place: Workplace) -> None:
    text = place.run("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", text), command


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_that_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys; sys.argv = ['platecrypt', sys.argv[1], '--help']\n"
        "from platecrypt.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'numpy', 'cv2', 'kfp', 'mlflow', 'feast', 'torch', 'kserve'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    python = str(Path(COMMAND).parent / "python")
    done = subprocess.run([python, "-c", code, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_words_exit_2_with_one_line(place: Workplace) -> None:
    refused(place.run("run", "--no-such-option"), "--no-such-option")
    refused(place.run("no-such-command"), "no-such-command")
    refused(place.run("run", "--set", "trials=many"), "trials", "'many'", "int")
    refused(place.run("run", "--set", "trails=3"), "'trails'", "trials (int)")
    refused(place.run("run", "--set", "trials"), "NAME=VALUE")
    assert not place.home.exists()


def test_a_wrong_setting_is_named(place: Workplace) -> None:
    refused(place.run("status", PLATECRYPT_PORT="0"), "port", "PLATECRYPT_PORT")
    refused(place.run("status", PLATECRYPT_PROT="1"), "PLATECRYPT_PROT")


def test_config_says_what_is_in_force_and_whence(place: Workplace) -> None:
    rows = place.ask("config", PLATECRYPT_S3_SECRET_KEY="hidden")
    assert rows["port"] == {"value": str(place.port), "from": "PLATECRYPT_PORT"}
    assert rows["s3_bucket"] == {"value": "platecrypt", "from": "default"}
    assert rows["s3_secret_key"]["value"] == "***"


@pytest.mark.parametrize("form", ["empty", "unknown", "missing"])
def test_a_folder_that_is_no_dataset_is_refused(
    place: Workplace, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "Ordner mit Umläuten und Leerzeichen ü"
    if form != "missing":
        folder.mkdir()
    if form == "unknown":
        (folder / "notes.txt").write_text("no pictures here")
    refused(place.run("import", str(folder)), folder.name)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    refused(place.run("run", "--dataset", str(folder), TMPDIR=str(scratch)), folder.name)
    assert not list(scratch.iterdir()), "the engine's temporary folders are removed"


def test_a_taken_port_is_one_line(place: Workplace) -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", place.s3_port))
        owner.listen()
        refused(place.run("up"), f"port {place.s3_port}", "PLATECRYPT_S3_PORT")
    assert place.ask("status") == []


def test_an_s3_that_does_not_answer_is_given_up_soon(place: Workplace) -> None:
    began = time.monotonic()
    done = place.run(
        "import",
        "synthetic://?images=4",
        PLATECRYPT_S3_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        PLATECRYPT_S3_ACCESS_KEY="k",
        PLATECRYPT_S3_SECRET_KEY="s",
        PLATECRYPT_S3_TIMEOUT_S="1",
    )
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 30


def test_an_s3_that_refuses_the_credentials_says_so(place: Workplace) -> None:
    assert place.run("up").returncode == 0
    done = place.run(
        "import",
        "synthetic://?images=4",
        PLATECRYPT_S3_ENDPOINT=f"http://127.0.0.1:{place.s3_port}",
        PLATECRYPT_S3_ACCESS_KEY="platecrypt",
        PLATECRYPT_S3_SECRET_KEY="wrong",
    )
    assert done.returncode == 1
    assert "refused the credentials" in done.stderr


def test_another_s3_is_used_instead(place: Workplace, tmp_path: Path) -> None:
    """The three variables of the README, and no embedded store is started."""
    secret = tmp_path / "s3"
    secret.write_text("secret\n")
    server = ThreadedMotoServer(port=free_port(), verbose=False)
    server.start()
    try:
        found = place.ask(
            "import",
            "synthetic://?images=4&seed=1",
            PLATECRYPT_S3_ENDPOINT="http://{}:{}".format(*server.get_host_and_port()),
            PLATECRYPT_S3_ACCESS_KEY="plates",
            PLATECRYPT_S3_SECRET_KEY_FILE=str(secret),
        )
        assert place.ask("status") == []
    finally:
        server.stop()
    assert place.ask("import", "synthetic://?images=4&seed=1")["digest"] == found["digest"]


def test_a_full_disk_while_importing_leaves_no_manifest(place: Workplace, tmp_path: Path) -> None:
    data = place.home / "s3" / "data"
    data.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(data)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        done = place.run("import", "synthetic://?images=64&seed=1")
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert not list(data.rglob("manifest.jsonl"))
        place.run("stop")
    finally:
        subprocess.run(["umount", str(data)], check=True)
    assert place.ask("import", "synthetic://?images=64&seed=1")["images"] == 64


def test_a_key_file_that_others_may_read_stops_the_run(place: Workplace) -> None:
    path = place.home / "keys" / "keyring.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    path.chmod(0o644)
    refused(place.run("run"), "keyring.json")
    path.chmod(0o600)
    refused(place.run("run"), "keyring.json")
    assert place.ask("status") == []


def test_recover_refuses_what_it_cannot_open(place: Workplace, tmp_path: Path) -> None:
    from platecrypt.cipher import Keyring

    Keyring.create(place.home / "keys" / "keyring.json")
    picture, out = tmp_path / "x.jpg", str(tmp_path / "y.png")
    refused(place.run("recover", str(picture), "-o", out), "x.jpg")
    picture.write_bytes(b"")
    assert place.run("recover", str(picture), "-o", out).returncode == 2
    picture.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    assert place.run("recover", str(picture), "-o", out).returncode == 2
    refused(place.run("recover", str(picture), "-o", str(tmp_path / "y.gif")), ".png")
    assert not Path(out).exists()


def test_two_runs_on_one_state_folder_are_refused(place: Workplace) -> None:
    import fcntl

    place.home.mkdir(parents=True)
    with (place.home / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(place.run("run"), "run.lock", "in use by another run")


def test_the_cluster_commands_of_the_readme(place: Workplace, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if re.match("platecrypt (compile|upload)", line)]
    lines += [line for line in readme.splitlines() if line.startswith("platecrypt submit")]
    assert len(lines) == 3
    server = KubeflowPipelines()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for line in lines:
            host = f"http://127.0.0.1:{server.server_port}"
            line = line.replace("http://ml-pipeline.example", host)
            line = line.replace("training.yaml", str(tmp_path / "training.yaml"))
            done = place.run(*shlex.split(line)[1:])
            assert done.returncode == 0, done.stderr
    finally:
        server.shutdown()
        server.server_close()
    assert (
        "registry.example/team/platecrypt-train:1.2.0" in (tmp_path / "training.yaml").read_text()
    )
    (run,) = server.runs
    assert run["runtime_config"]["parameters"]["dataset"] == "s3://pictures/2026"
    assert len(json.dumps(server.packages)) > 1000
