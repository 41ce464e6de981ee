"""What the code does and what the manifests say of it are the same.

Neither side is written down here: calls come from running the engines, flags from the parsers,
names and metrics from the modules, and all are held against the overlays as kustomize builds them.
"""

import ast
import functools
import importlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from platecrypt.cli import app
from platecrypt.cluster import Cluster
from platecrypt.deployment.inference_service import expand
from platecrypt.deployment.kserve import KServeDeployer
from platecrypt.deployment.local import WILDCARD
from platecrypt.manifests import ManifestSet, read
from platecrypt.manifests.model import Pod, walk
from platecrypt.settings import ENV_PREFIX, Settings
from platecrypt.tuning.katib import KatibTuner

from ..contract.test_kserve_engine import FAST, MODES, ONE, TWO, release, service
from ..contract.test_tuner_engines import CREATED, RUNNING, SCENARIOS, experiment
from ..pipeline.test_cluster import PACKAGE, KubeflowPipelines, settings_for
from ..support.kserve_api import KServeApi
from ..support.kubernetes_api import KubernetesApi, frame

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(p.parent.name for p in ROOT.glob("infra/kustomize/overlays/*/kustomization.yaml"))
pytestmark = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")),
    reason="neither kubectl nor kustomize is installed; no Python package brings them",
)


@functools.cache
def built(overlay: str) -> ManifestSet:
    (group,) = read([ROOT / "infra" / "kustomize"], [overlay])
    return group


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> ManifestSet:
    return built(request.param)


# --- calls and rights -----------------------------------------------------------------------------


class Right(NamedTuple):
    """A verb on a resource, as a role grants it."""

    group: str
    resource: str
    verb: str


# Room of the library -> the account that its steps have, and the stand-in that it is run against.
ACCOUNTS = {"deployment": "platecrypt-deploy", "tuning": "platecrypt-tune"}
# Rights that Kubeflow's own containers need in the pods of a run: the launcher (KFP's
# backend/src/v2/component) and the workflow executor (Argo Workflows' documentation on RBAC).
PLATFORM = {
    Right("", "configmaps", "get"),
    Right("", "secrets", "get"),
    Right("argoproj.io", "workflowtaskresults", "create"),
    Right("argoproj.io", "workflowtaskresults", "patch"),
}
# Account of the scheduled retraining, which asks Kubeflow Pipelines: its server takes each request
# for a verb on resources that exist for this alone (backend/src/apiserver/common/const.go).
RETRAINING = "platecrypt-retraining"
KFP_GROUP = "pipelines.kubeflow.org"
# What a run names is looked up by the server in the caller's name.
KFP_LOOKS_UP = {
    Right(KFP_GROUP, resource, "get")
    for resource in ("pipelines", "pipelines/versions", "experiments")
}
METHODS = [name for name in vars(Cluster) if not name.startswith("_")]


def calls_in(room: str) -> set[tuple[str, str]]:
    """Method of `Cluster` and resource of each call that stands in the source of a room."""
    found = set()
    for file in sorted((ROOT / "platecrypt" / room).glob("*.py")):
        module = None
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                on_cluster = isinstance(owner, ast.Attribute) and owner.attr == "_cluster"
                if on_cluster and node.func.attr in METHODS:
                    assert isinstance(node.args[0], ast.Name), f"{file}:{node.lineno}"
                    module = module or importlib.import_module(f"platecrypt.{room}.{file.stem}")
                    found.add((node.func.attr, getattr(module, node.args[0].id)[2]))
    return found


def rights_of(seen: list[tuple[str, str, Any, Any]]) -> set[Right]:
    """The rights that requests need, by the rules of Kubernetes' API."""
    found = set()
    for method, path, _, _ in seen:
        parts = path.strip("/").split("/")
        group, resource, named = parts[1], parts[5], len(parts) > 6
        verbs = {
            "GET": ["get" if named else "list"],
            "POST": ["create"],
            "PATCH": ["patch", "create"],  # an apply makes what is not there
            "DELETE": ["delete"],
        }[method]
        found |= {Right(group, resource, verb) for verb in verbs}
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Room -> (calls of Cluster, requests) of its engine, run through everything that it does."""
    calls: list[tuple[str, str]] = []
    before = {name: getattr(Cluster, name) for name in METHODS}

    def recorded(name: str) -> Any:
        def call(self: Cluster, kind: tuple[str, str, str], *rest: Any) -> Any:
            calls.append((name, kind[2]))
            return before[name](self, kind, *rest)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS:
            patch.setattr(Cluster, name, recorded(name))
        folder = tmp_path_factory.mktemp("seams")
        found: dict[str, Any] = {}
        for room, run in (("deployment", run_deployer), ("tuning", run_tuner)):
            calls.clear()
            requests = run(folder)
            found[room] = (set(calls), requests)
    return found


def run_deployer(folder: Path) -> list[Any]:
    seen: list[Any] = []
    for mode in MODES:
        api = KServeApi()
        with api.serving():
            deployer = KServeDeployer(
                Settings(home=folder),
                kubeconfig=api.kubeconfig(folder / "config"),
                poll_s=FAST,
                timeout_s=10.0,
                served=api.served,
            )
            release(deployer, "1", ONE, mode)
            tried = deployer.candidate(service(mode), "s3://platecrypt/models/2", "2", TWO)
            deployer.discard(tried)
        seen += api.seen
    return seen


def run_tuner(folder: Path) -> list[Any]:
    scenario = SCENARIOS["succeeded"]
    with KubernetesApi(scenario.life).serving() as api:
        config = api.kubeconfig(folder / "config")
        for keep in (True, False):  # the second call follows the first one's Experiment
            tuner = KatibTuner(kubeconfig=config, poll_s=FAST, timeout_s=10.0, keep=keep)
            tuner.run(experiment(scenario), folder / "work")
    seen = list(api.seen)
    with KubernetesApi([frame([], CREATED, RUNNING)]).serving() as api:
        config = api.kubeconfig(folder / "config")
        for failed in (1, 2):  # the second call gives it another count
            tuner = KatibTuner(kubeconfig=config, poll_s=FAST, timeout_s=0.1)
            tuner.run(experiment(scenario).with_counts(max_failed=failed), folder / "work")
    return seen + list(api.seen)


@pytest.mark.parametrize("room", ACCOUNTS)
def test_the_run_makes_every_call_that_stands_in_the_source(
    room: str, made: dict[str, Any]
) -> None:
    assert calls_in(room) == made[room][0]
    assert made[room][0], "the engine asked for nothing"


def test_nothing_else_talks_to_kubernetes() -> None:
    """So that no call escapes the comparison above."""
    modules = [p for folder in ("platecrypt", "components") for p in (ROOT / folder).rglob("*.py")]
    asking = set()
    for file in modules:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "kubernetes" for name in names):
                asking.add(str(file.relative_to(ROOT)))
    assert asking == {"platecrypt/cluster.py"}


def granted(group: ManifestSet, account: str) -> set[Right]:
    """What the roles bound to an account allow."""
    found = set()
    for binding in group.of("RoleBinding", "ClusterRoleBinding"):
        subjects = binding.document.get("subjects", [])
        if not any(s["kind"] == "ServiceAccount" and s["name"] == account for s in subjects):
            continue
        reference = binding.document["roleRef"]
        namespace = binding.namespace if reference["kind"] == "Role" else ""
        role = group.find(reference["kind"], namespace, reference["name"])
        assert role is not None, f"{binding.title} binds a role of somebody else"
        found |= rights_in(role.document)
    return found


def rights_in(role: Mapping[str, Any]) -> set[Right]:
    return {
        Right(group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("room", ACCOUNTS)
def test_the_account_of_a_step_may_do_what_the_step_does_and_nothing_else(
    room: str, made: dict[str, Any], overlay: ManifestSet
) -> None:
    assert granted(overlay, ACCOUNTS[room]) - PLATFORM == rights_of(made[room][1])


@pytest.fixture(scope="module")
def submitting() -> set[Right]:
    """The rights that `platecrypt submit --version` needs, from what it asks KFP's stand-in."""
    from pipelines import cluster

    server = KubeflowPipelines()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        settings = settings_for(server)
        cluster.upload(settings, PACKAGE, cluster.NAME, "v1")
        server.requests.clear()
        there = cluster.find_or_upload(settings, PACKAGE, cluster.NAME, cluster.NAME)
        cluster.submit(settings, there, {}, "plates")
    finally:
        server.shutdown()
        server.server_close()
    found = set(KFP_LOOKS_UP)
    for method, path in server.requests:
        words = path.strip("/").split("/")
        if words != ["healthz"]:
            resource = "/".join(words[::2])  # every other word is an id
            found.add(Right(KFP_GROUP, resource, {"GET": "list", "POST": "create"}[method]))
    return found


def test_the_scheduled_retraining_may_submit_and_nothing_else(
    submitting: set[Right], overlay: ManifestSet
) -> None:
    if overlay.find("ServiceAccount", "plates", RETRAINING) is None:
        assert not granted(overlay, RETRAINING), "rights of nobody"
        return
    assert granted(overlay, RETRAINING) == submitting


def test_no_role_grants_what_nothing_uses(
    made: dict[str, Any], submitting: set[Right], overlay: ManifestSet
) -> None:
    used = PLATFORM | submitting
    used |= {right for _, seen in made.values() for right in rights_of(seen)}
    for role in overlay.of("Role", "ClusterRole"):
        assert rights_in(role.document) <= used, role.title
    assert not list(overlay.of("ClusterRoleBinding")), "rights end at the namespace"


# --- names of the environment ---------------------------------------------------------------------

KNOWN = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {ENV_PREFIX + "CONFIG"}
# Names that other programs read: the C library's allocator, numba, KServe's storage initialiser.
OTHERS = {
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "NUMBA_CACHE_DIR",
    "STORAGE_URI",
}
READ = re.compile(r"PLATECRYPT_[A-Z0-9_]+")


def test_no_manifest_sets_a_name_that_the_settings_do_not_have(overlay: ManifestSet) -> None:
    named: dict[str, str] = {}
    for item in overlay.objects:
        for path, value in walk(item.document):
            texts = [str(path[-1])] if path else []
            texts += [value] if isinstance(value, str) and path[-1] in ("name", "envVar") else []
            for text in texts:
                if READ.fullmatch(text):
                    named[text] = item.title
    assert named, "no manifest sets anything"
    assert {name: where for name, where in named.items() if name not in KNOWN} == {}


def test_the_settings_of_the_steps_are_settings(overlay: ManifestSet) -> None:
    """Each key that the pipeline takes from the ConfigMap is there, and its value is accepted."""
    from pipelines.training import SETTINGS, SETTINGS_CONFIG

    (config,) = [c for c in overlay.of("ConfigMap") if c.name == SETTINGS_CONFIG]
    data = config.document["data"]
    assert set(SETTINGS) <= set(data), "a step whose key is missing never starts"
    values = {name.lower(): value for name, value in data.items()}
    assert set(values) <= set(Settings.model_fields)
    read_back = Settings(**values)
    assert read_back.s3_endpoint == data["S3_ENDPOINT"]


def variables_read(*folders: str) -> set[str]:
    """Names that the code of those folders reads from the environment by itself."""
    found = set()
    for folder in folders:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml"):
                text = file.read_text()
                found |= set(re.findall(r"environ(?:ment)?(?:\.get)?[\[(]\"([A-Z_]+)\"", text))
                found |= set(re.findall(r"\$\{([A-Z_]+)\}", text))
    return found


def endpoint_containers(group: ManifestSet) -> Iterator[tuple[Pod, dict[str, Any]]]:
    for pod in group.pods:
        if pod.owner.kind == "InferenceService":
            for _, container in pod.containers():
                yield pod, container


def test_each_variable_of_the_endpoint_is_read_by_somebody(overlay: ManifestSet) -> None:
    read_by_code = variables_read("platecrypt/serving", "platecrypt/features", "feature_repo")
    for _, container in endpoint_containers(overlay):
        words = " ".join([*container.get("command", []), *container.get("args", [])])
        in_args = set(re.findall(r"\$\(([A-Z_]+)\)", words))
        for row in container.get("env", []):
            name = row["name"]
            assert name in read_by_code | in_args | OTHERS | KNOWN, f"{container['name']}: {name}"


# --- flags, commands, ports, probes ---------------------------------------------------------------


def parsed(module: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The namespace that a server's own parser makes of its arguments."""
    server = importlib.import_module(module)
    found = []

    def run(make: Any, parser: Any, argv: list[str], **options: Any) -> int:
        found.append(parser.parse_args(argv))
        return 0

    monkeypatch.setattr(server, "run", run)
    server.main(argv)
    return found[0]


def arguments(container: Mapping[str, Any]) -> list[str]:
    env = {row["name"]: str(row.get("value", "")) for row in container.get("env", [])}
    return [expand(word, env) for word in container.get("args", [])]


def test_the_endpoints_flags_are_flags_and_its_ports_are_ports(
    overlay: ManifestSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from platecrypt.serving.openapi import description

    paths = set(description(["plates"])["paths"])
    for pod, container in endpoint_containers(overlay):
        python, flag, module = container["command"]
        assert (python, flag) == ("python", "-m")
        flags = parsed(module, arguments(container), monkeypatch)
        ports = {port["containerPort"] for port in container["ports"]}
        grpc = {flags.grpc_port} if flags.enable_grpc or module.endswith("predictor") else set()
        assert ports == {flags.http_port} | grpc, container["name"]
        assert flags.host == WILDCARD
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == flags.http_port
            assert asked["path"] in paths
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if getattr(flags, "keys_file", None):
            assert str(flags.keys_file.parent) in mounts
        host = getattr(flags, "predictor_host", None)
        if module.endswith("transformer") and host:
            name, _, port = host.partition(":")
            assert name == "127.0.0.1" or name == f"{pod.owner.name}-predictor"
            assert int(port) in pod.ports() or name != "127.0.0.1"
        assert flags.model_name == pod.owner.name == Settings.model_fields["model_name"].default


def test_commands_in_manifests_are_commands(overlay: ManifestSet) -> None:
    """`platecrypt COMMAND --flags` of any container is parsed by the command's own parser."""
    group = typer.main.get_command(app)
    for pod in overlay.pods:
        for _, container in pod.containers():
            words = [*container.get("command", []), *container.get("args", [])]
            if words[:1] == ["platecrypt"]:
                command = group.commands[words[1]]  # type: ignore[attr-defined]
                command.make_context(words[1], words[2:])


def test_the_trials_flags_are_flags() -> None:
    from platecrypt.tuning.trial import _parse

    document = yaml.safe_load((ROOT / "katib" / "experiment.yaml").read_text())
    template = document["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    (container,) = template["containers"]
    assert container["command"] == ["python", "-m", "platecrypt.tuning.trial"]
    env = {row["name"]: row["value"] or "x" for row in container["env"]}
    words = [re.sub(r"\$\{[^}]+\}", "1", expand(word, env)) for word in container["args"]]
    options, recipe = _parse(words)
    assert options.dataset == "x"
    searched = {parameter["name"] for parameter in document["spec"]["parameters"]}
    assert searched <= set(recipe)
    used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
    assert used == set(env), "each variable is used, and each that is used is set"


def test_the_steps_that_ask_the_cluster_have_an_account_for_it(overlay: ManifestSet) -> None:
    """The token of a step's account is mounted where the client looks for a pod's own."""
    from pipelines.training import SETTINGS

    if "DEPLOYMENT_ENGINE" not in SETTINGS:
        pytest.skip("the pipeline does not choose the engines of a cluster (DEPLOYMENT_ENGINE)")
    (config,) = [c for c in overlay.of("ConfigMap") if c.name == "platecrypt-settings"]
    assert config.document["data"]["DEPLOYMENT_ENGINE"] == "kserve"
    text = (ROOT / "pipelines" / "compiled" / "training.yaml").read_text()
    platform = list(yaml.safe_load_all(text))[1]["platforms"]["kubernetes"]["deploymentSpec"]
    for step in ("deploy", "smoke-test", "promote", "summarise"):
        mounted = platform["executors"][f"exec-{step}"]["secretAsVolume"]
        tokens = [row for row in mounted if row["secretName"] == "platecrypt-deploy-token"]
        assert [row["mountPath"] for row in tokens] == [
            "/var/run/secrets/kubernetes.io/serviceaccount"
        ]


# --- metrics --------------------------------------------------------------------------------------

METRIC = re.compile(r"(?<![\w:])platecrypt_[a-z0-9_]+(?![\w:])")
LABELLED = re.compile(r"(?<![\w:])(platecrypt_[a-z0-9_]+)\{([^}]*)\}")
# Put there by Prometheus: where a sample was scraped.
TARGET_LABELS = {"job", "namespace", "pod", "container", "instance", "service", "endpoint", "le"}


def exported() -> dict[str, set[str]]:
    """Name of each sample that `/metrics` may have -> its labels."""
    from prometheus_client.metrics import MetricWrapperBase

    from platecrypt.serving import metrics

    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            labels = set(metric._labelnames)
            endings = {
                "counter": ("_total", "_created"),
                "histogram": ("_bucket", "_sum", "_count", "_created"),
                "info": ("_info",),
                "gauge": ("",),
            }[family.type]
            info = {"version", "digest"} if family.type == "info" else set()
            found |= {family.name + ending: labels | info for ending in endings}
    return found


def queries(group: ManifestSet) -> Iterator[tuple[str, str]]:
    """Every query of rules, dashboards and autoscalers, with the object that asks."""
    for item in group.objects:
        for path, value in walk(item.document):
            if not isinstance(value, str) or not METRIC.search(value):
                continue
            if item.kind == "ConfigMap" and str(path[-1]).endswith(".json"):
                for inner, text in walk(json.loads(value)):
                    if inner and inner[-1] in ("expr", "query") and isinstance(text, str):
                        yield f"{item.title} {path[-1]}", text
            elif path[-1] in ("expr", "query"):
                yield item.title, value


def test_each_metric_that_is_asked_for_is_one_that_the_endpoint_has(overlay: ManifestSet) -> None:
    names = exported()
    asked = list(queries(overlay))
    if any(overlay.of("PrometheusRule")):
        assert asked, "rules that ask for nothing of ours"
    for where, query in asked:
        for name in METRIC.findall(query):
            assert name in names, f"{where} asks for {name}"
        for name, matchers in LABELLED.findall(query):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))
            assert labels <= names[name] | TARGET_LABELS, f"{where}: labels of {name}"


def test_the_environment_of_the_tests_is_not_that_of_a_cluster() -> None:
    """Else the stand-ins above would not be asked."""
    assert "KUBERNETES_SERVICE_HOST" not in os.environ
