"""What the admission webhooks of KServe and Katib refuse, by the rooms that know their objects."""

from collections.abc import Iterator

from platecrypt.deployment.checks import problems as service_problems
from platecrypt.manifests.model import Finding, ManifestSet
from platecrypt.manifests.schemas import Schemas
from platecrypt.tuning.checks import problems as experiment_problems
from platecrypt.tuning.fields import mapping


def webhooks(group: ManifestSet, schemas: Schemas) -> Iterator[Finding]:
    """Rules of KServe and of Katib, and the object inside of an Experiment."""
    for item in group.of("InferenceService"):
        for problem in service_problems(item.document):
            field, _, message = problem.partition(": ")
            yield item.finding(field, "kserve", message)
    for item in group.of("Experiment"):
        if item.group != "kubeflow.org":
            continue
        trial = mapping(mapping(item.spec.get("trialTemplate")).get("trialSpec"))
        where = "spec.trialTemplate.trialSpec"
        version, kind = str(trial.get("apiVersion")), str(trial.get("kind"))
        told = {
            f"{where}.{path}" if path else where: message
            for path, message in schemas.fragment(version, kind, trial)
        }
        for field, message in told.items():
            yield item.finding(field, "schema", message)
        for problem in experiment_problems(item.document):
            field, _, message = problem.partition(": ")
            if field not in told:
                yield item.finding(field, "katib", message)
