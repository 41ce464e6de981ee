"""What every command does the same way: read settings and input, print, complain."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from platecrypt.errors import BadInputError

if TYPE_CHECKING:
    from platecrypt.cipher import Keyring
    from platecrypt.settings import Settings

STANDARD = "-"
"""Names standard input or output."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]


def load_settings(**flags: Any) -> "Settings":
    """The settings in force; `flags` that are None count as not given."""
    from platecrypt.settings import load

    return load(**flags)


def load_keyring(path: Path) -> "Keyring":
    """As `platecrypt.imaging.sealing.load_keyring`, which is imported when it is needed."""
    from platecrypt.imaging.sealing import load_keyring as work

    return work(path)


def ensure_keys(path: Path) -> None:
    """Make a keyring with one master key unless there is one; what is there can be used.

    Raises:
        BadInputError: it cannot be made or used; the message names the file.
    """
    from platecrypt.cipher import Keyring, KeyringError

    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            Keyring.create(path)
        except (KeyringError, OSError) as error:
            raise BadInputError(f"no keyring can be made at {path}: {error}") from None
        say(f"made a master key: {path} (keep it: without it no plate comes back)")
    load_keyring(path)


def read_input(file: str) -> bytes:
    """The bytes of a file, or of standard input.

    Raises:
        BadInputError: it cannot be read.
    """
    if file == STANDARD:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise BadInputError(f"{file}: {error.strerror}") from None


def print_result(as_json: bool, value: Any, text: str) -> None:
    """Print to standard output: `value` as JSON for a program, or `text` for people."""
    typer.echo(json.dumps(value, indent=1) if as_json else text)


def say(line: str) -> None:
    """A line for people, on standard error."""
    typer.echo(line, err=True)
