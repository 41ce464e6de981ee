"""A Katib parameter as a distribution of Optuna, and the way back to the text of a command line.

Optuna knows uniform and logarithmic ranges. A normal one is searched over its quantiles (uniform
between those of -3 and +3 standard deviations) and turned into a value afterwards: mean and
deviation are those that Katib takes from min and max, their middle and a sixth of their distance.
"""

import math
from statistics import NormalDist
from typing import Any

from platecrypt.tuning.experiment import Parameter

STANDARD = NormalDist()
WIDTH = 3.0  # deviations from the mean to min and to max
LOWEST, HIGHEST = STANDARD.cdf(-WIDTH), STANDARD.cdf(WIDTH)


def distribution(parameter: Parameter) -> Any:
    """What Optuna samples for a parameter."""
    from optuna import distributions

    if parameter.choices:
        return distributions.CategoricalDistribution(parameter.choices)
    if _is_normal(parameter):
        return distributions.FloatDistribution(LOWEST, HIGHEST)
    logarithmic = parameter.distribution == "logUniform"
    # Optuna has no logarithmic range with a step: it samples freely, the value is put on the grid.
    step = None if logarithmic else parameter.step
    if parameter.type == "int":
        low, high = int(parameter.low), int(parameter.high)
        return distributions.IntDistribution(low, high, log=logarithmic, step=int(step or 1))
    return distributions.FloatDistribution(
        parameter.low, _last(parameter) if step else parameter.high, log=logarithmic, step=step
    )


def to_text(parameter: Parameter, sampled: Any) -> str:
    """What Optuna sampled as it stands on a command line; a double keeps every digit."""
    if parameter.choices:
        return str(sampled)
    value = _from_quantile(parameter, float(sampled)) if _is_normal(parameter) else float(sampled)
    if parameter.step:
        steps = round((value - parameter.low) / parameter.step)
        value = parameter.low + max(0, min(steps, _steps(parameter))) * parameter.step
    return str(round(value)) if parameter.type == "int" else repr(value)


def from_text(parameter: Parameter, text: str) -> Any:
    """What Optuna would have sampled for a value.

    Raises:
        ValueError: the value is not in the feasible space.
    """
    if parameter.choices:
        if text not in parameter.choices:
            raise ValueError(text)
        return text
    value = float(text)
    if not parameter.low <= value <= parameter.high:
        raise ValueError(text)
    if _is_normal(parameter):
        return _to_quantile(parameter, value)
    return int(value) if parameter.type == "int" else value


def holds(parameter: Parameter, sampled: Any) -> bool:
    """Whether Optuna could have sampled that; a value between two steps it could not."""
    made = distribution(parameter)
    return bool(made._contains(made.to_internal_repr(sampled)))


def grid(parameter: Parameter) -> list[Any]:
    """Every value of a parameter that has only so many."""
    if parameter.choices:
        return list(parameter.choices)
    step = parameter.step or 1.0
    values = [parameter.low + index * step for index in range(_steps(parameter) + 1)]
    return [int(value) for value in values] if parameter.type == "int" else values


def _steps(parameter: Parameter) -> int:
    return int((parameter.high - parameter.low) / (parameter.step or 1.0) + 1e-9)


def _last(parameter: Parameter) -> float:
    """The last value of the grid; max itself where it lies on it."""
    exact = math.isclose(
        parameter.low + _steps(parameter) * (parameter.step or 1.0), parameter.high
    )
    return parameter.high if exact else grid(parameter)[-1]


def _is_normal(parameter: Parameter) -> bool:
    return parameter.distribution in ("normal", "logNormal")


def _range(parameter: Parameter) -> tuple[float, float]:
    if parameter.distribution == "logNormal":
        return math.log(parameter.low), math.log(parameter.high)
    return parameter.low, parameter.high


def _from_quantile(parameter: Parameter, quantile: float) -> float:
    low, high = _range(parameter)
    deviations = STANDARD.inv_cdf(min(max(quantile, LOWEST), HIGHEST))
    value = (low + high) / 2 + deviations * (high - low) / (2 * WIDTH)
    value = math.exp(value) if parameter.distribution == "logNormal" else value
    return min(max(value, parameter.low), parameter.high)


def _to_quantile(parameter: Parameter, value: float) -> float:
    low, high = _range(parameter)
    place = math.log(value) if parameter.distribution == "logNormal" else value
    if high == low:
        return 0.5
    quantile = STANDARD.cdf((place - (low + high) / 2) / ((high - low) / (2 * WIDTH)))
    return min(max(quantile, LOWEST), HIGHEST)
