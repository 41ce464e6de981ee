"""Search for parameters with the Katib Experiment."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def tune(
    manifest: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    trials: int,
    trial_steps: int,
    warm_start: str,
    seed: int,
    library: str,
    best: dsl.Output[dsl.Artifact],
    trials_table: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Search for parameters with the Katib Experiment.

    Args:
        manifest: The dataset.
        training_set: What is trained on.
        trials: How many; 0 keeps the default recipe.
        trial_steps: Optimiser steps of one trial.
        warm_start: An earlier search to begin with: a name or an MLflow run id; empty: none.
        seed: Seed of the search and of every trial.
        library: Digest of the library; part of the cache key.
        best: JSON: the best parameters and every trial.
        trials_table: Table and pictures of the search.
        metrics: Best value and counts.
    """
    from platecrypt.settings import load
    from platecrypt.tuning.steps import tune as work

    work(
        load(),
        manifest,
        training_set,
        trials,
        trial_steps,
        warm_start,
        seed,
        best,
        trials_table,
        metrics,
    )
