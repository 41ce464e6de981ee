"""Measure the model on the held-out split and pass the verdict of the gate."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def evaluate(
    manifest: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    champion: str,
    min_map50: float,
    min_recall: float,
    library: str,
    verdict: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    curve: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Measure the model on the held-out split and pass the verdict of the gate.

    Args:
        manifest: The dataset.
        training_set: What was trained on; it belongs to the local copy of the images.
        model: The new model.
        champion: Version of the present champion, or ''.
        min_map50: Least mAP50 that passes, 0 to 1.
        min_recall: Least recall at the working threshold that passes, 0 to 1.
        library: Digest of the library; part of the cache key.
        verdict: JSON with an HMAC, bound to the digests of the model and the dataset.
        metrics: Figures, overall and by slice.
        curve: Confusion matrix at the working threshold.
        report: Held-out images with hits, misses and false alarms.
    """
    from platecrypt.settings import load
    from platecrypt.training.steps import evaluate as work

    work(
        load(),
        manifest,
        training_set,
        model,
        champion,
        min_map50,
        min_recall,
        verdict,
        metrics,
        curve,
        report,
    )
