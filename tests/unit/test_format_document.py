"""What docs/format.md tells is enough to open a plate: its program does, without ours."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag

from platecrypt import imaging
from platecrypt.cipher import FRAME, Keyring, canonical_json, seal
from platecrypt.imaging import containers

DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
BOX = [[40, 30, 95, 58]]


@pytest.fixture(scope="module")
def opener() -> Any:
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    found: dict[str, Any] = {}
    exec(program, found)  # noqa: S102 - the document's own
    return found["open_envelope"]


@pytest.mark.parametrize("size", [0, 1, 2048, 131_073])
def test_its_program_opens_what_we_seal(opener: Any, size: int) -> None:
    key, content = os.urandom(32), os.urandom(size)
    ctx = canonical_json({"region": 7})
    envelope = seal(content, ctx, Keyring([key]), content_type=FRAME)
    assert opener(envelope, key) == (ctx, content)
    with pytest.raises(ValueError, match="another key"):
        opener(envelope, os.urandom(32))
    with pytest.raises(InvalidTag):
        opener(envelope[:-1] + bytes([envelope[-1] ^ 1]), key)


def test_its_program_gives_a_plate_back(opener: Any) -> None:
    key = os.urandom(32)
    pixels = np.random.default_rng(3).integers(0, 256, (120, 160, 3), np.uint8)
    image = imaging.decode(imaging.encode(pixels, "png"))
    origin = {"model_name": "m", "model_version": "1", "request_id": "r"}
    made = imaging.protect(image, BOX, Keyring([key]), time=datetime.now(UTC), **origin)
    plate, record = (opener(envelope, key) for envelope in imaging.read_sealed(made.data))
    ctx = json.loads(plate[0])
    x1, y1, x2, y2 = ctx["box"]
    seen = np.frombuffer(plate[1], ctx["dtype"]).reshape(ctx["shape"])
    assert np.array_equal(seen, pixels[y1:y2, x1:x2])
    assert len(record[1]) % 512 == 0
    assert json.loads(record[1])["regions"] == 1
    for name in ("model", "model_version", "request_id", "source_sha256", "time", "region", "box"):
        assert name in ctx
        assert f"`{name}`" in DOCUMENT


def test_it_names_the_places_that_we_use() -> None:
    for place in (
        containers._PNG_SEALED.decode(),
        containers._WEBP_SEALED.decode(),
        containers._BLOB_MAGIC.decode(),
        str(containers._TIFF_SEALED),
        f"APP{containers._APP9 - 0xE0}",
    ):
        assert place in DOCUMENT
