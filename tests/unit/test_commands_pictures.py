"""protect, recover, disclose, inspect and reseal, as they are typed."""

import http.server
import io
import json
import os
import runpy
import signal
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platecrypt import audit, cli
from platecrypt.cipher import Keyring
from platecrypt.imaging import decode, read_sealed
from platecrypt.imaging.bulk import Job, Options, jobs_for, protect_all

ROOT = Path(__file__).parents[2]
MAKE: dict[str, Any] = runpy.run_path(str(ROOT / "tests" / "support" / "pictures.py"))
MARKER: dict[str, Any] = runpy.run_path(str(ROOT / "tests" / "support" / "marker_model.py"))
BOXES = '[{"box": [40, 30, 95, 58]}, {"quad": [[150, 90], [190, 92], [188, 109], [149, 105]]}]'


def jpeg(seed: int = 1) -> bytes:
    return bytes(MAKE["file"](MAKE["street"](211, 143, seed), "JPEG", quality=88, optimize=True))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with pictures, a box file and a keyring."""
    folder = tmp_path / "a folder with ümlaut"
    (folder / "in" / "deeper").mkdir(parents=True)
    for index, name in enumerate(("one.jpg", "two.jpg", "deeper/three.jpg")):
        (folder / "in" / name).write_bytes(jpeg(index))
    (folder / "boxes.json").write_text(BOXES)
    Keyring.create(folder / "keys.json")
    return folder


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(desk: Path, *words: str, stdin: bytes = b"") -> Done:
    """The command, in this process: starting one for each would take most of the time."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setenv("PLATECRYPT_HOME", str(desk / "home"))
        patch.setenv("PLATECRYPT_KEYS_FILE", str(desk / "keys.json"))
        patch.setattr(sys, "argv", ["platecrypt", *words])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as end:
            cli.main()
    code = end.value.code
    return Done(code if isinstance(code, int) else 1, out.buffer.getvalue(), err.buffer.getvalue())


def told(done: Done) -> str:
    return (done.stdout + done.stderr).decode()


def test_a_folder_goes_in_and_comes_back(desk: Path) -> None:
    done = run(desk, "protect", "in", "-o", "out", "--boxes", "boxes.json", "--json")
    assert done.returncode == 0, told(done)
    rows = json.loads(done.stdout)
    assert [(row["state"], row["plates"]) for row in rows] == [("protected", 2)] * 3
    for name in ("one.jpg", "deeper/three.jpg"):
        back = run(desk, "recover", f"out/{name}", "-o", "back.jpg")
        assert back.returncode == 0, told(back)
        assert (desk / "back.jpg").read_bytes() == (desk / "in" / name).read_bytes()
    again = run(desk, "protect", "in", "-o", "out", "--boxes", "boxes.json")
    assert "0 protected (0 plates sealed), 3 done before, 0 failed" in told(again)
    (desk / "in" / "one.jpg").write_bytes(jpeg(9))
    once_more = run(desk, "protect", "in", "-o", "out", "--boxes", "boxes.json")
    assert "1 protected (2 plates sealed), 2 done before" in told(once_more)


def test_one_bad_file_does_not_stop_the_others(desk: Path) -> None:
    (desk / "in" / "bad.jpg").write_bytes(b"no picture")
    (desk / "in" / "cut.jpg").write_bytes(jpeg()[:900])
    for workers in ("1", "2"):
        done = run(
            desk, "protect", "in", "-o", f"out{workers}", "--boxes", "boxes.json",
            "--workers", workers,
        )  # fmt: skip
        assert done.returncode == 1
        assert "3 protected (6 plates sealed), 0 done before, 2 failed" in told(done)
        assert "failed: in/bad.jpg: this is not a JPEG" in told(done)
        assert "failed: in/cut.jpg: the JPEG image is damaged" in told(done)
        assert len([path for path in (desk / f"out{workers}").rglob("*") if path.is_file()]) == 3


def test_a_pipe(desk: Path) -> None:
    there = run(desk, "protect", "-", "-o", "-", "--boxes", "boxes.json", stdin=jpeg())
    assert there.returncode == 0, told(there)
    assert len(read_sealed(there.stdout)) == 3
    back = run(desk, "recover", "-", "-o", "-", stdin=there.stdout)
    assert back.stdout == jpeg()
    into = run(desk, "protect", "-", "-o", "x.jpg", "--boxes", "boxes.json", stdin=jpeg())
    assert into.returncode == 0
    assert len(read_sealed((desk / "x.jpg").read_bytes())) == 3


def test_a_sidecar_lies_beside(desk: Path) -> None:
    done = run(desk, "protect", "in/one.jpg", "-o", "one.jpg", "--boxes", "boxes.json", "--sidecar")
    assert done.returncode == 0, told(done)
    assert (desk / "one.jpg.sle").read_bytes()[:4] == b"SLEB"
    assert run(desk, "recover", "one.jpg", "-o", "back.jpg").returncode == 0
    assert (desk / "back.jpg").read_bytes() == jpeg(0)
    (desk / "one.jpg.sle").rename(desk / "one.sle")
    assert run(desk, "recover", "one.jpg", "-o", "back.png").returncode == 0
    (desk / "one.sle").unlink()
    lost = run(desk, "recover", "one.jpg", "-o", "never.jpg")
    assert lost.returncode == 2
    assert "contains no sealed plates" in told(lost)
    assert not (desk / "never.jpg").exists()


def test_one_plate_is_given_back_and_written_down(desk: Path) -> None:
    run(desk, "protect", "in/one.jpg", "-o", "one.jpg", "--boxes", "boxes.json")
    done = run(desk, "disclose", "one.jpg", "--plate", "1", "--reason", "case 12", "--json")
    assert done.returncode == 0, told(done)
    token = json.loads(done.stdout)["token"]
    (desk / "token").write_text(token + "\n")
    (desk / "keys.json").unlink()
    back = run(desk, "recover", "one.jpg", "-o", "back.jpg", "--token", "@token", "--json")
    assert back.returncode == 0, told(back)
    assert json.loads(back.stdout)["plates"] == 1
    assert (desk / "back.jpg").read_bytes() != jpeg(0)
    log = (desk / "home" / "audit.log").read_text()
    assert json.loads(log)["reason"] == "case 12"
    assert token not in log
    assert audit.verify(desk / "home" / "audit.log").intact


def test_nothing_is_disclosed_that_cannot_be_written_down(desk: Path) -> None:
    run(desk, "protect", "in/one.jpg", "-o", "one.jpg", "--boxes", "boxes.json")
    (desk / "home").mkdir(exist_ok=True)
    (desk / "home" / "audit.log").mkdir()
    done = run(desk, "disclose", "one.jpg", "--plate", "0")
    assert done.returncode != 0
    assert b"U0xUM" not in done.stdout


def test_inspect_needs_no_key(desk: Path) -> None:
    kid = Keyring.load(desk / "keys.json").kids[0]
    run(desk, "protect", "in/one.jpg", "-o", "one.jpg", "--boxes", "boxes.json")
    (desk / "keys.json").unlink()
    found = json.loads(run(desk, "inspect", "one.jpg", "--json").stdout)
    assert [plate["kid"] for plate in found["plates"]] == [kid, kid]
    assert found["plates"][0]["box"] == [32, 16, 112, 64]
    assert "key " + kid in told(run(desk, "inspect", "one.jpg"))


def test_reseal_leaves_nothing_to_the_old_key(desk: Path) -> None:
    ring = Keyring.load(desk / "keys.json")
    run(desk, "protect", "in", "-o", "out", "--boxes", "boxes.json")
    run(desk, "protect", "in/one.jpg", "-o", "s.jpg", "--boxes", "boxes.json", "--sidecar")
    old = ring.kids[0]
    new = ring.rotate()
    done = run(desk, "reseal", "out/one.jpg", "out/two.jpg", "s.jpg", "boxes.json", "--json")
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [row["state"] for row in rows] == ["resealed", "resealed", "resealed", "failed"]
    again = json.loads(run(desk, "reseal", "out/one.jpg", "--json").stdout)
    assert again[0]["state"] == "sealed with the newest key already"
    alone = Keyring([ring.newest.key], path=desk / "x")
    assert alone.kids == (new,)
    for name in ("out/one.jpg", "s.jpg.sle"):
        assert bytes.fromhex(old) not in (desk / name).read_bytes()
    stranger = run(desk, "recover", "out/one.jpg", "-o", "back.jpg")
    assert stranger.returncode == 0
    assert (desk / "back.jpg").read_bytes() == jpeg(0)


def test_a_detector_finds_what_no_box_file_names(desk: Path, tmp_path: Path) -> None:
    MARKER["build"](desk / "model.onnx", 320)
    picture = MARKER["picture"](640, 360, (40, 60, 120, 100), (400, 200, 520, 240))
    source = MAKE["file"](picture, "PNG")
    (desk / "street.png").write_bytes(source)
    done = run(desk, "protect", "street.png", "-o", "out.png", "--model", "model.onnx")
    assert "2 plates sealed" in told(done)
    with_tiff = MAKE["file"](picture, "TIFF")
    (desk / "street.tif").write_bytes(with_tiff)
    done = run(desk, "protect", "street.tif", "-o", "out.tif", "--model", "model.onnx")
    assert "2 plates sealed" in told(done)
    assert decode((desk / "out.png").read_bytes()).sealed


def test_a_video_as_typed(desk: Path) -> None:
    av = pytest.importorskip("av", reason="videos need the package av")
    with av.open(str(desk / "clip.mp4"), "w") as clip:
        stream = clip.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 200, "yuv420p"
        for index in range(12):
            pixels = MAKE["street"](320, 200, 7)
            pixels[40:70, 20 + 6 * index : 90 + 6 * index] = (220, 30, 30)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    (desk / "fixed.json").write_text('[{"box": [10, 30, 170, 80]}]')
    words = ("protect", "clip.mp4", "-o", "published", "--boxes", "fixed.json")
    done = run(desk, *words)
    assert done.returncode == 0, told(done)
    assert "12/12 frames" in told(done)
    with av.open(str(desk / "published" / "clip.mp4")) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert len(frames) == 12
    inside = np.stack(frames)[:, 34:76, 14:166].astype(int)
    assert not ((inside[..., 0] > 150) & (inside[..., 1] < 90)).any()
    assert "1 done before" in told(run(desk, *words))
    rows = json.loads(run(desk, "inspect", "published/clip.mp4", "--json").stdout)
    assert [row["frames"] for row in rows] == [12]
    back = run(desk, "recover", "published/clip.mp4", "--track", "0", "-o", "frames")
    assert back.returncode == 0, told(back)
    assert len(list((desk / "frames").glob("*.png"))) == 12
    asked = run(desk, "recover", "published/clip.mp4", "-o", "x")
    assert asked.returncode == 2
    assert "--track (0)" in told(asked)


BAD = {
    "no detector and no boxes": (["in/one.jpg", "-o", "x.jpg"], "give --model or --boxes"),
    "a missing file": (["nowhere.jpg", "-o", "x.jpg", "--boxes", "boxes.json"], "does not exist"),
    "no picture": (["boxes.json", "-o", "x.jpg", "--boxes", "boxes.json"], "not a JPEG"),
    "an empty folder": (["home", "-o", "x", "--boxes", "boxes.json"], "holds no picture"),
    "into itself": (["in", "-o", "in", "--boxes", "boxes.json"], "overwrite"),
    "onto itself": (["in/one.jpg", "-o", "in/one.jpg", "--boxes", "boxes.json"], "overwrite"),
    "two of one name": (["in/one.jpg", "copy/one.jpg", "-o", "x", "--boxes", "boxes.json"], "both"),
    "no box file": (["in/one.jpg", "-o", "x.jpg", "--boxes", "none.json"], "No such file"),
    "no JSON": (["in/one.jpg", "-o", "x.jpg", "--boxes", "in/one.jpg"], "no JSON"),
    "a box outside": (["in/one.jpg", "-o", "x.jpg", "--boxes", "far.json"], "outside the picture"),
    "a stranger": (["in/one.jpg", "-o", "x.jpg", "--boxes", "other.json"], "names b.jpg"),
    "half a box": (["in/one.jpg", "-o", "x.jpg", "--boxes", "half.json"], "entry 1"),
    "a margin": (["in/one.jpg", "-o", "x.jpg", "--boxes", "boxes.json", "--margin", "7"], "margin"),
    "no keys": (["in/one.jpg", "-o", "x", "--boxes", "boxes.json", "--keys", "no"], "not exist"),
    "two and a pipe": (["in/one.jpg", "-", "-o", "-", "--boxes", "boxes.json"], "exactly one"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_two(case: str, desk: Path) -> None:
    words, expected = BAD[case]
    (desk / "home").mkdir()
    (desk / "copy").mkdir()
    (desk / "copy" / "one.jpg").write_bytes(jpeg(5))
    (desk / "far.json").write_text('[{"box": [900, 900, 950, 930]}]')
    (desk / "other.json").write_text('{"one.jpg": [], "b.jpg": []}')
    (desk / "half.json").write_text('[{"box": [1, 2, 30, 40]}, {"box": [1, 2, 3]}]')
    before = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
    done = run(desk, "protect", *words)
    assert done.returncode == 2, told(done)
    assert expected in told(done)
    assert len(done.stderr.decode().strip().splitlines()) == 1
    assert done.stdout == b""
    assert {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()} == before


def test_a_wrong_key_names_the_right_one(desk: Path) -> None:
    kid = Keyring.load(desk / "keys.json").kids[0]
    run(desk, "protect", "in/one.jpg", "-o", "one.jpg", "--boxes", "boxes.json")
    Keyring.create(desk / "others.json")
    done = run(desk, "recover", "one.jpg", "-o", "back.jpg", "--keys", "others.json")
    assert done.returncode == 2
    assert f"none of the keys in others.json opens this: sealed with key id {kid}" in told(done)
    assert not (desk / "back.jpg").exists()


def test_a_tampered_segment_writes_nothing(desk: Path) -> None:
    run(desk, "protect", "in/one.jpg", "-o", "one.jpg", "--boxes", "boxes.json")
    data = bytearray((desk / "one.jpg").read_bytes())
    data[data.index(b"SLEB") + 200] ^= 1
    (desk / "one.jpg").write_bytes(data)
    done = run(desk, "recover", "one.jpg", "-o", "back.jpg")
    assert done.returncode == 2
    assert "tampered" in told(done)
    assert not (desk / "back.jpg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_leaves_no_partial_file(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        with Path("/dev/full").open("wb", buffering=0) as device:
            return device.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    options = Options(desk / "keys.json")
    (outcome,) = protect_all([Job(desk / "in" / "one.jpg", desk / "out.jpg", [])], options)
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert "No space left" in outcome.error
    assert sorted(p.name for p in desk.iterdir()) == ["boxes.json", "in", "keys.json"]


def test_a_folder_that_cannot_be_written_is_said(desk: Path) -> None:
    if os.geteuid() == 0:
        # Root may write everywhere: a file in the place of the folder does as well.
        (desk / "out").write_text("a file")
    else:
        (desk / "out").mkdir()
        (desk / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    words = ("in/one.jpg", "in/two.jpg", "-o", "out", "--boxes", "boxes.json")
    done = run(desk, "protect", *words)
    assert done.returncode == 1
    assert "0 protected" in told(done)


def test_a_process_that_dies_takes_only_its_file_with_it(desk: Path) -> None:
    for index in range(6):
        (desk / "in" / f"more{index}.jpg").write_bytes(jpeg(index))
    (desk / "in" / "die.jpg").write_bytes(jpeg(20))
    jobs = [Job(path, desk / "out" / path.name, []) for path in sorted((desk / "in").glob("*.jpg"))]
    patch = desk / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "real = Path.read_bytes\n"
        "def read(self):\n"
        "    if self.name == 'die.jpg':\n"
        "        os._exit(3)\n"
        "    return real(self)\n"
        "Path.read_bytes = read\n"
    )
    code = (
        "import sys; from pathlib import Path\n"
        "from platecrypt.imaging.bulk import *\n"
        "if __name__ == '__main__':\n"
        "    desk = Path(sys.argv[1])\n"
        "    jobs = jobs_for([desk / 'in'], desk / 'out')\n"
        "    jobs = [Job(job.source, job.target, []) for job in jobs]\n"
        "    for o in protect_all(jobs, Options(desk / 'keys.json'), workers=2):\n"
        "        print(o.source.name, o.state, o.error)\n"
    )
    (desk / "bulk_run.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(patch)}
    done = subprocess.run(
        [sys.executable, str(desk / "bulk_run.py"), str(desk)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    rows = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert len(rows) == len(jobs) + 1, done.stderr
    assert rows.pop("die.jpg").startswith("failed the process that worked on it died")
    assert {row.strip() for row in rows.values()} == {"protected"}


def test_what_jobs_there_are(desk: Path) -> None:
    assert [job.target for job in jobs_for([desk / "in" / "one.jpg"], desk / "x.jpg")] == [
        desk / "x.jpg"
    ]
    (desk / "in" / ".hidden.jpg").write_bytes(b"")
    (desk / "in" / "out").mkdir()
    (desk / "in" / "out" / "old.jpg").write_bytes(jpeg())
    names = [job.target.relative_to(desk) for job in jobs_for([desk / "in"], desk / "in" / "out")]
    assert [str(name) for name in names] == [
        "in/out/deeper/three.jpg",
        "in/out/one.jpg",
        "in/out/two.jpg",
    ]


def test_two_videos_that_would_become_one_are_refused(desk: Path) -> None:
    """AVI is written as Matroska, beside which a Matroska of that name must not be."""
    for name in ("a.avi", "a.mkv"):
        (desk / name).write_bytes(b"any")
    done = run(desk, "protect", "a.avi", "a.mkv", "-o", "out", "--boxes", "boxes.json")
    assert done.returncode == 2
    assert "would both become" in told(done)
    assert not (desk / "out").exists()
    (desk / "sub").mkdir()
    (desk / "a.avi").rename(desk / "sub" / "a.avi")
    (desk / "named.json").write_text('{"a.avi": [[40, 30, 95, 58]]}')
    done = run(desk, "protect", "sub", "-o", "out", "--boxes", "named.json")
    assert "names a.avi" not in told(done)


def test_a_video_whose_place_is_taken_does_not_stop_the_others(desk: Path) -> None:
    (desk / "clip.mp4").write_bytes(b"any")
    (desk / "out").mkdir()
    (desk / "out" / "in").write_text("a file where a folder would be")
    (desk / "tree" / "in").mkdir(parents=True)
    (desk / "clip.mp4").rename(desk / "tree" / "in" / "clip.mp4")
    (desk / "tree" / "one.jpg").write_bytes(jpeg(1))
    done = run(desk, "protect", "tree", "-o", "out", "--boxes", "boxes.json", "--json")
    assert done.returncode == 1, told(done)
    rows = {Path(row["input"]).name: row for row in json.loads(done.stdout)}
    assert rows["one.jpg"]["state"] == "protected"
    assert rows["clip.mp4"]["state"] == "failed"
    assert "out/in" in rows["clip.mp4"]["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in/one.jpg", "copy/one.jpg", "-o", "out"], "would both become"),
        (["in/one.jpg", "-o", "in"], "would overwrite an input"),
        (["nowhere.jpg", "-o", "out"], "does not exist"),
    ],
)
def test_predict_refuses_before_it_sends(desk: Path, words: list[str], said: str) -> None:
    (desk / "copy").mkdir()
    (desk / "copy" / "one.jpg").write_bytes(jpeg(5))
    done = run(desk, "predict", "http://127.0.0.1:9/v1/models/plates:predict", *words)
    assert done.returncode == 2
    assert said in told(done)
    assert not (desk / "out").exists()


def test_predict_goes_on_where_a_picture_is_refused(desk: Path) -> None:
    """Each is told by its name; what was done stays and is counted."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            good = body.startswith(b"\xff\xd8")
            answer = body if good else b'{"error": "the image is damaged", "request_id": "r"}'
            self.send_response(200 if good else 400)
            self.send_header("content-type", "image/jpeg" if good else "application/json")
            self.send_header("x-platecrypt-plates", "1")
            self.send_header("x-request-id", "r")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Nothing on the terminal."""

    (desk / "some").mkdir()
    for name, data in (("a.jpg", b"no picture"), ("b.jpg", jpeg(1)), ("c.jpg", jpeg(2))):
        (desk / "some" / name).write_bytes(data)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/models/plates:predict"
        done = run(desk, "predict", url, "some", "-o", "out", "--json")
        server.shutdown()
    assert done.returncode == 1
    rows = json.loads(done.stdout)
    assert [row["plates"] for row in rows] == [None, 1, 1], rows
    assert "the image is damaged" in rows[0]["error"]
    assert "some/a.jpg: " in told(done)
    assert sorted(path.name for path in (desk / "out").iterdir()) == ["b.jpg", "c.jpg"]
