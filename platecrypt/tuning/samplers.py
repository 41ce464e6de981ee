"""Katib's algorithms on Optuna's samplers.

A sampler is made anew for each proposal, seeded by `random_state` and the proposal's number: a
search that was interrupted then goes on as if it had not been. The grid and the Sobol sequence
keep one seed, because it decides their order.
"""

import importlib.util
from typing import Any

from platecrypt.tuning import space
from platecrypt.tuning.algorithms import DEFAULT_ETA
from platecrypt.tuning.experiment import Experiment, Parameter


def missing_packages(algorithm: str) -> str:
    """A package that the algorithm's sampler needs and that is not installed, or ''."""
    needed = {"cmaes": ("cmaes",), "bayesianoptimization": ("torch", "scipy"), "sobol": ("scipy",)}
    for name in needed.get(algorithm, ()):
        if importlib.util.find_spec(name) is None:
            return name
    return ""


def searched(experiment: Experiment) -> tuple[Parameter, ...]:
    """The parameters that are proposed; hyperband's resource is a budget and is not."""
    resource = experiment.algorithm_settings.get("resource_name")
    if experiment.algorithm != "hyperband":
        return experiment.parameters
    return tuple(p for p in experiment.parameters if p.name != resource)


def budget(experiment: Experiment) -> dict[str, str]:
    """Hyperband's resource parameter and the most that a trial gets of it."""
    if experiment.algorithm != "hyperband":
        return {}
    settings = experiment.algorithm_settings
    return {settings["resource_name"]: str(int(float(settings["r_l"])))}


def eta(experiment: Experiment) -> int:
    """Hyperband's eta: of so many trials one goes on."""
    return int(float(experiment.algorithm_settings.get("eta", DEFAULT_ETA)))


def proposals(experiment: Experiment) -> int | None:
    """How many different proposals there are; None: without end."""
    if experiment.algorithm != "grid":
        return None
    total = 1
    for parameter in experiment.parameters:
        total *= len(space.grid(parameter))
    return total


def make_sampler(experiment: Experiment, count: int) -> Any:
    """The sampler of the proposal that follows on `count` others."""
    from optuna import samplers

    settings = experiment.algorithm_settings
    seed = _seed(settings.get("random_state"), count)
    match experiment.algorithm:
        case "random" | "hyperband":
            return samplers.RandomSampler(seed=seed)
        case "grid":
            return _grid(experiment)
        case "sobol":
            return _sobol(experiment)
        case "cmaes":
            sigma = settings.get("sigma")
            return samplers.CmaEsSampler(
                seed=seed,
                sigma0=float(sigma) if sigma else None,
                warn_independent_sampling=False,
            )
        case "bayesianoptimization":
            return samplers.GPSampler(
                seed=seed,
                n_startup_trials=int(settings.get("n_initial_points", "10")),
                warn_independent_sampling=False,
            )
    candidates = settings.get("n_EI_candidates") or settings.get("n_ei_candidates") or "24"
    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=int(settings.get("n_startup_trials", "10")),
        n_ei_candidates=int(candidates),
        # Optuna's own default models the parameters together, too, and finds more than each alone.
        multivariate=True,
        constant_liar=experiment.parallel_trials > 1,
    )


def _seed(random_state: str | None, count: int) -> int | None:
    import numpy as np

    if random_state is None:
        return None
    return int(np.random.SeedSequence([int(random_state), count]).generate_state(1)[0])


def _grid(experiment: Experiment) -> Any:
    from optuna import samplers

    points = {p.name: space.grid(p) for p in experiment.parameters}
    seed = int(experiment.algorithm_settings.get("random_state", "0"))
    sampler = samplers.GridSampler(points, seed=seed)
    # After the last point it would stop a loop of Optuna's own; there is none, and we count.
    sampler.after_trial = lambda study, trial, state, values: None
    return sampler


def _sobol(experiment: Experiment) -> Any:
    from optuna import samplers

    state = experiment.algorithm_settings.get("random_state")
    seed = int(state) if state else 0
    sampler = samplers.QMCSampler(
        scramble=state is not None,
        seed=seed,
        independent_sampler=samplers.RandomSampler(seed=seed),
        warn_independent_sampling=False,
        warn_asynchronous_seeding=False,
    )
    # It learns the space from the first trial, which it would draw at random: tell it before.
    known = {p.name: space.distribution(p) for p in experiment.parameters}
    sampler.infer_relative_search_space = lambda study, trial: known
    return sampler
