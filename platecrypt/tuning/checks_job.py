"""What can be wrong with the shape of a trial's Job, by the Kubernetes client's own models.

Katib's webhook reads a `batch/v1` Job strictly: an unknown field or a wrong type is refused. What
Kubernetes has learned since these models were made is unknown here as well, and to most Katibs.
"""

from collections.abc import Iterator
from typing import Any

from platecrypt.cluster import model_of
from platecrypt.tuning.fields import integer, number

# What the models call a field's type, and what is said of a value that is not of it.
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "no text; quote it"),
    "bool": (bool, "neither true nor false"),
    "int": (int, "no whole number"),
    "float": ((int, float), "no number"),
    "datetime": (str, "no time as text"),
}
_QUANTITIES = ("limits", "requests", "overhead", "sizeLimit", "divisor")  # text or numbers
_PLACEHOLDER = "${trialParameters."


def wrong_job(spec: object, where: str) -> Iterator[str]:
    """Every field of a Job's spec that no Job has, or of a type that it cannot be."""
    yield from _wrong(spec, "V1JobSpec", where)


def wrong_container(container: object, where: str) -> Iterator[str]:
    """The same of a container, which the local engine reads in Jobs of any kind."""
    yield from _wrong(container, "V1Container", where)


def wrong_gpus(limits: dict[str, Any], resource: str, where: str) -> Iterator[str]:
    """Devices are whole."""
    given = limits.get(resource, 0)
    whole = number(given, whole=True) if str(given).isdigit() else integer(given)
    if whole is None or whole < 0:
        yield f"{where}.resources.limits[{resource}] {given!r}: a whole number from 0"


def _wrong(value: Any, kind: str, where: str) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(_PLACEHOLDER):
        return
    listed, mapped = kind.startswith("list["), kind.startswith("dict(")
    model = model_of(kind)
    if listed and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _wrong(item, kind[5:-1], f"{where}[{index}]")
    elif mapped and isinstance(value, dict):
        inner = kind[5:-1].split(", ")[1]
        for name, item in value.items():
            yield from _wrong(item, inner, f"{where}.{name}")
    elif model is not None and isinstance(value, dict):
        yield from _wrong_fields(value, model, where)
    elif listed:
        yield f"{where}: a list, not {value!r:.60}"
    elif mapped or model is not None:
        yield f"{where}: a mapping, not {value!r:.60}"
    elif kind in _KINDS and not _is(value, kind):
        yield f"{where} {value!r:.60}: {_KINDS[kind][1]}"


def _is(value: object, kind: str) -> bool:
    return isinstance(value, _KINDS[kind][0]) and (kind == "bool" or not isinstance(value, bool))


def _wrong_fields(value: dict[str, Any], model: Any, where: str) -> Iterator[str]:
    names = {label: name for name, label in model.attribute_map.items()}
    for label, item in value.items():
        if label not in names:
            yield f"{where}.{label}: no such field; there are {', '.join(sorted(names))}"
            continue
        kind = model.openapi_types[names[label]]
        if label in _QUANTITIES:
            kind = "dict(str, object)" if kind.startswith("dict(") else "object"
        yield from _wrong(item, kind, f"{where}.{label}")
