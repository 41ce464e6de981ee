"""What leaves the endpoint: protected pictures, sealed plates, and honest refusals."""

import base64
import concurrent.futures
import json
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from platecrypt import imaging
from platecrypt.cipher import Keyring, inspect
from platecrypt.deployment import Endpoint, smoke_test
from platecrypt.errors import BadInputError, RefusedError
from platecrypt.serving import Client

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Encoded = Callable[..., bytes]


def post(endpoint: Endpoint, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(endpoint.url, content=body, headers=named, timeout=30, trust_env=False)


def json_body(*images: bytes) -> bytes:
    instances = [{"image": {"b64": base64.b64encode(image).decode()}} for image in images]
    return json.dumps({"instances": instances}).encode()


def assert_protected(answer: bytes, source: bytes, keyring: Keyring, plates: int = 2) -> None:
    before, after = imaging.decode(source), imaging.decode(answer)
    back = imaging.recover(answer, keyring)
    assert back.count == plates
    for x1, y1, x2, y2 in back.regions:
        area = np.s_[y1:y2, x1:x2]
        np.testing.assert_array_equal(back.pixels[area], before.pixels[area])
        assert (after.pixels[area] != before.pixels[area]).any(axis=2).mean() > 0.5


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_a_picture_comes_back_protected_and_recovers_exactly(
    endpoint: Endpoint, stage: Any, encoded: Encoded, form: imaging.Format
) -> None:
    source = encoded(form)
    answer = post(endpoint, source, content_type=f"image/{form}", accept=f"image/{form}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"image/{form}"
    assert answer.headers["x-platecrypt-plates"] == "2"
    assert_protected(answer.content, source, stage.keyring)


def test_curl_alone_is_a_client(
    endpoint: Endpoint, stage: Any, encoded: Encoded, tmp_path: Path
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    (tmp_path / "car.jpg").write_bytes(encoded())
    out = tmp_path / "protected.jpg"
    command = [curl, "-sf", "-H", "Content-Type: image/jpeg", "-H", "Accept: image/jpeg"]
    command += ["--data-binary", f"@{tmp_path / 'car.jpg'}", endpoint.url, "-o", str(out)]
    subprocess.run(command, check=True, timeout=30)
    assert_protected(out.read_bytes(), encoded(), stage.keyring)


def test_json_tells_boxes_and_envelopes_and_no_score(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    answer = post(
        endpoint,
        json_body(encoded()),
        content_type="application/json; charset=utf-8",
        x_request_id="ride-7",
    )
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "ride-7"
    (found,) = answer.json()["predictions"]
    assert found["request_id"] == "ride-7"
    assert found["content_type"] == "image/jpeg"
    assert set(found) == {"image", "content_type", "plates", "request_id"}
    assert all(set(plate) == {"box", "envelope"} for plate in found["plates"])
    assert "score" not in answer.text
    assert "0.9" not in json.dumps([plate["box"] for plate in found["plates"]])
    context = json.loads(inspect(base64.b64decode(found["plates"][0]["envelope"])).ctx)
    assert context["request_id"] == "ride-7"
    assert (context["model"], context["model_version"]) == ("plates", endpoint.version)
    assert_protected(base64.b64decode(found["image"]["b64"]), encoded(), stage.keyring)


def test_several_pictures_in_one_call(
    endpoint: Endpoint, stage: Any, encoded: Encoded, street: np.ndarray[Any, Any]
) -> None:
    plain = imaging.encode(street[250:, :300], "png")
    answer = post(endpoint, json_body(encoded(), plain), content_type="application/json")
    first, second = answer.json()["predictions"]
    assert (len(first["plates"]), len(second["plates"])) == (2, 0)
    assert answer.headers["x-platecrypt-plates"] == "2"


def test_a_picture_without_plates_is_published_without_envelopes(
    endpoint: Endpoint, street: np.ndarray[Any, Any]
) -> None:
    source = imaging.encode(street[250:, :300], "png")
    answer = post(endpoint, source, accept="image/png", content_type="image/png")
    assert (answer.status_code, answer.headers["x-platecrypt-plates"]) == (200, "0")
    assert imaging.read_sealed(answer.content) == []


def test_a_png_may_be_asked_back_as_jpeg(endpoint: Endpoint, stage: Any, encoded: Encoded) -> None:
    answer = post(endpoint, encoded("png"), accept="image/jpeg", content_type="image/png")
    assert imaging.decode(answer.content).format == "jpeg"
    assert_protected(answer.content, encoded("png"), stage.keyring)


def test_our_client_speaks_both_ways(endpoint: Endpoint, stage: Any, encoded: Encoded) -> None:
    with Client(endpoint.url) as client:
        file, parsed = client.protect(encoded()), client.predict(encoded())
        assert (file.plates, file.content_type) == (2, "image/jpeg")
        assert_protected(file.data, encoded(), stage.keyring)
        assert len(parsed.plates) == 2
        assert_protected(parsed.image, encoded(), stage.keyring)
        with pytest.raises(BadInputError, match=r"refused the image.*request"):
            client.protect(b"not an image")


def test_the_smoke_test_passes_and_refuses_what_it_should(
    endpoint: Endpoint, stage: Any, encoded: Encoded, street: np.ndarray[Any, Any]
) -> None:
    assert smoke_test(endpoint.url, encoded(), stage.keyring).plates == 2
    with pytest.raises(RefusedError, match="no plate"):
        smoke_test(endpoint.url, imaging.encode(street[250:, :300], "jpeg"), stage.keyring)
    with pytest.raises(RefusedError, match="do not open"):
        smoke_test(endpoint.url, encoded(), Keyring([bytes(32)]))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    + png_chunk(b"IDAT", zlib.compress(bytes(10**6)))
    + png_chunk(b"IEND", b"")
)
BAD = {
    "nothing": (b"", "image/jpeg", 400),
    "text": (b"hello", "image/jpeg", 400),
    "no json": (b"{", "application/json", 400),
    "json of another form": (b'{"inputs": []}', "application/json", 400),
    "json list": (b"[1]", "application/json", 400),
    "no instances": (b'{"instances": []}', "application/json", 400),
    "no base64": (b'{"instances": [{"image": {"b64": "***"}}]}', "application/json", 400),
    "a url": (b'{"instances": [{"image": {"url": "http://x"}}]}', "application/json", 400),
    "many": (json.dumps({"instances": [{}] * 17}).encode(), "application/json", 400),
    "deep": (b"[" * 100_000, "application/json", 400),
    "huge picture": (BOMB, "image/png", 413),
    "huge body": (bytes(50 * 2**20), "image/jpeg", 413),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_no_image(endpoint: Endpoint, name: str) -> None:
    body, content_type, status = BAD[name]
    answer = post(endpoint, body, content_type=content_type, accept="image/jpeg")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/json")
    parsed = answer.json()
    assert parsed["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in parsed["error"]
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text


def test_a_truncated_picture_is_refused(endpoint: Endpoint, encoded: Encoded) -> None:
    whole = encoded()
    for length in (3, 20, len(whole) // 2, len(whole) - 20):
        answer = post(endpoint, whole[:length], content_type="image/jpeg", accept="image/jpeg")
        assert answer.status_code == 400, length


def test_a_body_without_a_length_is_cut_off_at_the_limit(endpoint: Endpoint) -> None:
    sent = 0

    def stream() -> Any:
        nonlocal sent
        for _ in range(400):
            sent += 2**20
            yield bytes(2**20)

    try:
        answer = httpx.post(endpoint.url, content=stream(), timeout=30, trust_env=False)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        pass  # the server hung up while we were still sending: that is a refusal as well
    assert sent < 200 * 2**20


def test_unknown_paths_methods_and_types_have_json_answers(
    endpoint: Endpoint, encoded: Encoded
) -> None:
    base = endpoint.url.split("/v1")[0]
    with httpx.Client(base_url=base, trust_env=False) as client:
        assert client.get("/nowhere").json()["request_id"]
        assert client.delete("/v1/models/plates:predict").status_code == 405
        assert client.post("/v1/models/other:predict", content=b"x").status_code == 404
        assert client.post("/v2/repository/models/plates/unload").status_code == 400
        assert client.get("/v1/models/plates").json()["ready"] is True
    answer = post(endpoint, encoded(), accept="text/html", content_type="image/jpeg")
    assert answer.status_code == 406
    answer = post(endpoint, encoded(), x_request_id="a\tb{}", content_type="image/jpeg")
    assert "{" not in answer.headers["x-request-id"]


def test_the_log_has_a_line_with_the_request_id_and_nothing_of_the_picture(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    post(endpoint, encoded(), content_type="image/jpeg", x_request_id="find-me")
    record = stage.supervisor.find("transformer")
    lines = [json.loads(line) for line in Path(record.log).read_text().splitlines()]
    (line,) = [found for found in lines if found.get("request_id") == "find-me"]
    assert (line["status"], line["plates"]) == (200, 2)
    assert line["ms"] > 0
    key = json.loads(stage.settings.keyring_path.read_text())["masters"][0]["key"]
    for log in Path(record.log).parent.glob("*.log"):
        assert key not in log.read_text()


def test_health_answers_while_clients_keep_it_busy(endpoint: Endpoint, encoded: Encoded) -> None:
    large = imaging.encode(np.tile(imaging.decode(encoded()).pixels, (3, 3, 1)), "jpeg")
    health = endpoint.url.split("/v1")[0] + "/v2/health/live"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(post, endpoint, large, content_type="image/jpeg", accept="image/jpeg")
            for _ in range(24)
        ]
        waits = []
        with httpx.Client(trust_env=False) as client:
            while not all(job.done() for job in work):
                started = time.perf_counter()
                assert client.get(health).status_code == 200
                waits.append(time.perf_counter() - started)
                time.sleep(0.01)
    assert all(job.result().status_code == 200 for job in work)
    waits.sort()
    print(f"health p50 {waits[len(waits) // 2] * 1e3:.1f} ms, max {waits[-1] * 1e3:.1f} ms")
    assert waits[len(waits) // 2] < 0.1
