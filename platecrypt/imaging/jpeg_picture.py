"""One JPEG file, protected and recovered block by block, its metadata included."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from platecrypt.cipher import FRAME
from platecrypt.imaging.containers import Format, jpeg_segment
from platecrypt.imaging.jpeg import (
    Blocks,
    JpegFile,
    Segment,
    assemble,
    read_blocks,
)
from platecrypt.imaging.protect import fresh_noise
from platecrypt.imaging.rasters import clean_exif
from platecrypt.imaging.regions import Region
from platecrypt.imaging.sealing import METADATA, TRAILER, Sealer
from platecrypt.imaging.tags import only_orientation

_JFIF, _EXIF, _ICC = b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0"
_APP0, _APP1, _APP2, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_JFIF_BYTES = 14
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"8BIM\x04\x0c", b"8BIM\x04\x09")
_XMP_PICTURES = (b"Thumbnails", b"xmpGImg", b"GImage:Data", b"GDepth:Data", b"RelitInputImage")
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_MPF, _JFXX = b"MPF\0", b"JFXX\0"
_QUALITIES = (75, 50, 30, 10)
_THUMBNAIL_SIDE = 160
"""Pixels; what EXIF 2.32 prescribes for thumbnails is 160 x 120."""


@dataclass(eq=False)
class JpegPicture:
    """A JPEG whose blocks can be taken out and put back.

    Attributes:
        file: its parts.
        blocks: its coefficients.
        notes: what is not as it was, for a person.
    """

    file: JpegFile
    blocks: Blocks
    notes: list[str] = field(default_factory=list)
    format: Format = "jpeg"

    @classmethod
    def read(cls, data: bytes) -> "JpegPicture":
        """Take a file apart.

        Raises:
            NotLosslessError: a JPEG of a kind that is not read block by block.
            BadInputError: it is damaged.
        """
        file = JpegFile.parse(data)
        return cls(file, read_blocks(file))

    def snap(self, region: Region) -> Region:
        """The smallest region of whole MCUs that holds a stored one, clipped to the picture."""
        wide, high = self.blocks.unit
        return Region(
            region.x1 // wide * wide,
            region.y1 // high * high,
            min(-(-region.x2 // wide) * wide, self.blocks.width),
            min(-(-region.y2 // high) * high, self.blocks.height),
        )

    def seal(self, sealer: Sealer, number: int, stored: Region, box: Region) -> bytes:
        """The envelope of a region: a small JPEG of exactly its blocks.

        Raises:
            NotLosslessError: the library refuses.
        """
        part = self.blocks.cut(stored)
        fields = {
            "box": list(box),
            "stored": list(stored),
            "shape": [stored.height, stored.width, len(part.components)],
            "dtype": "uint8",
            "format": "jpeg",
        }
        return sealer.plate(number, part.write_part(), FRAME, fields)

    def cover(self, regions: Sequence[Region]) -> None:
        """Replace the blocks of stored regions by noise."""
        cells = [self.blocks.cells(region) for region in regions]
        noise = fresh_noise(sum(cells))
        for region, count in zip(regions, cells, strict=True):
            self.blocks.fill(region, noise[:count])
            noise = noise[count:]

    def write(self, *, strip: bool, protected: bool) -> tuple[bytes, dict[str, bytes]]:
        """The file, and what had to go from it.

        Args:
            strip: leave out what it says about makers, places and times.
            protected: blocks were covered: no picture of the source may stay.

        Returns:
            The file; and by name the bytes that only recovering gives back.
        """
        if not protected:
            # Another picture after this one has metadata of its own.
            trailer = b"" if strip else self.file.trailer
            written, hidden = b"\xff\xd8" + self.file.body + trailer, dict[str, bytes]()
        else:
            written = assemble(self.file, self.blocks.write(), ())
            hidden = {TRAILER: self.file.trailer} if self.file.trailer else {}
            if hidden:
                self.notes.append(
                    f"{len(self.file.trailer)} bytes after the picture (often another picture) are "
                    "sealed as well"
                )
        metadata = [
            kept
            for segment in self.file.metadata
            if (kept := self._published(segment, strip, written if protected else b""))
        ]
        if protected and not strip and metadata != [s.data for s in self.file.metadata]:
            hidden[METADATA] = b"".join(segment.data for segment in self.file.metadata)
        return b"".join((written[:2], *metadata, written[2:])), hidden

    def restore(self, hidden: dict[str, bytes]) -> bytes:
        """The recovered file, once the blocks are back.

        Args:
            hidden: what `write` returned.
        """
        metadata = [segment.data for segment in self.file.metadata]
        if METADATA in hidden:
            metadata = [hidden[METADATA]]
        written = assemble(self.file, self.blocks.write(), ())
        return b"".join((written[:2], *metadata, written[2:], hidden.get(TRAILER, b"")))

    def _published(self, segment: Segment, strip: bool, picture: bytes) -> bytes:
        """A segment as it may leave; empty where it must not."""
        marker, payload = segment.marker, segment.payload
        if marker == _APP1 and payload.startswith(_EXIF):
            thumbnail = _Thumbnails(picture) if picture else None
            exif = clean_exif(payload[len(_EXIF) :], strip, thumbnail)
            nothing = strip and exif == only_orientation(1)
            return b"" if nothing else jpeg_segment(marker, _EXIF + exif)
        if marker == _APP0 and payload.startswith(_JFIF) and len(payload) >= _JFIF_BYTES:
            bare = payload[: _JFIF_BYTES - 2] + bytes(2)
            return jpeg_segment(marker, bare) if picture else segment.data
        if strip and not _is_colour(segment):
            return b""
        return b"" if picture and _shows_picture(segment) else segment.data


class _Thumbnails:
    """Makes thumbnails of a protected JPEG."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture

    def __call__(self, limit: int) -> bytes:
        """The best one of at most so many bytes; empty where none fits."""
        import cv2
        import numpy as np

        small = cv2.imdecode(
            np.frombuffer(self._picture, np.uint8),
            cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
        )
        if small is None:
            return b""
        scale = min(1.0, _THUMBNAIL_SIDE / max(small.shape[:2]))
        size = (max(1, round(small.shape[1] * scale)), max(1, round(small.shape[0] * scale)))
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
        for quality in _QUALITIES:
            done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if done and len(data) <= limit:
                return bytes(data)
        return b""


def _is_colour(segment: Segment) -> bool:
    """JFIF, Adobe and the colour profile: without them the colours are others."""
    if segment.marker == _APP2:
        return segment.payload.startswith(_ICC)
    return segment.marker == _ADOBE


def _shows_picture(segment: Segment) -> bool:
    """Whether a segment may hold a preview of the source (in doubt it does)."""
    payload = segment.payload
    if payload.startswith((_MPF, _JFXX, _XMP_EXTENSION)):
        return True
    if segment.marker == _APP1 and any(mark in payload for mark in _XMP_PICTURES):
        return True
    return not payload.startswith(_ICC) and any(mark in payload for mark in _PICTURES)
