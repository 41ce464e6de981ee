"""YAML as an API server reads it: a key stands once, a date is text, and small stays small."""

from typing import Any

import yaml

from platecrypt.errors import BadInputError

MAX_DEPTH = 200
MAX_VALUES = 1_000_000  # of a document whose aliases are written out
_BASE: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """Refuses a key that stands twice; a cluster's strict validation does, too."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.MarkedYAMLError(
                        problem=f"line {line}: key {key.value!r} stands there twice"
                    )
                seen.add(key.value)
        return found


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _BASE.construct_yaml_str)
# A bare `=` is text; some custom resource definitions list it among their values.
_Loader.add_constructor("tag:yaml.org,2002:value", _BASE.construct_yaml_str)


def documents(content: bytes | str, source: object) -> list[Any]:
    """Every document of a text; None stands for an empty one.

    Args:
        content: UTF-8.
        source: what is read, for messages.

    Raises:
        BadInputError: it is no YAML, lies too deep, or its aliases make more of it than fits.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        aliases = _check_depth(text)
        found = list(yaml.load_all(text, Loader=_Loader))
        # An alias refers to what is there already; whoever walks the document walks it again.
        if aliases and _values(found, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES} values")
        return found
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadInputError(f"{source} is no YAML that can be used: {reason}") from None


def document(content: bytes | str, source: object) -> Any:
    """The one document of a text; empty ones beside it do not count.

    Raises:
        BadInputError: see `documents`; or there is none, or there are several.
    """
    found = [one for one in documents(content, source) if one is not None]
    if len(found) != 1:
        raise BadInputError(f"{source} holds {len(found)} documents; give it one")
    return found[0]


def _check_depth(text: str) -> bool:
    """Whether there are aliases; refuses what lies so deep that libyaml's loader would crash."""
    depth, aliases = 0, False
    for event in yaml.parse(text, Loader=_BASE):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: it is nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        aliases = aliases or isinstance(event, yaml.AliasEvent)
    return aliases


def _values(value: Any, known: dict[int, int]) -> int:
    """How many values there are, aliases written out; one that lies in itself has no end."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MAX_VALUES + 1  # until it is known better
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(one, known) for one in inside)
    return known[id(value)]
