"""The command of a trial: the template's container with its placeholders filled."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from platecrypt.errors import BadInputError
from platecrypt.tuning.checks import PLACEHOLDER
from platecrypt.tuning.experiment import Experiment

# Kubernetes expands $(NAME) in command and args; $$(NAME) stays as $(NAME).
REFERENCE = re.compile(r"\$(\$?)\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True)
class Command:
    """What to start: the words, the variables beside our own environment, the folder or ""."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str


def build_command(
    experiment: Experiment, parameters: Mapping[str, str], environment: Mapping[str, str]
) -> Command:
    """Fill the primary container's command for one trial.

    Args:
        experiment: the template.
        parameters: parameter -> value.
        environment: variables that the engine supplies; they win over the template's, and stand
            for what a cluster takes from secrets and config maps.

    Raises:
        BadInputError: the container needs a secret or config map that is not supplied.
    """
    container = experiment.container
    missing = [name for name in container.required_refs if name not in environment]
    if missing:
        raise BadInputError(
            f"container {container.name} takes {', '.join(missing)} from a secret or config map, "
            "which do not exist here; set the variables in the environment of the engine, or mark "
            "the reference as optional"
        )
    env = {name: _fill(value, experiment, parameters) for name, value in container.env.items()}
    env.update(environment)
    words = [
        _expand(_fill(word, experiment, parameters), env)
        for word in (*container.command, *container.args)
    ]
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return Command(tuple(words), env, container.working_dir)


def _fill(text: str, experiment: Experiment, parameters: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(
        lambda match: parameters[experiment.trial_parameters[match.group(1)]], text
    )


def _expand(text: str, env: Mapping[str, str]) -> str:
    def replace(match: "re.Match[str]") -> str:
        if match.group(1):
            return f"$({match.group(2)})"
        return env.get(match.group(2), match.group(0))

    return REFERENCE.sub(replace, text)
