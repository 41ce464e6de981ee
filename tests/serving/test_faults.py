"""When something behind the door fails, no image leaves, and service returns by itself."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

from platecrypt import imaging
from platecrypt.cipher import inspect
from platecrypt.deployment import Endpoint
from platecrypt.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.alone]
Encoded = Callable[..., bytes]


def post(url: str, body: bytes) -> httpx.Response:
    headers = {"content-type": "image/jpeg", "accept": "image/jpeg"}
    return httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False)


def assert_no_image(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text[:200]
    assert set(answer.json()) == {"error", "request_id"}
    assert len(answer.content) < 1000


def ready(url: str) -> bool:
    base = url.split("/v1")[0]
    return httpx.get(f"{base}/v2/health/ready", trust_env=False, timeout=5).status_code == 200


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_frozen_predictor_makes_a_503_within_the_deadline_and_unready(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    process = psutil.Process(stage.supervisor.find("predictor").pid)
    process.suspend()
    try:
        started = time.monotonic()
        assert_no_image(post(endpoint.url, encoded()), 503)
        assert 2 < time.monotonic() - started < 6  # --predictor_request_timeout_seconds is 3
        assert not ready(endpoint.url)
    finally:
        process.resume()
    until(lambda: ready(endpoint.url), 5)
    assert post(endpoint.url, encoded()).status_code == 200


def test_a_killed_predictor_makes_a_503_at_once_and_its_return_is_noticed(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    record = stage.supervisor.find("predictor")
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: stage.supervisor.find("predictor").state == "crashed", 5)
    started = time.monotonic()
    assert_no_image(post(endpoint.url, encoded()), 503)
    assert time.monotonic() - started < 2
    assert not ready(endpoint.url)
    restart_predictor(stage, record)
    until(lambda: ready(endpoint.url), 5)
    assert post(endpoint.url, encoded()).status_code == 200


def test_a_predictor_killed_under_load_hangs_nobody_and_leaks_nothing(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    record = stage.supervisor.find("predictor")
    answers: list[httpx.Response] = []
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            answers.append(post(endpoint.url, encoded()))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(answers) > 8, 60)
        os.kill(record.pid, signal.SIGKILL)
        until(lambda: any(answer.status_code == 503 for answer in answers), 30)
        until(lambda: stage.supervisor.find("predictor").state == "crashed", 10)
        restart_predictor(stage, record)
        seen = len(answers)
        until(lambda: any(answer.status_code == 200 for answer in answers[seen:]), 30)
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 200:
            assert answer.headers["x-platecrypt-plates"] == "2"
        else:
            assert_no_image(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1


def restart_predictor(stage: Any, record: Any) -> None:
    probe, env = record.details["probe"], json.loads(record.details["environment"])
    stage.supervisor.start(
        "predictor",
        record.argv,
        env=env,
        url=record.url,
        ready=lambda: _answers(probe),
        timeout_s=90,
        details=record.details,
    )


def _answers(probe: str) -> bool:
    try:
        return httpx.get(probe, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_without_its_keys_it_seals_nothing_and_is_not_ready(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    path: Path = stage.settings.keyring_path
    kept = path.with_name("kept.json")
    for broken in (None, b"", b"{}"):
        path.rename(kept)
        try:
            if broken is not None:
                path.write_bytes(broken)
                path.chmod(0o600)
            assert_no_image(post(endpoint.url, encoded()), 503)
            assert not ready(endpoint.url)
        finally:
            kept.replace(path)
        assert ready(endpoint.url)
    assert post(endpoint.url, encoded()).status_code == 200


def test_a_rotated_key_seals_the_next_picture_without_a_restart(
    endpoint: Endpoint, stage: Any, encoded: Encoded
) -> None:
    def kid() -> str:
        sealed = imaging.read_sealed(post(endpoint.url, encoded()).content)
        return inspect(sealed[0]).kid

    before = kid()
    newest = stage.keyring.rotate()
    assert kid() == newest != before


class Liar(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A predictor that is up, and answers whatever it is told to."""

    answer: Any = pb.ModelInferResponse()
    sizes: tuple[int, ...] = ()  # that it claims to look at, one an answer
    shapes: list[tuple[int, ...]]  # of the pictures it got

    def ModelReady(self, request: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        if self.answer is None:
            context.abort(grpc.StatusCode.INTERNAL, "secret internals of the predictor")
        self.shapes.append(tuple(request.inputs[0].shape))
        if self.sizes:
            size, *rest = self.sizes
            self.sizes = tuple(rest)
            self.answer.parameters["size"].int64_param = size
        return self.answer


@pytest.fixture(scope="module")
def liar(stage: Any, endpoint: Endpoint) -> Iterator[tuple[Liar, str]]:
    """The liar, and the URL of a transformer that asks it."""
    servant = Liar()
    servant.shapes = []
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_GRPCInferenceServiceServicer_to_server(servant, server)
    grpc_port, port = server.add_insecure_port("127.0.0.1:0"), free_port()
    server.start()
    argv = [
        word
        for word in stage.supervisor.find("transformer").argv
        if not word.startswith(("--predictor_host", "--http_port", "--enable_grpc"))
    ]
    argv += [f"--predictor_host=127.0.0.1:{grpc_port}", f"--http_port={port}"]
    argv += ["--enable_grpc=false"]
    base = f"http://127.0.0.1:{port}"
    stage.supervisor.start("deceived", argv, ready=lambda: _answers(base + "/v2/health/ready"))
    yield servant, f"{base}/v1/models/plates:predict"
    stage.supervisor.stop("deceived")
    server.stop(0)


def answer(boxes: Any, scores: Any, **change: Any) -> Any:
    boxes, scores = np.array(boxes, np.float32), np.array(scores, np.float32)
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name="plates",
        outputs=[
            tensor(name="boxes", datatype="FP32", shape=boxes.shape),
            tensor(name="scores", datatype=change.get("datatype", "FP32"), shape=scores.shape),
        ],
        raw_output_contents=[boxes.tobytes(), scores.tobytes() + change.get("extra", b"")],
    )


BOX = [10, 10, 50, 30]
GARBAGE = {
    "error": None,
    "empty": pb.ModelInferResponse(),
    "not a number": answer([[float("nan"), 10, 50, 30]], [0.9]),
    "infinite": answer([[10, 10, float("inf"), 30]], [0.9]),
    "outside": answer([[10, 10, 50, 3000]], [0.9]),
    "inside out": answer([[50, 10, 10, 30]], [0.9]),
    "no area": answer([[10, 10, 10, 30]], [0.9]),
    "score": answer([BOX], [7.0]),
    "counts differ": answer([BOX, BOX], [0.9]),
    "another type": answer([BOX], [0.9], datatype="FP16"),
    "odd bytes": answer([BOX], [0.9], extra=b"\0"),
    "three columns": answer([[10, 10, 50]], [0.9]),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_predictor_that_answers_garbage_makes_a_502(
    liar: tuple[Liar, str], encoded: Encoded, name: str
) -> None:
    servant, url = liar
    servant.answer = GARBAGE[name]
    reply = post(url, encoded())
    assert_no_image(reply, 502)
    assert "secret" not in reply.text


def test_the_same_transformer_publishes_what_an_honest_answer_allows(
    liar: tuple[Liar, str], encoded: Encoded
) -> None:
    servant, url = liar
    servant.answer = answer([BOX], [0.9])
    assert post(url, encoded()).headers["x-platecrypt-plates"] == "1"


def test_three_hundred_plates_are_three_hundred_sealed_plates(
    liar: tuple[Liar, str], stage: Any, encoded: Encoded
) -> None:
    servant, url = liar
    corners = [(x, y) for x in range(0, 600, 20) for y in range(0, 350, 35)]
    boxes = [[x, y, x + 12, y + 20] for x, y in corners]
    assert len(boxes) == 300
    servant.answer = answer(boxes, [0.9] * 300)
    reply = post(url, encoded("png"))
    assert reply.headers["x-platecrypt-plates"] == "300"
    back, source = imaging.recover(reply.content, stage.keyring), imaging.decode(encoded("png"))
    for x1, y1, x2, y2 in back.regions:
        area = np.s_[y1:y2, x1:x2]
        np.testing.assert_array_equal(back.pixels[area], source.pixels[area])


def test_no_more_pixels_are_sent_than_the_network_looks_at_and_never_fewer(
    liar: tuple[Liar, str], stage: Any, encoded: Encoded
) -> None:
    servant, url = liar
    servant.answer = answer([BOX], [0.9])
    servant.sizes = (64, 64, 320, 320)
    servant.shapes.clear()
    found = [
        imaging.recover(post(url, encoded()).content, stage.keyring).regions[0] for _ in range(4)
    ]
    whole, small, medium = (360, 640, 3), (36, 64, 3), (180, 320, 3)
    # The third is asked again in full: the model that answered looks closer than the one before.
    assert servant.shapes == [whole, small, small, whole, medium]
    around = [((r.x1 + r.x2) / 2, (r.y1 + r.y2) / 2) for r in found]
    assert around[0] == around[2] == (30, 20)
    np.testing.assert_allclose(around[1], (300, 200), atol=1)
    np.testing.assert_allclose(around[3], (60, 40), atol=1)
