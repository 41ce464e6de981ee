"""JPEG without loss: the quantised DCT coefficients are read and written, never the pixels.

jpeglib does both. It works by path, so the bytes pass through a private folder in memory where the
system has one; and it is not safe in several threads, hence the lock. What libjpeg is given is
stripped to what it needs: hostile metadata never reaches it.
"""

import contextlib
import copy
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from platecrypt.errors import BadInputError
from platecrypt.imaging.containers import AFTER_SCAN, MAX_PARTS, jpeg_parts
from platecrypt.imaging.regions import Region

Coefficients = npt.NDArray[np.int16]

BLOCK = 8
_NAMES = ("Y", "Cb", "Cr", "K")
_LEVELS = 1024
_FAST, _PROGRESSIVE, _LENIENT = "turbo210", "mozjpeg403", "6b"
"""Of the libraries in jpeglib: the quickest, the one that writes progressive files, and the one
that takes scans whose components stand in another order than in the frame header."""
_KEEP_FOR_COLOUR = (0xE0, 0xEE)  # JFIF and Adobe decide what the components mean
_COLOUR_SEGMENTS = 8
_START = b"\xff\xd8"
_MEMORY = Path("/dev/shm")  # noqa: S108
_lock = threading.Lock()


_SOS, _EOI, _COM = 0xDA, 0xD9, 0xFE
_TABLES_OF_FRAMES = (0xC4, 0xC8, 0xCC)


class NotLosslessError(Exception):
    """A JPEG that cannot be protected block by block; the message says why."""


@dataclass(frozen=True)
class Segment:
    """One metadata segment.

    Attributes:
        marker: its second byte: 0xE0..0xEF or 0xFE.
        data: the whole segment.
    """

    marker: int
    data: bytes

    @property
    def payload(self) -> bytes:
        """What it says."""
        return self.data[4:]


@dataclass(frozen=True, eq=False)
class JpegFile:
    """The parts of a JPEG file.

    Attributes:
        metadata: the APP and comment segments, in order.
        body: everything else from the first table to the end of the picture.
        trailer: what follows the picture: often another picture.
        frame: marker of the frame header.
        precision: bits a sample.
        names: the components' ids.
        name_offsets: where in `body` an id stands.
    """

    metadata: tuple[Segment, ...]
    body: bytes
    trailer: bytes
    frame: int
    precision: int
    names: tuple[int, ...]
    name_offsets: tuple[int, ...]

    @classmethod
    def parse(cls, data: bytes) -> "JpegFile":
        """Take a file apart.

        Raises:
            BadInputError: it is damaged or has no end.
        """
        metadata: list[Segment] = []
        body: list[bytes] = []
        offsets: list[int] = []
        frame, precision, names = 0, 0, b""
        at, size = 2, 0
        for marker, start, payload, end in _all_parts(data):
            at = end
            if 0xE0 <= marker <= 0xEF or marker == _COM:
                metadata.append(Segment(marker, data[start:end]))
                continue
            if 0xC0 <= marker <= 0xCF and marker not in _TABLES_OF_FRAMES:
                count = data[payload + 5] if end - payload > 5 else 0
                if end - payload != 6 + 3 * count or names:
                    raise _damaged()
                frame, precision = marker, data[payload]
                places = range(payload + 6, end, 3)
                names = bytes(data[place] for place in places)
                offsets += [size + place - start for place in places]
            if marker == _SOS:
                head = 4 + int.from_bytes(data[start + 2 : start + 4], "big") - 2
                count = data[start + 4]
                if head != 4 + 1 + 2 * count + 3:
                    raise _damaged()
                offsets += [size + 5 + 2 * index for index in range(count)]
            body.append(data[start:end])
            size += end - start
        if not names:
            raise _damaged()
        return cls(
            tuple(metadata),
            b"".join(body),
            data[at:],
            frame,
            precision,
            tuple(names),
            tuple(offsets),
        )


def _all_parts(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Every segment, a scan with its data, the end of the image: marker, start, payload, end."""
    at = 2
    for marker, start, payload, end in jpeg_parts(data):
        if marker == _SOS:
            at = start
            break
        yield marker, start, payload, end
    for _ in range(MAX_PARTS):
        marker = data[at + 1]
        if marker == _EOI:
            yield marker, at, at + 2, at + 2
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise _damaged()
        start = at
        if marker == _SOS:
            found = AFTER_SCAN.search(data, end)
            if found is None:
                raise _damaged()
            end = found.start()
        yield marker, start, start + 4, end
        # Bytes between segments are skipped, as decoders do.
        found = AFTER_SCAN.search(data, end)
        if found is None:
            raise _damaged()
        at = found.start()
    raise _damaged()


def _damaged() -> BadInputError:
    return BadInputError("the JPEG image is damaged or cut short; fetch it again")


@dataclass(eq=False)
class Blocks:
    """The coefficients of one JPEG.

    Attributes:
        width, height: pixels as stored.
        progressive: how the source was written, and how it is written again.
        components: one array each, (rows, columns, 8, 8) int16, quantised.
        factors: (components, 2): vertical and horizontal sampling factor.
        tables: one a component, (8, 8): its quantisers.
    """

    width: int
    height: int
    progressive: bool
    components: list[Coefficients]
    factors: npt.NDArray[Any]
    tables: list[npt.NDArray[Any]]
    _jpeg: Any

    @property
    def unit(self) -> tuple[int, int]:
        """Width and height of one MCU, pixels: regions lie on this grid."""
        down, across = self.factors.max(axis=0)
        return BLOCK * int(across), BLOCK * int(down)

    def window(self, index: int, region: Region) -> tuple[slice, slice]:
        """Rows and columns of blocks of a component under a region on the grid of `unit`."""
        wide, high = self.unit
        down, across = (int(value) for value in self.factors[index])
        rows = slice(region.y1 // high * down, -(-region.y2 // high) * down)
        columns = slice(region.x1 // wide * across, -(-region.x2 // wide) * across)
        return rows, columns

    def cut(self, region: Region) -> "Blocks":
        """The blocks under a region (on the grid, clipped to the picture), as a JPEG of its own."""
        parts = [
            np.ascontiguousarray(component[self.window(index, region)])
            for index, component in enumerate(self.components)
        ]
        return replace(
            self, width=region.width, height=region.height, progressive=False, components=parts
        )

    def paste(self, part: "Blocks", region: Region) -> None:
        """Put blocks back where `cut` took them.

        Raises:
            ValueError: they are not of this picture.
        """
        if len(part.components) != len(self.components):
            raise ValueError("another number of components")
        for index, component in enumerate(self.components):
            target = component[self.window(index, region)]
            if target.shape != part.components[index].shape:
                raise ValueError("another number of blocks")
            target[...] = part.components[index]

    def fill(self, region: Region, noise: npt.NDArray[np.uint8]) -> None:
        """Replace every block under a region by one flat grey: its DC coefficient is the noise.

        Args:
            region: on the grid of `unit`, clipped to the picture.
            noise: at least `cells(region)` bytes.
        """
        for index, component in enumerate(self.components):
            blocks = component[self.window(index, region)]
            blocks[...] = 0
            if index == 0:
                count = blocks.shape[0] * blocks.shape[1]
                grey = noise[:count].reshape(blocks.shape[:2]).astype(np.float64) - 128
                step = float(self.tables[0][0, 0]) or 1.0
                level = np.rint(grey * BLOCK / step)
                blocks[:, :, 0, 0] = np.clip(level, -_LEVELS, _LEVELS - 1)

    def cells(self, region: Region) -> int:
        """How many bytes of noise `fill` takes."""
        rows, columns = self.window(0, region)
        return int((rows.stop - rows.start) * (columns.stop - columns.start))

    def write(self) -> bytes:
        """A JPEG file of exactly these coefficients, without metadata.

        Raises:
            NotLosslessError: the library refuses.
        """
        if len(self.components) == len(_NAMES):
            return _write_four(self)
        # Without `content` the source is not parsed a second time: a third of the cost. The
        # library for progressive files needs it.
        version = _PROGRESSIVE if self.progressive else _FAST
        return self._written(version, keep_content=self.progressive)

    def write_part(self) -> bytes:
        """The same of what `cut` gave; CMYK as two files, one of three components and one of K."""
        if len(self.components) < len(_NAMES):
            return self._written(_FAST, keep_content=False)
        return b"".join(self._only(indices) for indices in ((0, 1, 2), (3,)))

    def fits(self, part: "Blocks") -> bool:
        """Whether blocks can go back: same sampling and quantisers, so not encoded anew since."""
        same = len(part.tables) == len(self.tables) and all(
            np.array_equal(one, two) for one, two in zip(self.tables, part.tables, strict=True)
        )
        return same and bool(np.array_equal(self.factors, part.factors))

    def _written(self, version: str, *, keep_content: bool) -> bytes:
        jpeg = copy.copy(self._jpeg)
        if not keep_content:
            jpeg.content, jpeg.num_scans = None, 1
        jpeg.width, jpeg.height = self.width, self.height
        jpeg.block_dims = np.array([part.shape[:2] for part in self.components])
        for name, component in zip(_NAMES, self.components, strict=False):
            setattr(jpeg, name, component)
        flags = [] if version == _PROGRESSIVE else ["+OPTIMIZE_CODING"]
        with _library(version) as folder:
            path = folder / "out.jpg"
            try:
                jpeg.write_dct(str(path), flags=flags)
                return path.read_bytes()
            except OSError as error:
                raise NotLosslessError(f"its coefficients cannot be written: {error}") from None

    def _only(self, indices: tuple[int, ...]) -> bytes:
        """Some of the components as a file of their own."""
        import jpeglib

        factors = self.factors[list(indices)]
        if not np.array_equal(factors.max(axis=0), self.factors.max(axis=0)):
            raise NotLosslessError("its components are sampled in a rare way")
        jpeg = copy.copy(self._jpeg)
        space = jpeglib.JCS_YCbCr if len(indices) > 1 else jpeglib.JCS_GRAYSCALE
        jpeg.jpeg_color_space = space
        jpeg.samp_factor = factors if len(indices) > 1 else np.ones((1, 2), np.int32)
        jpeg.quant_tbl_no = np.arange(len(indices))
        jpeg.qt = np.stack([self.tables[index] for index in indices])
        jpeg.Cb = jpeg.Cr = jpeg.K = None
        width, height = self.width, self.height
        if len(indices) == 1:
            rows, columns = self.components[indices[0]].shape[:2]
            width, height = columns * BLOCK, rows * BLOCK
        part = replace(
            self,
            width=width,
            height=height,
            components=[self.components[index] for index in indices],
            factors=factors,
            _jpeg=jpeg,
        )
        return part._written(_FAST, keep_content=False)


def _write_four(blocks: Blocks) -> bytes:
    """CMYK: jpeglib 1.0.2 copies the fourth component from the source instead of writing it.

    So K is written first, under a frame header in which it is the first component; then the header
    is put right again, and the other three are written.
    """
    turned = _read(_with_first(blocks._jpeg.content, 3), _LENIENT)
    black = replace(turned, components=[blocks.components[3], *turned.components[1:]])
    back = _read(_with_first(black._written(_LENIENT, keep_content=True), 1), _LENIENT)
    whole = replace(back, components=blocks.components)._written(_LENIENT, keep_content=True)
    if not blocks.progressive:
        return whole
    return _read(whole)._written(_PROGRESSIVE, keep_content=True)


def _with_first(data: bytes, index: int) -> bytes:
    """A JPEG whose frame header names its components from another one on, in turn.

    The scans still name them by their ids, so nothing else changes.
    """
    at = _frame_at(data)
    entries = [data[at + 3 * k : at + 3 * k + 3] for k in range(len(_NAMES))]
    turned = entries[index:] + entries[:index]
    return b"".join((data[:at], *turned, data[at + 3 * len(entries) :]))


def _frame_at(data: bytes) -> int:
    """Offset of the components in the frame header."""
    for marker, _, payload, _ in jpeg_parts(data):
        if 0xC0 <= marker <= 0xCF and marker not in _TABLES_OF_FRAMES:
            return payload + 6
    raise _damaged()


def read_blocks(file: JpegFile) -> Blocks:
    """The coefficients of a JPEG file.

    Raises:
        NotLosslessError: arithmetic coding, 12 bits, lossless or hierarchical JPEG.
        BadInputError: it is damaged.
    """
    if file.frame not in (0xC0, 0xC1, 0xC2):
        raise NotLosslessError(f"it is JPEG of a rare kind (SOF{file.frame - 0xC0})")
    if file.precision != 8:
        raise NotLosslessError(f"it has {file.precision} bits a sample")
    if len(file.names) not in (1, 3, 4):
        raise NotLosslessError(f"it has {len(file.names)} components")
    colour = [segment.data for segment in file.metadata if segment.marker in _KEEP_FOR_COLOUR]
    return _read(b"".join((_START, *colour[:_COLOUR_SEGMENTS], file.body)))


def read_part(data: bytes) -> Blocks:
    """The coefficients of what `Blocks.write_part` made.

    Raises:
        BadInputError: it is no such thing.
        NotLosslessError: nor is it.
    """
    file = JpegFile.parse(data)
    part = read_blocks(file)
    if not file.trailer:
        return part
    black = read_blocks(JpegFile.parse(file.trailer))
    return replace(
        part,
        components=[*part.components, *black.components],
        tables=[*part.tables, *black.tables],
        # Of K alone the factors say nothing; `_only` made sure that the others have the largest.
        factors=np.concatenate((part.factors, part.factors.max(axis=0, keepdims=True))),
    )


def _read(data: bytes, version: str = _FAST) -> Blocks:
    import jpeglib

    with _library(version) as folder:
        path = folder / "in.jpg"
        path.write_bytes(data)
        try:
            jpeg = jpeglib.read_dct(str(path))
            jpeg.load()
        except (OSError, ValueError, IndexError):
            raise _damaged() from None
    count = int(jpeg.num_components)
    components = [getattr(jpeg, name) for name in _NAMES[:count]]
    factors = np.asarray(jpeg.samp_factor)[:count]
    # `content` would be parsed once more on writing, metadata and all.
    jpeg.markers = []
    tables = [np.asarray(jpeg.get_component_qt(index)) for index in range(count)]
    width, height = int(jpeg.width), int(jpeg.height)
    progressive = bool(jpeg.progressive_mode)
    return Blocks(width, height, progressive, components, factors, tables, jpeg)


@contextlib.contextmanager
def _library(version: str) -> Iterator[Path]:
    """One of jpeglib's libraries for us alone, and a private folder, in memory if there is such."""
    import jpeglib

    with _lock, tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        before = tempfile.tempdir
        tempfile.tempdir = folder  # jpeglib makes copies under that name
        try:
            if jpeglib.version.get() != version:
                jpeglib.version.set(version)
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def assemble(file: JpegFile, written: bytes, metadata: Sequence[Segment]) -> bytes:
    """A file with other coefficients and metadata, and with the component names of the source.

    Without a JFIF or Adobe segment these names tell a decoder what the colours are.

    Args:
        file: the source.
        written: what `Blocks.write` made of it.
        metadata: in order.
    """
    new = JpegFile.parse(written)
    body = bytearray(new.body)
    names = dict(zip(new.names, file.names, strict=True))
    for at in new.name_offsets:
        body[at] = names[body[at]]
    return b"".join((_START, *(segment.data for segment in metadata), bytes(body)))
