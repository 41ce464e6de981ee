"""YAML of strangers: what a cluster would refuse is refused, and nothing crashes or explodes."""

import contextlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platecrypt.errors import BadInputError
from platecrypt.strict_yaml import MAX_DEPTH, document, documents


def test_documents_are_read_as_an_api_server_reads_them() -> None:
    text = """
a: &x {b: 1, d: 2}
c: *x
merged: &merged {<<: *x, b: 3}
again: {<<: *merged, d: 4}
both: {<<: [*x, *x]}
when: 2026-11-21
op: =
ports: [9000:9000, 1:2.5, 0644, 1e3]
---
- 1
---
"""
    first = {
        "a": {"b": 1, "d": 2},
        "c": {"b": 1, "d": 2},
        "merged": {"b": 3, "d": 2},
        "again": {"b": 3, "d": 4},
        "both": {"b": 1, "d": 2},
        "when": "2026-11-21",
        "op": "=",
        "ports": ["9000:9000", "1:2.5", 0o644, "1e3"],
    }
    assert documents(text.encode(), "x") == [first, [1], None]


@pytest.mark.parametrize(
    ("text", "count"), [("", "no YAML"), ("---\n", "no YAML"), ("a: 1\n---\nb: 2", "2")]
)
def test_one_document_is_one(text: str, count: str) -> None:
    assert document("---\na: 1\n---\n", "x") == {"a": 1}
    with pytest.raises(BadInputError, match=f"x holds {count} documents"):
        document(text, "x")


ALIASES = "\n".join(["- &a0 [1]", *(f"- &a{number} [*a{number - 1}]" for number in range(1, 300))])
PAIRS = "a: &a0 !!pairs [x: 1]\nb: !!pairs [x: *a0]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML that can be used"),
        (b"\xff\xfe\x00", "no YAML that can be used"),
        ("x: 1\na: {b: 1, b: 2}", "line 2: key 'b' stands there twice"),
        ("{1: a, '1': b}", "key '1' stands there twice"),
        ("{1: a, 0x1: b}", "line 1: key '1' stands there twice"),
        ("{1: a, 1.0: b}", "line 1: key '1' stands there twice"),
        ("{yes: a, true: b}", "key 'true' stands there twice"),
        ("{~: a, null: b}", "key 'null' stands there twice"),
        ("a: &a {b: 1}\nc: {<<: *a, b: 2, b: 3}", "line 2: key 'b' stands there twice"),
        ("!!python/object:os.system {}", "has no place in JSON"),
        (PAIRS, "tag:yaml.org,2002:pairs' has no place in JSON"),
        ("a: !!binary aaaa", "has no place in JSON"),
        ("a: &a [*a]", "line 1: it lies in itself"),
        ("a: &a {b: *a}", "line 1: it lies in itself"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "line 1: it is nested deeper than 200"),
        (ALIASES, "it is nested deeper than 200"),
        ("a: " + "1" * 5000, "no YAML that can be used"),
        ("a: 0x_", "no YAML that can be used"),
        ("a: !!int ''", "no YAML that can be used"),
        ("a: !!bool maybe", "no YAML that can be used"),
        ("? [1]\n: 2", "line 1: a key is no text"),
    ],
)
def test_what_is_refused_says_why(text: str | bytes, message: str) -> None:
    with pytest.raises(BadInputError, match="file.yaml") as raised:
        documents(text, "file.yaml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("step", ["[{}]", "{{<<: [{}]}}", "[{{k: [{}]}}]"])
def test_aliases_do_not_make_much_of_little(step: str) -> None:
    first = "{b: 1}" if "<<" in step else "[1, 1]"
    lines = [f"a0: &a0 {first}"]
    for number in range(1, 9):
        inside = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"a{number}: &a{number} {step.format(inside)}")
    assert len(documents("\n".join(lines[:4]), "x")[0]) == 4
    with pytest.raises(BadInputError, match="aliases stand for more than"):
        documents("\n".join(lines), "x")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_the_deepest_text_does_not_end_the_process(opening: str) -> None:
    """In a process of its own: libyaml's loader crashes on it."""
    code = f"from platecrypt.strict_yaml import documents; documents({opening!r} * 300_000, 'x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().split("\n")[-1].startswith("platecrypt.errors.BadInputError: x is")


PIECES = [*"ab:-?[]{}&*|>'\"# \n0,~=.", "!!int ", "!!bool ", "0x", "_", "<<: ", "&a ", "*a", "1:2"]


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_text_is_read_or_refused(pieces: list[str]) -> None:
    with contextlib.suppress(BadInputError):
        json.dumps(documents("".join(pieces), "x"), default=repr, skipkeys=True)
