"""Alerts fire when they should and not otherwise; every query asks for what is really exported.

The rules are taken out of the PrometheusRule objects here and nowhere else kept. Needs promtool and
Prometheus, both of Debian's package `prometheus` (pip has neither).
"""

import json
import math
import re
import runpy
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from platecrypt.processes import free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "infra" / "kustomize" / "components" / "monitoring"
UNIT_TESTS = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs" / "runbooks.md"
NEEDED = ("prometheus", "promtool")
needs_prometheus = pytest.mark.skipif(
    any(shutil.which(name) is None for name in NEEDED),
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)
Rule = dict[str, Any]
# A selector: a name with braces, or the name of a recorded series. Label names in clauses are none.
CLAUSE = re.compile(r"\b(?:by|on|ignoring|group_left|group_right)\s*\([^)]*\)")
SELECTOR = re.compile(r"[a-zA-Z_][\w:]*\s*\{[^}]*\}|\b\w+:\w+:\w+\b(?!\s*\{)")
NAME = re.compile(r"\bplatecrypt_\w+")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MONITORING / name).read_text()))


def rule_groups() -> dict[str, list[dict[str, Any]]]:
    """The groups of each rule file, by the file's name."""
    found = {}
    for path in sorted(MONITORING.glob("rules-*.yaml")):
        (document,) = documents(path.name)
        assert document["kind"] == "PrometheusRule"
        found[path.name] = document["spec"]["groups"]
    return found


GROUPS = rule_groups()
RULES = [rule for groups in GROUPS.values() for group in groups for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def panels_of(path: Path) -> list[dict[str, Any]]:
    return [one for one in json.loads(path.read_text())["panels"] if one["type"] != "row"]


def expressions_of(path: Path) -> list[str]:
    """Every query of a dashboard, its variables filled in as Grafana does for "All"."""
    board = json.loads(path.read_text())
    found = [target["expr"] for panel in panels_of(path) for target in panel["targets"]]
    found += [one["expr"] for one in board["annotations"]["list"]]
    return [one.replace("$__rate_interval", "1m").replace("$namespace", ".*") for one in found]


def selectors_of(expression: str) -> list[str]:
    return [" ".join(one.split()) for one in SELECTOR.findall(CLAUSE.sub(" ", expression))]


def promtool(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rule_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rules as Prometheus reads them."""
    folder = tmp_path_factory.mktemp("rules")
    for name, groups in GROUPS.items():
        (folder / name).write_text(yaml.safe_dump({"groups": groups}))
    return folder


@needs_prometheus
def test_the_rules_parse(rule_files: Path) -> None:
    promtool("check", "rules", *rule_files.glob("rules-*.yaml"), cwd=rule_files)


@pytest.mark.slow
@needs_prometheus
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_quiet(path: Path, rule_files: Path) -> None:
    shutil.copy(path, rule_files / path.name)
    promtool("test", "rules", path.name, cwd=rule_files)


def test_every_alert_has_a_test_that_fires_and_one_that_stays_quiet() -> None:
    seen: set[tuple[str, bool]] = set()
    for path in UNIT_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for check in case["promql_expr_test"]:
                for name in re.findall(r'ALERTS\{alertname="(\w+)"', check["expr"]):
                    fires = bool(check["exp_samples"])
                    assert fires or case["input_series"], f"{case['name']}: nothing is put in"
                    seen.add((name, fires))
    assert seen == {(name, fires) for name in ALERTS for fires in (True, False)}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"].keys() == {"severity", "service"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "$value" in rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks.md#{name.lower()}")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text(), re.M | re.S))
    assert sections.keys() == ALERTS.keys()
    parts = ["Means", "Users", "First look", "Remedy", "Over when"]
    for name, text in sections.items():
        assert re.findall(r"^\*\*([\w ]+)\.\*\*", text, re.M) == parts, name


def test_recorded_series_are_named_by_level_metric_and_operation() -> None:
    for rule in RULES:
        if "record" in rule:
            level, metric, operation = rule["record"].split(":")
            assert set(level.split("_")) <= {"namespace", "le", "signal"}
            assert metric.startswith("platecrypt_")
            assert re.fullmatch(r"rate\w+|ratio_rate\w+|share\w+|ks\w+", operation)


def registered() -> set[str]:
    """Every sample that the endpoint can export, labels filled in so that it exists."""
    from platecrypt.serving import metrics

    names: set[str] = set()
    for item in vars(metrics).values():
        if hasattr(item, "describe") and hasattr(item, "_labelnames"):
            alone = CollectorRegistry()
            alone.register(item)
            if item._labelnames:
                item.labels(*("probe" for _ in item._labelnames))
            names |= {one.name for family in alone.collect() for one in family.samples}
            if item._labelnames:
                item.remove(*("probe" for _ in item._labelnames))
    return names


def test_queries_name_only_what_the_endpoint_exports() -> None:
    known, asked = registered(), set()
    for text in [rule["expr"] for rule in RULES] + [
        one for path in DASHBOARDS for one in expressions_of(path)
    ]:
        asked |= set(NAME.findall(re.sub(r"\w+:(\w+):\w+", "", text)))
    assert asked <= known
    assert len(asked) > 10


def job_of(endpoint: dict[str, Any]) -> str:
    """The job that a monitor's endpoint gives to what it scrapes."""
    (job,) = (
        one["replacement"] for one in endpoint["relabelings"] if one.get("targetLabel") == "job"
    )
    return str(job)


def monitors() -> dict[str, dict[str, Any]]:
    """Job -> the endpoint of the PodMonitor `plates` that gives it."""
    (plates, _) = documents("pod-monitors.yaml")
    assert plates["metadata"]["name"] == "plates"
    return {job_of(endpoint): endpoint for endpoint in plates["spec"]["podMetricsEndpoints"]}


def test_what_is_scraped_is_what_the_containers_open() -> None:
    scraped = {}
    for job, endpoint in monitors().items():
        (kept,) = (one for one in endpoint["relabelings"] if one.get("action") == "keep")
        assert kept["sourceLabels"] == ["__meta_kubernetes_pod_container_port_number"]
        scraped[job] = int(kept["regex"])
    service = yaml.safe_load((ROOT / "kserve" / "inference_service.yaml").read_text())
    predictor, transformer = service["spec"]["predictor"]["containers"]
    for container, job in ((predictor, "plates-predictor"), (transformer, "plates-transformer")):
        assert f"--http_port={scraped[job]}" in container["args"]
        assert scraped[job] in {port["containerPort"] for port in container["ports"]}
    (policy,) = documents("network-policy.yaml")
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert opened == set(scraped.values())


def test_jobs_in_queries_are_jobs_that_are_scraped() -> None:
    given = set()
    for name in ("pod-monitors.yaml", "service-monitors.yaml", "object-store/pod-monitor.yaml"):
        for document in documents(name):
            spec = document["spec"]
            for endpoint in spec.get("podMetricsEndpoints", []) + spec.get("endpoints", []):
                assert document["metadata"]["labels"]["release"] == "prometheus"
                given.add(job_of(endpoint))
    texts = [rule["expr"] for rule in RULES]
    texts += [one for path in DASHBOARDS for one in expressions_of(path)]
    asked = {job for text in texts for job in re.findall(r'\bjob="([^"]+)"', text)}
    assert asked == given


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_tidy(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == f"plates-{path.stem}"
    assert board["templating"]["list"][0]["type"] == "datasource"
    everything = board["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
    titles = [panel["title"] for panel in panels_of(path)]
    assert len(set(titles)) == len(titles)
    for panel in panels_of(path):
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        for item in (panel, *panel["targets"]):
            assert item["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@needs_prometheus
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_parses(path: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query:{number}", "expr": text}
        for number, text in enumerate(expressions_of(path))
    ]
    assert len(rules) > 10
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})
    )
    promtool("check", "rules", "rules.yaml", cwd=tmp_path)


def test_the_component_takes_every_file() -> None:
    named = set()
    for folder in (MONITORING, MONITORING / "object-store"):
        component = yaml.safe_load((folder / "kustomization.yaml").read_text())
        files = ["kustomization.yaml", *component["resources"]]
        for generator in component.get("configMapGenerator", []):
            files += generator["files"]
            assert generator["options"]["labels"]["grafana_dashboard"] == "1"
        named |= {folder / file for file in files}
    assert named == {path for path in MONITORING.rglob("*") if path.is_file()}


# A real Prometheus beside a real endpoint.

STEP_S = 600.0  # of the history


class Scene:
    """The shipped InferenceService, run by the local engine, and a Prometheus that scrapes it."""

    def __init__(self, folder: Path) -> None:
        serving = runpy.run_path(str(ROOT / "tests" / "serving" / "conftest.py"))
        picture = serving["MARKER"]["picture"](640, 360, *serving["PLATES"])
        self.folder = folder
        self.client = httpx.Client(trust_env=False, timeout=30)
        self.body: bytes = serving["imaging"].encode(picture, "jpeg", quality=95)
        self.stage = serving["Stage"](folder / "home")
        # A repository that cannot be opened: look-ups of cameras are counted all the same.
        manifest = (ROOT / "kserve" / "inference_service.yaml").read_text()
        changed = re.sub(r'(name: FEATURE_REPO\n +value: )""', r'\1"/nonexistent"', manifest)
        assert changed != manifest
        (folder / "service.yaml").write_text(changed)
        service = type(self.stage.isvc).load(folder / "service.yaml")
        model, digest = self.stage.model()
        self.endpoint = self.stage.deployer.candidate(service, model, "1", digest)
        self.ports = {
            f"plates-{record.name.removeprefix('candidate-')}": record.details["port"]
            for record in self.stage.supervisor.list()
        }
        self.prometheus = f"http://127.0.0.1:{free_port()}"

    def ask(self, camera: str = "gate-1") -> int:
        """Have one picture protected; the status of the answer."""
        return self.client.post(
            self.endpoint.url,
            params={"camera_id": camera},
            content=self.body,
            headers={"content-type": "image/jpeg", "accept": "image/jpeg"},
        ).status_code

    def watch(self) -> None:
        """Start Prometheus on the endpoint, with the rules, and a past in which they make sense."""
        data = self.folder / "data"
        (self.folder / "past.om").write_text("\n".join([*self.past(), "# EOF\n"]))
        promtool(
            "tsdb",
            "create-blocks-from",
            "--max-block-duration=486h",
            "openmetrics",
            "past.om",
            data,
            cwd=self.folder,
        )
        for name, groups in GROUPS.items():
            quick = [{**group, "interval": "1s"} for group in groups]
            (self.folder / name).write_text(yaml.safe_dump({"groups": quick}))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": sorted(GROUPS),
            "scrape_configs": [
                {
                    "job_name": job,
                    "metrics_path": endpoint["path"],
                    "static_configs": [
                        {
                            "targets": [f"127.0.0.1:{self.ports[job]}"],
                            "labels": {"namespace": "plates", "pod": "plates-predictor-0"},
                        }
                    ],
                }
                for job, endpoint in monitors().items()
            ],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = self.prometheus.removeprefix("http://")
        self.stage.supervisor.start(
            "prometheus",
            [
                "prometheus",
                f"--config.file={self.folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            ready=self._ready,
            timeout_s=20,
        )

    def past(self) -> Iterator[str]:
        """Eight and a half days of what the transformer exports now, as if they had been like this.

        Drift is measured against last week, and a silence against yesterday.
        """
        found = self.client.get(f"http://127.0.0.1:{self.ports['plates-transformer']}/metrics")
        wanted = ("input_brightness", "input_sharpness", "confidence", "plates_per", "requests")
        now = time.time()
        for family in text_string_to_metric_families(found.text):
            if not family.name.startswith(tuple(f"platecrypt_{one}" for one in wanted)):
                continue
            for sample in family.samples:
                if family.type not in ("histogram", "counter") or sample.name.endswith("_created"):
                    continue
                labels = {**sample.labels, "job": "plates-transformer", "namespace": "plates"}
                listed = ",".join(f'{name}="{value}"' for name, value in labels.items())
                for step in range(int(8.5 * 86400 / STEP_S)):
                    at = now - 8.5 * 86400 + step * STEP_S
                    yield f"{sample.name}{{{listed}}} {sample.value * step} {at:.3f}"

    def _ready(self) -> bool:
        try:
            found = self.client.get(f"{self.prometheus}/-/ready")
        except httpx.HTTPError:
            return False
        return found.status_code == 200

    def values(self, query: str) -> list[float]:
        """What Prometheus answers to an instant query now."""
        found = self.client.get(f"{self.prometheus}/api/v1/query", params={"query": query}).json()
        assert found["status"] == "success", (query, found)
        return [float(one["value"][1]) for one in found["data"]["result"]]

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Alerts that are pending or fire, by name."""
        found = self.client.get(f"{self.prometheus}/api/v1/alerts").json()
        return {one["labels"]["alertname"]: one for one in found["data"]["alerts"]}

    def stop(self) -> None:
        self.client.close()
        for record in self.stage.supervisor.list():
            self.stage.supervisor.stop(record.name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    for _ in range(12):
        assert made.ask() == 200
        time.sleep(0.05)
    made.watch()
    yield made
    made.stop()


def until(condition: Callable[[], bool], scene: Scene, seconds: float = 12) -> None:
    """Keep asking for pictures until it holds, or for that long."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        scene.ask()
        time.sleep(0.3)


def queries_about_the_endpoint() -> dict[str, str]:
    """Query -> who asks it: panels, variables and annotations, recordings, parts of alerts."""
    found: dict[str, str] = {}
    for name in ("endpoint", "model"):
        path = MONITORING / "dashboards" / f"{name}.json"
        found |= {one: f"dashboard {name}" for one in expressions_of(path) if "ALERTS" not in one}
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                (selector,) = re.findall(r"label_values\((.*), \w+\)", variable["definition"])
                found[selector] = f"variable of {name}"
    for group in GROUPS["rules-endpoint.yaml"]:
        for rule in group["rules"]:
            if "record" in rule:
                found[rule["expr"]] = rule["record"]
                continue
            # What is compared is empty as long as all is well; what is looked at must be there.
            parts = selectors_of(rule["expr"])
            assert parts, rule["alert"]
            ours = [one for one in parts if not one.startswith("kube_")]
            found |= dict.fromkeys(ours, rule["alert"])
    return found


# No camera has a profile in this scene.
EMPTY = ('platecrypt_profile_lookups_total{ job="plates-transformer", outcome=~"found|cached" }',)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.alone
def test_a_real_prometheus_answers_every_query_about_the_endpoint(scene: Scene) -> None:
    asked = queries_about_the_endpoint()
    assert len(asked) > 80
    missing = {one for one in asked if one not in EMPTY}

    def all_answered() -> bool:
        for query in list(missing):
            if any(math.isfinite(value) for value in scene.values(query)):
                missing.discard(query)
        return not missing

    until(all_answered, scene)
    assert not missing, {query: asked[query] for query in missing}
    assert all(not scene.values(query) for query in EMPTY)


@needs_prometheus
@pytest.mark.slow
@pytest.mark.alone
def test_a_healthy_endpoint_alarms_nobody_and_a_dead_predictor_somebody(scene: Scene) -> None:
    rules = [rule for group in GROUPS["rules-endpoint.yaml"] for rule in group["rules"]]
    of_endpoint = {rule["alert"] for rule in rules if "alert" in rule}
    # A machine that runs tests promises no latency, and no camera has a profile in this scene.
    expected = {"PlatesLatencyBurnFast", "PlatesLatencyBurnSlow", "PlatesQueueSlow"}
    expected |= {"PlatesCameraProfilesFailing"}
    # A second after Prometheus has started there is no rate yet, and PlatesNoTraffic is pending.
    until(lambda: scene.alerts().keys() & of_endpoint <= expected, scene)
    assert scene.alerts().keys() & of_endpoint <= expected
    assert "PlatesCameraProfilesFailing" in scene.alerts()
    scene.stage.supervisor.stop("candidate-predictor")
    assert scene.ask() == 503
    failed = 'platecrypt_requests_total{job="plates-transformer", wire!="other", status=~"5..|429"}'
    until(lambda: bool(scene.values(failed)) and "PlatesPredictorDown" in scene.alerts(), scene)
    assert scene.values(failed)
    told = scene.alerts()["PlatesPredictorDown"]
    assert told["labels"]["severity"] == "critical"
    assert told["annotations"]["description"].startswith("No predictor in plates could be scraped")
    until(lambda: "PlatesErrors" in scene.alerts(), scene)
    said = scene.alerts()["PlatesErrors"]["annotations"]["description"]
    assert re.match(r"\d+(\.\d+)?% of the requests", said)


# docs/operations.md and docs/runbooks.md: what they tell people to type exists.

PAGES = (ROOT / "docs" / "operations.md", RUNBOOKS)
PLACES = "components|docs|feature_repo|infra|katib|kserve|pipelines|platecrypt|spec|tests"
COMMAND = re.compile(r"(?:^|[;&|(] ?)(?:\.venv/bin/)?(platecrypt(?: [^;&|)]+)?)(?=$|[;&|)])")
PATH = re.compile(rf"(?<![\w./-])(?:{PLACES})/[\w./-]*[\w/]")


def typed(page: Path) -> list[str]:
    """Every line of a block and every piece of inline code."""
    text = page.read_text()
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S))
    return lines + inline


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    from typer.main import get_command

    from platecrypt.cli import app

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    checked = 0
    for line in typed(page):
        for words in COMMAND.findall(line.split(" #")[0]):
            command: Any = get_command(app)
            rest = words.split()[1:]
            while rest and hasattr(command, "commands"):
                assert rest[0] in command.commands or rest[0] == "--help", line
                command = command.commands.get(rest.pop(0), command)
            known = {option for param in command.params for option in param.opts}
            given = {word.split("=")[0] for word in rest if word.startswith("--")}
            assert given <= known | {"--help"}, line
            checked += 1
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in targets, line
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    named = {path.rstrip("/") for line in typed(page) for path in PATH.findall(line)}
    # By generate.sh, never in git; by the reader, from what Terraform prints.
    made = ("infra/kustomize/components/secrets-plain/values/", "infra/kustomize/overlays/mine")
    missing = sorted(p for p in named if not (ROOT / p).exists() and not p.startswith(made))
    assert named
    assert not missing


def test_what_runbooks_call_panels_and_chapters_are_some() -> None:
    panels = {panel["title"] for path in DASHBOARDS for panel in panels_of(path)}
    text = RUNBOOKS.read_text()
    asked = set(re.findall(r'[Pp]anels? "([^"]+)"', text))
    assert asked
    assert asked <= panels
    chapters = set(re.findall(r"^## (.+)$", PAGES[0].read_text(), re.M))
    assert set(re.findall(r'`docs/operations.md`, "([^"]+)"', text)) <= chapters


def quantity(text: str) -> float:
    """Cores, or GiB."""
    for suffix, factor in (("m", 1e-3), ("Mi", 2**-10), ("Gi", 1.0)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


def requested(overlay: str) -> tuple[float, float, float, int]:
    """Cores, GiB of memory, GiB of disk and GPUs that an overlay keeps with nobody asking."""
    command = ["kubectl", "kustomize", str(ROOT / "infra" / "kustomize" / "overlays" / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    documents = [one for one in yaml.safe_load_all(built) if one]
    least = 0  # what the autoscaler keeps of the endpoint
    for one in documents:
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            spec = one["spec"]
            least = max(least, spec.get("minReplicas", 0), spec.get("minReplicaCount", 0))
    cores = memory = disk = 0.0
    gpus = 0
    for one in documents:
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "StatefulSet"):
            containers, copies = spec["template"]["spec"]["containers"], spec.get("replicas", 1)
        elif one["kind"] == "InferenceService":
            containers = spec["predictor"]["containers"]
            copies = max(least, spec["predictor"]["minReplicas"])
        else:
            continue
        for container in containers:
            asked = container["resources"]["requests"]
            cores += copies * quantity(asked["cpu"])
            memory += copies * quantity(asked["memory"])
            gpus += copies * int(asked.get("nvidia.com/gpu", 0))
        for claim in spec.get("volumeClaimTemplates", []):
            disk += quantity(claim["spec"]["resources"]["requests"]["storage"])
    return cores, memory, disk, gpus


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the overlays")
@pytest.mark.parametrize("overlay", ["kind", "cpu", "gpu", "production"])
def test_the_costs_are_summed_from_what_the_overlays_request(overlay: str) -> None:
    chapter = PAGES[0].read_text().split("## What it costs")[1]
    (row,) = re.findall(rf"^\| `{overlay}`.*$", chapter, re.M)
    told = [float(re.findall(r"[\d.]+", cell)[0]) for cell in row.split("|")[2:6]]
    assert told == pytest.approx(requested(overlay), abs=0.051)
