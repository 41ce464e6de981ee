"""Brings a dataset into the object store: everything is checked first, the manifest is last.

Images are content-addressed, so importing the same bytes twice stores nothing twice, and an
import that is cut short leaves at most objects that nothing refers to.
"""

import functools
import hashlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from platecrypt.datasets import splits
from platecrypt.datasets.forms import read_samples
from platecrypt.datasets.labels import UNKNOWN_CAMERA, LabelError, Problem, Sample
from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate, manifest_key
from platecrypt.datasets.sources import Objects, Spool, open_files, open_spool
from platecrypt.datasets.synthetic import SCHEME, parse_uri, samples
from platecrypt.errors import BadInputError, PlatecryptError
from platecrypt.storage.objects import ObjectStore

MAX_PIXELS = 80_000_000
WORKERS = 4
SHOWN_PROBLEMS = 3
# Pillow's name of a format -> the suffix of the stored object. Phones write several pictures into
# one JPEG (MPO); readers see the first.
FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "bmp": "image/bmp"}
# EXIF 2.3 tag numbers.
EXIF_IFD, EXIF_ORIENTATION = 0x8769, 0x0112
EXIF_TIME, EXIF_OFFSET, EXIF_SERIAL = 0x9003, 0x9011, 0xA431

# Pillow warns near our own bound, which refuses with a message of its own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class RefusedDatasetError(BadInputError):
    """Files of a source cannot be used; `problems` names every one of them."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = "; ".join(map(str, self.problems[:SHOWN_PROBLEMS]))
        more = len(self.problems) - SHOWN_PROBLEMS
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        tail = f"; and {more} more" if more > 0 else ""
        super().__init__(f"{source} has {count}, nothing was imported: {first}{tail}")


@dataclass(frozen=True)
class ImageFacts:
    """What the bytes of one image say.

    Attributes:
        suffix: "jpg", "png", "webp" or "bmp", from the content.
        width, height: pixels as stored.
        camera: "exif-" and a hash of the maker's serial number, or "unknown".
        time: RFC 3339 UTC, or None.
    """

    suffix: str
    width: int
    height: int
    camera: str
    time: str | None


@dataclass(frozen=True)
class _Checked:
    sample: Sample
    image_id: str
    md5: str
    size: int
    facts: ImageFacts
    plates: tuple[Plate, ...]

    @property
    def key(self) -> str:
        return f"images/{self.image_id[:2]}/{self.image_id}.{self.facts.suffix}"

    @property
    def camera(self) -> str:
        known = self.sample.camera != UNKNOWN_CAMERA
        return self.sample.camera if known else self.facts.camera


def import_dataset(
    store: Objects,
    source: str,
    *,
    progress: Progress | None = None,
    limit: int = 0,
    bucket: Callable[[str], Objects] | None = None,
) -> Manifest:
    """Check a dataset, store its images and, when all are there, its manifest.

    Args:
        store: the object store that receives it.
        source: a folder, a .zip, `s3://bucket/prefix` or `synthetic://?images=N&seed=S`.
        progress: called with (done, total); every image counts twice, checked and stored.
        limit: 0 for all images, else that many, spread over the rides.
        bucket: opens the bucket of an `s3://` source; default: the same S3 as `store`.

    Raises:
        BadInputError: the source cannot be used (RefusedDatasetError names the files).
        UnavailableError: a store does not answer.
        PlatecryptError: the disk failed or is full. In no case is a manifest left behind.
    """
    if limit < 0:
        raise BadInputError(f"limit is {limit}; give 0 for all images or how many to take")
    try:
        return _import(store, source, progress, limit, bucket or _same_s3(store))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise PlatecryptError(
            f"importing {source} failed: {error.strerror or error}{where}; nothing was registered"
        ) from error


def _import(
    store: Objects,
    source: str,
    progress: Progress | None,
    limit: int,
    bucket: Callable[[str], Objects],
) -> Manifest:
    with open_spool() as spool:
        if source.startswith(SCHEME):
            form = "synthetic"
            found, problems = _generated(source, spool), list[Problem]()
            return _take(store, source, form, found, problems, progress, limit)
        with open_files(source, bucket, spool) as files:
            try:
                form, found, problems = read_samples(files)
            except BadInputError as error:
                raise BadInputError(f"{source}: {error}") from None
            return _take(store, source, form, found, problems, progress, limit)


def _generated(source: str, spool: Spool) -> list[Sample]:
    return samples(parse_uri(source), spool.keep)


def _take(
    store: Objects,
    source: str,
    form: str,
    found: Sequence[Sample],
    problems: Sequence[Problem],
    progress: Progress | None,
    limit: int,
) -> Manifest:
    named = sorted(found, key=lambda sample: sample.name)
    rides = [sample.ride or splits.ride_and_frame(sample.name)[0] for sample in named]
    picked = [named[index] for index in splits.spread(rides, limit)]
    tell = progress or (lambda done, total: None)
    total = 2 * len(picked)
    checked: list[_Checked] = []
    bad = list(problems)
    for done, result in enumerate(parallel(_check, picked), 1):
        (bad if isinstance(result, Problem) else checked).append(result)  # type: ignore[arg-type]
        tell(done, total)
    if bad:
        raise RefusedDatasetError(source, sorted(bad, key=lambda problem: problem.name))
    unique = _without_duplicates(checked)
    if not unique:
        raise BadInputError(f"{source} holds no labelled image")
    manifest = _manifest(form, unique)
    # An entity tag that is no MD5 (encryption, parts) proves nothing: such an object is put again.
    stored = {info.key: (info.size, info.etag) for info in store.list("images/")}
    missing = [item for item in unique if stored.get(item.key) != (item.size, item.md5)]
    tell(total - len(missing), total)
    for done, _ in enumerate(parallel(functools.partial(_upload, store), missing), 1):
        tell(total - len(missing) + done, total)
    store.put(manifest_key(manifest.digest), manifest.to_bytes(), "application/jsonl")
    return manifest


def inspect_image(data: bytes) -> ImageFacts:
    """Decode an image file to its last byte and say what it is.

    Raises:
        LabelError: it is empty, no JPEG/PNG/WebP/BMP, damaged, too large, or rotated by EXIF.
    """
    if not data:
        raise LabelError("is a file of 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise LabelError(f"has {width}x{height} pixels, more than {MAX_PIXELS}")
            exif = image.getexif()
            orientation, details = exif.get(EXIF_ORIENTATION, 1), exif.get_ifd(EXIF_IFD)
            image.load()
            suffix = FORMATS[str(image.format)]
    except LabelError:
        raise
    except UnidentifiedImageError:
        raise LabelError("is no JPEG, PNG, WebP or BMP image") from None
    except Image.DecompressionBombError:
        raise LabelError(f"has more than {MAX_PIXELS} pixels") from None
    except (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise LabelError(f"is truncated or damaged ({error})") from None
    if orientation not in (0, 1):
        raise LabelError(
            f"is rotated by EXIF (orientation {orientation}), so its labels could mean either way "
            "up; write the rotation into the pixels first"
        )
    return ImageFacts(suffix, width, height, _camera(details.get(EXIF_SERIAL)), _time(details))


def _camera(serial: object) -> str:
    text = serial.strip("\0 ") if isinstance(serial, str) else ""
    # The number itself could lead to its owner.
    return f"exif-{hashlib.sha256(text.encode()).hexdigest()[:12]}" if text else UNKNOWN_CAMERA


def _time(details: dict[int, object]) -> str | None:
    """EXIF's time as UTC; a camera that does not tell its zone is taken to run on UTC."""
    text, offset = str(details.get(EXIF_TIME, "")), str(details.get(EXIF_OFFSET, ""))
    zone = offset if re.fullmatch(r"[+-]\d\d:\d\d", offset) else "+00:00"
    try:
        taken = datetime.strptime(text.strip("\0 ") + zone, "%Y:%m:%d %H:%M:%S%z")
    except ValueError:
        return None
    return taken.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check(sample: Sample) -> _Checked | Problem:
    try:
        data = sample.read()
        facts = inspect_image(data)
        plates = sample.plates(facts.width, facts.height)
    except LabelError as error:
        return Problem(sample.name, str(error))
    digest, md5 = hashlib.sha256(data), hashlib.md5(data, usedforsecurity=False)
    return _Checked(sample, digest.hexdigest(), md5.hexdigest(), len(data), facts, plates)


def _upload(store: Objects, item: _Checked) -> None:
    data = item.sample.read()
    if hashlib.sha256(data).hexdigest() != item.image_id:
        raise BadInputError(f"{item.sample.name} changed while it was imported; import again")
    store.put(item.key, data, CONTENT_TYPES[item.facts.suffix])


def parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results in order, a few at a time, so that no more than those few lie in memory."""
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            queue = iter(items)
            running = [pool.submit(work, item) for item in islice(queue, 2 * WORKERS)]
            while running:
                yield running.pop(0).result()
                running += [pool.submit(work, item) for item in islice(queue, 1)]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _without_duplicates(checked: Sequence[_Checked]) -> list[_Checked]:
    """Each picture once. Where copies bear different labels, none of them can be believed."""
    copies: dict[str, list[_Checked]] = {}
    for item in checked:
        copies.setdefault(item.image_id, []).append(item)
    kept: list[_Checked] = []
    for items in copies.values():
        names = ", ".join(str(Problem(item.sample.name, "")).rstrip(": ") for item in items)
        if any(item.plates != items[0].plates for item in items):
            log.warning("left out: %s are the same picture with different labels", names)
            continue
        if len(items) > 1:
            log.info("%s are the same picture, which counts once", names)
        kept.append(items[0])
    return kept


def _manifest(form: str, checked: Sequence[_Checked]) -> Manifest:
    items = [
        splits.Item(item.sample.name, item.sample.ride, item.camera, item.sample.given)
        for item in checked
    ]
    division = splits.divide(items)
    if division.note:
        log.warning("%s", division.note)
    records = (
        ImageRecord(
            image_id=item.image_id,
            key=item.key,
            name=item.sample.name,
            size=item.size,
            width=item.facts.width,
            height=item.facts.height,
            plates=item.plates,
            camera=item.camera,
            group=group,
            time=item.sample.time or item.facts.time,
            split=split,
        )
        for item, group, split in zip(checked, division.groups, division.splits, strict=True)
    )
    images = tuple(sorted(records, key=lambda record: record.image_id))
    return Manifest(images, form=form, grouping=division.grouping)


def _same_s3(store: Objects) -> Callable[[str], Objects]:
    def open_bucket(name: str) -> Objects:
        if not isinstance(store, ObjectStore):
            raise BadInputError(f"s3://{name}: this store has no other buckets")
        return ObjectStore(store.config._replace(bucket=name))

    return open_bucket
