"""The pipeline steps that import and validate a dataset."""

from pathlib import Path

from platecrypt.artifacts import Artifact, describe, write_page
from platecrypt.datasets.importing import import_dataset as run_import
from platecrypt.datasets.manifest import Manifest, parse_manifest
from platecrypt.datasets.validation import validate
from platecrypt.errors import BadInputError
from platecrypt.progress import progress
from platecrypt.settings import Settings
from platecrypt.steps import say, step
from platecrypt.storage import ObjectStore

DATASET = "dataset_digest"


@step
def import_dataset(settings: Settings, source: str, limit: int, manifest: Artifact) -> None:
    """Bring the images of `source` into the object store and write their manifest."""
    store = ObjectStore(settings.store())
    with progress("importing") as bar:
        made = run_import(store, source, progress=bar, limit=limit)
    Path(manifest.path).write_bytes(made.to_bytes())
    describe(manifest, {DATASET: made.digest, "form": made.form, "images": len(made.images)})
    say(f"dataset {made.digest[:12]}: {len(made.images)} images, split by {made.grouping}")


@step
def validate_dataset(
    settings: Settings, manifest: Artifact, report: Artifact, findings: Artifact
) -> None:
    """Write what was found as a page and as JSON; refuse what would poison training."""
    dataset = load_manifest(manifest)
    with progress("validating") as bar:
        result = validate(ObjectStore(settings.store()), dataset, progress=bar)
    write_page(settings, report, "validation", result.to_html(), {DATASET: dataset.digest})
    Path(findings.path).write_text(result.to_json())
    describe(findings, {DATASET: dataset.digest, "warnings": len(result.warnings)})
    for warning in result.warnings:
        say(f"warning: {warning}")
    if result.problems:
        shown = "; ".join(str(problem) for problem in result.problems[:3])
        raise BadInputError(
            f"the dataset has {len(result.problems)} problems that would poison training: {shown}; "
            f"the report is {settings.home / 'reports' / 'validation.html'}"
        )


def load_manifest(artifact: Artifact) -> Manifest:
    """The manifest of an artifact, checked against the digest that it was handed on with."""
    data = Path(artifact.path).read_bytes()
    return parse_manifest(data, expected_digest=artifact.metadata.get(DATASET))
