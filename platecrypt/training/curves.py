"""Pictures of a training run: how the losses fell and the accuracy rose."""

import base64
import html
import io

from platecrypt.training.recipe import Recipe
from platecrypt.training.train import TrainResult


def curves_page(result: TrainResult, recipe: Recipe) -> str:
    """A self-contained page with the curves and the recipe."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in vars(recipe).items()
    )
    picture = base64.b64encode(curves_png(result)).decode()
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Training</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem}"
        "td{padding:.1rem .8rem;border-bottom:1px solid #ddd}</style><h1>Training</h1>"
        f"<p>{len(result.curves)} epochs on {html.escape(result.device)} in "
        f"{result.seconds:.0f} s, input {result.image_size} px, started from "
        f"{html.escape(result.pretrained or 'scratch')}.</p>"
        f'<img alt="curves" style="max-width:100%" src="data:image/png;base64,{picture}">'
        f"<h2>Recipe</h2><table>{rows}</table></html>"
    )


def curves_png(result: TrainResult) -> bytes:
    """Losses on the left, accuracy on the validation split on the right, by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in result.curves]
    for name in ("box_loss", "cls_loss", "dfl_loss"):
        losses.plot(epochs, [getattr(epoch, name) for epoch in result.curves], label=name)
    for name in ("map50", "map50_95", "precision", "recall"):
        accuracy.plot(epochs, [getattr(epoch, name) for epoch in result.curves], label=name)
    for axes, title in ((losses, "training losses"), (accuracy, "validation split")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    accuracy.set_ylim(0, 1.02)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
