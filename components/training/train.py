"""Train YOLOv8, export it to ONNX and check that the two agree."""

from kfp import dsl


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def train(
    manifest: dsl.Input[dsl.Dataset],
    training_set: dsl.Input[dsl.Dataset],
    best: dsl.Input[dsl.Artifact],
    training_steps: int,
    image_size: int,
    pretrained: str,
    seed: int,
    library: str,
    model: dsl.Output[dsl.Model],
    curves: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train YOLOv8, export it to ONNX and check that the two agree.

    Args:
        manifest: The dataset.
        training_set: What is trained on.
        best: The parameters that tuning found.
        training_steps: Optimiser steps; 0 chooses 480 at 320 pixels and 800 above.
        image_size: Side of the network's input in pixels; 0 chooses from the plates' sizes.
        pretrained: auto starts from published weights where they can be had, never from scratch,
            a number from that version in the registry.
        seed: Makes a run repeatable.
        library: Digest of the library; part of the cache key.
        model: Folder with best.pt, model.onnx and the card.
        curves: Pictures of the losses and of the accuracy by epoch.
        metrics: The last epoch's figures, and the agreement of ONNX with PyTorch.
    """
    from platecrypt.settings import load
    from platecrypt.training.steps import train as work

    work(
        load(),
        manifest,
        training_set,
        best,
        training_steps,
        image_size,
        pretrained,
        seed,
        model,
        curves,
        metrics,
    )
