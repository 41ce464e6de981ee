"""A manifest is what its digest says, or it is refused."""

import dataclasses

import pytest

from platecrypt.datasets.manifest import ImageRecord, Manifest, Plate, parse_manifest
from platecrypt.datasets.training_set import Selected, TrainingSet, parse_training_set
from platecrypt.errors import BadInputError, RefusedError


def image(number: int) -> ImageRecord:
    return ImageRecord(
        image_id=f"{number:064x}",
        key=f"images/{number}",
        name=f"{number}.jpg",
        size=10,
        width=100,
        height=50,
        plates=(Plate((1.5, 2.0, 30.0, 10.0), ((1, 2), (30, 2), (30, 10), (1, 10))),),
        camera="c",
        group="g",
        time=None,
        split="train",
    )


MANIFEST = Manifest((image(2), image(1)), form="voc", grouping="ride")


def test_what_is_written_is_read_back_sorted() -> None:
    found = parse_manifest(MANIFEST.to_bytes(), expected_digest=MANIFEST.digest)
    assert [item.image_id for item in found.images] == [image(1).image_id, image(2).image_id]
    assert found.digest == MANIFEST.digest
    assert found.images[0] == image(1)


def test_the_digest_does_not_depend_on_the_order_but_on_every_label() -> None:
    turned = dataclasses.replace(MANIFEST, images=MANIFEST.images[::-1])
    assert turned.digest == MANIFEST.digest
    moved = dataclasses.replace(image(1), plates=(Plate((1.5, 2.0, 30.0, 10.5)),))
    assert dataclasses.replace(MANIFEST, images=(moved, image(2))).digest != MANIFEST.digest


@pytest.mark.parametrize("place", [0, 40, -2])
def test_a_changed_byte_is_refused(place: int) -> None:
    data = bytearray(MANIFEST.to_bytes())
    data[place] ^= 1
    with pytest.raises(RefusedError, match="import the dataset again"):
        parse_manifest(bytes(data), expected_digest=MANIFEST.digest)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"manifest": 2, "images": 0}',
        MANIFEST.to_bytes().splitlines()[0],
        MANIFEST.to_bytes().replace(b'"train"', b'"both"'),
        MANIFEST.to_bytes().replace(b'"box":[1.5,', b'"box":['),
    ],
)
def test_what_is_no_manifest_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(BadInputError, match="not a manifest"):
        parse_manifest(data)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"training_set": 9}', b"{"])
def test_what_is_no_training_set_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(BadInputError, match="not a training set"):
        parse_training_set(data)


def test_a_training_set_without_an_image_trains_on_none() -> None:
    chosen = TrainingSet("d", "s", (Selected("a", 0, "blank"), Selected("b", 2, "rare")))
    assert chosen.weights == {"b": 2}
    assert parse_training_set(chosen.to_bytes()).digest == chosen.digest
