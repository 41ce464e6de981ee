"""An InferenceService on one machine: each container's own command runs as a process.

A new version starts as a candidate beside the live one, on free ports. Promoting it moves the
endpoint's port: the new transformer starts there, joined to the predictor that was tried; where
that fails the previous version is put back.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from platecrypt.deployment.inference_service import Container, InferenceService
from platecrypt.detection import find_model
from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError
from platecrypt.processes import (
    Launched,
    ProcessRecord,
    Supervisor,
    file_lock,
    free_port,
    require_free_port,
)
from platecrypt.settings import Settings

LOOPBACK = "127.0.0.1"
WILDCARD = "0.0.0.0"  # noqa: S104 - the pod's address in the document; never bound here
MODEL_MOUNT = "/mnt/models"  # where KServe's storage initialiser puts the model
PREDICTOR, TRANSFORMER = "predictor", "transformer"
CANDIDATE = "candidate-"
PORT_SETTING, GRPC_PORT_SETTING = "PLATECRYPT_PORT", "PLATECRYPT_GRPC_PORT"
PROBE_S = 2.0
# Containers of a pod share a network, and a pod finds another by the name of its service.
NEIGHBOUR = re.compile(r"\b(127\.0\.0\.1|localhost|[a-z0-9-]+-predictor):(\d+)\b")
NO_DRAIN = {"DRAIN_SECONDS": "0"}  # nobody here has to hear first that a process goes


@dataclass(frozen=True)
class Endpoint:
    """Where a version of the model answers.

    Attributes:
        url: of `:predict`.
        version: of the model.
        digest: SHA-256 of the model's ONNX file, hexadecimal.
        live: whether it is the one that users call.
        grpc: `host:port` of its gRPC, or "" where it has none.
    """

    url: str
    version: str
    digest: str
    live: bool
    grpc: str = ""


@dataclass(frozen=True)
class _Process:
    """What the supervisor needs to start a container, or to start it again."""

    argv: list[str]
    env: dict[str, str]
    url: str
    probe: str
    details: dict[str, str]


class LocalDeployer:
    """Runs the containers of an InferenceService as processes of this machine."""

    def __init__(self, settings: Settings, variables: Mapping[str, str] | None = None) -> None:
        """Run with those settings; `variables` replace the containers' own of that name.

        As what an operator sets on a cluster, they stay with the endpoint: a later version gets
        those of the one that serves, but for names that are given anew.
        """
        self._settings = settings
        self._supervisor = Supervisor(settings.home)
        self._given = dict(variables or {})

    def live(self) -> Endpoint | None:
        """The version that users call, if all its processes run."""
        return self._endpoint("")

    def waiting(self) -> Endpoint | None:
        """The candidate that waits to be promoted or discarded, if all its processes run."""
        return self._endpoint(CANDIDATE)

    def candidate(
        self, isvc: InferenceService, model_dir: Path, version: str, digest: str
    ) -> Endpoint:
        """Start a version beside the live one and wait until it is ready.

        The same version with the same digest, live, ready and run with the same settings, is
        returned as it is. A candidate that an earlier run left is ended. `model_dir` must stay
        where it is while it serves.

        Args:
            isvc: the service.
            model_dir: holds exactly one `.onnx` file.
            version: of the model.
            digest: SHA-256 of that file, hexadecimal.

        Raises:
            BadInputError: the folder, the keys or the endpoint's port cannot be used.
            RefusedError: the file does not have that digest.
            UnavailableError: a process did not become ready; both are ended.
        """
        with self._lock():
            live = self.live()
            same = live and (live.version, live.digest) == (version, digest)
            run = {"topology": isvc.topology, "run_with": self._run_with()}
            self._stop(CANDIDATE)
            if live and same and self._ready("") and self._details("").items() >= run.items():
                return live
            model_dir = model_dir.absolute()
            _check_digest(find_model(model_dir), digest)
            self._check_keys()
            if live is None and not self._supervisor.running(TRANSFORMER):
                require_free_port(self._settings.host, self._settings.port, PORT_SETTING)
            service = isvc.with_model(version=version)
            details = {
                "version": version,
                "digest": digest,
                "model": service.name,
                "variables": json.dumps(self.variables()),
                **run,
            }
            try:
                return self._start_candidate(service, model_dir, details)
            except BaseException:
                self._stop(CANDIDATE)
                raise

    def promote(self, endpoint: Endpoint) -> Endpoint:
        """Serve a candidate at the endpoint's own address instead of the previous version.

        The address does not answer while the new transformer starts, a few seconds.

        Raises:
            UnavailableError: the candidate is gone, or does not start there; the previous version
                serves again.
            BadInputError: the port is taken by somebody else; the previous version serves again.
        """
        if endpoint.live:
            return endpoint
        with self._lock():
            candidate = self._endpoint(CANDIDATE)
            if candidate != endpoint:
                raise UnavailableError(
                    f"candidate {endpoint.version} at {endpoint.url} is gone; deploy it again"
                )
            previous = self._supervisor.find(TRANSFORMER)
            self._supervisor.stop(TRANSFORMER)
            try:
                require_free_port(self._settings.host, self._settings.port, PORT_SETTING)
                self._start(TRANSFORMER, self._moved(CANDIDATE + TRANSFORMER))
            except BaseException as error:
                self._put_back(previous, error)
                raise
            self._supervisor.stop(CANDIDATE + TRANSFORMER)
            self._supervisor.stop(PREDICTOR)
            if self._supervisor.find(CANDIDATE + PREDICTOR):
                self._supervisor.rename(CANDIDATE + PREDICTOR, PREDICTOR)
            served = self.live()
        if served is None:
            raise UnavailableError(f"version {endpoint.version} ended as soon as it was promoted")
        return served

    def discard(self, endpoint: Endpoint) -> None:
        """End a candidate; a live endpoint is left alone."""
        if not endpoint.live:
            with self._lock():
                self._stop(CANDIDATE)

    def variables(self) -> dict[str, str]:
        """Those that were given: here, or for the version that serves.

        One that has crashed counts: who may ask does not change by an accident.
        """
        record = self._supervisor.find(TRANSFORMER)
        before = record.details.get("variables", "{}") if record else "{}"
        return {**json.loads(before), **self._given}

    def stop(self) -> None:
        """End the live version and any candidate."""
        with self._lock():
            self._stop(CANDIDATE)
            self._stop("")

    def _start_candidate(
        self, service: InferenceService, model_dir: Path, details: Mapping[str, str]
    ) -> Endpoint:
        containers = {PREDICTOR: service.predictor, TRANSFORMER: service.transformer}
        if service.topology == "single":
            del containers[PREDICTOR]
        inner = [port for container in containers.values() for port in container.ports.values()]
        ports = dict(zip(inner, _free_ports(len(inner)), strict=True))
        processes = {}
        variables = {**NO_DRAIN, **_features(self._settings), **self.variables()}
        for name, container in containers.items():
            folder = self._settings.home.absolute() / "deployment" / name
            mapping = _Mapping(container, variables, model_dir, self._keys(), folder, ports)
            processes[CANDIDATE + name] = mapping.process(details, serves=name == TRANSFORMER)
        # All begin at once, as the containers of a pod do; the predictor's error is told first.
        begun = {name: self._launch(name, process) for name, process in processes.items()}
        for name, launched in begun.items():
            self._wait(launched, processes[name])
        endpoint = self._endpoint(CANDIDATE)
        if endpoint is None:
            raise UnavailableError(f"candidate {details['version']} ended as soon as it was ready")
        return endpoint

    def _start(self, name: str, process: _Process) -> ProcessRecord:
        return self._wait(self._launch(name, process), process)

    def _launch(self, name: str, process: _Process) -> Launched:
        return self._supervisor.launch(
            name,
            process.argv,
            env=process.env,
            url=process.url,
            details={
                **process.details,
                "probe": process.probe,
                "environment": json.dumps(process.env),
            },
        )

    def _wait(self, launched: Launched, process: _Process) -> ProcessRecord:
        return self._supervisor.wait(
            launched, _probe(process.probe), self._settings.ready_timeout_s
        )

    def _moved(self, name: str) -> _Process:
        """A recorded candidate's transformer, listening at the endpoint's own address."""
        process = _recorded(self._require(name))
        old = process.details["port"]
        host, port = self._settings.host, str(self._settings.port)
        # The candidate still listens on its own while the new one starts.
        old_grpc, grpc = process.details.get("grpc", ""), str(self._grpc_port())
        argv = [_with_flag(word, "--http_port", old, port) for word in process.argv]
        argv = [_with_flag(word, "--grpc_port", old_grpc, grpc) for word in argv]
        argv = [_with_flag(word, "--host", LOOPBACK, host) for word in argv]
        reachable = LOOPBACK if host == WILDCARD else host
        before, after = f"//{LOOPBACK}:{old}/", f"//{reachable}:{port}/"
        return _Process(
            argv=argv,
            env=process.env,
            url=process.url.replace(before, after),
            probe=process.probe.replace(before, after),
            details={
                **process.details,
                "host": reachable,
                "port": port,
                **({"grpc": grpc} if old_grpc else {}),
            },
        )

    def _grpc_port(self) -> int:
        """The endpoint's port for gRPC: the one that is set, else a free one.

        Raises:
            BadInputError: the one that is set is taken.
        """
        if self._settings.grpc_port is None:
            return free_port(self._settings.host)
        require_free_port(self._settings.host, self._settings.grpc_port, GRPC_PORT_SETTING)
        return self._settings.grpc_port

    def _put_back(self, previous: ProcessRecord | None, cause: BaseException) -> None:
        self._supervisor.stop(TRANSFORMER)
        if previous is None or not (_alone(previous) or self._supervisor.running(PREDICTOR)):
            return  # nothing served before
        try:
            self._start(TRANSFORMER, _recorded(previous))
        except PlatecryptError as second:
            raise UnavailableError(
                f"{cause}; and the previous version does not start again: {second}"
            ) from cause

    def _endpoint(self, prefix: str) -> Endpoint | None:
        transformer = self._supervisor.running(prefix + TRANSFORMER)
        if transformer is None:
            return None
        if not _alone(transformer) and self._supervisor.running(prefix + PREDICTOR) is None:
            return None
        details = transformer.details
        return Endpoint(
            url=transformer.url,
            version=details["version"],
            digest=details["digest"],
            live=not prefix,
            grpc=f"{details.get('host', LOOPBACK)}:{details['grpc']}"
            if details.get("grpc")
            else "",
        )

    def _details(self, prefix: str) -> dict[str, str]:
        record = self._supervisor.running(prefix + TRANSFORMER)
        return record.details if record else {}

    def _run_with(self) -> str:
        """Everything but the model that makes one endpoint unlike another."""
        settings = self._settings
        return json.dumps(
            {
                "variables": {**_features(settings), **self.variables()},
                "keys": str(self._keys()),
                "address": [settings.host, settings.port, settings.grpc_port],
            },
            sort_keys=True,
        )

    def _ready(self, prefix: str) -> bool:
        record = self._supervisor.running(prefix + TRANSFORMER)
        return record is not None and _probe(record.details["probe"])()

    def _require(self, name: str) -> ProcessRecord:
        record = self._supervisor.running(name)
        if record is None:
            raise UnavailableError(f"{name} is not running; deploy the model again")
        return record

    def _stop(self, prefix: str) -> None:
        for name in (TRANSFORMER, PREDICTOR):
            self._supervisor.stop(prefix + name)

    def _keys(self) -> Path:
        return self._settings.keyring_path.absolute()

    def _check_keys(self) -> None:
        if not self._keys().is_file():
            raise BadInputError(f"key file {self._keys()} does not exist; make it first")

    def _lock(self) -> AbstractContextManager[None]:
        return file_lock(self._settings.home / "deployment" / "lock")


class _Mapping:
    """How a container's paths, ports and addresses are called on this machine."""

    def __init__(
        self,
        container: Container,
        variables: Mapping[str, str],
        model_dir: Path,
        keys: Path,
        folder: Path,
        ports: Mapping[int, int],
    ) -> None:
        # What is given here is this machine's already, and must not be taken for a container's:
        # a path below /tmp would become one below its scratch folder.
        self._given = {f"\0{name}\0": value for name, value in variables.items()}
        self._container = container.with_values({name: f"\0{name}\0" for name in variables})
        self._ports = ports
        self._paths: list[tuple[str, str]] = [(re.escape(MODEL_MOUNT), str(model_dir))]
        for mount in container.mounts:
            path = re.escape(mount.path.rstrip("/"))
            if mount.kind == "secret":
                self._paths.append((path + r"/[^/\s,:]+", str(keys)))
            elif mount.kind == "emptyDir":
                scratch = folder / mount.path.strip("/").replace("/", "_")
                scratch.mkdir(parents=True, exist_ok=True)
                self._paths.append((path, str(scratch)))
            else:
                raise BadInputError(
                    f"{container.name} mounts a {mount.kind} at {mount.path}, which only a cluster "
                    "has; secret and emptyDir run on this machine"
                )

    def process(self, details: Mapping[str, str], *, serves: bool) -> _Process:
        """The container's own command, with this machine's names in it."""
        container = self._container
        command, *args = [self._text(word) for word in container.argv()]
        argv = [sys.executable if command in ("python", "python3") else command, *args]
        env = {k: self._text(v) for k, v in container.resolved_environment().items()}
        probe = container.readiness
        if probe is None:
            raise BadInputError(
                f"container {container.name} has no readiness probe, as Knative wants it; here "
                "take the Standard form of the InferenceService"
            )
        port = self._ports[probe.port]
        base = f"http://{LOOPBACK}:{port}"
        grpc = (
            {"grpc": str(self._ports[container.ports["grpc"]])} if "grpc" in container.ports else {}
        )
        return _Process(
            argv=argv,
            env=env,
            url=f"{base}/v1/models/{details['model']}:predict" if serves else base,
            probe=base + probe.path,
            details={**details, "port": str(port), **grpc},
        )

    def _text(self, text: str) -> str:
        text = self._mapped(text)
        for mark, value in self._given.items():
            text = text.replace(mark, value)
        return text

    def _mapped(self, text: str) -> str:
        # In one pass: what a mount became may itself lie below another mount's name, as /tmp.
        either = "|".join(f"({pattern})" for pattern, _ in self._paths)
        text = re.sub(rf"(?<![\w./-])(?:{either})(?![\w.-])", self._here, text)
        flag, equals, value = text.partition("=")
        if value == WILDCARD:
            return f"{flag}{equals}{LOOPBACK}"
        if re.fullmatch(r"--\w*port", flag) and value.isdigit() and int(value) in self._ports:
            return f"{flag}={self._ports[int(value)]}"
        return NEIGHBOUR.sub(
            lambda found: f"{LOOPBACK}:{self._ports.get(int(found[2]), int(found[2]))}", text
        )

    def _here(self, found: re.Match[str]) -> str:
        return self._paths[(found.lastindex or 1) - 1][1]


def _recorded(record: ProcessRecord) -> _Process:
    details = dict(record.details)
    probe, environment = details.pop("probe"), details.pop("environment")
    return _Process(list(record.argv), json.loads(environment), record.url, probe, details)


def _alone(transformer: ProcessRecord) -> bool:
    """Whether it finds plates itself, so that no predictor belongs to it."""
    return transformer.details.get("topology") == "single"


def _features(settings: Settings) -> dict[str, str]:
    """The variables that let the endpoint look up cameras, where the settings want it."""
    if not settings.camera_profiles:
        return {}
    home = (settings.home / "feast").absolute()
    return {
        "FEATURE_REPO": str((settings.root / "feature_repo").absolute()),
        "FEAST_REGISTRY": settings.feast_registry or str(home / "registry.db"),
        "FEAST_ONLINE_STORE": settings.feast_online_store or str(home / "online.db"),
    }


def _with_flag(word: str, flag: str, old: str, new: str) -> str:
    return f"{flag}={new}" if word == f"{flag}={old}" else word


def _free_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = free_port(LOOPBACK)
        if port not in ports:
            ports.append(port)
    return ports


def _probe(url: str) -> Callable[[], bool]:
    """A readiness check as the kubelet does it: GET, any status from 200 to 399 is good."""

    def ready() -> bool:
        import httpx

        try:
            return httpx.get(url, timeout=PROBE_S, trust_env=False).status_code < 400
        except httpx.HTTPError:
            return False

    return ready


def _check_digest(model: Path, digest: str) -> None:
    found = hashlib.sha256(model.read_bytes()).hexdigest()
    if found != digest:
        raise RefusedError(
            f"{model} has the digest {found}, not {digest}: it is not the model that was released"
        )
