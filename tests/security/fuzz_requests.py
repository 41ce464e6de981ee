"""Fuzzing of what reads requests: a live endpoint is sent damaged, absurd and random ones.

Whatever a client sends, the server answers or hangs up in time, says 4xx for what is the client's
fault and never 5xx, and its answer is a sentence. Run alone it starts an endpoint of its own, or
takes a running one, and goes on for as long as it is told:

    .venv/bin/python tests/security/fuzz_requests.py --minutes 10 [--seed N] [--port N]
"""

import argparse
import base64
import http.client
import json
import random
import runpy
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platecrypt import imaging
from platecrypt.serving import oip
from platecrypt.serving.refusals import HttpError
from platecrypt.serving.requests import V1Body, v1_job, v2_job, wanted

HERE = Path(__file__).parent
MARKER: dict[str, Any] = runpy.run_path(str(HERE.parent / "support" / "marker_model.py"))
mutated = runpy.run_path(str(HERE / "fuzz_containers.py"))["mutated"]
V1, V2 = "/v1/models/plates:predict", "/v2/models/plates/infer"
SLOW_S = 10.0
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**63, 2**70, 0.5, 1e308, -0.0, "", "x" * 300, "\0", "ü", "NaN"),
    *([], {}, [[]], [None] * 40, {"b64": 1}, "BYTES", "UINT8", "image", [0, 0, 3], [-1, 1, 3]),
)
HEADERS = (
    *("", "application/json", "application/json; charset=utf-7", "image/jpeg", "image/*", "*/*"),
    *("text/html", "multipart/form-data", ";;;", "\xff\xfe", "a" * 3000, "0", "-1", "1e3", "99999"),
)
QUERIES = (
    *("", "?confidence=0.5", "?confidence=nan", "?margin=-1", "?detections=plain&image=none"),
    *("?a=b", "?%ff", "?confidence=0&confidence=1", "?" + "x=1&" * 50, "?camera_id=../../etc"),
)


@dataclass
class Call:
    """A request before it is bytes."""

    path: str
    headers: dict[str, str]
    body: bytes

    def as_bytes(self, *, length: int | None = None) -> bytes:
        """The request on the wire; `length` is a lie where it is given."""
        size = len(self.body) if length is None else length
        lines = [f"POST {self.path} HTTP/1.1", "host: x", "connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"content-length: {size}", "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace") + self.body


def corpus() -> list[Call]:
    """A good request on every wire."""
    picture = MARKER["picture"](96, 64, (10, 10, 40, 24))
    files = [imaging.encode(picture, form) for form in ("jpeg", "png", "webp")]
    texts = [base64.b64encode(file).decode() for file in files]
    as_json = {"content-type": "application/json"}
    calls = [Call(V1, {"content-type": "image/jpeg", "accept": "image/*"}, file) for file in files]
    document: Any = {"instances": [{"image": {"b64": text}} for text in texts]}
    document["instances"][0].update(camera_id="gate-1", request_id="ride-7")
    document["parameters"] = {"detections": "plain", "confidence": 0.3}
    calls.append(Call(V1, as_json, json.dumps(document).encode()))
    pixels = {"name": "image_0", "datatype": "UINT8", "shape": list(picture.shape)}
    document = {"id": "r", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [3]}]}
    document["inputs"][0]["data"] = texts
    calls.append(Call(V2, as_json, json.dumps(document).encode()))
    small = picture[::8, ::8]
    values = {**pixels, "shape": list(small.shape), "data": small.ravel().tolist()}
    document = {"inputs": [values], "parameters": {"margin": 0.2}, "outputs": [{"name": "boxes"}]}
    calls.append(Call(V2, as_json, json.dumps(document).encode()))
    for item in (oip.tensor("image", files), oip.tensor("image_0", picture)):
        raw = bytes(oip.raw_bytes(item))
        meta = {"name": item.name, "datatype": item.datatype, "shape": list(item.shape)}
        inputs = [{**meta, "parameters": {"binary_data_size": len(raw)}}]
        parameters = {"binary_data_output": True}
        head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        calls.append(Call(V2, {oip.HEADER_LENGTH: str(len(head))}, head + raw))
    return calls


def absurd(document: Any, chance: random.Random) -> Any:
    """A JSON document with one value replaced, doubled or gone."""
    if isinstance(document, dict) and document and chance.random() < 0.85:
        name = chance.choice(list(document))
        kind = chance.randrange(12)
        rest = {key: value for key, value in document.items() if key != name}
        if kind == 0:
            return rest
        if kind == 1:
            return {**rest, chance.choice(("x", "", "parameters", name * 50)): document[name]}
        return {**rest, name: absurd(document[name], chance)}
    if isinstance(document, list) and document and chance.random() < 0.85:
        at = chance.randrange(len(document))
        if chance.randrange(8) == 0:
            return document[:at] + document[at:] * chance.choice((0, 2, 20))
        return [*document[:at], absurd(document[at], chance), *document[at + 1 :]]
    return chance.choice(STRANGE)


def changed(call: Call, others: list[bytes], chance: random.Random) -> Call:
    """A request of which something is wrong."""
    made = Call(call.path, dict(call.headers), call.body)
    for _ in range(chance.choice((1, 1, 2, 3))):
        kind = chance.randrange(10)
        if kind < 3:
            made.body = mutated(made.body, others, chance) if made.body else b"\0"
        elif kind < 7:
            made.body = _absurd_body(made, chance)
        elif kind == 7:
            name = chance.choice((*made.headers, "accept", "content-type", oip.HEADER_LENGTH))
            made.headers[name] = chance.choice(HEADERS)
        elif kind == 8:
            made.path = chance.choice((V1, V2)) + chance.choice(QUERIES)
        else:
            made.body = chance.randbytes(chance.choice((0, 1, 7, 300)))
    return made


def _absurd_body(call: Call, chance: random.Random) -> bytes:
    """Another JSON at the head of the body, with the header that tells its length put right."""
    told = call.headers.get(oip.HEADER_LENGTH, "")
    length = int(told) if told.isdigit() else len(call.body)
    try:
        document = json.loads(call.body[:length])
    except (ValueError, RecursionError):
        return call.body
    head = json.dumps(absurd(document, chance)).encode()
    if told:
        call.headers[oip.HEADER_LENGTH] = str(len(head))
    return head + call.body[length:]


def decoders(call: Call) -> None:
    """What reads requests, in this process: anything but an `HttpError` gets out."""
    lengths = call.headers.get(oip.HEADER_LENGTH)
    path, _, query = call.path.partition("?")
    try:
        if path == V1:
            form = wanted(call.headers.get("accept", ""))
            body = V1Body(call.body, call.headers.get("content-type", ""), query)
            v1_job(body, form, max_bytes=2**25)
        else:
            v2_job(oip.read_rest(call.body, lengths), max_bytes=2**25, max_pixels=10**7)
    except HttpError as error:
        if not 400 <= error.status < 500:
            raise


def ask(port: int, data: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to these bytes; 0 where the server hangs up instead."""
    with socket.create_connection(("127.0.0.1", port), timeout=SLOW_S) as connection:
        try:
            connection.sendall(data)
            answer = http.client.HTTPResponse(connection, method="POST")
            answer.begin()
            return answer.status, answer.read()
        except (ConnectionError, http.client.BadStatusLine):
            return 0, b""


def wrong_with(port: int, call: Call, chance: random.Random) -> str:
    """What is wrong with how a live server treats a request; empty where nothing is."""
    whole = chance.random() < 0.9
    data = call.as_bytes()
    if not whole:  # HTTP itself is broken; a body that is too short would only be waited for
        lie = chance.randrange(len(call.body) + 1)
        data = chance.choice((chance.randbytes(200) + b"\r\n\r\n", call.as_bytes(length=lie)))
    began = time.monotonic()
    try:
        status, body = ask(port, data)
    except TimeoutError:
        return "no answer in time"
    if time.monotonic() - began > SLOW_S:
        return f"answered after {time.monotonic() - began:.1f} s"
    if status >= 500:
        return f"status {status}: {body[:200]!r}"
    if whole and status != 200:
        try:
            told = json.loads(body)
        except ValueError:
            # uvicorn's own sentence about a header that no HTTP message may have.
            return "" if body == b"Invalid HTTP request received." else f"{status}: {body[:200]!r}"
        if set(told) != {"error", "request_id"} or "\n" in told["error"]:
            return f"status {status}: {told}"
    return ""


def run(port: int, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Fuzz a live endpoint for a while; how many requests, and what was wrong."""
    chance = random.Random(seed)
    calls = corpus()
    bodies = [call.body for call in calls]
    for call in calls:
        status, body = ask(port, call.as_bytes())
        if status != 200:
            raise SystemExit(f"a good request is refused: {call.path} {status} {body[:200]!r}")
    count, found = 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        made = changed(chance.choice(calls), bodies, chance)
        try:
            decoders(made)
            wrong = wrong_with(port, made, chance)
        except Exception as error:  # noqa: BLE001  that is what is looked for
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            found.append(f"{made.path} {made.headers} {made.body[:300]!r}: {wrong}")
            print(found[-1])
        count += 1
    return count, found


def main() -> None:
    from platecrypt.cipher import Keyring
    from platecrypt.processes import Supervisor, free_port

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, help="of an endpoint that runs; none: one is started")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, supervisor = Path(folder), Supervisor(Path(folder))
        port = arguments.port or free_port()
        if not arguments.port:
            Keyring.create(home / "keys.json")
            (home / "model").mkdir()
            MARKER["build"](home / "model" / "model.onnx", 64)
            argv = [sys.executable, "-m", "platecrypt.serving.single", f"--http_port={port}"]
            argv += [f"--model_dir={home / 'model'}", f"--keys_file={home / 'keys.json'}"]
            supervisor.start("fuzzed", argv, ready=lambda: _listens(port))
        try:
            count, found = run(port, 60 * arguments.minutes, arguments.seed)
            alive = arguments.port or supervisor.running("fuzzed")
        finally:
            supervisor.stop("fuzzed")
    print(
        f"{count} requests, {len(found)} broke a promise, the server {'lives' if alive else 'died'}"
    )
    raise SystemExit(1 if found or not alive else 0)


def _listens(port: int) -> bool:
    try:
        return ask(port, b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")[0] == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
