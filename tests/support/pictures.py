"""Picture files of every supported kind, made on the spot."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def street(width: int, height: int, seed: int = 1, channels: int = 3) -> Pixels:
    """Something with edges, slopes and texture."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    layers = [128 + 90 * np.sin(9 * across + k) * np.cos(7 * down - k) for k in range(channels)]
    picture = np.stack(layers, axis=-1) + rng.normal(0, 6, (height, width, channels))
    for _ in range(12):
        x, y = rng.integers(0, width - 20), rng.integers(0, height - 10)
        picture[y : y + 10, x : x + 20] = rng.integers(0, 255, channels)
    return np.clip(picture, 0, 255).astype(np.uint8)


def file(pixels: Pixels, form: str, mode: str | None = None, **options: Any) -> bytes:
    """Encode with Pillow."""
    image = Image.fromarray(pixels.squeeze())
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, form, **options)
    return out.getvalue()


def exif(orientation: int, thumbnail: bytes = b"", note: bytes = b"") -> bytes:
    """`Exif` and a TIFF structure: orientation, a maker's note, a place, a thumbnail."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)]
    count = 1 + bool(note)
    at = 8 + 2 + 12 * count + 4
    if note:
        entries.append(struct.pack("<HHII", 0x927C, 7, len(note), at))
    second = at + len(note) + len(note) % 2
    first = struct.pack("<H", count) + b"".join(entries)
    body = first + struct.pack("<I", second if thumbnail else 0) + note + b"\0" * (len(note) % 2)
    if thumbnail:
        start = second + 2 + 24 + 4
        body += struct.pack("<H", 2)
        body += struct.pack("<HHII", 0x0201, 4, 1, start)
        body += struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
        body += struct.pack("<I", 0) + thumbnail
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + body


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments in front."""
    parts = [
        b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
        for marker, body in segments
    ]
    return jpeg[:2] + b"".join(parts) + jpeg[2:]


def without_segments(jpeg: bytes, *markers: int) -> bytes:
    """A JPEG without the segments of these markers in its head."""
    at, out = 2, [jpeg[:2]]
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] not in markers:
            out.append(jpeg[at:end])
        at = end
    return b"".join((*out, jpeg[at:]))
