"""The parameters of a pipeline run, read from text and checked before anything starts."""

from collections.abc import Mapping
from typing import Any

from pipelines.training import training_pipeline
from platecrypt.errors import BadInputError

_KINDS = {"String": str, "Integer": int, "Float": float}
# Filled in by whoever starts the run: never a person's choice.
RESERVED = ("library",)


def read_parameters(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Turn NAME=VALUE texts into values of the types that the pipeline declares.

    Raises:
        BadInputError: no such parameter, or a value of another type; the message lists what is.
    """
    inputs = training_pipeline().component_spec.inputs
    known = {name: _KINDS[spec.type] for name, spec in inputs.items() if name not in RESERVED}
    found = {}
    for name, text in pairs.items():
        if name not in known:
            raise BadInputError(f"the pipeline has no parameter {name!r}; it has {_list(known)}")
        try:
            found[name] = known[name](text)
        except ValueError:
            raise BadInputError(
                f"parameter {name} = {text!r} is not of type {known[name].__name__}"
            ) from None
    return found


def _list(known: Mapping[str, type]) -> str:
    return ", ".join(f"{name} ({kind.__name__})" for name, kind in sorted(known.items()))
