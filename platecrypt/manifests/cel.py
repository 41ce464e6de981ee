"""The rules in the Common Expression Language that a custom resource definition may carry.

An API server evaluates them over the object with its defaults filled in; so do we.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from platecrypt.errors import BadInputError


def rule_problems(rules: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """What the rules of a schema say against a value.

    Rules about a change (`oldSelf`) are left out: here every object is new. A rule that cannot be
    evaluated counts as broken, as on an API server.
    """
    if value is None:
        return
    whole = defaulted(value, schema)
    for rule in rules:
        if "oldSelf" in rule["rule"]:
            continue
        try:
            holds = _compiled(rule["rule"]).execute(_context(whole))
        except (LookupError, ValueError, TypeError, RuntimeError) as error:
            yield f"the rule {rule['rule']!r} cannot be evaluated: {error}"
            continue
        if holds is not True:
            yield str(rule.get("message") or f"the rule {rule['rule']!r} does not hold")


def defaulted(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value with the defaults of its schema where a field is missing."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties")
        inner = rest if isinstance(rest, dict) else {}
        filled = {name: defaulted(v, properties.get(name, inner)) for name, v in value.items()}
        for name, field in properties.items():
            if name not in filled and "default" in field:
                filled[name] = defaulted(field["default"], field)
        return filled
    if isinstance(value, list):
        return [defaulted(row, schema.get("items", {})) for row in value]
    return value


def _context(value: Any) -> Any:
    """What a rule sees: the value, and of Kubernetes' own functions those that CRDs use."""
    import cel

    context = cel.Context()
    context.add_variable("self", value)
    context.add_function("url", lambda text: text)
    context.add_function("getScheme", lambda text: urlsplit(text).scheme)
    return context


@cache
def _compiled(rule: str) -> Any:
    try:
        import cel
    except ImportError:
        raise BadInputError(
            "rules of CRDs need common-expression-language: pip install 'platecrypt[manifests]'"
        ) from None
    return cel.compile(rule)
