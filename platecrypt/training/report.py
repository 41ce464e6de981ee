"""The evaluation as a page that people look at: figures, curve, pictures of detections.

The pictures show readable plates. The page is as private as the dataset and stays with it; it is
never part of what an endpoint or a public registry hands out.
"""

import base64
import html
from collections.abc import Sequence

from platecrypt.training import matching
from platecrypt.training.evaluate import (
    HIT_IOU,
    CurvePoint,
    Evaluation,
    Looked,
    SliceMetrics,
    read_upright,
)

MAX_PICTURES = 24
PICTURE_WIDTH = 360
GREEN, RED, AMBER = (0, 160, 0), (220, 0, 0), (255, 160, 0)

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;color:#222}
table{border-collapse:collapse}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;
text-align:right}td:first-child,th:first-child{text-align:left}figure{display:inline-block;
margin:.4rem}figcaption{font-size:12px;max-width:360px;overflow-wrap:anywhere}
.note{background:#fff6e0;padding:.5rem 1rem}svg{background:#fafafa}"""


def to_html(evaluation: Evaluation, looked: Sequence[Looked]) -> str:
    """A self-contained page: no script, nothing loaded from elsewhere.

    Args:
        evaluation: the figures.
        looked: the evaluated images; those with most mistakes are shown first, 24 at most.
    """
    ranked = sorted(looked, key=lambda one: -_mistakes(one, evaluation.confidence))
    pictures = "".join(_figure(one, evaluation.confidence) for one in ranked[:MAX_PICTURES])
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>
<style>{STYLE}</style><h1>Evaluation on the {evaluation.split} split</h1>
<p class="note">The pictures show readable plates: keep this page as private as the dataset.</p>
<p>Model {evaluation.model_digest[:12]}, dataset {evaluation.dataset_digest[:12]}, input
{evaluation.image_size} px, {evaluation.milliseconds:.1f} ms an image. {_grouping(evaluation)}</p>
{_table((evaluation.overall, *evaluation.slices), evaluation.confidence)}
<h2>Precision over recall (IoU 0.5)</h2>{_curve_svg(evaluation.curve)}
<h2>Detections</h2><p>Green: found. Red: missed. Amber: false. Most mistakes first,
{min(len(ranked), MAX_PICTURES)} of {len(ranked)} images.</p>{pictures}</html>"""


def _grouping(evaluation: Evaluation) -> str:
    if evaluation.grouping == "ride":
        return "No ride is on two sides of the split."
    kept = html.escape(evaluation.grouping)
    return f"The split is by {kept}, not by ride: similar pictures make the figures optimistic."


def _table(parts: Sequence[SliceMetrics], confidence: float) -> str:
    head = (
        "<tr><th>slice<th>images<th>plates<th>mAP50<th>mAP50-95"
        f"<th>precision at {confidence:g}<th>recall at {confidence:g}"
        "<th>found<th>false<th>missed</tr>"
    )
    rows = "".join(
        f"<tr><td>{part.name}<td>{part.images}<td>{part.plates}"
        + "".join(
            f"<td>{'–' if value is None else format(value, '.3f')}"
            for value in (part.map50, part.map50_95, part.precision, part.recall)
        )
        + f"<td>{part.hits}<td>{part.false}<td>{part.missed}</tr>"
        for part in parts
    )
    return f"<table>{head}{rows}</table>"


def _curve_svg(curve: Sequence[CurvePoint]) -> str:
    points = " ".join(f"{40 + p.recall * 320:.1f},{220 - p.precision * 200:.1f}" for p in curve)
    return (
        '<svg viewBox="0 0 380 250" width="570" role="img" aria-label="precision over recall">'
        '<path d="M40 20V220H360" fill="none" stroke="#888"/>'
        f'<polyline points="{points}" fill="none" stroke="#0060c0" stroke-width="2"/>'
        '<text x="200" y="242" font-size="12">recall 0..1</text>'
        '<text x="2" y="14" font-size="12">precision 0..1</text></svg>'
    )


def _mistakes(one: Looked, confidence: float) -> int:
    counts = matching.counts_at([one.result], confidence, HIT_IOU)
    return counts.false + counts.missed


def _figure(one: Looked, confidence: float) -> str:
    import cv2
    import numpy as np

    shown = np.ascontiguousarray(read_upright(one.path))
    scale = PICTURE_WIDTH / shown.shape[1]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=how)
    above = one.result.scores > confidence
    taken = matching.match(one.result, HIT_IOU)[above]
    found = set(taken.tolist())
    drawn = [
        (box, GREEN if label >= 0 else AMBER)
        for box, label in zip(one.result.boxes[above], taken, strict=True)
    ] + [(box, RED) for index, box in enumerate(one.result.labels) if index not in found]
    for box, colour in drawn:
        x1, y1, x2, y2 = (round(float(value) * scale) for value in box)
        cv2.rectangle(shown, (x1, y1), (x2, y2), colour, 2)
    _, jpeg = cv2.imencode(".jpg", shown[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    data = base64.b64encode(jpeg.tobytes()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="" width="{PICTURE_WIDTH}">'
        f"<figcaption>{html.escape(one.image.name)}</figcaption></figure>"
    )
