"""`platecrypt keys`: make, name, rotate and list masters. No command ever prints one."""

from pathlib import Path
from typing import Annotated

import typer

from platecrypt.commands.shared import AsJson, load_keyring, load_settings, print_result
from platecrypt.errors import BadInputError

app = typer.Typer(no_args_is_help=True, help="Make, name, rotate and list master keys.")
File = Annotated[
    Path | None, typer.Argument(help="The keyring file; default: the one of the settings.")
]


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="The keyring file to make.")],
    as_json: AsJson = False,
) -> None:
    """Make a keyring file with one fresh master, mode 0600; never replaces a file."""
    from platecrypt.cipher import Keyring, KeyringError

    try:
        keyring = Keyring.create(file)
    except KeyringError as error:
        raise BadInputError(str(error)) from None
    kid = keyring.kids[-1]
    print_result(
        as_json,
        {"file": str(file), "kid": kid},
        f"{file}: key id {kid} (keep a copy: without it no plate comes back)",
    )


@app.command("id")
def id_(file: File = None, as_json: AsJson = False) -> None:
    """Print the id of the master that seals."""
    path = load_settings(keys_file=file).keyring_path
    kid = load_keyring(path).kids[-1]
    print_result(as_json, {"file": str(path), "kid": kid}, kid)


@app.command()
def rotate(file: File = None, as_json: AsJson = False) -> None:
    """Add a fresh master that seals from now on; the older ones still open."""
    from platecrypt.cipher import KeyringError

    path = load_settings(keys_file=file).keyring_path
    keyring = load_keyring(path)
    try:
        kid = keyring.rotate()
    except KeyringError as error:
        raise BadInputError(str(error)) from None
    older = list(keyring.kids[:-1])
    print_result(
        as_json,
        {"file": str(path), "kid": kid, "older": older},
        f"{path}: key id {kid} seals from now on, {len(older)} older ones still open "
        "(keep a copy of the file as it is now)",
    )


@app.command("list")
def list_(file: File = None, as_json: AsJson = False) -> None:
    """List the ids of the masters, oldest first; the last one seals."""
    path = load_settings(keys_file=file).keyring_path
    keyring = load_keyring(path)
    rows = [
        {"kid": kid, "created": created, "seals": kid == keyring.kids[-1]}
        for kid, created in keyring.created.items()
    ]
    lines = [
        f"{row['kid']}  {row['created']}  {'seals and opens' if row['seals'] else 'opens'}"
        for row in rows
    ]
    print_result(as_json, {"file": str(path), "masters": rows}, "\n".join(lines))
