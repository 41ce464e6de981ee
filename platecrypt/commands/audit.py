"""`platecrypt audit`: look after the log of disclosures."""

from pathlib import Path
from typing import Annotated

import typer

from platecrypt.commands.shared import AsJson, load_settings, print_result

app = typer.Typer(no_args_is_help=True, help="Look after the log of disclosures.")


@app.callback()
def group() -> None:
    """Look after the log of disclosures."""


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="The log; default: audit.log in the state folder.")
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(help="Digest that an earlier run printed; the log must still hold it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that no line was changed, removed, moved or cut off; exits 1 when one was."""
    from platecrypt.audit import log_path
    from platecrypt.audit import verify as work

    path = file or log_path(load_settings().home)
    report = work(path, known=known)
    value = {
        "file": str(path),
        "intact": report.intact,
        "count": report.count,
        "last": report.last,
        "line": report.line,
        "problem": report.problem,
    }
    if report.intact:
        print_result(
            as_json,
            value,
            f"{path}: intact, {report.count} lines; keep the last digest elsewhere: {report.last}",
        )
        return
    print_result(as_json, value, f"{path}: BROKEN at line {report.line}: {report.problem}")
    raise SystemExit(1)
