"""Video files: frames and packets out of one, covered frames and the same packets into another.

The picture is decoded and encoded again; sound and subtitles are copied packet by packet. Whatever
else could show a plate is left out and said: further pictures, cover art, data, attachments.
"""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.stream import Disposition

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.imaging.codec import MAX_PIXELS
from platecrypt.imaging.orientation import stored_region, upright, upright_size
from platecrypt.imaging.regions import Region

FORMATS: dict[str, tuple[str, str]] = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
"""What can be written: suffix to container and encoder. Not AVI: it keeps no frame times."""
QUALITY: dict[str, dict[str, str]] = {
    # CRF 20: a second generation that is hard to tell from the first; x264's own 23 softens
    # signs and faces at street distance. `veryfast` looks ahead 10 frames instead of 40 (memory)
    # and takes a third of the time of the default preset for files about a tenth larger.
    "libx264": {"crf": "20", "preset": "veryfast"},
    # CRF 31 is libvpx's recommendation for 1080p; a bit rate of 0 makes it constant quality.
    "libvpx-vp9": {"crf": "31", "b": "0", "cpu-used": "5", "row-mt": "1", "lag-in-frames": "16"},
}
CELL = 16
"""Side of one cell of cover noise, pixels: a macroblock, so a cell costs one DC coefficient."""

_READ = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi"}
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_AS_THEY_ARE = {"avoid_negative_ts": "disabled"}
# Encoder flag: the duration of a packet is that of its frame (the last one has no successor).
_FRAME_DURATION = 1 << 8
_FULL_RANGE = {"yuvj420p", "yuvj422p", "yuvj440p", "yuvj444p", "yuvj411p"}
_PLANAR = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray", "nv12"}
_NO_ROTATION = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
# a, b, c, d of the display matrix (x' = a x + c y, y' = b x + d y) to the EXIF orientation.
_TURNS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


@dataclass(eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        index: from 0.
        pts: presentation time in units of `Source.time_base`.
        picture: as decoded and stored.
        orientation: EXIF number of how a viewer shows it.
    """

    index: int
    pts: int
    picture: Any = field(repr=False)
    orientation: int
    _gray: Any = field(default=None, repr=False)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8, RGB, upright."""
        return upright(self.picture.to_ndarray(format="rgb24"), self.orientation)

    def brightness(self, region: Region) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 of a region of the upright picture."""
        if self._gray is None:
            known = self.picture.format.name in _PLANAR
            self._gray = self.picture if known else self.picture.reformat(format="gray")
        width, height = self._gray.width, self._gray.height
        x1, y1, x2, y2 = stored_region(region, width, height, self.orientation)
        return upright(_plane(self._gray, 0, width, height)[y1:y2, x1:x2], self.orientation)


class Source:
    """A video that is read once, from its first frame to its last.

    Attributes:
        path: of the file.
        width: of the upright picture, pixels.
        height: of the upright picture, pixels.
        orientation: EXIF number.
        time_base: seconds of one tick of `Frame.pts`.
        total: how many frames it should have, 0 where it does not say.
        notes: what is left out, or cannot be kept.
    """

    def __init__(self, path: Path) -> None:
        """Look at the file and decode its first frame.

        Raises:
            BadInputError: no such file, no video, no frame, too large, cut short or damaged.
        """
        self.path = path
        check_whole(path)
        self.notes: list[str] = []
        self._container, self._video = _open(path)
        try:
            self.first = self._peek()
            self._describe()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def video(self) -> Any:
        """The stream of pictures that is protected."""
        return self._video

    @property
    def container(self) -> Any:
        """The file as PyAV sees it."""
        return self._container

    def copied(self) -> list[Any]:
        """The streams whose packets can be copied: sound and subtitles."""
        return [s for s in self._container.streams if s.type in ("audio", "subtitle")]

    def items(self, copied: list[Any]) -> Iterator[Any]:
        """Each `Frame`, and each packet of the streams in `copied`, as they come.

        Raises:
            BadInputError: damaged, or the picture changes its size or kind on the way.
        """
        index, last = 0, None
        try:
            for packet in self._container.demux([self._video, *copied]):
                if packet.stream is not self._video:
                    if packet.size:
                        yield packet
                    continue
                for picture in packet.decode():
                    self._check_same(picture, index)
                    last = self._time_of(picture, last)
                    yield Frame(index, last, picture, self.orientation)
                    index += 1
        except FFmpegError as error:
            raise BadInputError(
                f"{self.path} is damaged after frame {index} ({error.strerror}); repair it or "
                "fetch it again"
            ) from None
        if not index:
            raise BadInputError(f"{self.path} has no frame that can be decoded")

    def _peek(self) -> Any:
        """The first picture, from a container of its own."""
        container, video = _open(self.path)
        with container:
            try:
                picture = next(container.decode(video), None)
            except FFmpegError as error:
                raise BadInputError(f"{self.path} cannot be decoded: {error.strerror}") from None
        if picture is None:
            raise BadInputError(f"{self.path} has no frame that can be decoded")
        _check_size(self.path, picture.width, picture.height)
        return picture

    def _describe(self) -> None:
        video, picture = self._video, self.first
        self.matrix = _matrix(picture)
        self.orientation, known = _orientation(self.matrix)
        if not known:
            self.notes.append("the picture is turned by an odd angle: it is worked on as stored")
        size = picture.width, picture.height, self.orientation
        self.width, self.height = upright_size(*size)
        self.time_base: Fraction = video.time_base
        self.rate: Fraction = video.average_rate or video.guessed_rate or Fraction(25)
        seconds = float(video.duration * video.time_base) if video.duration else 0.0
        if not seconds and self._container.duration:
            seconds = self._container.duration / 1e6
        self.total = video.frames or max(0, round(seconds * self.rate))
        if picture.interlaced_frame:
            self.notes.append("interlaced pictures were written as whole frames")
        for stream in self._container.streams:
            if stream is not video and stream.type not in ("audio", "subtitle"):
                self.notes.append(f"left out, it may show a plate: {_name(stream)}")

    def _check_same(self, picture: Any, index: int) -> None:
        # Not `side_data`: a frame and its side data hold each other until the next collection.
        was, now = (
            f"{p.width} x {p.height} {p.format.name}, turned by {p.rotation} degrees"
            for p in (self.first, picture)
        )
        if now != was:
            raise BadInputError(
                f"{self.path}: the picture changes from {was} to {now} at frame {index}; split "
                "the video there"
            )

    def _time_of(self, picture: Any, last: int | None) -> int:
        """Its time; a frame without one, or not after its predecessor, is put a tick after it."""
        ticks = picture.pts if picture.pts is not None else picture.dts
        least = None if last is None else last + 1
        if ticks is not None and (least is None or ticks >= least):
            return int(ticks)
        note = "some frames had no time of their own: they follow their predecessor"
        if last is not None and note not in self.notes:
            self.notes.append(note)
        if least is None:
            return 0
        step = Fraction(1) / (self.rate * self.time_base)
        return least if ticks is not None else least - 1 + max(1, round(step))


class Sink:
    """The published video while it is written."""

    def __init__(self, path: Path, suffix: str, source: Source, *, strip_metadata: bool) -> None:
        """Open `path`, whatever it is called, for a video as `suffix` says.

        Raises:
            BadInputError: the container cannot hold the sound.
            UnavailableError: it cannot be written.
        """
        form, encoder = FORMATS[suffix]
        self.notes: list[str] = []
        self._source, self._path, self._frames, self._packets = source, path, 0, 0
        # Sound often begins a little before 0; Matroska would move everything for its sake.
        options = {"movflags": "faststart"} if form in ("mp4", "mov") else _AS_THEY_ARE
        with self._writing():
            self._container = av.open(str(path), "w", format=form, container_options=dict(options))
        try:
            self._video = self._add_video(encoder)
            self._copies = self._add_copies(suffix, strip_metadata)
            if not strip_metadata:
                self._container.metadata.update(source.container.metadata)
                self._container.set_chapters(source.container.chapters())
        except BaseException:
            self.abandon()
            raise

    @property
    def copied(self) -> list[Any]:
        """The source's streams whose packets `copy` takes."""
        return [stream for stream, _ in self._copies.values()]

    def write(self, frame: Frame, regions: list[Region], noise: npt.NDArray[np.uint8]) -> None:
        """Encode one frame with every region covered. The frame's own pixels may be overwritten.

        Args:
            frame: frames come in the order of time.
            regions: of the upright picture, within it, even at all sides.
            noise: see `paint`.

        Raises:
            UnavailableError: the disk is full, or the encoder fails.
        """
        picture = frame.picture
        if picture.format.name != self._video.pix_fmt:
            picture = picture.reformat(format=self._video.pix_fmt)
        picture.make_writable()
        size = picture.width, picture.height
        stored = [stored_region(region, *size, frame.orientation) for region in regions]
        paint(picture, stored, noise)
        picture.pts, picture.time_base = frame.pts, self._source.time_base
        picture.duration = frame.picture.duration
        picture.pict_type = 0  # the encoder chooses where its own key frames go
        with self._writing():
            self._mux(self._video.encode(picture))
        self._frames += 1

    def copy(self, packet: Any) -> None:
        """Write one packet of sound or subtitles as it is."""
        packet.stream = self._copies[packet.stream.index][1]
        with self._writing():
            self._container.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds, and the end of the file.

        Raises:
            UnavailableError: the disk is full, or frames got lost.
        """
        with self._writing():
            self._mux(self._video.encode(None))
            self._container.close()
        if self._packets != self._frames:
            raise UnavailableError(
                f"{self._frames} frames went in but {self._packets} came out of the encoder"
            )

    def abandon(self) -> None:
        """Close the file; what is in it is of no use."""
        with contextlib.suppress(Exception):
            self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        self._packets += len(packets)
        self._container.mux(packets)

    def _add_video(self, encoder: str) -> Any:
        source, first = self._source, self._source.first
        shape, options = _pixel_format(first, encoder), QUALITY[encoder]
        if shape != first.format.name:
            self.notes.append(f"the picture was converted from {first.format.name} to {shape}")
        stream: Any = self._container.add_stream(
            encoder,
            rate=source.rate,
            options=dict(options),
            width=first.width,
            height=first.height,
            pix_fmt=shape,
            time_base=source.time_base,
        )
        ctx, was = stream.codec_context, source.video.codec_context
        ctx.flags |= _FRAME_DURATION
        for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
            setattr(ctx, name, getattr(was, name))
        if was.sample_aspect_ratio:
            ctx.sample_aspect_ratio = was.sample_aspect_ratio
        if source.matrix != _NO_ROTATION:
            stream.set_display_matrix(source.matrix)
        stream.metadata.update(_language(source.video))
        return stream

    def _add_copies(self, suffix: str, strip: bool) -> dict[int, tuple[Any, Any]]:
        copies: dict[int, tuple[Any, Any]] = {}
        for stream in self._source.copied():
            if stream.type == "subtitle" and strip:
                self.notes.append(f"left out, it may tell the place: {_name(stream)}")
                continue
            try:
                made = self._container.add_stream_from_template(stream)
            except (ValueError, FFmpegError):
                if stream.type == "audio":
                    raise BadInputError(
                        f"{suffix} cannot hold the sound of {self._source.path} "
                        f"({_name(stream)}); write .mkv"
                    ) from None
                self.notes.append(f"left out, {suffix} cannot hold it: {_name(stream)}")
                continue
            made.metadata.update(_language(stream) if strip else stream.metadata)
            made.disposition = stream.disposition
            copies[stream.index] = stream, made
        return copies

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FFmpegError) as error:
            raise UnavailableError(
                f"{self._path.parent} cannot be written: {error.strerror}"
            ) from None


def paint(picture: Any, regions: list[Region], noise: npt.NDArray[np.uint8]) -> None:
    """Cover regions of a stored YUV picture with grey cells.

    Args:
        picture: 4:2:0 or 4:4:4, 8 bit, writable.
        regions: of the stored picture, within it.
        noise: (rows, columns) uint8, one value for each cell of the whole picture.
    """
    width, height = picture.width, picture.height
    luma, *chroma = (
        _plane(picture, index, plane.width, plane.height)
        for index, plane in enumerate(picture.planes)
    )
    for x1, y1, x2, y2 in regions:
        cells = noise[np.arange(y1, y2) // CELL][:, np.arange(x1, x2) // CELL]
        luma[y1:y2, x1:x2] = cells
        for plane in chroma:
            across, down = -(-width // plane.shape[1]), -(-height // plane.shape[0])
            plane[y1 // down : -(-y2 // down), x1 // across : -(-x2 // across)] = 128


def check_whole(path: Path) -> None:
    """Refuse a file that ends before its own outermost lengths say.

    Raises:
        BadInputError: no such file, or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            end = _announced(file, size)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    if not size:
        raise BadInputError(f"{path} is empty (0 bytes)")
    if end > size:
        raise BadInputError(
            f"{path} is cut short: it has {size} bytes and should have {end}; fetch it again"
        )


def _announced(file: BinaryIO, size: int) -> int:
    """Where the file says that it ends; 0 where it does not say."""
    head = file.read(12)
    if head[:4] == b"RIFF" and len(head) == 12:
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\x1aE\xdf\xa3":
        return _matroska_end(file)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _boxes_end(file, size)
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """The end of the last box of an MP4 or QuickTime file (ISO 14496-12, 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        # To the end of the file, or something that cameras append behind the last box.
        if length < 8 or not kind.replace(b"\xa9", b"").isalnum():
            return at
        at += length
    return at


def _matroska_end(file: BinaryIO) -> int:
    """The end of the first segment of a Matroska or WebM file (RFC 8794)."""
    file.seek(4)
    head = _vint(file)
    file.seek(head or 0, 1)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    segment = _vint(file)
    return 0 if segment is None else file.tell() + segment


def _vint(file: BinaryIO) -> int | None:
    """A length; None where it is unknown (a recording that was never closed properly)."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value


def _open(path: Path) -> tuple[Any, Any]:
    """The container and its stream of pictures, ready to be decoded."""
    try:
        container = av.open(
            str(path.resolve()), container_options=dict(_READ), options=dict(_LIMITS)
        )
    except FFmpegError as error:
        raise BadInputError(
            f"{path} is no MP4, MOV, Matroska, WebM or AVI video, or it is damaged "
            f"({error.strerror})"
        ) from None
    try:
        video = _pictures(path, container)
        _check_size(path, video.codec_context.width, video.codec_context.height)
        video.codec_context.options = dict(_LIMITS)
        video.thread_type = "AUTO"
    except BaseException:
        container.close()
        raise
    return container, video


def _pictures(path: Path, container: Any) -> Any:
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & still]
    best = container.streams.best("video")
    chosen = best if best in streams else next(iter(streams), None)
    if chosen is None:
        raise BadInputError(f"{path} has no pictures, sound only; nothing to protect")
    if chosen.codec_context is None:
        raise BadInputError(f"{path}: there is no decoder for its pictures")
    return chosen


def _check_size(path: Path, width: int, height: int) -> None:
    if width < 2 or height < 2 or width * height > MAX_PIXELS:
        raise BadInputError(
            f"{path} is {width} x {height} pixels; 2 x 2 to {MAX_PIXELS} pixels are allowed"
        )


def _matrix(picture: Any) -> tuple[int, ...]:
    for data in picture.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(bytes(data), np.int32)[:9].tolist())
    return _NO_ROTATION


def _orientation(matrix: tuple[int, ...]) -> tuple[int, bool]:
    """The EXIF number of a display matrix, and whether it has one."""
    a, b, _, c, d = matrix[:5]
    largest = max(abs(a), abs(b), abs(c), abs(d), 1)
    turn = tuple(round(value / largest) for value in (a, b, c, d))
    exact = all(abs(value) in (0, largest) for value in (a, b, c, d))
    if exact and turn in _TURNS:
        return _TURNS[turn], True
    return 1, False


def _pixel_format(picture: Any, encoder: str) -> str:
    """8 bit 4:2:0 plays everywhere; an odd size needs 4:4:4, or a row of it would be lost."""
    if picture.width % 2 or picture.height % 2:
        return "yuv444p"
    full = picture.format.name in _FULL_RANGE and encoder == "libx264"
    return "yuvj420p" if full else "yuv420p"


def _plane(picture: Any, index: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A view of one plane, (H, W) uint8, without its padding."""
    plane = picture.planes[index]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[:height, :width]


def _language(stream: Any) -> dict[str, str]:
    return {"language": stream.language} if stream.language else {}


def _name(stream: Any) -> str:
    codec = stream.codec_context.name if stream.codec_context else "unknown kind"
    return f"stream {stream.index} ({stream.type}, {codec})"
