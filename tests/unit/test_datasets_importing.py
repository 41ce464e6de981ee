"""Datasets of every form come in whole, or are refused by name with nothing left behind."""

import hashlib
import io
import json
import os
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from platecrypt.datasets import sources
from platecrypt.datasets.forms import detect_form
from platecrypt.datasets.importing import RefusedDatasetError, import_dataset
from platecrypt.datasets.manifest import Manifest, manifest_key, parse_manifest
from platecrypt.datasets.synthetic import generate
from platecrypt.errors import BadInputError, PlatecryptError, UnavailableError
from platecrypt.storage.objects import MissingObjectError, ObjectInfo

SIZE = (96, 64)
REAL = Path("../shared/data/plates-ro")


class MemoryStore:
    """A bucket in memory: put, get and list as an S3 has them; may refuse after some writes."""

    def __init__(self, room_for: int | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.room_for = room_for
        self.lock = threading.Lock()

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        with self.lock:
            if self.room_for is not None and len(self.writes) >= self.room_for:
                raise UnavailableError(f"s3://memory/{key} answered XMinioStorageFull")
            self.writes.append(key)
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


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def picture(shade: int, form: str = "JPEG", size: tuple[int, int] = SIZE, **extra: object) -> bytes:
    image = Image.new("RGB", size)
    image.putdata(
        [((x * 3 + shade * 7) % 256, shade * 5 % 256, x % 256) for x in range(size[0] * size[1])]
    )
    out = io.BytesIO()
    image.save(out, form, **extra)
    return out.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def voc_xml(boxes: list[tuple[str, str]], size: tuple[int, int] = SIZE) -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(
            f"<{s}>{v}</{s}>"
            for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
        )
        + "</bndbox></object>"
        for name, box in boxes
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{objects}</annotation>"
    )


def coco_json(**changes: object) -> str:
    document = {
        "images": [
            {"id": n, "file_name": f"r{n}.jpg", "width": 96, "height": 64} for n in range(4)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 8, "name": "License Plate"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 8, "bbox": [10, 20, 30, 10]},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 96, 64]},
            {"id": 3, "image_id": 2, "category_id": 8, "bbox": [10, 20, 30, 10],
             "segmentation": [[40, 20, 40, 30, 10, 30, 10, 20]]},
        ],
        **changes,
    }  # fmt: skip
    return json.dumps(document)


CCPD = "025-95_113-10&20_60&40-60&40_11&39_10&20_59&21-0_0_22_27_27_33_16-37-15"
YOLO: dict[str, bytes | str] = {
    **{f"images/r{n}.jpg": picture(n) for n in range(4)},
    **{f"labels/r{n}.txt": "0 0.25 0.5 0.25 0.25\n" for n in range(3)},
    "labels/r3.txt": "",
}
VOC: dict[str, bytes | str] = {
    **{f"images/r{n}.jpg": picture(n) for n in range(4)},
    **{f"annotations/r{n}.xml": voc_xml([("license-plate", "12 24 36.0 40.0")]) for n in range(3)},
    "annotations/r3.xml": voc_xml([]),
}
COCO: dict[str, bytes | str] = {
    **{f"images/r{n}.jpg": picture(n) for n in range(4)},
    "annotations/instances.json": coco_json(),
}


def plates(manifest: Manifest) -> dict[str, tuple[object, ...]]:
    return {Path(image.name).name: image.plates for image in manifest.images}


# What comes in.


def test_yolo_boxes_become_pixels_and_an_empty_file_means_no_plate(
    store: MemoryStore, tmp_path: Path
) -> None:
    manifest = import_dataset(store, str(write(tmp_path, YOLO)))
    assert manifest.form == "yolo"
    found = plates(manifest)
    assert [plate.box for plate in found["r0.jpg"]] == [(12.0, 24.0, 36.0, 40.0)]  # type: ignore[attr-defined]
    assert found["r3.jpg"] == ()


def test_yolo_keeps_the_plates_among_other_classes_and_reads_quads(
    store: MemoryStore, tmp_path: Path
) -> None:
    files = YOLO | {
        "data.yaml": "names: {0: car, 1: Licence Plate}\ntrain: images\n",
        "labels/r0.txt": "0 0.5 0.5 1 1\n1 0.5 0.25 0.5 0.5 0.25 0.5 0.25 0.25\n",
        "labels/r1.txt": "1 0.1 0.1 0.5 0.1 0.6 0.3 0.5 0.5 0.1 0.5\n",
    }
    found = plates(import_dataset(store, str(write(tmp_path, files))))
    (quad,) = found["r0.jpg"]
    # Given from the top right corner anyhow; read clockwise from the top left.
    assert quad.quad == ((24, 16), (48, 16), (48, 32), (24, 32))  # type: ignore[attr-defined]
    (polygon,) = found["r1.jpg"]
    assert polygon.quad is None  # type: ignore[attr-defined]
    assert polygon.box == pytest.approx((9.6, 6.4, 57.6, 32))  # type: ignore[attr-defined]
    assert found["r2.jpg"] == ()


@pytest.mark.parametrize("layout", ["{part}/{role}/{file}", "{role}/{part}/{file}"])
def test_yolo_split_folders_are_honoured_either_way_round(
    store: MemoryStore, tmp_path: Path, layout: str
) -> None:
    for n, part in enumerate(["train", "train", "valid", "test"]):
        for k in range(2):
            name = f"{'abcd'[n]}_{k}"
            image = layout.format(part=part, role="images", file=f"{name}.jpg")
            label = layout.format(part=part, role="labels", file=f"{name}.txt")
            write(tmp_path, {image: picture(10 * n + k), label: "0 .5 .5 .2 .2"})
    manifest = import_dataset(store, str(tmp_path))
    sides = {Path(image.name).stem: image.split for image in manifest.images}
    assert sides == {
        "a_0": "train", "a_1": "train", "b_0": "train", "b_1": "train",
        "c_0": "val", "c_1": "val", "d_0": "test", "d_1": "test",
    }  # fmt: skip


def test_voc_floats_are_kept_and_an_overhang_of_a_pixel_is_clipped(
    store: MemoryStore, tmp_path: Path
) -> None:
    files = VOC | {
        "annotations/r0.xml": voc_xml([("license-plate", "10.25 20.5 96.9 64.5")]),
        "annotations/r1.xml": voc_xml([("car", "0 0 96 64"), ("license-plate", "1 2 30 40")]),
    }
    found = plates(import_dataset(store, str(write(tmp_path, files))))
    assert [plate.box for plate in found["r0.jpg"]] == [(10.25, 20.5, 96.0, 64.0)]  # type: ignore[attr-defined]
    assert [plate.box for plate in found["r1.jpg"]] == [(1, 2, 30, 40)]  # type: ignore[attr-defined]
    assert found["r3.jpg"] == ()


def test_coco_takes_plates_alone_and_four_corners_as_a_quad(
    store: MemoryStore, tmp_path: Path
) -> None:
    manifest = import_dataset(store, str(write(tmp_path, COCO)))
    found = plates(manifest)
    assert manifest.form == "coco"
    assert [plate.box for plate in found["r0.jpg"]] == [(10, 20, 40, 30)]  # type: ignore[attr-defined]
    assert found["r1.jpg"] == found["r3.jpg"] == ()
    (plate,) = found["r2.jpg"]
    assert plate.quad == ((10, 20), (40, 20), (40, 30), (10, 30))  # type: ignore[attr-defined]


def test_ccpd_labels_come_from_the_name_and_each_image_stands_alone(
    store: MemoryStore, tmp_path: Path
) -> None:
    files: dict[str, bytes | str] = {
        f"ccpd_base/{CCPD.replace('-37-', f'-{n}-')}.jpg": picture(n) for n in range(5)
    }
    manifest = import_dataset(store, str(write(tmp_path, files)))
    assert (manifest.form, manifest.grouping) == ("ccpd", "image")
    for image in manifest.images:
        (plate,) = image.plates
        assert plate.box == (10, 20, 60, 40)
        assert plate.quad == ((10, 20), (59, 21), (60, 40), (11, 39))


@pytest.mark.parametrize("files", [YOLO, VOC, COCO], ids=["yolo", "voc", "coco"])
def test_a_zip_gives_the_dataset_that_its_folder_gives(
    store: MemoryStore, tmp_path: Path, files: dict[str, bytes | str]
) -> None:
    folder = write(tmp_path / "folder", files)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert import_dataset(store, str(packed)) == import_dataset(MemoryStore(), str(folder))


def test_an_s3_prefix_gives_the_dataset_that_its_folder_gives(
    store: MemoryStore, tmp_path: Path
) -> None:
    bucket = MemoryStore()
    for name, data in VOC.items():
        bucket.put(f"some where/{name}", data if isinstance(data, bytes) else data.encode())
    opened: list[str] = []

    def open_bucket(name: str) -> MemoryStore:
        opened.append(name)
        return bucket

    found = import_dataset(store, "s3://pictures/some where", bucket=open_bucket)
    assert opened == ["pictures"]
    assert found == import_dataset(MemoryStore(), str(write(tmp_path, VOC)))


def test_synthetic_pictures_come_in_with_their_plates_and_times(store: MemoryStore) -> None:
    manifest = import_dataset(store, "synthetic://?images=24&seed=5")
    drawn = {image.name: image for image in generate(24, 5)}
    for image in manifest.images:
        twin = drawn[image.name]
        assert store.objects[image.key] == twin.data
        assert (image.plates, image.camera, image.group, image.time) == (
            twin.plates, twin.camera, twin.ride, twin.time)  # fmt: skip
    assert manifest.grouping == "ride"


def test_names_with_spaces_and_umlauts_come_in(store: MemoryStore, tmp_path: Path) -> None:
    names = ["Straße nach Köln 1", "zwei  Räder (2)", "ø 3", "日本 4"]
    files: dict[str, bytes | str] = {}
    for n, name in enumerate(names):
        files |= {
            f"Meine Bilder/{name}.jpg": picture(n),
            f"Meine Bilder/{name}.txt": "0 .5 .5 .2 .2",
        }
    manifest = import_dataset(store, str(write(tmp_path / "Größe XL", files)))
    assert {Path(image.name).stem for image in manifest.images} == set(names)


def test_exif_tells_camera_and_time(store: MemoryStore, tmp_path: Path) -> None:
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    details[0x9003], details[0x9011], details[0xA431] = "2024:05:06 12:30:00", "+02:00", "SN 12345"
    files = YOLO | {"images/r0.jpg": picture(0, exif=exif)}
    manifest = import_dataset(store, str(write(tmp_path, files)))
    told = next(image for image in manifest.images if image.name.endswith("r0.jpg"))
    assert told.time == "2024-05-06T10:30:00Z"
    assert told.camera.startswith("exif-")
    assert "12345" not in manifest.to_bytes().decode()


def test_the_manifest_lies_in_the_store_and_describes_what_is_there(
    store: MemoryStore, tmp_path: Path
) -> None:
    manifest = import_dataset(store, str(write(tmp_path, YOLO)))
    stored = store.get(manifest_key(manifest.digest))
    assert parse_manifest(stored, expected_digest=manifest.digest) == manifest
    for image in manifest.images:
        assert image.key == f"images/{image.image_id[:2]}/{image.image_id}.jpg"
        assert len(store.get(image.key)) == image.size
    assert store.writes[-1] == manifest_key(manifest.digest)


def test_importing_the_same_bytes_twice_stores_nothing_twice(
    store: MemoryStore, tmp_path: Path
) -> None:
    first = import_dataset(store, str(write(tmp_path / "a", YOLO)))
    before = dict(store.objects)
    written = len(store.writes)
    assert import_dataset(store, str(write(tmp_path / "b", YOLO))) == first
    assert store.objects == before
    assert store.writes[written:] == [manifest_key(first.digest)]


def test_a_picture_that_occurs_twice_counts_once(store: MemoryStore, tmp_path: Path) -> None:
    files = YOLO | {"images/twin.jpg": picture(0), "labels/twin.txt": YOLO["labels/r0.txt"]}
    assert len(import_dataset(store, str(write(tmp_path, files))).images) == 4


def test_copies_with_different_labels_are_left_out_and_that_is_said(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = YOLO | {"images/twin.jpg": picture(0), "labels/twin.txt": "0 0.5 0.5 0.1 0.1"}
    manifest = import_dataset(store, str(write(tmp_path, files)))
    assert {Path(image.name).stem for image in manifest.images} == {"r1", "r2", "r3"}
    assert "images/r0.jpg, images/twin.jpg are the same picture" in caplog.text


def test_a_limit_takes_that_many_from_every_ride(store: MemoryStore, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    for ride, length in (("a", 30), ("b", 6), ("c", 4)):
        for n in range(length):
            name = f"{ride}_{n}"
            files |= {f"{name}.jpg": picture(ord(ride) * 40 + n), f"{name}.txt": "0 .5 .5 .2 .2"}
    write(tmp_path, files)
    found = import_dataset(store, str(tmp_path), limit=10)
    assert len(found.images) == 10
    assert {image.group for image in found.images} == {"a", "b", "c"}
    assert import_dataset(MemoryStore(), str(tmp_path), limit=10) == found


def test_progress_runs_from_the_first_image_to_all(store: MemoryStore, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    import_dataset(store, str(write(tmp_path, YOLO)), progress=lambda *now: told.append(now))
    assert told[0] == (1, 8)
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} with the real photographs is absent")
def test_the_real_photographs_come_in_split_by_ride(store: MemoryStore) -> None:
    manifest = import_dataset(store, str(REAL))
    # Two of the 427 are the same picture with different labels.
    assert len(manifest.images) == 425
    assert manifest.grouping == "ride"
    assert [len(manifest.split(side)) for side in ("train", "val", "test")] == [379, 27, 19]
    assert sum(len(image.plates) for image in manifest.images) == 518


# What is refused.

ENTITIES = "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>"


def voc_with(name: str, box: str) -> dict[str, bytes | str]:
    return {"annotations/r1.xml": voc_xml([(name, box)])}


def coco_with(old: str, new: str) -> dict[str, bytes | str]:
    return {"annotations/instances.json": coco_json().replace(old, new)}


BAD_FILES: dict[str, tuple[dict[str, bytes | str], dict[str, bytes | str], str]] = {
    "0-byte image": (YOLO, {"images/r1.jpg": b""}, "r1.jpg: is a file of 0 bytes"),
    "truncated JPEG": (YOLO, {"images/r1.jpg": picture(1)[:-300]}, "r1.jpg: is truncated"),
    "truncated PNG": (YOLO, {"images/r1.jpg": picture(1, "PNG")[:-30]}, "r1.jpg: is truncated"),
    "text as image": (YOLO, {"images/r1.jpg": "hello"}, "r1.jpg: is no JPEG"),
    "image without label": (YOLO, {"images/z.jpg": picture(9)}, "z.jpg: image without a label"),
    "label without image": (YOLO, {"labels/z.txt": "0 .5 .5 .1 .1"}, "z.txt: labels without"),
    "picture in no format": (YOLO, {"images/z.heic": b"x"}, "z.heic: is a picture in a format"),
    "yolo outside": (YOLO, {"labels/r1.txt": "0 0.95 0.5 0.3 0.2"}, "r1.jpg: line 1: .*outside"),
    "yolo no area": (YOLO, {"labels/r1.txt": "0 0.5 0.5 0 0.2"}, "r1.jpg: line 1: .*no area"),
    "yolo negative area": (YOLO, {"labels/r1.txt": "0 0.5 0.5 -0.1 0.2"}, "no area"),
    "yolo NaN": (YOLO, {"labels/r1.txt": "0 0.5 nan 0.1 0.2"}, "line 1: .*'nan', not a finite"),
    "yolo infinite": (YOLO, {"labels/r1.txt": "0 0.5 1e999 0.1 0.2"}, "not a finite"),
    "yolo word": (YOLO, {"labels/r1.txt": "0 0.5 x 0.1 0.2"}, "'x', not a number"),
    "yolo unknown class": (YOLO, {"labels/r1.txt": "7 .5 .5 .1 .1"}, "r1.jpg: .*unknown class 7"),
    "yolo five numbers": (YOLO, {"labels/r1.txt": "0 .5 .5 .1 .1 .9"}, "5 coordinates"),
    "yolo polygon outside": (YOLO, {"labels/r1.txt": "0 .5 .5 1.5 .5 1.5 .9 .5 .9"}, "outside"),
    "yolo flat quad": (YOLO, {"labels/r1.txt": "0 .1 .1 .2 .2 .3 .3 .4 .4"}, "no area"),
    "yolo binary label": (YOLO, {"labels/r1.txt": b"\xff\xfe\x00"}, "r1.jpg: is not UTF-8"),
    "yolo long label": (YOLO, {"labels/r1.txt": "0 .5 .5 .1 .1\n" * 1100}, "more than 1000"),
    "voc outside": (VOC, voc_with("lp", "50 10 120 30"), "outside"),
    "voc no area": (VOC, voc_with("lp", "50 10 50 30"), "no area"),
    "voc turned": (VOC, voc_with("lp", "60 10 50 30"), "no area"),
    "voc NaN": (VOC, voc_with("lp", "NaN 10 50 30"), "not a finite"),
    "voc unknown class": (VOC, voc_with("lizense plait", "1 1 9 9"), "unknown class"),
    "voc other size": (VOC, {"annotations/r1.xml": voc_xml([], (64, 96))}, "64x96"),
    "voc entity bomb": (VOC, {"annotations/r1.xml": ENTITIES}, "DOCTYPE"),
    "voc broken": (VOC, {"annotations/r1.xml": "<annotation>"}, "r1.xml: is not XML"),
    "voc of another kind": (VOC, {"annotations/r1.xml": "<svg/>"}, "r1.xml: is no VOC"),
    "coco image missing": (COCO, coco_with("r3.jpg", "gone.jpg"), "gone.jpg: labels without"),
    "coco image unlisted": (COCO, {"images/z.jpg": picture(8)}, "z.jpg: image without an entry"),
    "coco NaN": (COCO, coco_with("[10, 20, 30, 10]", "[NaN, 20, 30, 10]"), "finite"),
    "coco no area": (COCO, coco_with("30, 10]", "0, 10]"), "no area"),
    "coco outside": (COCO, coco_with("30, 10]", "300, 10]"), "outside"),
    "coco unknown class": (COCO, coco_with('_id": 3', '_id": 4'), "unknown class 4"),
    "coco unknown image": (COCO, coco_with('"image_id": 1', '"image_id": 77'), "77"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_refuses_the_whole_import_and_is_named(
    store: MemoryStore, tmp_path: Path, case: str
) -> None:
    good, change, said = BAD_FILES[case]
    import_dataset(MemoryStore(), str(write(tmp_path, good)))
    write(tmp_path, change)
    with pytest.raises(BadInputError, match=said) as caught:
        import_dataset(store, str(tmp_path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert store.writes == []


def test_an_image_that_exif_rotates_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = YOLO | {"images/r1.jpg": picture(1, exif=exif)}
    with pytest.raises(RefusedDatasetError, match=r"r1\.jpg: is rotated by EXIF"):
        import_dataset(store, str(write(tmp_path, files)))


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(
    store: MemoryStore, tmp_path: Path
) -> None:
    # A PNG header that announces 12000 x 10000 pixels, with its checksum right.
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", 12000, 10000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    files = YOLO | {"images/r1.jpg": bomb + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4}
    with pytest.raises(RefusedDatasetError, match="12000x10000 pixels"):
        import_dataset(store, str(write(tmp_path, files)))


def test_all_problems_are_collected_and_the_line_names_the_first(
    store: MemoryStore, tmp_path: Path
) -> None:
    files = YOLO | {f"images/r{n}.jpg": b"" for n in range(4)} | {"images/z.jpg": picture(9)}
    with pytest.raises(RefusedDatasetError, match=r"5 problems.*r0.*r1.*r2.*and 2 more") as caught:
        import_dataset(store, str(write(tmp_path, files)))
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is empty"),
        ({".DS_Store": "x", "__MACOSX/._a.jpg": "x"}, "is empty"),
        ({"readme.md": "x"}, "no images and no labels of a known form"),
        ({"a.jpg": picture(1), "b.jpg": picture(2)}, "2 images but no labels of a known form"),
        ({"a.jpg": picture(1), "a.txt": "", "a.xml": voc_xml([])}, "several forms.*yolo, voc"),
        (
            {"a.jpg": picture(1), "a.txt": "", "data.yaml": "names: [car, dog]"},
            "none of the classes",
        ),
        ({"a.jpg": picture(1), "a.txt": "", "data.yaml": "- ["}, "data.yaml gives no `names`"),
        ({"a.jpg": picture(1), "a.json": "{"}, "not JSON"),
        ({"a.jpg": picture(1), "a.json": "[" * 100_000}, "not JSON"),
        ({"a.jpg": picture(1), "a.json": "{}"}, "no COCO file"),
    ],
)
def test_a_folder_of_no_use_is_refused(
    store: MemoryStore, tmp_path: Path, files: dict[str, bytes | str], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        import_dataset(store, str(write(tmp_path, files)))
    assert store.writes == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no such folder", "no such folder"),
        ("ftp://host/data", "unknown scheme"),
        ("s3://B", "not of the form s3://"),
        ("s3://bucket/empty", "is empty"),
        ("synthetic://?images=x", "images is 'x'"),
    ],
)
def test_a_source_that_is_none_is_refused(store: MemoryStore, source: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        import_dataset(store, source, bucket=lambda name: MemoryStore())


def zipped(path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in entries:
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return str(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../evil.jpg", "climbs out"),
        ("a/../../evil.jpg", "climbs out"),
        ("/etc/evil.jpg", "absolute"),
        ("C:/evil.jpg", "absolute"),
        ("a\\..\\evil.jpg", "absolute"),
    ],
)
def test_a_zip_with_a_path_that_leaves_it_is_refused(
    store: MemoryStore, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        import_dataset(store, zipped(tmp_path / "x.zip", [(name, picture(1))]))
    assert store.writes == []


def test_a_zip_with_a_symlink_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(BadInputError, match="link"):
        import_dataset(store, zipped(tmp_path / "x.zip", [(info, b"/etc/passwd")]))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(store: MemoryStore, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="bomb"):
        import_dataset(store, zipped(tmp_path / "x.zip", [("a.jpg", b"\0" * 50_000_000)]))


def test_a_zip_of_too_much_in_all_is_refused(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_ZIP_BYTES", 5000)
    entries: list[tuple[zipfile.ZipInfo | str, bytes]] = [
        (f"{n}.jpg", os.urandom(900)) for n in range(6)
    ]
    with pytest.raises(BadInputError, match="unpacks to 6 files of 5400 bytes"):
        import_dataset(store, zipped(tmp_path / "x.zip", entries))


def test_a_zip_that_lies_about_a_size_does_not_get_past_it(
    store: MemoryStore, tmp_path: Path
) -> None:
    path = tmp_path / "x.zip"
    zipped(path, [("a.jpg", b"\0" * 3_000_000), ("a.txt", b"")])
    data = path.read_bytes()
    # Both headers state 1000 bytes where three million come out.
    path.write_bytes(data.replace(struct.pack("<I", 3_000_000), struct.pack("<I", 1000)))
    with pytest.raises(BadInputError, match=r"a\.jpg"):
        import_dataset(store, str(path))


def test_a_damaged_zip_entry_is_named(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", picture(1))
        archive.writestr("a.txt", "")
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(RefusedDatasetError, match=r"a\.jpg: cannot be unpacked"):
        import_dataset(store, str(path))


def test_a_file_that_is_no_zip_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_text("no zip")
    with pytest.raises(BadInputError, match="readable zip"):
        import_dataset(store, str(path))


# What is interrupted.


@pytest.mark.parametrize("room_for", [0, 2, 4])
def test_a_store_that_fills_up_leaves_no_manifest(tmp_path: Path, room_for: int) -> None:
    store = MemoryStore(room_for)
    with pytest.raises(UnavailableError, match="StorageFull"):
        import_dataset(store, str(write(tmp_path, YOLO)))
    assert not any(key.startswith("datasets/") for key in store.objects)
    store.room_for = None
    manifest = import_dataset(store, str(tmp_path))
    assert len(set(store.writes)) == len(store.writes)
    assert all(image.key in store.objects for image in manifest.images)


def test_a_full_disk_while_spooling_is_one_clear_line(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PlatecryptError, match="No space left on device") as caught:
        import_dataset(store, "synthetic://?images=4")
    assert caught.value.exit_code == 1
    assert store.writes == []


def test_ctrl_c_while_checking_leaves_nothing(store: MemoryStore, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(store, str(write(tmp_path, YOLO)), progress=interrupt)
    assert store.writes == []


def test_a_file_that_changes_between_check_and_storing_is_noticed(
    store: MemoryStore, tmp_path: Path
) -> None:
    write(tmp_path, YOLO)

    def swap(done: int, total: int) -> None:
        if done == total // 2:
            (tmp_path / "images" / "r2.jpg").write_bytes(picture(99))

    with pytest.raises(BadInputError, match=r"r2\.jpg changed"):
        import_dataset(store, str(tmp_path), progress=swap)
    assert not any(key.startswith("datasets/") for key in store.objects)


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["data.yaml", "train/images/a.jpg", "train/labels/a.txt"], "yolo"),
        (["a.jpg", "a.txt", "classes.txt", "README.txt"], "yolo"),
        (["JPEGImages/a.jpg", "Annotations/a.xml"], "voc"),
        (["train/a.jpg", "train/_annotations.coco.json", "README.dataset.txt"], "coco"),
        ([f"{CCPD}.jpg", "splits/train.txt"], "ccpd"),
    ],
)
def test_forms_are_told_apart_by_names(names: list[str], form: str) -> None:
    assert detect_form(names) == form
