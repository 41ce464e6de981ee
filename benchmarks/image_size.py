"""How much the serving images take installed, where no base image can be pulled.

Runs what the build stage of each serving image runs (`infra/images/install.sh`, `slim.sh`) in a
fresh virtual environment, starts the server as far as its options, and weighs the environment. The
base image is not weighed: `make images` prints the whole. Needs `strip` (binutils), and takes some
minutes and a package index.

    .venv/bin/python benchmarks/image_size.py [predictor transformer]
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "benchmarks"
IMAGES = ROOT / "kserve" / "images"
LIMIT_MB = int(
    re.findall(r"^LIMIT_MB=(\d+)", (ROOT / "infra/scripts/build-images.sh").read_text(), re.M)[0]
)
# python:3.11-slim-bookworm: listings of `docker images` in public say 120 to 149, by month.
BASE_MB = 150
FORBIDDEN = ("torch", "ultralytics", "mlflow", "kfp")


def main() -> None:
    names = sys.argv[1:] or sorted(path.name for path in IMAGES.iterdir())
    figures = {name: measure(IMAGES / name / "Dockerfile") for name in names}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "image_size.json").write_text(json.dumps(figures, indent=2))
    print(f"{'image':<14}{'environment':>12}{'with base':>11}{'limit':>7}  largest packages, MB")
    for name, (own, largest) in figures.items():
        tops = ", ".join(f"{package} {size:.0f}" for package, size in largest)
        print(f"{name:<14}{own:>9.0f} MB{own + BASE_MB:>8.0f} MB{LIMIT_MB:>7}  {tops}")
    if any(own + BASE_MB > LIMIT_MB for own, _ in figures.values()):
        sys.exit(f"a serving image takes more than {LIMIT_MB} MB")


def measure(dockerfile: Path) -> tuple[float, list[tuple[str, float]]]:
    """MB (10^6 bytes) of an image's environment, and of its largest packages."""
    text = dockerfile.read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.M)
    starts = re.findall(r"python -m (\S+) --help", text)
    with tempfile.TemporaryDirectory() as place:
        source, venv = Path(place, "src"), Path(place, "venv")
        source.mkdir()
        for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path}
        scripts = ROOT / "infra" / "images"

        def run(*words: object) -> None:
            subprocess.run([str(w) for w in words], cwd=source, env=environment, check=True)

        run(scripts / "install.sh", venv, extras)
        run(scripts / "slim.sh", venv)
        for name in ("platecrypt", "components", "pipelines"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        run(scripts / "install.sh", venv)
        for module in starts:
            subprocess.run(
                [venv / "bin" / "python", "-m", module, "--help"],
                cwd=place,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        (packages,) = venv.glob("lib/python3.*/site-packages")
        found = [name for name in FORBIDDEN if (packages / name).exists()]
        if found:
            sys.exit(f"{dockerfile}: {', '.join(found)} came in")
        sizes = {path.name: weight(path) for path in packages.iterdir()}
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
        return weight(venv), largest


def weight(path: Path) -> float:
    """MB of a file or folder; links weigh nothing."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.lstat().st_size for file in files if not file.is_symlink()) / 1e6


if __name__ == "__main__":
    main()
