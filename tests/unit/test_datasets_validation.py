"""Validation refuses what poisons training, names the images, and shows them on one page."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from PIL import Image

from platecrypt.datasets.importing import import_dataset
from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate
from platecrypt.datasets.validation import difference_hash, validate
from platecrypt.datasets.validation_report import ValidationReport
from platecrypt.errors import UnavailableError
from platecrypt.storage.objects import MissingObjectError, ObjectInfo


class MemoryStore:
    """A bucket in memory: put, get and list as an S3 has them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.objects[key] = data

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        if key not in self.objects:
            raise MissingObjectError(f"s3://memory/{key} does not exist")
        return self.objects[key][start : None if length is None else start + length]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(
                    key, len(self.objects[key]), hashlib.md5(self.objects[key]).hexdigest()
                )


@pytest.fixture(scope="module")
def imported() -> tuple[MemoryStore, Manifest]:
    store = MemoryStore()
    return store, import_dataset(store, "synthetic://?images=64&seed=3&size=160x160")


@pytest.fixture
def store(imported: tuple[MemoryStore, Manifest]) -> MemoryStore:
    copy = MemoryStore()
    copy.objects = dict(imported[0].objects)
    return copy


@pytest.fixture
def manifest(imported: tuple[MemoryStore, Manifest]) -> Manifest:
    return imported[1]


def with_image(manifest: Manifest, index: int, **changes: object) -> Manifest:
    images = list(manifest.images)
    images[index] = replace(images[index], **changes)  # type: ignore[arg-type]
    return replace(manifest, images=tuple(images))


def checks(report: ValidationReport) -> set[str]:
    return {finding.check for finding in report.problems}


def first(manifest: Manifest, side: str) -> tuple[int, ImageRecord]:
    """The first image of a split that shows a plate, and its index."""
    return next((n, i) for n, i in enumerate(manifest.images) if i.split == side and i.plates)


def added(
    store: MemoryStore, manifest: Manifest, data: bytes, like: ImageRecord, **changes: object
) -> Manifest:
    """The dataset with one more image, stored and recorded like another."""
    digest = hashlib.sha256(data).hexdigest()
    record = replace(
        like, image_id=digest, key=f"images/{digest}.jpg", name="added.jpg", size=len(data),
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip
    store.put(record.key, data)
    return replace(manifest, images=(*manifest.images, record))


def test_a_sound_dataset_passes_without_a_word(store: MemoryStore, manifest: Manifest) -> None:
    told: list[tuple[int, int]] = []
    report = validate(store, manifest, progress=lambda *now: told.append(now))
    assert report.ok
    assert report.problems == ()
    assert report.digest == manifest.digest
    assert told[-1] == (64, 64)


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda data: data[:-400], "digest"),
        (lambda data: b"", "digest"),
        (lambda data: data + b"\0", "digest"),
        (None, "missing"),
    ],
)
def test_stored_bytes_that_are_not_the_manifests_are_refused(
    store: MemoryStore, manifest: Manifest, spoil: object, check: str
) -> None:
    image = manifest.images[5]
    if callable(spoil):
        store.objects[image.key] = spoil(store.objects[image.key])
    else:
        del store.objects[image.key]
    report = validate(store, manifest)
    (found,) = report.problems
    assert (found.check, found.images) == (check, (image.name,))


def test_an_unreadable_image_is_refused_though_its_digest_is_right(
    store: MemoryStore, manifest: Manifest
) -> None:
    image = manifest.images[0]
    spoiled = added(store, manifest, store.objects[image.key][:-400], image)
    report = validate(store, spoiled)
    assert checks(report) == {"unreadable"}
    assert report.problems[0].images == ("added.jpg",)


@pytest.mark.parametrize(
    "box",
    [
        (10, 10, 10, 20),
        (30, 10, 20, 20),
        (150, 10, 190, 20),
        (-9, 1, 5, 5),
        (float("nan"), 1, 5, 5),
    ],
)
def test_a_box_that_cannot_be_is_refused(
    store: MemoryStore, manifest: Manifest, box: tuple[float, float, float, float]
) -> None:
    report = validate(store, with_image(manifest, 3, plates=(Plate(box),)))
    (found,) = report.problems
    assert (found.check, found.images) == ("label", (manifest.images[3].name,))
    report.to_html()
    json.loads(report.to_json())


def test_a_manifest_that_has_the_size_wrong_is_refused(
    store: MemoryStore, manifest: Manifest
) -> None:
    report = validate(store, with_image(manifest, 3, width=170))
    assert checks(report) == {"size"}


def test_the_same_picture_on_two_sides_is_refused_though_its_bytes_differ(
    store: MemoryStore, manifest: Manifest
) -> None:
    _, image = first(manifest, "train")
    out = io.BytesIO()
    # Decodes to the same pixels as the JPEG does, without its bytes.
    pixels = cv2.imdecode(np.frombuffer(store.objects[image.key], np.uint8), cv2.IMREAD_COLOR)
    Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)).save(out, "PNG")
    twin = {"group": "another", "camera": "another"}
    report = validate(store, added(store, manifest, out.getvalue(), image, split="test", **twin))
    assert checks(report) == {"duplicate"}
    assert set(report.problems[0].images) == {image.name, "added.jpg"}
    same_side = added(store, manifest, out.getvalue(), image, split="train", **twin)
    assert validate(store, same_side).ok


def test_a_picture_that_looks_like_one_of_another_side_is_a_warning(
    store: MemoryStore, manifest: Manifest
) -> None:
    _, image = first(manifest, "train")
    pixels = cv2.imdecode(np.frombuffer(store.objects[image.key], np.uint8), cv2.IMREAD_COLOR)
    _, again = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 97])
    twin = {"group": "another", "camera": "another", "split": "val"}
    report = validate(store, added(store, manifest, again.tobytes(), image, **twin))
    assert report.ok
    near = next(warning for warning in report.warnings if warning.check == "near duplicate")
    assert set(near.images) == {image.name, "added.jpg"}


def test_an_empty_split_and_one_without_plates_are_refused(
    store: MemoryStore, manifest: Manifest
) -> None:
    images = tuple(
        replace(image, split="train") if image.split == "val" else image
        for image in manifest.images
    )
    report = validate(store, replace(manifest, images=images))
    assert "the val split has no image" in {finding.message for finding in report.problems}
    bare = tuple(
        replace(image, plates=()) if image.split == "test" else image for image in manifest.images
    )
    report = validate(store, replace(manifest, images=bare))
    assert checks(report) == {"empty split"}


def test_a_ride_and_a_camera_on_two_sides_are_refused(
    store: MemoryStore, manifest: Manifest
) -> None:
    index, image = first(manifest, "train")
    report = validate(store, with_image(manifest, index, split="test"))
    assert checks(report) == {"divided group", "divided camera"}
    assert image.name in report.problems[0].images
    other = first(manifest, "val")[1].camera
    report = validate(store, with_image(manifest, index, camera=other, group="alone"))
    assert checks(report) == {"divided camera"}


def test_one_camera_alone_cannot_be_kept_apart_and_is_a_warning(
    store: MemoryStore, manifest: Manifest
) -> None:
    images = tuple(replace(image, camera="only") for image in manifest.images)
    report = validate(store, replace(manifest, images=images))
    assert report.ok
    assert "divided camera" in {warning.check for warning in report.warnings}


def test_tiny_and_few_plates_and_divided_rides_are_warnings(
    store: MemoryStore, manifest: Manifest
) -> None:
    tiny = with_image(manifest, 0, plates=(Plate((5.0, 5.0, 11.0, 9.0)),))
    expected = {"tiny plates", "few plates", "optimistic split"}
    for grouping in ("burst", "image"):
        report = validate(store, replace(tiny, grouping=grouping))
        assert report.ok
        assert {warning.check for warning in report.warnings} >= expected
    by_ride = validate(store, replace(tiny, grouping="ride"))
    assert "optimistic split" not in {warning.check for warning in by_ride.warnings}


def test_a_store_that_does_not_answer_is_an_error_and_no_finding(manifest: Manifest) -> None:
    class Down(MemoryStore):
        def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
            raise UnavailableError("does not answer")

    with pytest.raises(UnavailableError):
        validate(Down(), manifest)


class Page(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_shows_the_images_that_are_named(
    store: MemoryStore, manifest: Manifest
) -> None:
    name = "<script>alert(1)</script> & Köln.jpg"
    report = validate(store, with_image(manifest, 3, name=name, plates=(Plate((10, 10, 10, 20)),)))
    page = Page()
    html = report.to_html()
    page.feed(html)
    assert "script" not in page.tags
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; Köln.jpg") >= 2
    assert page.sources
    for source in page.sources:
        jpeg = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
        assert Image.open(io.BytesIO(jpeg)).size == (240, 240)
    assert "refused, problems: 1" in html
    assert len(html) < 2_000_000


def test_boxes_are_drawn_on_the_thumbnails(store: MemoryStore, manifest: Manifest) -> None:
    report = validate(store, manifest)
    shown = next(thumb for thumb in report.thumbnails if thumb.plates == 1)
    record = next(image for image in manifest.images if image.name == shown.name)
    pixels = cv2.imdecode(np.frombuffer(shown.jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    x1, y1, x2, _ = (value * 240 / record.width for value in record.plates[0].box)
    edge = pixels[round(y1) - 1, round(x1) : round(x2)].mean(axis=0)
    assert edge[1] > edge[0] + 60
    assert edge[1] > edge[2] + 60


def test_the_json_counts_what_the_manifest_holds(store: MemoryStore, manifest: Manifest) -> None:
    report = validate(store, manifest)
    found = json.loads(report.to_json())
    assert found["ok"] is True
    assert sum(row["images"] for row in found["splits"]) == 64
    plates = sum(len(image.plates) for image in manifest.images)
    assert sum(sum(row["widths"]) for row in found["splits"]) == plates
    assert report.to_json() == validate(store, manifest).to_json()
    assert re.search(r"<td>train</td><td>\d+</td>", report.to_html())


def test_the_hash_forgives_encoding_and_sees_another_street(
    store: MemoryStore, manifest: Manifest
) -> None:
    a, b = (
        cv2.imdecode(np.frombuffer(store.objects[image.key], np.uint8), cv2.IMREAD_COLOR)
        for image in manifest.images[:2]
    )
    _, worse = cv2.imencode(".jpg", a, [cv2.IMWRITE_JPEG_QUALITY, 60])
    again = cv2.imdecode(worse, cv2.IMREAD_COLOR)

    def distance(x: np.ndarray, y: np.ndarray) -> int:
        return int(np.bitwise_count(difference_hash(x) ^ difference_hash(y)).sum())

    assert distance(a, again) < 35 < 45 < distance(a, b)
