"""What leaves: the protected file, JSON, or tensors. Nothing in it says what a plate shows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from platecrypt.serving import oip
from platecrypt.serving.door import PLATES
from platecrypt.serving.protector import Outcome
from platecrypt.serving.requests import Options, Wanted
from platecrypt.serving.server import HttpReply


def v1_reply(outcomes: Sequence[Outcome], form: Wanted, options: Options) -> HttpReply:
    """The protected file itself, or JSON with one prediction a picture."""
    headers = {}
    if options.detections != "none":
        headers[PLATES] = str(sum(len(outcome.protected.regions) for outcome in outcomes))
    if form.file:
        (only,) = outcomes
        return HttpReply(only.file.data, f"image/{only.file.format}", headers)
    import orjson

    body = orjson.dumps({"predictions": [_prediction(outcome, options) for outcome in outcomes]})
    return HttpReply(body, "application/json", headers)


def v2_reply(outcomes: Sequence[Outcome], request: oip.Request, options: Options) -> oip.Reply:
    """Tensors: pictures in the form in which they came, and what was sealed.

    `counts` says how many of `boxes` and `envelopes` belong to each picture, `records` are the
    sealed records, one a picture, empty where nothing was found.
    """
    tensors = _images(outcomes, request) if options.image == "protected" else []
    if options.detections != "none":
        made = [outcome.protected for outcome in outcomes]
        boxes = [list(region) for one in made for region in one.regions]
        tensors += [
            oip.tensor("counts", np.array([len(one.regions) for one in made], np.int32)),
            oip.tensor("boxes", np.array(boxes, np.int32).reshape(-1, 4)),
            oip.tensor("envelopes", [envelope for one in made for envelope in one.envelopes]),
            oip.tensor("records", [one.record or b"" for one in made]),
        ]
    if options.detections == "plain":
        rows = [np.column_stack((o.found.boxes, o.found.scores)) for o in outcomes]
        tensors += [
            oip.tensor("detections", np.concatenate(rows).astype(np.float32)),
            oip.tensor("detection_counts", np.array([len(r) for r in rows], np.int32)),
        ]
    return oip.Reply(tuple(tensors), version=outcomes[0].version)


def _images(outcomes: Sequence[Outcome], request: oip.Request) -> list[oip.Tensor]:
    if request.inputs[0].datatype == "BYTES":
        return [oip.tensor("image", [outcome.file.data for outcome in outcomes])]
    found, at = [], 0
    for item in request.inputs:
        count = item.shape[0] if len(item.shape) == 4 else 1
        pixels = [outcome.pixels for outcome in outcomes[at : at + count]]
        together = pixels[0] if count == 1 else np.stack(pixels)
        found.append(oip.tensor(item.name, together.reshape(item.shape)))
        at += count
    return found


def _prediction(outcome: Outcome, options: Options) -> dict[str, Any]:
    import pybase64

    made = outcome.protected
    found: dict[str, Any] = {"request_id": outcome.request_id}
    if options.image == "protected":
        found["image"] = {"b64": pybase64.b64encode_as_string(outcome.file.data)}
        found["content_type"] = f"image/{outcome.file.format}"
    if options.detections != "none":
        found["plates"] = [
            {"box": list(region), "envelope": pybase64.b64encode_as_string(envelope)}
            for region, envelope in zip(made.regions, made.envelopes, strict=True)
        ]
    if options.detections == "plain":
        found["detections"] = [
            {"box": [round(value, 2) for value in box], "score": round(score, 4)}
            for box, score in zip(
                outcome.found.boxes.tolist(), outcome.found.scores.tolist(), strict=True
            )
        ]
    return found
