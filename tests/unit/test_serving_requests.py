"""What the transformer reads from a request, and what it refuses to read."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platecrypt.cipher import Keyring, KeyringError
from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.serving import Client
from platecrypt.serving.keys import KeyFile
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.requests import (
    Options,
    V1Body,
    Wanted,
    cameras_filled,
    largest_body,
    options_of,
    query_options,
    v1_job,
    wanted,
)

JSON = Wanted(file=False)
FILE = Wanted(file=True)


def images_of(payload: object, content_type: str, *, max_bytes: int) -> list[bytes]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    job = v1_job(V1Body(body, content_type), JSON, max_bytes=max_bytes)
    return [picture.source for picture in job.pictures]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Wanted(file=False)),
        ("*/*", Wanted(file=False)),
        ("application/json", Wanted(file=False)),
        ("image/jpeg", Wanted(file=True, format="jpeg")),
        ("IMAGE/PNG;q=0.5", Wanted(file=True, format="png")),
        ("image/*", Wanted(file=True)),
        ("image/avif, image/webp, */*", Wanted(file=True, format="webp")),
        ("text/html, */*", Wanted(file=False)),
    ],
)
def test_accept_decides_the_form(accept: str, form: Wanted) -> None:
    assert wanted(accept) == form


def test_a_type_that_we_do_not_speak_is_406() -> None:
    with pytest.raises(HttpError) as caught:
        wanted("text/html, application/xml")
    assert caught.value.status == 406


def test_a_raw_body_is_the_image_and_json_holds_several() -> None:
    assert images_of(b"abc", "image/jpeg", max_bytes=3) == [b"abc"]
    assert images_of(b"abc", "", max_bytes=3) == [b"abc"]
    body = {"instances": [{"image": {"b64": base64.b64encode(x).decode()}} for x in (b"a", b"b")]}
    assert images_of(body, "application/json", max_bytes=3) == [b"a", b"b"]
    raw = json.dumps(body).encode()
    assert images_of(raw, "application/json; charset=utf-8", max_bytes=3) == [b"a", b"b"]


def test_the_limit_counts_the_image_and_not_its_base64() -> None:
    def call(size: int) -> list[bytes]:
        text = base64.b64encode(bytes(size)).decode()
        return images_of(
            {"instances": [{"image": {"b64": text}}]}, "application/json", max_bytes=900
        )

    assert call(900) == [bytes(900)]
    with pytest.raises(HttpError) as caught:
        call(901)
    assert caught.value.status == 413
    assert largest_body(900) >= len(base64.b64encode(bytes(900))) + 40


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["instances", "image", "b64", "url", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(payload=ANYTHING)
def test_whatever_json_is_sent_the_answer_is_images_or_a_refusal(payload: object) -> None:
    def outcome() -> list[bytes] | int:
        try:
            return images_of(payload, "application/json", max_bytes=100)
        except HttpError as error:
            return error.status

    found = outcome()
    assert found in (400, 413) or all(isinstance(image, bytes) and image for image in found)


def body_of(*instances: object, **more: object) -> V1Body:
    return V1Body(json.dumps({"instances": list(instances), **more}).encode(), "application/json")


ONE = {"image": {"b64": "aGk="}}


def test_each_picture_has_its_own_camera_and_name_or_the_calls() -> None:
    other = {**ONE, "camera_id": "gate-2", "request_id": "ride-7"}
    request = body_of(ONE, other, parameters={"camera_id": "gate-1", "margin": 0.2})
    first, second = cameras_filled(v1_job(request, JSON, max_bytes=9))
    assert (first.camera_id, first.request_id) == ("gate-1", "")
    assert (second.camera_id, second.request_id) == ("gate-2", "ride-7")


def test_options_come_in_the_url_or_in_the_body_and_not_in_both() -> None:
    query = "confidence=0.5&detections=plain"
    raw = v1_job(V1Body(b"x", "image/jpeg", query), JSON, max_bytes=9).options
    assert raw == Options(confidence=0.5, detections="plain")
    request = body_of(ONE, parameters={"confidence": 0.5})
    twice = V1Body(request.body, request.content_type, query)
    with pytest.raises(HttpError, match="URL and in the body"):
        v1_job(twice, JSON, max_bytes=9)


WRONG_OPTIONS = [
    {"confidence": 2},
    {"confidence": "high"},
    {"confidence": True},
    {"confidence": "nan"},
    {"margin": -0.1},
    {"margin": [0.1]},
    {"detections": "all"},
    {"detections": None},
    {"image": ["none"]},
    {"image": "none", "detections": "none"},
    {"camera_id": "a b"},
    {"camera_id": 7},
    {"treshold": 0.5},
]


@pytest.mark.parametrize("raw", WRONG_OPTIONS, ids=str)
def test_an_option_that_is_not_one_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(HttpError) as caught:
        options_of(raw)
    assert caught.value.status == 400


def test_a_file_is_no_answer_where_there_is_none_or_more_is_asked_for() -> None:
    for query in ("image=none", "detections=plain"):
        with pytest.raises(HttpError, match="accept JSON"):
            v1_job(V1Body(b"x", "image/jpeg", query), FILE, max_bytes=9)


@pytest.mark.parametrize("query", ["confidence", "a=1&a=2", "=", "&".join(["x=1"] * 99)])
def test_a_malformed_query_is_refused(query: str) -> None:
    with pytest.raises(HttpError):
        options_of(query_options(query))


@given(raw=st.dictionaries(st.sampled_from(["confidence", "margin", "image", "x"]), ANYTHING))
def test_whatever_options_are_sent_they_are_read_or_refused(raw: dict[str, object]) -> None:
    def outcome() -> bool:
        try:
            found = options_of(raw)
        except HttpError as error:
            return error.status == 400
        return found.confidence is None or 0 <= found.confidence <= 1

    assert outcome()


@pytest.mark.parametrize("extra", [{"path": "/etc/passwd"}, {"url": "http://x"}])
def test_an_unknown_field_is_refused_and_not_ignored(extra: dict[str, str]) -> None:
    instance = {"image": {"b64": "aGk="}, **extra}
    with pytest.raises(HttpError, match="unknown field"):
        images_of({"instances": [instance]}, "application/json", max_bytes=100)


def test_a_changed_key_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    writer = Keyring.create(path)
    keys = KeyFile(path)
    first = keys.current()
    assert keys.current() is first
    newest = writer.rotate()
    assert keys.current().kids[-1] == newest


def test_a_key_file_that_became_unusable_ends_sealing_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    Keyring.create(path)
    good = path.read_bytes()
    keys = KeyFile(path)
    for break_it in (
        path.unlink,
        lambda: path.write_bytes(b""),
        lambda: (path.write_bytes(good), path.chmod(0o644)),
    ):
        break_it()
        for _ in range(2):
            with pytest.raises(KeyringError):
                keys.current()
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        path.chmod(0o600)
        assert len(keys.current()) == 1


def test_a_key_file_must_be_there_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="gone"):
        KeyFile(tmp_path / "gone.json")


def test_the_client_says_which_endpoint_does_not_answer() -> None:
    with pytest.raises(BadInputError, match="no endpoint"):
        Client("plates")
    url = "http://127.0.0.1:1/v1/models/plates:predict"
    with Client(url) as client, pytest.raises(UnavailableError, match=url):
        client.predict(b"x")


def test_a_body_of_a_million_parts_is_refused_before_they_are_made() -> None:
    many = b'{"instances": [' + b"{}," * 1_000_000 + b"{}]}"
    with pytest.raises(HttpError, match="more parts than 16 images need") as refused:
        v1_job(V1Body(many, "application/json"), Wanted(file=False), max_bytes=2**25)
    assert refused.value.status == 400
