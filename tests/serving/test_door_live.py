"""The door of a live endpoint: who is let in, how much, how slowly, and how it closes."""

import concurrent.futures
import contextlib
import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import typer.testing
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from platecrypt import imaging
from platecrypt.cli import app
from platecrypt.deployment import Endpoint, smoke_test
from platecrypt.deployment.kserve import served_version
from platecrypt.errors import BadInputError, RefusedError
from platecrypt.serving import AsyncClient, Client, oip
from platecrypt.serving.connections import MAX_HEAD
from platecrypt.serving.grpc_client import AsyncGrpcClient, GrpcClient

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Encoded = Callable[..., bytes]
TOKEN = "a-token-of-some-length"
FUZZ = runpy.run_path(str(Path(__file__).parents[1] / "security" / "fuzz_requests.py"))


@pytest.fixture(scope="module")
def open_house(alone: Any) -> Any:
    """Everybody is let in, but not for long; two pictures may share a pass."""
    flags = ["--body_seconds=2", "--headers_seconds=2", "--feature_repo=/nonexistent"]
    return alone(*flags, "--batch_size=2", "--batch_ms=1")


@pytest.fixture(scope="module")
def guarded(alone: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Only a token opens, and only one request is worked on while another waits."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(TOKEN)
    return alone(f"--tokens_file={tokens}", "--working=1", "--waiting=1"), tokens


def test_the_command_and_the_smoke_test_show_a_token(
    guarded: tuple[Any, Path],
    encoded: Encoded,
    stage: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, tokens = guarded
    with pytest.raises(BadInputError, match="token"):
        smoke_test(server.url, encoded(), stage.keyring)
    assert smoke_test(server.url, encoded(), stage.keyring, token=TOKEN).plates == 2
    source, output = tmp_path / "car.jpg", tmp_path / "out"
    source.write_bytes(encoded())
    command = ["predict", server.url, str(source), "-o", str(output)]
    run = typer.testing.CliRunner().invoke
    assert run(app, command).exit_code != 0
    assert not output.exists()
    assert run(app, [*command, "--token-file", str(tokens)]).exit_code == 0
    assert imaging.recover((output / "car.jpg").read_bytes(), stage.keyring).count == 2
    monkeypatch.setenv("PLATECRYPT_ENDPOINT_TOKEN_FILE", str(tokens))
    assert run(app, command).exit_code == 0


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_token_opens_on_every_wire_and_a_changed_file_counts_at_once(
    guarded: tuple[Any, Path], encoded: Encoded
) -> None:
    server, path = guarded
    refused = server.post(encoded())
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert set(refused.json()) == {"error", "request_id"}
    assert server.post(encoded(), authorization=f"Bearer {TOKEN}").status_code == 200
    target = f"127.0.0.1:{server.grpc_port}"
    with GrpcClient(target, token=TOKEN) as client:
        assert len(client.predict(encoded()).plates) == 2
    with GrpcClient(target) as client, pytest.raises(BadInputError, match="token"):
        client.predict(encoded())
    with pytest.raises(RefusedError, match="wants a bearer token; set endpoint_token_file"):
        served_version(server.base, "plates")
    with pytest.raises(RefusedError, match="does not take the token"):
        served_version(server.base, "plates", token="none-of-those-tokens")
    assert served_version(server.base, "plates", token=TOKEN) == "0"
    path.write_text("another-token-of-length")
    try:
        assert server.post(encoded(), authorization=f"Bearer {TOKEN}").status_code == 401
    finally:
        path.write_text(TOKEN)
    assert httpx.get(f"{server.base}/metrics", trust_env=False).status_code == 200


def test_too_many_at_once_are_told_to_come_again_and_the_client_does(
    guarded: tuple[Any, Path], encoded: Encoded
) -> None:
    server, _ = guarded
    large = imaging.encode(np.tile(imaging.decode(encoded()).pixels, (4, 4, 1)), "jpeg")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(server.post, large, authorization=f"Bearer {TOKEN}") for _ in range(12)
        ]
    answers = [one.result() for one in asked]
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert set(answer.json()) == {"error", "request_id"}

    def patient(_: int) -> int | None:
        with Client(server.url, token=TOKEN, retries=30, timeout_s=120) as client:
            return client.protect(large).plates

    unhurried = patient(0)
    assert unhurried
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert set(pool.map(patient, range(6))) == {unhurried}


def raw(server: Any, data: bytes, *, wait: bool = True) -> bytes:
    """What the server says to these bytes before it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        answer = b""
        while wait:
            try:
                part = connection.recv(65536)
            except ConnectionError:
                break
            answer += part
            if not part:
                break
        return answer


HEAD = b"POST /v1/models/plates:predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


def test_a_body_that_does_not_come_is_not_waited_for(open_house: Any) -> None:
    answer = raw(open_house, HEAD + b"Content-Length: 100\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()


def test_a_head_without_an_end_is_refused(open_house: Any) -> None:
    # Little more than the limit: who closes on what it has not read resets the connection.
    for piece in (b"X-Long: " + b"x" * MAX_HEAD, b"a: b\r\n" * (MAX_HEAD // 6)):
        answer = raw(open_house, HEAD + piece)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"too large" in answer
    long = b"Connection: close\r\nX-Long: " + b"x" * 30_000
    fits = raw(open_house, HEAD + long + b"\r\nContent-Length: 1\r\n\r\nx")
    assert b'"request_id"' in fits, "it came as far as the picture"


def test_a_health_page_with_half_a_body_does_not_hold_the_connection(open_house: Any) -> None:
    ask = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx"
    answer = raw(open_house, ask)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()


def test_an_answer_that_nobody_takes_is_not_kept(open_house: Any) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1500, 2000, 3), np.uint8)
    body = imaging.encode(noise, "png")
    server = psutil.Process(open_house.record.pid)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", open_house.port))
        own = connection.getsockname()[1]
        head = HEAD.replace(b"image/jpeg", b"image/png") + b"Accept: image/png\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

        def held() -> bool:
            found = server.connections("tcp")
            return any(c.raddr and c.raddr.port == own for c in found if c.status == "ESTABLISHED")

        assert connection.recv(1) == b"H", "the answer has begun"
        assert held()
        until(lambda: not held())
    assert open_house.ready()


def test_headers_that_do_not_come_end_the_connection(open_house: Any) -> None:
    assert raw(open_house, HEAD) == b""
    assert raw(open_house, b"") == b""
    assert open_house.ready()


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: -3\r\n",
        b"Content-Length: 3, 3\r\n",
    ],
)
def test_two_lengths_are_refused(open_house: Any, lengths: bytes) -> None:
    assert raw(open_house, HEAD + lengths + b"\r\nabc\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_hundred_megabytes_are_refused_unread(open_house: Any) -> None:
    answer = raw(open_house, HEAD + b"Content-Length: 100000000\r\n\r\n" + bytes(2**16))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_away_harms_nobody(open_house: Any, encoded: Encoded) -> None:
    body = encoded()
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    for sent in (body[:100], body):
        for _ in range(5):
            raw(open_house, HEAD + length + sent, wait=False)
    assert open_house.post(body).status_code == 200
    log = Path(open_house.record.log).read_text()
    assert "Traceback" not in log


def test_every_answer_carries_the_security_headers(open_house: Any, encoded: Encoded) -> None:
    for answer in (open_house.post(encoded()), open_house.post(b"x")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_what_is_not_asked_for_is_missed_by_no_client(open_house: Any, encoded: Encoded) -> None:
    with (
        Client(open_house.url) as http,
        GrpcClient(f"127.0.0.1:{open_house.grpc_port}") as grpc_client,
    ):
        assert http.protect(encoded(), options={"detections": "none"}).plates is None
        for client in (http, grpc_client):
            bare = client.predict(encoded(), options={"detections": "none"})
            assert bare.image.startswith(b"\xff\xd8\xff")
            assert bare.plates == bare.detections == ()
            plain = client.predict(encoded(), options={"detections": "plain", "image": "none"})
            assert (plain.image, plain.content_type) == (b"", "")
            assert len(plain.plates) == len(plain.detections) == 2
            for plate, seen in zip(plain.plates, plain.detections, strict=True):
                assert seen.score == pytest.approx(0.9, abs=1e-3)
                assert plate.box[0] <= seen.box[0] < seen.box[2] <= plate.box[2]


def test_metrics_tell_what_happened_and_nothing_else(open_house: Any, encoded: Encoded) -> None:
    wire = {"wire": "v1-image", "status": "200"}
    before = open_house.metric("platecrypt_requests_total", **wire)
    plates = open_house.metric("platecrypt_plates_per_picture_sum")
    open_house.post(encoded())
    assert open_house.metric("platecrypt_requests_total", **wire) == before + 1
    assert open_house.metric("platecrypt_plates_per_picture_sum") == plates + 2
    for phase in ("queue", "decode", "predict", "protect", "encode"):
        assert open_house.metric("platecrypt_phase_seconds_count", phase=phase) >= 1, phase
    for name in (
        "platecrypt_confidence_count",
        "platecrypt_input_brightness_count",
        "platecrypt_input_sharpness_count",
        "platecrypt_sealed_bytes_total",
        "platecrypt_key_age_seconds",
        "platecrypt_key_created_timestamp_seconds",
        "platecrypt_request_seconds_count",
    ):
        assert open_house.metric(name) > 0, name


def test_a_feature_store_that_is_not_there_fails_no_request(
    open_house: Any, encoded: Encoded
) -> None:
    before = open_house.metric("platecrypt_profile_lookups_total", outcome="closed")
    answer = httpx.post(
        open_house.url,
        content=encoded(),
        params={"camera_id": "gate-1"},
        headers={"content-type": "image/jpeg", "accept": "image/jpeg"},
        trust_env=False,
    )
    assert (answer.status_code, answer.headers["x-platecrypt-plates"]) == (200, "2")
    after = open_house.metric("platecrypt_profile_lookups_total", outcome="closed")
    assert after == before + 1


def test_the_openapi_description_is_valid_and_true(open_house: Any, encoded: Encoded) -> None:
    found = httpx.get(f"{open_house.base}/openapi.json", trust_env=False)
    document = found.json()
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)
    jsonschema = pytest.importorskip("jsonschema")
    schemas = document["components"]["schemas"]

    def check(name: str, value: Any) -> None:
        schema = {**schemas[name], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    for path, methods in document["paths"].items():
        if "get" in methods:
            url = open_house.base + path.replace("{model_name}", "plates")
            answer = httpx.get(url, trust_env=False)
            assert answer.status_code == 200, path
            (kind,) = methods["get"]["responses"]["200"]["content"]
            assert answer.headers["content-type"].startswith(kind)
    query = {"detections": "plain"}
    predict = {"params": query, "content": encoded(), "headers": {"content-type": "image/jpeg"}}
    check("V1Answer", httpx.post(open_house.url, trust_env=False, **predict).json())
    check("Error", open_house.post(b"no picture").json())
    data = [__import__("base64").b64encode(encoded()).decode()]
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}]
    check("V2Request", {"inputs": inputs, "parameters": query})
    answer = httpx.post(
        f"{open_house.base}/v2/models/plates/infer",
        json={"inputs": inputs, "parameters": query},
        trust_env=False,
    )
    check("V2Answer", answer.json())


def test_schemathesis_finds_nothing(open_house: Any, tmp_path: Path) -> None:
    """Requests made from the description, good ones and bad ones, are answered as it says."""
    command = Path(sys.executable).parent / "schemathesis"
    if not command.exists():
        pytest.skip("schemathesis is not installed")
    # What a schema cannot say is that base64 must be a picture: such a request is refused rightly.
    words = ["run", f"{open_house.base}/openapi.json", "--exclude-checks=positive_data_acceptance"]
    words += ["--phases=examples,coverage,fuzzing", "--max-examples=12", "--seed=1", "--no-color"]
    done = subprocess.run(
        [str(command), *words, "--request-timeout=20", "--continue-on-failure"],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Tested: 8" in done.stdout


def test_no_fuzzed_request_makes_it_fail(open_house: Any) -> None:
    before = open_house.metric("platecrypt_requests_total", wire="v1-image", status="200")
    count, found = FUZZ["run"](open_house.port, seconds=8, seed=7)
    assert found == []
    assert count > 50
    # Some get through to the picture, else only the outermost check was tried.
    after = open_house.metric("platecrypt_requests_total", wire="v1-image", status="200")
    assert after > before + 3
    assert open_house.ready()
    assert "Traceback" not in Path(open_house.record.log).read_text()


def test_one_trace_runs_through_both_containers(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {
        "content-type": "image/jpeg",
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
        "x-request-id": "trace-me",
    }
    httpx.post(endpoint.url, content=encoded(), headers=headers, trust_env=False)
    spans = set()
    for name in ("transformer", "predictor"):
        log = Path(stage.supervisor.find(name).log)

        def lines(log: Path = log) -> list[Any]:
            found = [json.loads(line) for line in log.read_text().splitlines()]
            return [line for line in found if line.get("request_id") == "trace-me"]

        until(lambda lines=lines: bool(lines()))
        (line,) = lines()
        assert (line["trace_id"], line["status"]) == (trace, 200)
        spans.add(line["span_id"])
    assert len(spans) == 2


def test_all_four_clients_get_their_plates(endpoint: Endpoint, encoded: Encoded) -> None:
    import asyncio

    async def both() -> list[int]:
        async with AsyncClient(endpoint.url) as web, AsyncGrpcClient(endpoint.grpc) as remote:
            one, two = await asyncio.gather(web.predict(encoded()), remote.predict(encoded()))
            return [len(one.plates), len(two.plates)]

    assert asyncio.run(both()) == [2, 2]
    with GrpcClient(endpoint.grpc) as remote, Client(endpoint.url) as web:
        ours, theirs = remote.predict(encoded()), web.predict(encoded())
        assert ours.content_type == theirs.content_type == "image/jpeg"
        assert [plate.box for plate in ours.plates] == [plate.box for plate in theirs.plates]
        wide = web.predict(encoded(), options={"margin": 0.5})
        assert wide.plates[0].box != theirs.plates[0].box


@contextlib.contextmanager
def load(server: Any, body: bytes) -> Iterator[list[str]]:
    """Clients that ask without end, each time on a new connection; what became of each request."""
    fates: list[str] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                answer = server.post(body)
                fates.append(str(answer.status_code))
            except (httpx.ConnectError, httpx.ReadError, httpx.WriteError):
                # Refused, or reset by the system that still held it for a listener that is gone.
                fates.append("not accepted")
                time.sleep(0.02)
            except httpx.HTTPError as error:
                fates.append(type(error).__name__)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield fates
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def test_a_request_that_was_accepted_is_answered_though_the_server_ends(
    alone: Any, encoded: Encoded
) -> None:
    server = alone("--drain_seconds=2")
    process = psutil.Process(server.record.pid)
    with load(server, encoded()) as fates:
        until(lambda: len(fates) > 10)
        process.send_signal(signal.SIGTERM)
        until(lambda: not server.ready())
        # Unready, and still at work: whoever has not heard of it yet is served.
        assert server.post(encoded()).status_code == 200
        assert httpx.get(f"{server.base}/v2/health/live", trust_env=False).status_code == 200
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert set(fates) <= {"200", "not accepted"}, set(fates)
    lines = [json.loads(line) for line in Path(server.record.log).read_text().splitlines()]
    accepted = [line["status"] for line in lines if line.get("wire") == "v1-image"]
    assert accepted == [200] * (fates.count("200") + 1)
    with contextlib.suppress(ChildProcessError):
        _, code = os.waitpid(server.record.pid, 0)
        assert code == 0


def test_a_full_disk_costs_the_log_and_no_request(
    stage: Any, encoded: Encoded, tmp_path: Path
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    from platecrypt.processes import free_port

    folder, _ = stage.model()
    port = free_port()
    argv = [sys.executable, "-m", "platecrypt.serving.single", f"--http_port={port}"]
    argv += [f"--model_dir={folder}", f"--keys_file={stage.settings.keyring_path}"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen([*argv, "--backend=onnxruntime"], stdout=full, stderr=full)
    try:
        url = f"http://127.0.0.1:{port}/v1/models/plates:predict"
        headers = {"content-type": "image/jpeg", "accept": "image/jpeg"}

        def answers() -> bool:
            assert process.poll() is None
            try:
                found = httpx.post(url, content=encoded(), headers=headers, trust_env=False)
            except httpx.ConnectError:
                return False
            return found.status_code == 200

        until(answers, 90)
        assert answers()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def hostile(encoded: Encoded) -> list[bytes]:
    """Damaged, shortened and stuffed files of every format."""
    rng = random.Random(11)
    corpus = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"GIF89a"]
    corpus += [b"BM" + bytes(60), b"II*\0\x08\0\0\0", b"%PDF-1.7", b"<svg/>", bytes(1000)]
    for form in ("jpeg", "png", "webp"):
        whole = encoded(form)
        corpus += [whole[: len(whole) * part // 7] for part in range(1, 7)]
        for _ in range(12):
            damaged = bytearray(whole)
            for _ in range(rng.randrange(1, 30)):
                damaged[rng.randrange(len(damaged) // rng.choice((1, 20)))] = rng.randrange(256)
            corpus.append(bytes(damaged))
        corpus.append(whole + whole)
    return corpus


def test_no_hostile_file_makes_it_fail(open_house: Any, encoded: Encoded) -> None:
    raw_inputs = hostile(encoded)
    with httpx.Client(trust_env=False, timeout=60) as client:
        for number, data in enumerate(raw_inputs):
            answer = client.post(
                open_house.url,
                content=data,
                headers={"content-type": "image/jpeg", "accept": "image/*"},
            )
            assert answer.status_code in (200, 400, 413), (number, answer.text[:200])
    assert open_house.ready()
    assert "Traceback" not in Path(open_house.record.log).read_text()


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (3, 2)])
def test_strange_shapes_are_pictures_too(open_house: Any, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 90, np.uint8)
    for form in ("png", "jpeg"):
        answer = open_house.post(imaging.encode(pixels, form), accept=f"image/{form}")
        assert answer.status_code == 200, answer.text
        assert imaging.decode(answer.content).pixels.shape == pixels.shape
    message = pb.ModelInferRequest(
        model_name="plates",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="image", datatype="UINT8", shape=pixels.shape
            )
        ],
        raw_input_contents=[pixels.tobytes()],
    )
    with grpc.insecure_channel(f"127.0.0.1:{open_house.grpc_port}") as channel:
        found = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=30)
    assert list(found.outputs[0].shape) == list(pixels.shape)
    np.testing.assert_array_equal(
        np.frombuffer(found.raw_output_contents[0], np.uint8), pixels.ravel()
    )


def test_random_bytes_over_grpc_are_the_clients_fault(open_house: Any) -> None:
    rng = random.Random(5)
    channel = grpc.insecure_channel(f"127.0.0.1:{open_house.grpc_port}")
    stub = GRPCInferenceServiceStub(channel)
    with channel:
        for _ in range(100):
            data = rng.randbytes(rng.randrange(60))
            message = pb.ModelInferRequest(
                model_name=rng.choice(["plates", "plates", "plates", "x"]),
                inputs=[
                    pb.ModelInferRequest.InferInputTensor(
                        name=rng.choice(["image", "x"]),
                        datatype=rng.choice(["BYTES", "UINT8", "FP64"]),
                        shape=[rng.randrange(-1, 5) for _ in range(rng.randrange(5))],
                    )
                ],
                raw_input_contents=[
                    rng.choice([data, bytes(oip.raw_bytes(oip.tensor("x", [data])))])
                ],
            )
            try:
                stub.ModelInfer(message, timeout=30)
            except grpc.RpcError as error:
                assert error.code() in (  # noqa: PT017
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.NOT_FOUND,
                )


def test_curl_sends_a_hundred_megabytes_and_is_refused(open_house: Any, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(100_000_000)
    command = [curl, "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60"]
    command += ["-H", "Content-Type: image/jpeg", "--data-binary", f"@{big}", open_house.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.stdout == "413"


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


def test_trailers_without_an_end_are_refused(open_house: Any) -> None:
    for piece in (b"0\r\n" + b"A: b\r\n" * (MAX_HEAD // 6 + 1), b"1;" + b"x" * (MAX_HEAD + 1)):
        with socket.create_connection(("127.0.0.1", open_house.port), timeout=30) as connection:
            connection.sendall(CHUNKED)
            time.sleep(0.2)  # what follows is read by itself
            # Little more than the limit: who closes on what it has not read resets the connection.
            connection.sendall(piece)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 400 "), answer
    whole = CHUNKED.replace(b"Host", b"Connection: close\r\nHost") + b"0\r\nA: b\r\n\r\n"
    answer = raw(open_house, whole)
    assert b'"request_id"' in answer, "a trailer harms nobody"


def test_a_line_end_does_not_stop_the_clock_of_an_idle_connection(open_house: Any) -> None:
    ask = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", open_house.port), timeout=30) as connection:
        connection.sendall(ask)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        began = time.monotonic()
        assert connection.recv(65536) == b""
        assert time.monotonic() - began < 10


def test_bodies_that_are_on_their_way_count_together(alone: Any, encoded: Encoded) -> None:
    """Not one of them is whole, or large; a hundred would fill the container."""
    server = alone("--body_seconds=20", "--max_bytes=4000000")
    part, others = bytes(4_000_000), []
    try:
        for _ in range(80):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            others.append(connection)
            with contextlib.suppress(ConnectionError):
                connection.sendall(HEAD + b"Content-Length: 4000001\r\n\r\n" + part)
        until(lambda: server.post(part).status_code == 429)
        memory = psutil.Process(server.record.pid).memory_info().rss
        assert memory < 900e6
        assert httpx.get(f"{server.base}/v2/health/live", trust_env=False).status_code == 200
    finally:
        for connection in others:
            connection.close()
    until(lambda: server.post(encoded()).status_code == 200)


@pytest.mark.parametrize(
    "accept", ["text/plain;version=abc", "application/openmetrics-text;version=x", ";;=,"]
)
def test_metrics_are_told_to_whoever_asks_strangely(open_house: Any, accept: str) -> None:
    answer = httpx.get(
        f"{open_house.base}/metrics", headers={"accept": accept.encode()}, trust_env=False
    )
    assert answer.status_code == 200
    assert "platecrypt_requests" in answer.text


@pytest.mark.parametrize(
    "path", ["/v1/models/plates:explain", "/v2/models/plates/versions/1/infer"]
)
def test_what_is_not_offered_says_so_before_it_reads(open_house: Any, path: str) -> None:
    events = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    answer = httpx.post(f"{open_house.base}{path}", headers=events, trust_env=False)
    assert answer.status_code == 501
    assert set(answer.json()) == {"error", "request_id"}


def test_without_usable_tokens_it_is_not_ready(guarded: tuple[Any, Path]) -> None:
    server, path = guarded
    path.write_text("")
    try:
        assert not server.ready()
    finally:
        path.write_text(TOKEN)
    assert server.ready()


def test_who_cancels_a_call_is_no_failure_of_ours(open_house: Any, encoded: Encoded) -> None:
    failed = {"wire": "v2-grpc", "status": "500"}
    left = {"wire": "v2-grpc", "status": "499"}
    before = open_house.metric("platecrypt_requests_total", **failed)
    large = imaging.encode(np.tile(imaging.decode(encoded()).pixels, (5, 5, 1)), "jpeg")
    raw_contents = bytes(oip.raw_bytes(oip.tensor("image", [large])))
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    message = pb.ModelInferRequest(
        model_name="plates", inputs=[tensor], raw_input_contents=[raw_contents]
    )
    with grpc.insecure_channel(f"127.0.0.1:{open_house.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)

        def cancelled() -> bool:
            with contextlib.suppress(grpc.RpcError):
                stub.ModelInfer(message, timeout=0.03)
            return open_house.metric("platecrypt_requests_total", **left) >= 1

        until(cancelled)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(pb.ModelInferRequest(model_name="plates", id="mine"), timeout=30)
        assert ("x-request-id", "mine") in refused.value.trailing_metadata()
    assert open_house.metric("platecrypt_requests_total", **failed) == before


def test_a_json_tensor_does_not_keep_the_others_waiting(open_house: Any) -> None:
    """Reading one takes seconds; the health page is answered again and again meanwhile."""
    pixels = np.zeros((1080, 1920, 3), np.uint8).tolist()
    item = {"name": "image", "datatype": "UINT8", "shape": [1080, 1920, 3], "data": pixels}
    body = json.dumps({"inputs": [item], "outputs": [{"name": "counts"}]}).encode()
    url = f"{open_house.base}/v2/models/plates/infer"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, content=body, timeout=60, trust_env=False)
        answered = 0
        while not asked.done():
            live = httpx.get(f"{open_house.base}/v2/health/live", timeout=60, trust_env=False)
            answered += live.status_code == 200
    assert asked.result().status_code == 200
    assert [one["name"] for one in asked.result().json()["outputs"]] == ["counts"]
    assert answered >= 5


def test_an_output_that_there_never_is_is_refused(open_house: Any, encoded: Encoded) -> None:
    message = pb.ModelInferRequest(
        model_name="plates",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="plates")],
        raw_input_contents=[bytes(oip.raw_bytes(oip.tensor("image", [encoded()])))],
    )
    with grpc.insecure_channel(f"127.0.0.1:{open_house.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(message, timeout=30)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "no output plates; there are boxes, counts" in refused.value.details()
        message.outputs[0].name = "records"
        found = stub.ModelInfer(message, timeout=30)
    assert [one.name for one in found.outputs] == ["records"]
