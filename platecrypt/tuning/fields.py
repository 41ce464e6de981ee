"""Reading a document whose shape may be wrong: what is not there, or is something else, is empty.

The checks go through the whole document, so that every mistake is named at once; none of them may
stumble over a mistake that another one reports.
"""

import math
from collections.abc import Iterator
from typing import Any


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def rows(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and mapping of each entry that is one."""
    return ((index, row) for index, row in enumerate(items(value)) if isinstance(row, dict))


def text(value: object) -> str:
    """The value if it is text, else ''."""
    return value if isinstance(value, str) else ""


def integer(value: object) -> int | None:
    """The value if it is a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object, *, whole: bool = False) -> float | None:
    """A finite number from its text, or None."""
    try:
        found = float(str(value))
    except ValueError:
        return None
    fine = math.isfinite(found) and (not whole or found.is_integer())
    return found if fine else None
