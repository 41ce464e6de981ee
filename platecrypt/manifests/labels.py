"""Label selectors: which labels they take, and what is wrong with one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from platecrypt.manifests.model import strings
from platecrypt.tuning.fields import items, mapping, rows, text

Matcher = Callable[[Mapping[str, str]], bool]
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def matcher(selector: Mapping[str, Any]) -> Matcher:
    """Whether labels match a `metav1.LabelSelector`; the empty one takes all."""
    wanted = strings(selector.get("matchLabels"))
    expressions = [row for _, row in rows(selector.get("matchExpressions"))]

    def matches(labels: Mapping[str, str]) -> bool:
        plain = all(labels.get(key) == value for key, value in wanted.items())
        return plain and all(_holds(row, labels) for row in expressions)

    return matches


def plain_matcher(selector: object) -> Matcher:
    """Whether labels have all of a mapping, as a Service selects."""
    return matcher({"matchLabels": mapping(selector)})


def selector_labels(selector: Mapping[str, Any]) -> dict[str, str]:
    """The labels that a selector asks for; "" where any value will do."""
    found = strings(selector.get("matchLabels"))
    for _, row in rows(selector.get("matchExpressions")):
        values = [str(value) for value in items(row.get("values"))]
        if row.get("operator") in ("In", "Exists"):
            found.setdefault(text(row.get("key")), values[0] if values else "")
    return found


def selector_problems(selector: Mapping[str, Any]) -> Iterator[str]:
    """What Kubernetes refuses in a selector."""
    for index, row in rows(selector.get("matchExpressions")):
        operator, values = row.get("operator"), items(row.get("values"))
        if operator not in OPERATORS:
            yield f"matchExpressions[{index}].operator {operator!r}: one of {', '.join(OPERATORS)}"
        elif (operator in ("In", "NotIn")) != bool(values):
            yield f"matchExpressions[{index}].values: needed by In and NotIn, and by them alone"


def _holds(row: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = text(row.get("key")), items(row.get("values"))
    operator = row.get("operator")
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    return (key in labels) == (operator == "Exists")
