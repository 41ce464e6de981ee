"""The endpoint against its targets: what serving costs beside the model, and how it bears load.

    .venv/bin/python benchmarks/serving.py [--quick] [--part costs|bulk|load|start|all]
        [--sizes 640 320] [--rounds 15] [--seconds 60] [--photographs FOLDER]

Costs are process CPU time of the servers, medians over rounds in which the candidates take turns,
one thread a network; what counts are the ratios within one run. Wall times and requests a second
stand beside them. The network is an untrained yolov8n whose answer is replaced by two plates, so
that it costs what it costs and every picture has plates to seal. The bare forward is the one that
somebody without this project runs: ONNX Runtime over the model's square. The picture is a synthetic
one with more detail than most cameras give; with `--photographs` it is put together from pieces of
real ones. Writes build/benchmarks/serving.json and latency.png (latency against load). `--quick`
takes a minute or two, and its figures are rough.
"""

import argparse
import base64
import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

from platecrypt import imaging
from platecrypt.cipher import Keyring
from platecrypt.deployment import InferenceService
from platecrypt.detection import Detector, Letterbox
from platecrypt.detection.backends import blob_of, onnx_session
from platecrypt.detection.engine import DEFAULT_STRIDE
from platecrypt.detection.quantize import Sample, quantize
from platecrypt.processes import Supervisor, free_port
from platecrypt.serving import oip

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "benchmarks"
PLATES = ((600, 480, 800, 520), (1150, 560, 1390, 620))  # x1, y1, x2, y2 in the picture
WIDTH, HEIGHT = 1920, 1080
READY_S = 60.0
MOVED = struct.Struct("<II")
CALLS = 10  # that a candidate makes in its turn
HEADERS = {"content-type": "image/jpeg", "accept": "image/jpeg"}
# What the manifests give the containers.
ALLOCATOR = {
    name: value
    for name, value in InferenceService.load(ROOT / "kserve" / "inference_service.yaml")
    .transformer.resolved_environment()
    .items()
    if name.startswith("MALLOC_")
}
BACKENDS = {"f32": "onnxruntime", "bf16": "openvino", "int8": "openvino"}
Rows = list[tuple[str, str, str]]


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended on the way
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("all", "costs", "bulk", "load", "start"), default="all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[640, 320])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=60, help="of one load")
    parser.add_argument("--photographs", type=Path, help="folder of JPEG files, 960x540 or larger")
    parser.add_argument("--quick", action="store_true", help="320 pixels, 3 rounds, 5 seconds")
    arguments = parser.parse_args()
    if ALLOCATOR.items() - os.environ.items():  # what is compared must keep its memory alike
        again = [sys.executable, *sys.argv]
        os.execve(sys.executable, again, {**os.environ, **ALLOCATOR})  # noqa: S606
    if arguments.quick:
        arguments.sizes, arguments.rounds, arguments.seconds = [320], 3, 5.0
    cv2.setNumThreads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.photographs
        bench = Bench(Path(folder), mosaic(given) if given else photograph())
        print(f"the picture has {len(bench.jpeg)} bytes")
        parts: dict[str, Callable[[], Rows]] = {
            "costs": lambda: [
                *(row for size in arguments.sizes for row in costs(bench, size, arguments.rounds)),
                *codec(),
            ],
            "bulk": lambda: [
                row for size in arguments.sizes for row in bulk(bench, size, arguments.rounds)
            ],
            "start": lambda: start(bench, arguments.sizes[-1]),
            "load": lambda: load(bench, arguments.sizes[-1], arguments.seconds),
        }
        for name, part in parts.items():
            if arguments.part in ("all", name):
                rows += part()
    width = max(len(what) for what, _, _ in rows)
    for what, seen, demand in rows:
        print(f"{what:<{width}}  {seen:<34} {demand}")
    print(f"{os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f}")
    (OUT / "serving.json").write_text(json.dumps(rows, indent=1))


class Bench:
    """Models, keys, a picture, and servers that are ended when their time is over."""

    def __init__(self, home: Path, picture: np.ndarray[Any, Any]) -> None:
        self.home = home
        self.keys = home / "keyring.json"
        Keyring.create(self.keys)
        self.supervisor = Supervisor(home)
        self.picture = picture
        self.jpeg = imaging.encode(self.picture, "jpeg", quality=90)

    def model(self, size: int) -> Path:
        """A folder with the network of that size."""
        folder = self.home / f"model-{size}"
        if not folder.exists():
            folder.mkdir()
            code = f"import runpy; runpy.run_path({__file__!r})['export']({str(folder)!r}, {size})"
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return folder

    def network(self, size: int, precision: str) -> Path:
        """The ONNX file of that size for that arithmetic."""
        model = self.model(size) / "model.onnx"
        if precision != "int8":
            return model
        output = self.home / f"int8-{size}.onnx"
        if not output.exists():
            quantize(model, [Sample(lambda: self.picture)], output)
        return output

    @contextlib.contextmanager
    def single(self, size: int, *flags: str) -> Iterator["Server"]:
        """One process for everything."""
        port, grpc = free_port(), free_port()
        argv = [sys.executable, "-m", "platecrypt.serving.single", f"--http_port={port}"]
        argv += [f"--model_dir={self.model(size)}", f"--keys_file={self.keys}"]
        argv += ["--enable_grpc=true", f"--grpc_port={grpc}", *flags]
        with self._running({"single": argv}, port, grpc) as server:
            yield server

    @contextlib.contextmanager
    def collocated(self, size: int, *flags: str) -> Iterator["Server"]:
        """Predictor and transformer, joined by gRPC."""
        port, grpc, inner, inner_grpc = (free_port() for _ in range(4))
        predictor = [sys.executable, "-m", "platecrypt.serving.predictor", f"--http_port={inner}"]
        predictor += [f"--grpc_port={inner_grpc}", f"--model_dir={self.model(size)}", *flags]
        transformer = [sys.executable, "-m", "platecrypt.serving.transformer"]
        transformer += [f"--http_port={port}", f"--keys_file={self.keys}", "--enable_grpc=true"]
        transformer += [f"--grpc_port={grpc}", f"--predictor_host=127.0.0.1:{inner_grpc}"]
        processes = {"predictor": predictor, "transformer": transformer}
        with self._running(processes, port, grpc) as server:
            yield server

    @contextlib.contextmanager
    def mover(self, size: int, precision: str) -> Iterator["Mover"]:
        """The least that a server does: it moves bytes, and runs the network in between."""
        port = free_port()
        folder = str(self.model(size))
        code = (
            f"import runpy; runpy.run_path({__file__!r})['move']({folder!r}, {precision!r}, {port})"
        )
        name = f"mover-{port}"
        try:
            record = self.supervisor.start(name, [sys.executable, "-c", code], env=ALLOCATOR)
            server = Mover(port, 0, [psutil.Process(record.pid)])
            server.wait()
            yield server
        finally:
            self.supervisor.stop(name)

    @contextlib.contextmanager
    def _running(self, processes: dict[str, list[str]], port: int, grpc: int) -> Iterator["Server"]:
        began = time.monotonic()
        names = [f"{name}-{port}" for name in processes]
        try:
            records = [
                self.supervisor.start(name, argv, env=ALLOCATOR)
                for name, argv in zip(names, processes.values(), strict=True)
            ]
            server = Server(port, grpc, [psutil.Process(record.pid) for record in records])
            server.wait()
            server.cold_s = time.monotonic() - began
            yield server
        finally:
            for name in reversed(names):
                self.supervisor.stop(name)


class Server:
    """A live endpoint and its processes."""

    cold_s = 0.0

    def __init__(self, port: int, grpc: int, processes: list[psutil.Process]) -> None:
        self.port = port
        self.grpc = f"127.0.0.1:{grpc}"
        self._processes = processes
        self._own = threading.local()

    def cpu(self) -> float:
        """CPU seconds that its processes have used."""
        # Linux' clock of another process counts nanoseconds, where /proc counts hundredths.
        return sum(time.clock_gettime(~process.pid << 3 | 2) for process in self._processes)

    def memory(self) -> int:
        """Bytes that its processes hold."""
        return sum(process.memory_info().rss for process in self._processes)

    def wait(self) -> None:
        """Until it says that it is ready."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            try:
                if self.get("/v2/health/ready") == 200:
                    return
            except OSError:
                self._own.connection = None
            time.sleep(0.02)
        raise SystemExit("an endpoint did not become ready")

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """One request of the calling thread's own connection; it must succeed."""
        status, answer = self._ask("POST", path, body, headers)
        if status != 200:
            raise SystemExit(f"{path} answered {status}: {answer[:200]!r}")
        return answer

    def get(self, path: str) -> int:
        """The status of a page."""
        return self._ask("GET", path, None, {})[0]

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            self._own.connection = connection
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def predict(self, jpeg: bytes) -> bytes:
        """JPEG in, protected JPEG out."""
        return self.post("/v1/models/plates:predict", jpeg, HEADERS)


class Mover(Server):
    """What `move` serves: the lengths of request and answer, then the request; then the answer."""

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            try:
                return self.move(1, 1)
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the server of bytes did not become ready")

    def move(self, sent: int, wanted: int) -> None:
        """One request of `sent` bytes, answered by `wanted` bytes."""
        if not hasattr(self._own, "connection"):
            self._own.connection = socket.create_connection(("127.0.0.1", self.port))
            self._own.room = bytearray(2**23)
        self._own.connection.sendall(MOVED.pack(sent, wanted) + bytes(sent))
        while wanted:
            got = self._own.connection.recv_into(self._own.room, wanted)
            if not got:
                raise SystemExit("the server of bytes ended")
            wanted -= got


def move(folder: str, precision: str, port: int) -> None:
    """Serve a `Mover`, in a process of its own: one thread for sockets, one for the network."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    import uvloop

    cv2.setNumThreads(1)
    detector = Detector.load(
        Path(folder) / "model.onnx", backend=BACKENDS[precision], precision=precision
    )
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pool = ThreadPoolExecutor(1)

    class Moving(asyncio.BufferedProtocol):
        """Bytes go straight to where they belong."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport
            self.expect(MOVED.size)

        def expect(self, length: int) -> None:
            self.room, self.filled = memoryview(bytearray(length)), 0

        def get_buffer(self, sizehint: int) -> memoryview:
            return self.room[self.filled :]

        def buffer_updated(self, nbytes: int) -> None:
            self.filled += nbytes
            if self.filled < len(self.room):
                return
            length = MOVED.size
            if len(self.room) == MOVED.size:
                length, self.wanted = MOVED.unpack(self.room)
            else:
                asked = asyncio.get_running_loop().run_in_executor(pool, detector.detect, picture)
                asked.add_done_callback(lambda _: self.transport.write(bytes(self.wanted)))
            self.expect(length)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Moving, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(main())


def export(folder: str, size: int) -> None:
    """Write an untrained yolov8n of one class whose answer is two plates.

    Called in a process of its own: torch is heavy.
    """
    import onnx
    import yaml
    from onnx import helper, numpy_helper

    from platecrypt.training.ultralytics_runtime import load_ultralytics

    ultralytics = load_ultralytics(Path(folder) / "ultralytics")
    definition = next(Path(ultralytics.__file__).parent.rglob("yolov8.yaml"))
    plates = {**yaml.safe_load(definition.read_text()), "nc": 1, "scale": "n"}
    source = Path(folder) / "yolov8n.yaml"
    source.write_text(yaml.safe_dump(plates))
    network = ultralytics.YOLO(str(source))
    written = network.export(format="onnx", imgsz=size, dynamic=True, device="cpu", verbose=False)
    model = onnx.load(written)
    graph = model.graph
    (output,) = graph.output
    # The picture lies in the middle of its frame, which is a little higher than it is.
    box = Letterbox(WIDTH, HEIGHT, size, DEFAULT_STRIDE)
    (left, top), gain = box.offset, size / WIDTH
    answer = np.zeros((1, 5, len(PLATES)), np.float32)
    for index, (x1, y1, x2, y2) in enumerate(PLATES):
        row = [(x1 + x2) / 2 * gain + left, (y1 + y2) / 2 * gain + top]
        answer[0, :, index] = [*row, (x2 - x1) * gain, (y2 - y1) * gain, 0.9]
    for node in graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    graph.initializer.extend([zero, numpy_helper.from_array(answer, "answer")])
    graph.node.append(helper.make_node("Mul", ["before", "zero"], ["nothing"]))
    graph.node.append(helper.make_node("Concat", ["nothing", "answer"], [output.name], axis=2))
    output.type.tensor_type.shape.dim[2].dim_param = "rows"
    onnx.save(model, Path(folder) / "model.onnx")
    network.save(str(Path(folder) / "weights.pt"))
    for extra in (source, Path(written)):
        if extra.name != "model.onnx":
            extra.unlink()


def photograph() -> np.ndarray[Any, Any]:
    """A 1080p picture with the detail of a photograph."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(30, 220, (34, 60, 3), np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    grain = cv2.GaussianBlur(rng.normal(0, 18, picture.shape).astype(np.float32), (3, 3), 0)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def mosaic(folder: Path) -> np.ndarray[Any, Any]:
    """A 1080p picture of the first four photographs there, side by side at their own scale."""
    files = sorted(folder.glob("*.jpg"))[:4]
    pieces = [imaging.decode(file.read_bytes()).pixels for file in files]
    height, width = HEIGHT // 2, WIDTH // 2
    pieces = [piece[:height, :width] for piece in pieces]
    if [piece.shape for piece in pieces] != [(height, width, 3)] * 4:
        raise SystemExit(f"{folder} does not begin with four .jpg of {width}x{height} or more")
    a, b, c, d = pieces
    return np.vstack([np.hstack([a, b]), np.hstack([c, d])])


def core(bench: Bench, size: int, precision: str) -> Any:
    """The same path, in this process."""
    from platecrypt.serving.keys import KeyFile
    from platecrypt.serving.local import LocalDetector
    from platecrypt.serving.protector import Limits, Protector, warm_up

    detector = Detector.load(
        bench.model(size) / "model.onnx", backend=BACKENDS[precision], precision=precision
    )
    warm_up()
    return Protector(
        "plates",
        finder=LocalDetector(detector, "0"),
        keys=KeyFile(bench.keys),
        limits=Limits(2**25, 40_000_000),
    )


def costs(bench: Bench, size: int, rounds: int) -> Rows:
    """CPU of one request on every wire, over the same path called in process."""
    from platecrypt.serving.requests import Options, Picture

    rows: Rows = []
    model = bench.model(size) / "model.onnx"
    bare = onnx_session(model, model.read_bytes(), 1)
    frames = [
        Letterbox(WIDTH, HEIGHT, size, stride).apply(bench.picture)
        for stride in (0, DEFAULT_STRIDE)
    ]
    square, rectangle = (blob_of(frame[np.newaxis]) for frame in frames)
    pixels = np.ascontiguousarray(cv2.resize(bench.picture, (640, 640)))
    for kind in precisions():
        protector = core(bench, size, kind)
        detector = Detector.load(model, backend=BACKENDS[kind], precision=kind)
        flags = (f"--precision={kind}", f"--backend={BACKENDS[kind]}")
        with (
            bench.single(size, *flags) as single,
            bench.collocated(size, *flags) as both,
            bench.mover(size, kind) as mover,
        ):
            blank = np.zeros_like(bench.picture)
            answers = {
                "": (len(bench.jpeg), len(single.predict(bench.jpeg))),
                ", pixels": (pixels.nbytes, pixels.nbytes),
            }

            def inside(source: Any, core: Any = protector) -> Callable[[], float]:
                return here(lambda: core.protect(Picture(source), Options(), headers={}))

            candidates: dict[str, Callable[[], float]] = {
                "forward": here(lambda: bare.run(None, {"images": square})),
                "forward of the rectangle": here(lambda: bare.run(None, {"images": rectangle})),
                "in process": inside(bench.jpeg),
                "in process, pixels": inside(pixels),
                "in process, blank": here(lambda d=detector, p=blank: d.detect(p)),
            }
            for what, (sent, wanted) in answers.items():
                candidates[f"moved{what}"] = at(
                    mover, lambda m=mover, s=sent, w=wanted: m.move(s, w)
                )
            for name, server in (("single", single), ("collocated", both)):
                for wire, ask in wires(server, bench.jpeg, pixels).items():
                    candidates[f"{name} {wire}"] = at(server, ask)
            found = measured(candidates, rounds)
            rows += cost_rows(f"{size} {kind}", found)
    rows += share(bench, core(bench, size, "f32"), size, rounds)
    return rows


def wires(server: Server, jpeg: bytes, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Wire -> one request on it."""
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    limit = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(server.grpc, options=limit))
    text = base64.b64encode(jpeg).decode()
    body = json.dumps({"instances": [{"image": {"b64": text}}]}).encode()

    def binary(item: oip.Tensor) -> Callable[[], object]:
        raw = bytes(oip.raw_bytes(item))
        meta = {"name": "image", "datatype": item.datatype, "shape": list(item.shape)}
        inputs = [{**meta, "parameters": {"binary_data_size": len(raw)}}]
        parameters = {"binary_data_output": True}
        head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        headers = {oip.HEADER_LENGTH: str(len(head))}
        return lambda: server.post("/v2/models/plates/infer", head + raw, headers)

    def remote(item: oip.Tensor) -> Callable[[], object]:
        tensor = pb.ModelInferRequest.InferInputTensor
        message = pb.ModelInferRequest(
            model_name="plates",
            inputs=[tensor(name="image", datatype=item.datatype, shape=item.shape)],
            raw_input_contents=[bytes(oip.raw_bytes(item))],
        )
        return lambda: stub.ModelInfer(message)

    files, raw = oip.tensor("image", [jpeg]), oip.tensor("image", pixels)
    return {
        "v1 image": lambda: server.predict(jpeg),
        "v1 JSON": lambda: server.post(
            "/v1/models/plates:predict", body, {"content-type": "application/json"}
        ),
        "v2 binary BYTES": binary(files),
        "v2 gRPC BYTES": remote(files),
        "v2 binary UINT8": binary(raw),
        "v2 gRPC UINT8": remote(raw),
    }


def here(work: Callable[[], object]) -> Callable[[], float]:
    def cost() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return cost


def at(server: Server, ask: Callable[[], object], calls: int = CALLS) -> Callable[[], float]:
    """CPU of the server for one call."""

    def cost() -> float:
        began = server.cpu()
        for _ in range(calls):
            ask()
        return (server.cpu() - began) / calls

    return cost


def measured(candidates: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Medians in milliseconds; the candidates take turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 2):
        for name, candidate in candidates.items():
            repeats = CALLS if name.startswith(("forward", "in process")) else 1
            cost = statistics.fmean(candidate() for _ in range(repeats))
            if turn >= 2:
                times[name].append(cost * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def cost_rows(title: str, found: dict[str, float]) -> Rows:
    limits = {"single": 1.10, "collocated": 1.20}
    forward_ms = found["forward"]
    rows: Rows = [
        (f"{title}: bare ONNX Runtime f32 forward of the square", f"{forward_ms:.1f} ms", ""),
        (
            f"{title}: the same of the rectangle",
            f"{found['forward of the rectangle']:.1f} ms",
            "",
        ),
        (f"{title}: 1080p JPEG in process", f"{found['in process']:.1f} ms", ""),
    ]
    for name, cost in found.items():
        topology, _, wire = name.partition(" ")
        if topology not in limits:
            continue
        base = found["in process, pixels" if "UINT8" in wire else "in process"]
        rows.append(
            (
                f"{title}: {name} over in process",
                f"{cost / base:.2f} x ({cost:.1f} ms)",
                f"<= {limits[topology]:.2f} x",
            )
        )
    for what in ("", ", pixels"):
        moved = found[f"moved{what}"] - found["in process, blank"]
        share = 1 + moved / found[f"in process{what}"]
        seen = f"{share:.2f} x ({moved:.1f} ms)"
        rows.append(
            (f"{title}: the least: the path and a server that only moves bytes{what}", seen, "")
        )
    bf16 = title.endswith("bf16")
    for topology, demand in (
        ("single", 0.90 if bf16 else 1.35),
        ("collocated", 1.0 if bf16 else 1.45),
    ):
        cost = found[f"{topology} v1 image"]
        rows.append(
            (
                f"{title}: {topology}, JPEG to JPEG, over bare forward",
                f"{cost / forward_ms:.2f} x",
                f"<= {demand:.2f} x",
            )
        )
    return rows


def share(bench: Bench, protector: Any, size: int, rounds: int) -> Rows:
    """What covering and sealing two plates costs, of a whole request."""
    from platecrypt.serving.requests import Options, Picture

    image = imaging.decode(bench.jpeg)
    ring = Keyring.load(bench.keys)
    names: Any = {"model_name": "plates", "model_version": "0", "request_id": "r"}
    from datetime import UTC, datetime

    def whole(found: Any) -> Callable[[], float]:
        return here(lambda: imaging.protect(image, found, ring, time=datetime.now(UTC), **names))

    costs = measured(
        {
            "in process": here(
                lambda: protector.protect(Picture(bench.jpeg), Options(), headers={})
            ),
            "in process sealed": whole([list(box) for box in PLATES]),
            "in process empty": whole([]),
        },
        5 * rounds,  # half a millisecond is the difference of two that are twenty times as long
    )
    sealing = costs["in process sealed"] - costs["in process empty"]
    seen = f"{sealing / costs['in process']:.1%} ({sealing:.2f} ms)"
    return [(f"{size} f32: cover and seal two plates, of a request", seen, "<= 5 %")]


def codec() -> Rows:
    """Reading v2 binary tensors, ours and KServe's own."""
    from kserve import InferRequest

    from platecrypt.serving.predictor import images_of

    pixels = np.random.default_rng(1).integers(0, 256, (640, 640, 3), np.uint8)
    size = {"binary_data_size": pixels.nbytes}
    meta = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "parameters": size}
    head = json.dumps({"inputs": [meta]}).encode()
    body = head + pixels.tobytes()

    def stock() -> object:
        return InferRequest.from_bytes(body, len(head), "plates").inputs[0].as_numpy()

    costs = measured(
        {
            "in process ours": here(
                lambda: images_of(oip.read_rest(body, str(len(head))), 40_000_000)[0].copy()
            ),
            "stock": here(stock),
        },
        5,
    )
    ours, theirs = costs["in process ours"], costs["stock"]
    file = oip.raw_bytes(oip.tensor("image", [b"\xff\xd8\xff"]))
    meta = {"name": "image", "datatype": "BYTES", "shape": [1]}
    head = json.dumps(
        {"inputs": [{**meta, "parameters": {"binary_data_size": len(file)}}]}
    ).encode()
    try:
        InferRequest.from_bytes(head + bytes(file), len(head), "plates")
        seen = "stock reads it too"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        seen = f"works; stock: {type(error).__name__}"
    return [
        (
            "v2 binary UINT8 640x640x3 read, stock over ours",
            f"{theirs / ours:.0f} x ({theirs:.0f} / {ours:.2f} ms)",
            ">= 100 x",
        ),
        ("v2 binary BYTES", seen, "works"),
    ]


def bulk(bench: Bench, size: int, rounds: int) -> Rows:
    """A file on its way through a folder, against ultralytics' predict, Fernet and JPEG.

    Each writes its JPEG as it does by default: OpenCV at quality 95, ours at the source's 90.
    """
    from platecrypt.imaging.bulk import Job, Worker
    from platecrypt.imaging.bulk import Options as How
    from platecrypt.serving.bulk import EndpointWorker

    source = bench.home / "bulk.jpg"
    source.write_bytes(bench.jpeg)
    job = Job(source, bench.home / "out" / "bulk.jpg")
    ways = {"--fast": EndpointWorker, "without loss": Worker}
    with usual(bench, size, source) as ask:
        candidates = {"usual": ask}
        for kind in (*precisions(), *(["int8"] if has_openvino() else [])):
            for way, worker in ways.items():
                how = How(
                    bench.keys,
                    bench.network(size, kind),
                    force=True,
                    # Of f32 there are two, and the command measures them.
                    backend="auto" if kind == "f32" else BACKENDS[kind],
                    precision=kind,
                    compiled=True,  # as in a large folder
                )
                run = worker(how).run
                candidates[f"in process {way} {kind}"] = here(lambda run=run: run(job))
        found = measured(candidates, rounds)
    theirs = found.pop("usual")
    return [
        (
            f"{size} {name[11:]}: bulk, ultralytics + Fernet + JPEG over ours",
            f"{theirs / ours:.2f} x ({theirs:.0f} / {ours:.0f} ms)",
            ">= 1.3 x" if name.endswith("f32") else ">= 2 x",
        )
        for name, ours in found.items()
    ] + [throughput(bench, size, fast=fast) for fast in (True, False)]


def throughput(bench: Bench, size: int, *, fast: bool, count: int = 60) -> tuple[str, str, str]:
    """The command over a folder, on all cores; wall time with its start."""
    folder, out = bench.home / "many", bench.home / f"many-out-{size}-{fast}"
    if not folder.exists():
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.jpg").write_bytes(bench.jpeg)
    argv = [str(Path(sys.executable).parent / "platecrypt"), "protect", str(folder)]
    argv += ["-o", str(out), "--keys", str(bench.keys)]
    argv += ["--model", str(bench.model(size) / "model.onnx"), *(["--fast"] if fast else [])]
    began = time.monotonic()
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, **ALLOCATOR})
    took = time.monotonic() - began
    way = " --fast" if fast else ""
    return (
        f"{size} f32: platecrypt protect{way} of {count} files, {os.cpu_count()} processes",
        f"{count / took:.1f}/s",
        "",
    )


@contextlib.contextmanager
def usual(bench: Bench, size: int, source: Path) -> Iterator[Callable[[], float]]:
    """A process that does what one would write without this project, once for each line."""
    weights = str(bench.model(size) / "weights.pt")
    code = f"import runpy; runpy.run_path({__file__!r})['usual_bulk']"
    code += f"({weights!r}, {str(source)!r}, {size})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    asking, answers = process.stdin, process.stdout
    if asking is None or answers is None:
        raise SystemExit("no pipes to the other process")

    def ask() -> float:
        asking.write("\n")
        asking.flush()
        for line in answers:
            if line.startswith("cost "):
                return float(line.split()[1])
        raise SystemExit("the other process ended")

    try:
        yield ask
    finally:
        asking.close()
        process.wait(30)


def usual_bulk(weights: str, source: str, size: int) -> None:
    """Protect a file once for each line of standard input; print what it cost, CPU seconds."""
    import torch
    from cryptography.fernet import Fernet

    from platecrypt.training.ultralytics_runtime import load_ultralytics

    ultralytics = load_ultralytics(Path(source).parent / "config")
    model = ultralytics.YOLO(weights)
    cv2.setNumThreads(1)
    box = Fernet(Fernet.generate_key())
    for _ in sys.stdin:
        torch.set_num_threads(1)  # ultralytics sets its own
        began = time.process_time()
        (result,) = model.predict(source, imgsz=size, device="cpu", verbose=False)
        picture = result.orig_img
        for x1, y1, x2, y2 in PLATES:
            box.encrypt(cv2.imencode(".png", picture[y1:y2, x1:x2])[1].tobytes())
            picture[y1:y2, x1:x2] = 0
        cv2.imwrite(source + ".usual.jpg", picture)
        print("cost", time.process_time() - began, flush=True)


def start(bench: Bench, size: int, times: int = 3) -> Rows:
    """From the command to ready, wall time; both containers begin together, as in a pod."""
    rows: Rows = []
    for name, begin in (("single", bench.single), ("collocated", bench.collocated)):
        taken = []
        for _ in range(times + 1):
            with begin(size, "--backend=auto") as server:
                taken.append(server.cold_s)
        seen = f"{statistics.median(taken[1:]):.1f} s (first: {taken[0]:.1f} s)"
        rows.append((f"{name}: cold start to ready, --backend=auto", seen, "<= 4 s"))
    return rows


def load(bench: Bench, size: int, seconds: float) -> Rows:
    """Clients beside each other: throughput, latency, health, memory."""
    rows: Rows = []
    curves: dict[str, list[tuple[int, float, float, float]]] = {}
    for name, begin in (("single", bench.single), ("collocated", bench.collocated)):
        with begin(size, "--backend=onnxruntime") as server:
            curves[name] = []
            for clients in (1, 2, 4, 8, 16):
                times, took, _ = saturate(server, bench.jpeg, clients, min(8.0, seconds))
                curves[name].append((clients, len(times) / took, *percentiles(times)))
                rows.append((f"{name}, {size}: {clients} clients", told(times, took), ""))
            rates, memory, waits = [], [], []
            for _ in range(2):
                times, took, health = saturate(server, bench.jpeg, 8, seconds)
                rates.append(len(times) / took)
                memory.append(server.memory())
                waits += health
            rows.append(
                (f"{name}, {size}: 8 clients, {2 * seconds:.0f} s", told(times, took), "no error")
            )
            p99 = percentiles(waits)[1] * 1e3
            drift, growth = rates[1] / rates[0] - 1, memory[1] / memory[0] - 1
            rows += [
                (f"{name}: health p99 while 8 clients saturate it", f"{p99:.0f} ms", "<= 50 ms"),
                (f"{name}: second {seconds:.0f} s over the first", f"{drift:+.1%}", "within 5 %"),
                (f"{name}: memory growth between them", f"{growth:+.1%}", "< 2 %"),
            ]
    draw(curves, size)
    return rows


def told(times: list[float], took: float) -> str:
    p50, p99 = percentiles(times)
    return f"{len(times) / took:.1f}/s, p50 {p50 * 1e3:.0f}, p99 {p99 * 1e3:.0f} ms"


def saturate(
    server: Server, jpeg: bytes, clients: int, seconds: float
) -> tuple[list[float], float, list[float]]:
    """Latencies of requests, the time it took, and latencies of health meanwhile.

    One request that fails ends the benchmark.
    """
    times: list[float] = []
    health: list[float] = []
    failed: list[BaseException] = []
    end = time.monotonic() + seconds
    began = time.monotonic()

    def client() -> None:
        try:
            while time.monotonic() < end:
                asked = time.perf_counter()
                server.predict(jpeg)
                times.append(time.perf_counter() - asked)
        except BaseException as error:  # noqa: BLE001 - a thread's SystemExit ends nothing
            failed.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        asked = time.perf_counter()
        server.get("/v2/health/live")
        health.append(time.perf_counter() - asked)
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"a request failed under load: {failed[0]}")
    return times, time.monotonic() - began, health


def percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]


def draw(curves: dict[str, list[tuple[int, float, float, float]]], size: int) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        rates = [rate for _, rate, _, _ in points]
        (line,) = axes.plot(
            rates, [p50 * 1e3 for _, _, p50, _ in points], "o-", label=f"{name} p50"
        )
        axes.plot(
            rates,
            [p99 * 1e3 for *_, p99 in points],
            "o--",
            color=line.get_color(),
            label=f"{name} p99",
        )
        for clients, rate, p50, _ in points:
            axes.annotate(
                str(clients), (rate, p50 * 1e3), textcoords="offset points", xytext=(4, 4)
            )
    axes.set(
        xlabel="requests a second (numbers: clients)",
        ylabel="milliseconds",
        title=f"1080p JPEG in and out, yolov8n at {size}, {os.cpu_count()} cores",
        yscale="log",
    )
    axes.legend()
    figure.savefig(OUT / "latency.png", dpi=110)


def precisions() -> list[str]:
    """Those of a float network that this machine has."""
    if not has_openvino():
        return ["f32"]
    import openvino

    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["f32", "bf16"] if capable else ["f32"]


def has_openvino() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("openvino") is not None


if __name__ == "__main__":
    main()
