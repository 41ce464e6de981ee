"""YAML of strangers: what a cluster would refuse is refused, and nothing crashes or explodes."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platecrypt.errors import BadInputError
from platecrypt.strict_yaml import MAX_DEPTH, document, documents


def test_documents_are_read_as_an_api_server_reads_them() -> None:
    text = "a: &x {b: 1}\nc: *x\nwhen: 2026-11-21\nop: =\n---\n- 1\n---\n"
    first = {"a": {"b": 1}, "c": {"b": 1}, "when": "2026-11-21", "op": "="}
    assert documents(text.encode(), "x") == [first, [1], None]


@pytest.mark.parametrize(("text", "count"), [("", 0), ("---\n", 0), ("a: 1\n---\nb: 2", 2)])
def test_one_document_is_one(text: str, count: int) -> None:
    assert document("---\na: 1\n---\n", "x") == {"a": 1}
    with pytest.raises(BadInputError, match=f"x holds {count} documents"):
        document(text, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no YAML that can be used"),
        (b"\xff\xfe\x00", "no YAML that can be used"),
        ("x: 1\na: {b: 1, b: 2}", "line 2: key 'b' stands there twice"),
        ("!!python/object:os.system {}", "could not determine a constructor"),
        ("a: &a [*a]", "aliases stand for more than 1000000 values"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "line 1: it is nested deeper than 200"),
    ],
)
def test_what_is_refused_says_why(text: str | bytes, message: str) -> None:
    with pytest.raises(BadInputError, match="file.yaml") as raised:
        documents(text, "file.yaml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_aliases_do_not_make_much_of_little() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert len(documents("\n".join(lines[:5]), "x")[0]) == 5
    with pytest.raises(BadInputError, match="aliases"):
        documents("\n".join(lines), "x")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_the_deepest_text_does_not_end_the_process(opening: str) -> None:
    """In a process of its own: libyaml's loader crashes on it."""
    code = f"from platecrypt.strict_yaml import documents; documents({opening!r} * 300_000, 'x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().split("\n")[-1].startswith("platecrypt.errors.BadInputError: x is")


@given(st.text("ab:-?[]{}&*!|>'\"# \n0,~", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        documents(text, "x")
    except BadInputError:
        return
