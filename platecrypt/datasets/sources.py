"""Where a dataset is read from: a folder, a zip, an S3 prefix. Bounded, and closed to tricks."""

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from platecrypt.datasets.labels import LabelError
from platecrypt.errors import BadInputError
from platecrypt.storage.objects import ObjectInfo

MAX_FILES = 1_000_000
MAX_FILE_BYTES = 256 << 20
MAX_ZIP_BYTES = 64 << 30
# Pictures hardly shrink and label files shrink by 10 to 30; a deflate bomb reaches 1000.
MAX_ZIP_RATIO = 200
RATIO_FROM_BYTES = 1 << 20


class Objects(Protocol):
    """The part of `storage.ObjectStore` that datasets need."""

    def put(self, key: str, data: bytes, content_type: str = ...) -> None:
        """Store bytes."""

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object below a prefix."""
        ...


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: path inside the source, forward slashes, never absolute, never with '..'.
        size: bytes, as the source states it.
        read: gives the bytes; may be called more than once and from several threads.
    """

    name: str
    size: int
    read: Callable[[], bytes]

    def text(self, limit: int) -> str:
        """The content of a label file.

        Raises:
            LabelError: it is longer than `limit` bytes, or not UTF-8.
        """
        if self.size > limit:
            raise LabelError(f"label file of {self.size} bytes; {limit} is the most that is read")
        try:
            return self.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LabelError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from None


class Spool:
    """Keeps what is costly to fetch twice (from S3, from the generator) in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, produce: Callable[[], bytes]) -> Callable[[], bytes]:
        """A reader that calls `produce` the first time and reads the kept bytes after that."""
        path = self._folder / hashlib.sha256(name.encode()).hexdigest()

        def read() -> bytes:
            if path.exists():
                return path.read_bytes()
            data = produce()
            partial = path.with_suffix(".part")
            partial.write_bytes(data)
            partial.replace(path)
            return data

        return read


@contextlib.contextmanager
def open_spool() -> Iterator[Spool]:
    """A spool that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="platecrypt-import-") as folder:
        yield Spool(Path(folder))


@contextlib.contextmanager
def open_files(
    source: str, bucket: Callable[[str], Objects], spool: Spool
) -> Iterator[list[SourceFile]]:
    """The files of a folder, a zip or an `s3://bucket/prefix`, sorted by name.

    Raises:
        BadInputError: there is no such source, it is empty, or a zip is not to be trusted.
    """
    if source.startswith("s3://"):
        files = _s3_files(source, bucket, spool)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        raise BadInputError(
            f"{source}: unknown scheme; a dataset is a folder, a .zip, s3://bucket/prefix or "
            "synthetic://?images=N&seed=S"
        )
    elif Path(source).is_dir():
        files = _folder_files(Path(source))
    elif Path(source).is_file():
        with _open_zip(Path(source)) as archive:
            yield _sorted(_zip_files(archive, source), source)
        return
    else:
        raise BadInputError(f"{source}: no such folder or file (seen from {Path.cwd().name}/)")
    yield _sorted(files, source)


def _sorted(files: list[SourceFile], source: str) -> list[SourceFile]:
    kept = [file for file in files if not _is_clutter(file.name)]
    if not kept:
        raise BadInputError(f"{source} is empty: a dataset needs images and their labels")
    if len(kept) > MAX_FILES:
        raise BadInputError(f"{source} has {len(kept)} files; {MAX_FILES} is the most that is read")
    return sorted(kept, key=lambda file: file.name)


def _is_clutter(name: str) -> bool:
    """What operating systems leave behind: hidden files, macOS resource forks, thumbnails."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return hidden or parts[-1].lower() == "thumbs.db"


def _folder_files(root: Path) -> list[SourceFile]:
    files: list[SourceFile] = []
    visited: set[Path] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        # A link back up would walk in circles.
        real = Path(folder).resolve()
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for name in names:
            path = Path(folder) / name
            if path.is_file():
                size = path.stat().st_size
                relative = path.relative_to(root).as_posix()
                files.append(SourceFile(relative, size, _file_reader(path)))
    return files


def _file_reader(path: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            return _bounded(file.read(MAX_FILE_BYTES + 1))

    return read


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise LabelError(f"is longer than {MAX_FILE_BYTES} bytes")
    return data


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInputError(f"{path} is neither a folder nor a readable zip ({error})") from None


def _zip_files(archive: zipfile.ZipFile, source: str) -> list[SourceFile]:
    entries = [info for info in archive.infolist() if not info.is_dir()]
    total = sum(info.file_size for info in entries)
    if len(entries) > MAX_FILES or total > MAX_ZIP_BYTES:
        raise BadInputError(
            f"{source} unpacks to {len(entries)} files of {total} bytes; at most {MAX_FILES} files "
            f"of {MAX_ZIP_BYTES} bytes are read from a zip (a folder has no such bound)"
        )
    seen: set[str] = set()
    for info in entries:
        reason = _zip_problem(info, seen)
        if reason:
            raise BadInputError(f"{source}: entry {info.filename!r} {reason}; nothing was read")
        seen.add(info.filename)
    return [
        SourceFile(info.filename, info.file_size, _zip_reader(archive, info)) for info in entries
    ]


def _zip_problem(info: zipfile.ZipInfo, seen: set[str]) -> str:
    name = info.filename
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in path.parts:
        return "climbs out of the archive"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a special file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if name in seen:
        return "occurs twice"
    if info.file_size > MAX_FILE_BYTES:
        return f"unpacks to {info.file_size} bytes, more than {MAX_FILE_BYTES}"
    if info.file_size > max(RATIO_FROM_BYTES, MAX_ZIP_RATIO * info.compress_size):
        return f"unpacks to {info.file_size} bytes from {info.compress_size}: a zip bomb"
    return ""


def _zip_reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with archive.open(info) as file:
                # The stated size was bounded above; a lie about it must not unpack more.
                return _bounded(file.read(info.file_size + 1))
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
            raise LabelError(f"cannot be unpacked ({error})") from None

    return read


def _s3_files(source: str, bucket: Callable[[str], Objects], spool: Spool) -> list[SourceFile]:
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", source)
    if found is None:
        raise BadInputError(f"{source!r} is not of the form s3://bucket/prefix")
    objects = bucket(found.group(1))
    prefix = (found.group(2) or "").strip("/")
    prefix = prefix + "/" if prefix else ""
    files: list[SourceFile] = []
    for info in objects.list(prefix):
        name = info.key[len(prefix) :]
        path = PurePosixPath(name)
        if not name or name.endswith("/"):
            continue
        if path.is_absolute() or ".." in path.parts:
            raise BadInputError(f"{source}: object {info.key!r} has a path that climbs out")
        files.append(SourceFile(name, info.size, spool.keep(name, _s3_reader(objects, info))))
    return files


def _s3_reader(objects: Objects, info: ObjectInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        if info.size > MAX_FILE_BYTES:
            raise LabelError(f"is longer than {MAX_FILE_BYTES} bytes")
        return objects.get(info.key)

    return read
