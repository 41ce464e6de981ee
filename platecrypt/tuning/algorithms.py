"""Katib's algorithms: which settings each has, what they may be, and what this machine honours.

The names and ranges are those that Katib's suggestion services check. What an Experiment sets is
honoured or refused by name; nothing is ignored.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from platecrypt.tuning.fields import mapping, number, rows, text

# A check of one setting's text: what it should have been, or "" where it is right.
Check = Callable[[str], str]


def _whole(least: int, most: int = 2**31 - 1) -> Check:
    def check(value: str) -> str:
        fine = value.isascii() and value.isdigit() and least <= int(value[:20]) <= most
        return "" if fine else f"a whole number from {least} to {most}"

    return check


def _between(low: float, high: float) -> Check:
    def check(value: str) -> str:
        found = number(value)
        if found is not None and low < found < high:
            return ""
        return f"a number above {low:g}" + ("" if high == float("inf") else f" and below {high:g}")

    return check


def _one_of(*names: str) -> Check:
    return lambda value: "" if value in names else f"one of {', '.join(names)}"


def _any(value: str) -> str:
    return "" if value else "not empty"


ABOVE_ZERO = _between(0, float("inf"))
SEED = {"random_state": _whole(0, 2**32 - 1)}  # what NumPy takes
STARTUP = {"n_startup_trials": _whole(0), "n_ei_candidates": _whole(1)}
SETTINGS: Mapping[str, Mapping[str, Check]] = {
    "random": SEED,
    "grid": SEED,
    "tpe": {
        **SEED,
        **STARTUP,
        "n_EI_candidates": _whole(1),
        "gamma": _between(0, 1),
        "prior_weight": ABOVE_ZERO,
    },
    "multivariate-tpe": {**SEED, **STARTUP},
    "bayesianoptimization": {
        **SEED,
        "base_estimator": _one_of("GP", "RF", "ET", "GBRT"),
        "n_initial_points": _whole(0),
        "acq_func": _one_of("gp_hedge", "LCB", "EI", "PI", "EIps", "PIps"),
        "acq_optimizer": _one_of("auto", "sampling", "lbfgs"),
    },
    "cmaes": {
        **SEED,
        "sigma": ABOVE_ZERO,
        "restart_strategy": _one_of("ipop", "bipop", "none", "None"),
    },
    "sobol": SEED,
    "hyperband": {
        **SEED,
        "r_l": _between(1, float("inf")),
        "eta": _whole(2),
        "resource_name": _any,
    },
    "pbt": {
        "suggestion_trial_dir": _any,
        "n_population": _whole(5),
        "resample_probability": _between(0, 1),
        "truncation_threshold": _between(0, 1),
    },
}
ALGORITHMS = tuple(SETTINGS)
EARLY_STOPPING: Mapping[str, Mapping[str, Check]] = {
    "medianstop": {"min_trials_required": _whole(1), "start_step": _whole(1)}
}
DEFAULT_ETA = 3
NEEDS_TWO_NUMBERS = "cmaes"

# (algorithm, setting) -> which values are honoured here and why no others.
NOT_HERE: Mapping[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("tpe", "gamma"): ((), "Optuna is about to drop it; take it out"),
    ("tpe", "prior_weight"): ((), "Optuna is about to drop it; take it out"),
    ("cmaes", "restart_strategy"): (("none", "None"), "Optuna no longer restarts; take it out"),
    ("bayesianoptimization", "base_estimator"): (("GP",), "here the model is a Gaussian process"),
    ("bayesianoptimization", "acq_func"): (("EI",), "here it is the expected improvement, EI"),
    ("bayesianoptimization", "acq_optimizer"): (("auto", "lbfgs"), "here it is lbfgs"),
}


def setting_problems(spec: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the algorithm and the early stopping of a spec, by field path."""
    algorithm = mapping(spec.get("algorithm"))
    yield from _named(algorithm, "spec.algorithm", SETTINGS)
    if "earlyStopping" in spec:
        yield from _named(mapping(spec["earlyStopping"]), "spec.earlyStopping", EARLY_STOPPING)
    given = settings_of(algorithm)
    if {"n_EI_candidates", "n_ei_candidates"} <= given.keys():
        yield (
            "spec.algorithm.algorithmSettings: n_EI_candidates and n_ei_candidates are the same; "
            "give one"
        )
    names = {str(row.get("name")): row for _, row in rows(spec.get("parameters"))}
    match algorithm.get("algorithmName"):
        case "hyperband":
            yield from _hyperband(given, spec, names)
        case "cmaes":
            kinds = [row.get("parameterType") for row in names.values()]
            if sum(kind in ("int", "double") for kind in kinds) < 2:
                yield (
                    "spec.parameters: cmaes needs two or more of type int or double; "
                    "take another algorithm"
                )
        case "grid":
            yield from _grid(spec, names)


def settings_of(part: Mapping[str, Any]) -> dict[str, str]:
    """Name -> value of an algorithm's settings."""
    found = rows(part.get("algorithmSettings"))
    return {str(row.get("name")): str(row.get("value")) for _, row in found}


def unsupported_settings(algorithm: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Which settings this machine would have to ignore."""
    if algorithm == "pbt":
        yield (
            "algorithm pbt: it hands checkpoints from trial to trial through a volume of the "
            "cluster; here take hyperband or tpe"
        )
        return
    for name, value in settings.items():
        allowed, why = NOT_HERE.get((algorithm, name), ((value,), ""))
        if value not in allowed:
            yield f"algorithm setting {name} {value!r} of {algorithm} is not honoured here: {why}"


def _named(
    part: Mapping[str, Any], where: str, known: Mapping[str, Mapping[str, Check]]
) -> Iterator[str]:
    name = text(part.get("algorithmName"))
    if name not in known:
        yield f"{where}.algorithmName {name!r}: one of {', '.join(known)}"
        return
    seen: set[str] = set()
    for index, row in rows(part.get("algorithmSettings")):
        place = f"{where}.algorithmSettings[{index}]"
        setting, value = str(row.get("name")), str(row.get("value"))
        check = known[name].get(setting)
        if check is None:
            yield f"{place}.name {setting!r}: {name} has the settings {', '.join(known[name])}"
        elif problem := check(value):
            yield f"{place}.value {value!r}: {setting} is {problem}"
        if setting in seen:
            yield f"{place}.name {setting!r} stands there twice"
        seen.add(setting)


def _hyperband(
    given: Mapping[str, str], spec: Mapping[str, Any], names: Mapping[str, Any]
) -> Iterator[str]:
    where = "spec.algorithm.algorithmSettings"
    for name in ("r_l", "resource_name"):
        if name not in given:
            yield f"{where}: hyperband needs {name}"
    resource = given.get("resource_name")
    if resource is not None and resource not in names:
        yield f"{where}: resource_name {resource!r} is none of spec.parameters"
    budget, eta = number(given.get("r_l")), number(given.get("eta", DEFAULT_ETA))
    parallel = spec.get("parallelTrialCount", 3)
    if budget and eta and budget > 1 and eta >= 2 and isinstance(parallel, int):
        least = int(eta) ** brackets(budget, int(eta))
        if parallel < least:
            yield (
                f"spec.parallelTrialCount {parallel}: hyperband with r_l {budget:g} and eta "
                f"{eta:g} starts {least} trials at once; at least {least}, or a smaller r_l"
            )


def brackets(budget: float, eta: int) -> int:
    """Katib's s_max: how often a budget can be divided by eta."""
    count = 0
    while eta ** (count + 1) <= budget:
        count += 1
    return count


def _grid(spec: Mapping[str, Any], names: Mapping[str, Any]) -> Iterator[str]:
    sizes: list[int | None] = []
    for index, row in rows(spec.get("parameters")):
        space = mapping(row.get("feasibleSpace"))
        if row.get("parameterType") == "double" and number(space.get("step")) is None:
            yield (
                f"spec.parameters[{index}].feasibleSpace.step: a grid over a double needs one, "
                "or the parameter becomes a discrete one"
            )
        sizes.append(_points(row, space))
    total = 1
    for size in sizes:
        total = total * size if size else 0
    most = spec.get("maxTrialCount")
    if total and isinstance(most, int) and most > total:
        yield f"spec.maxTrialCount {most}: the grid has {total} points; not more than {total}"


def _points(row: Mapping[str, Any], space: Mapping[str, Any]) -> int | None:
    if row.get("parameterType") in ("discrete", "categorical"):
        return len(space.get("list") or [])
    low, high = number(space.get("min")), number(space.get("max"))
    step = number(space.get("step", 1 if row.get("parameterType") == "int" else None))
    if low is None or high is None or not step or step < 0 or high < low:
        return None
    return int((high - low) / step + 1e-9) + 1
