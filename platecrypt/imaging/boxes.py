"""The box file: where the plates are, said by somebody else than a detector."""

import json
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError
from platecrypt.imaging.regions import MAX_BOXES, hull_boxes

MAX_BYTES = 64 * 1024 * 1024

Quads = list[list[list[float]]]
"""One quad a plate: four corners x, y."""


class BoxFile:
    """Regions by picture.

    Attributes:
        path: the file they come from.
    """

    def __init__(self, path: Path, found: Quads | dict[str, Quads]) -> None:
        self.path = path
        self._found = found

    @classmethod
    def load(cls, path: Path) -> "BoxFile":
        """Read `[{"box": [x1, y1, x2, y2]}, {"quad": [[x, y], ...4]}]`, or an object of such lists.

        Corners are pixels of the picture as a viewer shows it.

        Raises:
            BadInputError: missing, damaged, or not of that form; the message names the entry.
        """
        try:
            if path.stat().st_size > MAX_BYTES:
                raise BadInputError(f"{path} has more than {MAX_BYTES} bytes; split it")
            document = json.loads(path.read_bytes())
        except OSError as error:
            raise BadInputError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise BadInputError(f"{path} is no JSON; see --help for its form") from None
        if isinstance(document, dict):
            return cls(path, {n: _quads(path, n, value) for n, value in document.items()})
        return cls(path, _quads(path, "", document))

    @property
    def names(self) -> tuple[str, ...]:
        """The pictures it names; none where it is one list."""
        return tuple(self._found) if isinstance(self._found, dict) else ()

    def of(self, name: str) -> Quads:
        """The plates of a picture.

        Raises:
            BadInputError: it names pictures, and not this one.
        """
        if not isinstance(self._found, dict):
            return self._found
        if name not in self._found:
            raise BadInputError(f"{self.path} does not name {name}; give it a list, [] for none")
        return self._found[name]


def _quads(path: Path, name: str, value: Any) -> Quads:
    where = f"{path}: {name}: " if name else f"{path}: "
    if not isinstance(value, list) or len(value) > MAX_BOXES:
        raise BadInputError(f"{where}not a list of at most {MAX_BOXES} boxes")
    return [_quad(f"{where}entry {index}", entry) for index, entry in enumerate(value)]


def _quad(where: str, entry: Any) -> list[list[float]]:
    if not isinstance(entry, dict) or len({"box", "quad"} & entry.keys()) != 1:
        raise BadInputError(f'{where} is neither {{"box": [x1, y1, x2, y2]}} nor {{"quad": …}}')
    try:
        if "quad" in entry:
            quad = entry["quad"]
            numbers = [[float(x), float(y)] for x, y in quad]
            hull_boxes([numbers])
        else:
            x1, y1, x2, y2 = (float(value) for value in entry["box"])
            hull_boxes([[x1, y1, x2, y2]])
            numbers = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    except (TypeError, ValueError):
        raise BadInputError(f"{where}: corners must be numbers") from None
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from None
    return numbers
