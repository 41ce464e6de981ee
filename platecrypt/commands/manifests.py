"""`platecrypt check-manifests`: what an API server and its webhooks would refuse, said before."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platecrypt.commands.shared import AsJson, print_result, say

if TYPE_CHECKING:
    from platecrypt.manifests import Report


def check_manifests(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Folder with a kustomization, with overlays/, or with YAML files; or a YAML file. "
            "Each is checked as what is applied together.",
        ),
    ],
    crds: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of CustomResourceDefinitions; repeat it: valid means valid in each.",
        ),
    ] = None,
    overlay: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only these of a folder with overlays/; may be repeated."
        ),
    ] = None,
    kubernetes: Annotated[
        list[str] | None,
        typer.Option(metavar="VERSION", help="Versions of Kubernetes, e.g. 1.34; may be repeated."),
    ] = None,
    root: Annotated[
        Path, typer.Option(help="The checkout: its Dockerfiles are the images that we build.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Check Kubernetes manifests offline; exits 1 when something is wrong.

    Schemas (strict), the rules of KServe's and Katib's webhooks, names, references, ports,
    selectors, images, Pod Security `restricted` and resources.
    """
    from platecrypt.manifests import check, read
    from platecrypt.manifests.schemas import KUBERNETES_VERSIONS, Schemas

    schemas = Schemas(crds or (), kubernetes or KUBERNETES_VERSIONS)
    report = check(read(paths, overlay or (), origins=False), schemas, root)
    if report.findings:  # which file each is in is asked only where something is wrong
        report = check(read(paths, overlay or ()), schemas, root)
    value = {
        "findings": [asdict(finding) for finding in report.findings],
        "sets": [
            {"name": group.name, "objects": len(group.objects), "seconds": round(group.seconds, 2)}
            for group in report.sets
        ],
        "unchecked": report.unchecked,
        "seconds": round(report.seconds, 2),
    }
    lines = [str(finding) for finding in report.findings]
    print_result(as_json, value, "\n".join([*lines, _summary(report)]))
    if report.unchecked and not schemas.has_crds:
        kinds = ", ".join(report.unchecked)
        say(f"no schema was given for {kinds}; --crds FOLDER checks them")
    if report.findings:
        raise SystemExit(1)


def _summary(report: "Report") -> str:
    objects = sum(len(group.objects) for group in report.sets)
    built = ", ".join(f"{group.name} {group.seconds:.1f} s" for group in report.sets)
    count = len(report.findings)
    found = "clean" if not count else f"{count} finding{'s' * (count > 1)}"
    return f"{objects} objects: {found} (read {built}; checked in {report.seconds:.1f} s)"
