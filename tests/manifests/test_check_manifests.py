"""`platecrypt check-manifests` finds each thing that is wrong, and nothing where nothing is."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from platecrypt.cli import app
from platecrypt.errors import BadInputError
from platecrypt.manifests import Finding, ManifestSet, Object, check, read
from platecrypt.manifests.reading import load_yaml
from platecrypt.manifests.schemas import Schemas

pytest.importorskip("kubernetes_validate", reason="the dev extra is not installed")
BROKEN = Path(__file__).parent / "broken"
# Through JSON, so that no two containers share what an anchor of YAML gave to both.
GOOD = json.loads(json.dumps(load_yaml((BROKEN / "good.yaml").read_text(), "good.yaml")))
AREAS = ("names", "images", "security", "references", "ports", "server", "schemas", "webhooks")
CASES = [
    pytest.param(case, id=f"{area}: {case['case']}")
    for area in AREAS
    for case in yaml.safe_load((BROKEN / f"{area}.yaml").read_text())
]
STEP = re.compile(r"\[([^\]]+)\]|([^.\[\]]+)")
SCHEMAS = Schemas()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that builds one image."""
    folder = tmp_path_factory.mktemp("root")
    image = folder / "kserve" / "images" / "predictor"
    image.mkdir(parents=True)
    (image / "Dockerfile").write_text("FROM scratch\n")
    return folder


def change(document: Any, path: str, value: Any) -> None:
    """Set what a path leads to; None takes it out."""
    steps = [inner or outer for inner, outer in STEP.findall(path)]
    for step in steps[:-1]:
        last = document
        document = document[int(step)] if isinstance(document, list) else document.get(step)
        if document is None:
            document = last[step] = {}
    key: Any = int(steps[-1]) if isinstance(document, list) else steps[-1]
    if value is None:
        del document[key]
    else:
        document[key] = value


def broken_set(case: dict[str, Any]) -> ManifestSet:
    documents = copy.deepcopy(GOOD)
    named = {f"{d['kind']} {d['metadata']['name']}": d for d in documents}
    for one in case.get("change", []):
        change(named[one["of"]], one["at"], one.get("to"))
    if "drop" in case:
        documents.remove(named[case["drop"]])
    documents += case.get("add", [])
    return ManifestSet("good", [Object(document, "good.yaml") for document in documents])


def findings(group: ManifestSet, root: Path, schemas: Schemas = SCHEMAS) -> tuple[Finding, ...]:
    return check([group], schemas, root).findings


def test_a_good_set_is_clean(root: Path) -> None:
    assert findings(broken_set({}), root) == ()


@pytest.mark.parametrize("case", CASES)
def test_a_broken_set_tells_what_is_wrong_and_nothing_else(
    case: dict[str, Any], root: Path
) -> None:
    found = findings(broken_set(case), root)
    expected = [line.split(" | ") for line in case["expect"]]
    assert sorted((f.rule, f.field) for f in found) == sorted((e[0], e[1]) for e in expected), [
        str(finding) for finding in found
    ]
    for rule, field, said in expected:
        (one,) = [f for f in found if (f.rule, f.field, said in f.message) == (rule, field, True)]
        assert one.file == "good.yaml"
        assert "\n" not in str(one)


CRDS = [BROKEN / "crds" / "new", BROKEN / "crds" / "old"]
GADGETS = [
    pytest.param(case, id=case["case"])
    for case in yaml.safe_load((BROKEN / "crds" / "cases.yaml").read_text())
]
SPACE = GOOD[0]


def gadget(spec: Any, version: str = "v1") -> dict[str, Any]:
    document: dict[str, Any] = {
        "apiVersion": f"shop.example/{version}",
        "kind": "Gadget",
        "metadata": {"name": "gadget", "namespace": "shop"},
    }
    return document if spec is None else {**document, "spec": spec}


@pytest.mark.parametrize("case", GADGETS)
def test_a_custom_resource_is_valid_in_every_folder_of_definitions(
    case: dict[str, Any], root: Path
) -> None:
    pytest.importorskip("cel", reason="the dev extra is not installed")
    document = gadget(case.get("spec"), case.get("version", "v1"))
    group = ManifestSet("set", [Object(SPACE, "a.yaml"), Object(document, "a.yaml")])
    found = findings(group, root, Schemas(CRDS))
    expected = [line.split(" | ") for line in case["expect"]]
    for field, said in expected:
        assert [f for f in found if f.field == field and said in f.message], list(map(str, found))
    assert {(f.rule, f.field) for f in found} == {("schema", field) for field, _ in expected}


def test_a_kind_without_a_definition_is_a_finding_where_definitions_are_given(root: Path) -> None:
    document = {**gadget({}), "kind": "Gizmo"}
    group = ManifestSet("set", [Object(SPACE, "a.yaml"), Object(document, "a.yaml")])
    (one,) = findings(group, root, Schemas(CRDS))
    assert "no schema of shop.example/v1 Gizmo in the CRDs given" in one.message
    report = check([group], Schemas(), root)
    assert report.findings == ()
    assert report.unchecked == ("Gizmo (shop.example)",)


def test_one_thing_is_told_once_with_all_the_sets_in_which_it_is_so(root: Path) -> None:
    case = {"change": [{"of": "Deployment web", "at": "spec.replica", "to": 2}]}
    first, second = broken_set(case), broken_set(case)
    second.name = "other"
    (one,) = check([first, second], SCHEMAS, root).findings
    assert one.sets == ("good", "other")
    assert str(one).endswith("(in good, other)")


# --- where manifests come from, and the command ---------------------------------------------------


def invoke(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["check-manifests", *map(str, words)])


def write(path: Path, *documents: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(documents))
    return path


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    """A base and two overlays: in `bad` the tag of an image is latest."""
    pod = next(d for d in GOOD if d["kind"] == "CronJob")
    write(tmp_path / "base" / "nightly.yaml", SPACE, pod)
    write(tmp_path / "base" / "kustomization.yaml", {"resources": ["nightly.yaml"]})
    good = {"resources": ["../../base"]}
    write(tmp_path / "overlays" / "good" / "kustomization.yaml", good)
    images = [{"name": "docker.io/library/busybox", "newTag": "latest"}]
    write(tmp_path / "overlays" / "bad" / "kustomization.yaml", {**good, "images": images})
    return tmp_path


def test_overlays_are_built_and_a_finding_names_the_file_the_field_and_the_overlay(
    overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(overlays)
    result = invoke(".")
    assert result.exit_code == 1
    line, summary = result.stdout.strip().splitlines()
    assert line.startswith("base/nightly.yaml: CronJob shop/nightly: spec.jobTemplate.spec.")
    assert "latest moves" in line
    assert line.endswith("[image] (in overlays/bad)")
    assert re.fullmatch(
        r"4 objects: 1 finding \(read overlays/bad \d+\.\d s, overlays/good \d+\.\d s; "
        r"checked in \d+\.\d s\)",
        summary,
    )


def test_one_overlay_can_be_chosen_and_a_clean_one_exits_0(overlays: Path) -> None:
    result = invoke(overlays, "--overlay", "good")
    assert result.exit_code == 0, result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert "2 objects: clean" in result.stdout
    assert invoke(overlays / "overlays" / "good").exit_code == 0


def test_a_program_gets_json(overlays: Path) -> None:
    result = invoke(overlays, "--json")
    value = json.loads(result.stdout)
    assert result.exit_code == 1
    (one,) = value["findings"]
    assert one["rule"] == "image"
    assert one["field"].endswith("containers[0].image")
    assert [group["objects"] for group in value["sets"]] == [2, 2]


def refused(*paths: Path, **options: Any) -> str:
    with pytest.raises(BadInputError) as told:
        read(paths, **options)
    message = str(told.value)
    assert "\n" not in message
    return message


def test_an_unknown_overlay_is_told_with_those_that_there_are(overlays: Path) -> None:
    assert "has no overlay prod; there are bad, good" in refused(overlays, overlays=["prod"])
    assert "no folder given has overlays/" in refused(overlays / "base", overlays=["good"])
    assert "does not exist; " in refused(overlays / "overlays" / "prod")
    result = invoke(overlays, "--overlay", "prod")
    assert isinstance(result.exception, BadInputError)
    assert result.exception.exit_code == 2


def test_an_overlay_that_does_not_build_is_told_with_its_name(overlays: Path) -> None:
    overlay = overlays / "overlays" / "good"
    write(overlay / "kustomization.yaml", {"resources": ["absent.yaml"]})
    message = refused(overlay)
    assert message.startswith(f"{overlay} does not build: ")
    assert "absent.yaml" in message


def test_a_warning_of_kustomize_is_an_error(overlays: Path) -> None:
    overlay = overlays / "overlays" / "good"
    write(overlay / "kustomization.yaml", {"bases": ["../../base"]})
    assert "deprecated" in refused(overlay)


def test_without_kustomize_it_says_what_to_install(
    overlays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "neither kubectl" in refused(overlays / "overlays" / "good")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "no YAML"),
        ("a: 1\na: 2\nkind: A", "key 'a' stands there twice"),
        ("- 1", "document 1 is no Kubernetes object"),
        ("kind: ConfigMap\n---\nname: a", "document 2 is no Kubernetes object"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    message = refused(file)
    assert message.startswith(str(file))
    assert said in message


def test_a_folder_of_yaml_is_one_set_and_a_list_is_taken_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", SPACE)
    write(tmp_path / "b.yaml", {"apiVersion": "v1", "kind": "List", "items": [GOOD[1], GOOD[2]]})
    write(tmp_path / "below" / "c.yaml", SPACE)
    (group,) = read([tmp_path])
    assert [item.kind for item in group.objects] == ["Namespace", "ServiceAccount", "Secret"]
    assert "neither a kustomization.yaml nor YAML files" in refused(write_nothing(tmp_path))


def write_nothing(folder: Path) -> Path:
    empty = folder / "empty"
    empty.mkdir()
    return empty


def test_dates_and_bare_equals_are_text() -> None:
    (document,) = load_yaml("kind: A\nday: 2026-01-02\nsign: =\n", "a.yaml")
    assert document == {"kind": "A", "day": "2026-01-02", "sign": "="}


def test_without_definitions_it_says_what_was_not_checked(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", SPACE, gadget({}))
    result = invoke(tmp_path / "a.yaml")
    assert result.exit_code == 0
    assert "no schema was given for Gadget (shop.example); --crds FOLDER checks them" in (
        result.stderr
    )
    bad = invoke(tmp_path / "a.yaml", "--crds", tmp_path / "absent")
    assert isinstance(bad.exception, BadInputError)
    assert "no such folder" in str(bad.exception)
    wrong = invoke(tmp_path / "a.yaml", "--kubernetes", "0.9")
    assert isinstance(wrong.exception, BadInputError)
    assert "no schemas of Kubernetes 0.9; there are" in str(wrong.exception)


# --- what is shipped ------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "infra" / "kustomize"
SHIPPED = [
    KUSTOMIZE,
    KUSTOMIZE / "search",
    KUSTOMIZE / "restore" / "mlflow",
    KUSTOMIZE / "restore" / "feast",
    ROOT / "infra" / "argocd",
    ROOT / "infra" / "argocd" / "applications",
    ROOT / "katib",
]
SHARED = [ROOT.parent / "shared" / "crds", ROOT.parent / "shared" / "crds" / "kserve-0.18"]


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")),
    reason="neither kubectl nor kustomize is installed; no Python package brings them",
)
def test_every_overlay_is_clean() -> None:
    """Against the CRDs too, where their folder is at hand; they are no part of this repository."""
    folders = [folder for folder in SHARED if folder.is_dir()]
    groups = read(SHIPPED, origins=False)
    assert {"cpu", "gpu", "kind", "production"} <= {Path(group.name).name for group in groups}
    report = check(groups, Schemas(folders), ROOT)
    assert not report.findings, "\n".join(map(str, report.findings))
    print(f"checked in {report.seconds:.1f} s; " + ("" if folders else "CRDs: not checked"))
