"""The command of a trial: the template's container with its placeholders filled."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError
from platecrypt.tuning.checks_template import ABOUT_TRIAL, PLACEHOLDER
from platecrypt.tuning.experiment import Experiment

# Kubernetes expands $(NAME) in command and args; $$(NAME) stays as $(NAME).
REFERENCE = re.compile(r"\$(\$?)\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
METRICS_FILE = "metrics.log"


@dataclass(frozen=True)
class Supply:
    """What the engine gives to every trial, in place of what a cluster keeps.

    Attributes:
        variables: environment variables; they win over the template's. Never written to disk.
        sources: names of the secrets and config maps that stand in `variables` as a whole.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """What to start: the words, the variables beside our own environment, the folder or ""."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str


def build_command(
    experiment: Experiment,
    parameters: Mapping[str, str],
    supply: Supply,
    *,
    trial: str = "",
    folder: Path | None = None,
) -> Command:
    """Fill the primary container's command for one trial.

    Args:
        experiment: the template.
        parameters: parameter -> value.
        supply: what the engine gives, e.g. in place of secrets.
        trial: its name, for placeholders that ask for it.
        folder: of the trial; the file of the collector File lies in it.

    Raises:
        BadInputError: the container needs a secret or config map that is not supplied.
    """
    container = experiment.container
    if missing := list(_missing(experiment, supply)):
        raise BadInputError(
            f"container {container.name} takes {'; '.join(missing)}; or mark the reference as "
            "optional"
        )
    filler = _Filler(experiment, parameters, trial, folder)
    env = dict(supply.variables)
    for name, value in container.env.items():  # each may name those before it
        env.setdefault(name, _expand(filler.fill(value), env))
    # `python` is the project's interpreter, also inside of `sh -c`.
    ours = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    env.setdefault("PATH", os.pathsep.join(ours))
    words = [_expand(filler.fill(word), env) for word in (*container.command, *container.args)]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return Command(tuple(words), env, filler.fill(container.working_dir))


def mentions(experiment: Experiment, path: str) -> bool:
    """Whether a path stands in the container's words or variables."""
    container = experiment.container
    texts = (*container.command, *container.args, *container.env.values())
    return any(path in text for text in texts)


def _missing(experiment: Experiment, supply: Supply) -> Iterator[str]:
    for name in experiment.container.required_env:
        if name not in supply.variables:
            yield (
                f"{name} from a secret or config map, which do not exist here: supply it with "
                f"--env {name}=VALUE, or, as process lists show that, with a line {name}=VALUE of "
                "a file: --env-from secret=FILE"
            )
    for name in experiment.container.required_env_from:
        if name not in supply.sources:
            yield (
                f"all variables of {name}, which does not exist here: supply them with "
                f"--env-from {name}=FILE (lines NAME=VALUE)"
            )


class _Filler:
    """Puts the values of one trial where the template has placeholders."""

    def __init__(
        self,
        experiment: Experiment,
        parameters: Mapping[str, str],
        trial: str,
        folder: Path | None,
    ) -> None:
        spec: dict[str, Any] = experiment.document["spec"]["trialTemplate"]["trialSpec"]
        self._about = {
            "Name": trial,
            "Namespace": "default",
            "Kind": spec["kind"],
            "APIVersion": spec["apiVersion"],
        }
        metadata = spec.get("metadata") or {}
        self._maps = {n: metadata.get(n.lower()) or {} for n in ("Labels", "Annotations")}
        self._parameters = parameters
        self._references = experiment.trial_parameters
        self._file = experiment.collector.path
        self._folder = folder

    def fill(self, text: str) -> str:
        """The text with its placeholders filled, and the metrics file in the trial's folder."""
        filled = PLACEHOLDER.sub(lambda m: self._value(self._references[m.group(1)]), text)
        if self._file and self._folder:
            filled = filled.replace(self._file, str(self._folder / METRICS_FILE))
        return filled

    def _value(self, reference: str) -> str:
        about = ABOUT_TRIAL.fullmatch(reference)
        if about is None:
            return self._parameters[reference]
        name, kind, key = about.groups()
        return self._about[name] if name else str(self._maps[kind].get(key, ""))


def _expand(text: str, env: Mapping[str, str]) -> str:
    def replace(match: "re.Match[str]") -> str:
        if match.group(1):
            return f"$({match.group(2)})"
        return env.get(match.group(2), match.group(0))

    return REFERENCE.sub(replace, text)
