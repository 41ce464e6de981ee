"""No command stands in the README that no test runs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# Beginning of a command -> the test that runs it.
RUN_BY = {
    "make run": "test_end_to_end.py::first and test_sixty_real_photographs",
    "make test": ".ci/run",
    "make stop": "test_end_to_end.py::test_every_line_of_the_readme_does_what_it_says",
    ".venv/bin/platecrypt": "test_end_to_end.py::test_every_line_of_the_readme_does_what_it_says",
    "curl ": "test_end_to_end.py::test_every_line_of_the_readme_does_what_it_says",
    "mkdir -p pictures": "test_end_to_end.py::test_every_line_of_the_readme_does_what_it_says",
    "printf ": "test_end_to_end.py::test_every_line_of_the_readme_does_what_it_says",
    "export PLATECRYPT_S3_": "test_cli.py::test_another_s3_is_used_instead",
    "platecrypt protect clip.mp4": "../unit/test_commands_pictures.py::test_a_video_as_typed",
    "platecrypt recover published/clip.mp4": (
        "../unit/test_commands_pictures.py::test_a_video_as_typed"
    ),
    "platecrypt compile": "test_cli.py::test_the_cluster_commands_of_the_readme",
    "platecrypt upload": "test_cli.py::test_the_cluster_commands_of_the_readme",
    "platecrypt submit": "test_cli.py::test_the_cluster_commands_of_the_readme",
}
# What a run prints, shown as text.
OUTPUT = ("run 2026", "pages: ", "endpoint: ")


def commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|text)\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_is_run_by_a_test() -> None:
    for line in commands():
        known = any(line.startswith(start) for start in (*RUN_BY, *OUTPUT))
        assert known, f"no test runs this line of the README: {line}"


def test_every_named_test_exists() -> None:
    for place in RUN_BY.values():
        file, _, names = place.partition("::")
        path = ROOT / file if file.startswith(".ci") else ROOT / "tests" / "pipeline" / file
        text = path.read_text()
        for name in names.split(" and "):
            assert not name or f"def {name}" in text, place
    assert "make lint test" in (ROOT / ".ci" / "run").read_text()


def test_every_folder_that_it_names_exists() -> None:
    for name in re.findall(r"^\| `([\w/]+)/`", README, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
