"""YAML as an API server reads it: a key stands once, a date is text, and small stays small.

A document is looked at three times: as events, because libyaml's own composer crashes on what lies
too deep; as nodes, where aliases are still arrows and what they amount to can be counted; and only
then as values.
"""

import json
from typing import Any

import yaml

from platecrypt.errors import BadInputError

MAX_DEPTH = 200
MAX_VALUES = 1_000_000  # of a document whose aliases are written out
_BASE: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_KINDS = {"null", "bool", "int", "float", "str", "seq", "map", "merge", "timestamp", "value"}
_NUMBERS = ("int", "float")
_OTHER_KEYS = {_CORE + kind for kind in ("null", "bool", *_NUMBERS)}  # than text


class _Loader(_BASE):  # type: ignore[misc]
    """What JSON does not know is text."""

    def construct_number(self, node: Any) -> Any:
        """A number, but not one of base 60: YAML 1.1 makes 549000 of the ports 9000:9000."""
        if ":" in node.value:
            return self.construct_yaml_str(node)
        kind = node.tag.removeprefix(_CORE)
        return getattr(self, f"construct_yaml_{kind}")(node)


for _kind in ("timestamp", "value"):  # a bare `=` is text; some CRDs list it among their values
    _Loader.add_constructor(_CORE + _kind, _BASE.construct_yaml_str)
for _kind in _NUMBERS:
    _Loader.add_constructor(_CORE + _kind, _Loader.construct_number)


def documents(content: bytes | str, source: object) -> list[Any]:
    """Every document of a text; None stands for an empty one.

    Args:
        content: UTF-8.
        source: what is read, for messages.

    Raises:
        BadInputError: it is no YAML, has what JSON has not, lies too deep, or its aliases make more
            of it than fits.
    """
    found = []
    try:
        text = content.decode() if isinstance(content, bytes) else content
        _check_depth(text)
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                _Check(loader).measure(node)
                found.append(loader.construct_document(node))
        finally:
            loader.dispose()
    # What a scalar is converted with raises its own: a digit too many, a tag that does not fit.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInputError(f"{source} is no YAML that can be used: {reason}") from None
    return found


def document(content: bytes | str, source: object) -> Any:
    """The one document of a text; empty ones beside it do not count.

    Raises:
        BadInputError: see `documents`; or there is none, or there are several.
    """
    found = [one for one in documents(content, source) if one is not None]
    if len(found) != 1:
        number = len(found) or "no YAML"
        raise BadInputError(f"{source} holds {number} documents; give it one")
    return found[0]


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_BASE):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _problem(event, f"it is nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Check:
    """What is looked at in the nodes of a document, each of them once."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._known: dict[int, tuple[int, int] | None] = {}

    def measure(self, node: Any) -> tuple[int, int]:
        """Values and depth, aliases written out; refuses what `documents` refuses."""
        if node.tag.removeprefix(_CORE) not in _KINDS:
            raise _problem(node, f"tag {node.tag!r} has no place in JSON")
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        if id(node) not in self._known:
            self._known[id(node)] = None
            if isinstance(node, yaml.MappingNode):
                self._keys(node)
            self._known[id(node)] = self._inside(node)
        measured = self._known[id(node)]
        if measured is None:
            raise _problem(node, "it lies in itself")
        return measured

    def _inside(self, node: Any) -> tuple[int, int]:
        values, depth = 1, 0
        for entry in node.value:
            for one in entry if isinstance(entry, tuple) else (entry,):
                more, below = self.measure(one)
                values, depth = values + more, max(depth, below)
        if values > MAX_VALUES:
            raise _problem(node, f"its aliases stand for more than {MAX_VALUES} values")
        if depth >= MAX_DEPTH:
            raise _problem(node, f"it is nested deeper than {MAX_DEPTH}")
        return values, depth + 1

    def _keys(self, node: Any) -> None:
        """Refuse keys that are the same in JSON, where all of them are text."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem(key, "a key is no text")
            name = key.value
            if key.tag in _OTHER_KEYS:
                value = self._loader.construct_object(key)
                name = f"{value:g}" if isinstance(value, float) else json.dumps(value)
            if name in seen and key.tag != f"{_CORE}merge":
                raise _problem(key, f"key {name!r} stands there twice")
            seen.add(name)


def _problem(place: Any, reason: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {place.start_mark.line + 1}: {reason}")
