"""EXIF, which is TIFF inside: the orientation, and the pictures that hide in it.

Reads the structure with bounds and changes single bytes in place, so that whatever else a camera
wrote stays as it was. Damaged EXIF is no error: there is then nothing to learn from it.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

MAX_ENTRIES = 4096
"""Of one directory; a camera writes a few hundred at most."""

ORIENTATION = 0x0112
_OFFSET, _LENGTH = 0x0201, 0x0202
_STRIPS, _STRIP_BYTES = 0x0111, 0x0117
_SHORT, _LONG = 3, 4
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_ENTRY = 12
_PICTURE = re.compile(rb"\xff\xd8\xff")

Thumbnail = Callable[[int], bytes]
"""Makes a thumbnail of at most so many bytes; empty where that is not possible."""


@dataclass(frozen=True)
class Entry:
    """One field of a directory.

    Attributes:
        tag, kind, count: as TIFF 6.0 has them.
        at: offset of the entry itself.
        value_at: offset of its value, which may lie outside the file.
        bytes: length of the value.
    """

    tag: int
    kind: int
    count: int
    at: int
    value_at: int
    bytes: int


class Tags:
    """The directories of one TIFF structure.

    Attributes:
        order: '<' or '>', as `struct` names it.
        first: offset of the first directory.
    """

    def __init__(self, data: bytes) -> None:
        """Read the head of `data`.

        Raises:
            ValueError: it is no TIFF structure.
        """
        orders = {b"II*\0": "<", b"MM\0*": ">"}
        if len(data) < 8 or data[:4] not in orders:
            raise ValueError("no TIFF structure")
        self._data = data
        self.order = orders[data[:4]]
        (self.first,) = struct.unpack_from(self.order + "I", data, 4)

    def directory(self, at: int) -> tuple[dict[int, Entry], int]:
        """The entries of the directory at an offset, and the offset of the next one (0: none).

        Raises:
            ValueError: it does not lie within the data.
        """
        if not 8 <= at <= len(self._data) - 2:
            raise ValueError("a directory outside the data")
        (count,) = struct.unpack_from(self.order + "H", self._data, at)
        end = at + 2 + count * _ENTRY
        if count > MAX_ENTRIES or end + 4 > len(self._data):
            raise ValueError("a directory that does not fit")
        entries = {}
        for start in range(at + 2, end, _ENTRY):
            tag, kind, values = struct.unpack_from(self.order + "HHI", self._data, start)
            size = _SIZES.get(kind, 1) * values
            value_at = start + 8
            if size > 4:
                (value_at,) = struct.unpack_from(self.order + "I", self._data, start + 8)
            entries[tag] = Entry(tag, kind, values, start, value_at, size)
        (after,) = struct.unpack_from(self.order + "I", self._data, end)
        return entries, after

    def number(self, entry: Entry | None, default: int = 0) -> int:
        """The first value of a SHORT or LONG entry.

        Raises:
            ValueError: it lies outside the data.
        """
        if entry is None or entry.kind not in (_SHORT, _LONG) or not entry.count:
            return default
        form = self.order + ("H" if entry.kind == _SHORT else "I")
        if entry.value_at + struct.calcsize(form) > len(self._data):
            raise ValueError("a value outside the data")
        return int(struct.unpack_from(form, self._data, entry.value_at)[0])


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or it makes no sense.

    Args:
        exif: from the TIFF head on, without `Exif` and its two zero bytes.
    """
    try:
        tags = Tags(exif)
        entries, _ = tags.directory(tags.first)
        value = tags.number(entries.get(ORIENTATION), 1)
    except ValueError:
        return 1
    return value if 1 <= value <= 8 else 1


def only_orientation(value: int) -> bytes:
    """EXIF that says nothing but the orientation."""
    entry = struct.pack("<HHIHH", ORIENTATION, _SHORT, 1, value, 0)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


def without_pictures(exif: bytes, thumbnail: Thumbnail) -> bytes:
    """EXIF in which no picture of the unprotected source is left.

    The thumbnail is replaced by what `thumbnail` makes; any other JPEG inside (makers hide previews
    in their notes) and an uncompressed thumbnail become zeros. Of EXIF that cannot be read to the
    end only the orientation stays.

    Args:
        exif: from the TIFF head on.
        thumbnail: makes the new one.
    """
    changed = bytearray(exif)
    try:
        tags = Tags(exif)
        _, second = tags.directory(tags.first)
        kept = _replace_thumbnail(changed, tags, second, thumbnail) if second else (0, 0)
    except ValueError:
        return only_orientation(orientation(exif))
    for found in _PICTURE.finditer(exif):
        if kept[0] <= found.start() < kept[1]:
            continue
        end = exif.find(b"\xff\xd9", found.end())
        end = len(exif) if end < 0 else end + 2
        changed[found.start() : end] = bytes(end - found.start())
    return bytes(changed)


def _replace_thumbnail(
    changed: bytearray, tags: Tags, at: int, thumbnail: Thumbnail
) -> tuple[int, int]:
    """Put the new thumbnail in place of the old one; returns where it lies."""
    entries, _ = tags.directory(at)
    start, size = tags.number(entries.get(_OFFSET)), tags.number(entries.get(_LENGTH))
    if start and size and start + size <= len(changed) and _LENGTH in entries:
        new = thumbnail(size)
        changed[start : start + size] = new + bytes(size - len(new))
        entry = entries[_LENGTH]
        struct.pack_into(tags.order + "HHII", changed, entry.at, _LENGTH, _LONG, 1, len(new))
        return start, start + len(new)
    # Uncompressed: blank the strips, where they can be told.
    strips, lengths = entries.get(_STRIPS), entries.get(_STRIP_BYTES)
    start, size = tags.number(strips), tags.number(lengths)
    if strips is not None and strips.count == 1 and start + size <= len(changed):
        changed[start : start + size] = bytes(size)
        return 0, 0
    if strips is not None:
        raise ValueError("strips that cannot be told")
    return 0, 0
