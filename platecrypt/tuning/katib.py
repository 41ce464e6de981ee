"""The cluster engine: hands an Experiment to Katib and follows it until it ends.

Everything that Kubernetes may answer on the way is expected: a server that restarts, throttles or
refuses a token that has expired, an Experiment that somebody deletes. What cannot be waited out is
told with what was last seen.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from platecrypt.errors import BadInputError, PlatecryptError, RefusedError, UnavailableError
from platecrypt.tuning import result as outcome
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.local import NO_LIMITS, Limits
from platecrypt.tuning.proposer import EarlierResult
from platecrypt.tuning.result import (
    Condition,
    EventHandler,
    Observed,
    Status,
    Trial,
    TuningEvent,
    TuningResult,
    best_of,
    write_result,
)

T = TypeVar("T")
GROUP, VERSION = "kubeflow.org", "v1beta1"
EXPERIMENTS, TRIALS = "experiments", "trials"
LABEL = "katib.kubeflow.org/experiment"
DIGEST = "platecrypt.dev/experiment-digest"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
SHORTEST_POLL_S, LONGEST_POLL_S = 1.0, 15.0
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
REQUEST_TIMEOUT_S = (10.0, 30.0)  # to connect, to answer
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT, THROTTLED = 401, 403, 404, 409, 429
BAD_REQUESTS = (400, 413, 422)
# The condition that decides a trial's status, the strongest first.
STATES: tuple[Status, ...] = (
    "Killed",
    "Failed",
    "MetricsUnavailable",
    "EarlyStopped",
    "Succeeded",
    "Running",
)
ENDED = STATES[:-1]


class KatibTuner:
    """Runs Experiments on a cluster that has Katib.

    Args:
        namespace: "" takes the one of the kubeconfig's context, or the pod's own.
        kubeconfig: None takes KUBECONFIG or ~/.kube/config, or inside of a pod its account.
        timeout_s: how long to wait for the Experiment to end; None: for ever.
        patience_s: how long a server that does not answer is asked again.
        keep: leave the Experiment there when it has ended.
        poll_s: the shortest and the longest time between two looks, seconds.
    """

    def __init__(
        self,
        *,
        namespace: str = "",
        kubeconfig: Path | None = None,
        timeout_s: float | None = None,
        patience_s: float = 300.0,
        keep: bool = True,
        poll_s: tuple[float, float] = (SHORTEST_POLL_S, LONGEST_POLL_S),
    ) -> None:
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._keep = keep
        self._poll_s = poll_s

    def run(
        self,
        experiment: Experiment,
        work_dir: Path,
        on_event: EventHandler = lambda event: None,
        *,
        earlier: Sequence[EarlierResult] = (),
        limits: Limits = NO_LIMITS,
    ) -> TuningResult:
        """Create the Experiment, or follow the one that an earlier call created.

        Args:
            experiment: what to search.
            work_dir: made if needed; gets `experiment.yaml` and `result.json` as with the local
                engine.
            on_event: told of each trial that starts, measures, ends, and of waiting.
            earlier: not on a cluster; they are refused.
            limits: not on a cluster; they are refused.

        Returns:
            What was found. Where the time was over first, its last condition is Running.

        Raises:
            BadInputError: the cluster refuses the Experiment, or has another one of that name.
            UnavailableError: the cluster does not answer, or the Experiment was deleted.
            RefusedError: the account may not do this.
        """
        if earlier:
            raise BadInputError(
                "Katib cannot begin with earlier results; take the local engine, or narrow "
                "feasibleSpace to where they were good"
            )
        if limits != NO_LIMITS:
            raise BadInputError(
                "Katib has no budget; set maxTrialCount and the Job's activeDeadlineSeconds, or "
                "take the local engine"
            )
        cluster = _Cluster(self._kubeconfig, self._namespace, self._patience_s, on_event)
        began = time.monotonic()
        cluster.create(experiment)
        found = self._follow(cluster, experiment, began, on_event)
        work_dir.mkdir(parents=True, exist_ok=True)
        write_result(found, work_dir)
        if found.ended and not self._keep:
            cluster.delete(experiment.name)
        on_event(TuningEvent("finished", found.conditions[-1].message))
        return found

    def _follow(
        self, cluster: "_Cluster", experiment: Experiment, began: float, on_event: EventHandler
    ) -> TuningResult:
        watch = _Watch(experiment, on_event)
        pause, longest = self._poll_s
        while True:
            raw = cluster.experiment(experiment.name)
            if raw is None:
                raise UnavailableError(
                    f"Experiment {experiment.name} was deleted while it ran; {watch.last_seen()}"
                )
            happened = watch.look(cluster.trials(experiment.name))
            found = watch.result(raw, time.monotonic() - began)
            if found.ended:
                return found
            pause = self._poll_s[0] if happened else min(pause * 1.5, longest)
            if self._timeout_s is not None and time.monotonic() - began >= self._timeout_s:
                text = f"not ended after {self._timeout_s:g} s, it goes on; {watch.last_seen()}"
                on_event(TuningEvent("note", text))
                return found
            time.sleep(pause)


class _Cluster:
    """The few requests to Kubernetes, each repeated while there is hope."""

    def __init__(
        self, kubeconfig: Path | None, namespace: str, patience_s: float, on_event: EventHandler
    ) -> None:
        self._kubeconfig = kubeconfig
        self._patience_s = patience_s
        self._on_event = on_event
        self._api, context_namespace = _connect(kubeconfig)
        self._namespace = namespace or context_namespace

    def create(self, experiment: Experiment) -> None:
        """Create it, or accept that this very Experiment is there."""
        body = json.loads(json.dumps(experiment.document))
        body.pop("status", None)
        body["metadata"]["namespace"] = self._namespace
        body["metadata"].setdefault("annotations", {})[DIGEST] = experiment.digest
        try:
            self._ask(
                lambda api: api.create_namespaced_custom_object(
                    *self._kind(EXPERIMENTS),
                    body,
                    field_validation="Strict",
                    _request_timeout=REQUEST_TIMEOUT_S,
                )
            )
        except _AnswerError as answer:
            if answer.code != CONFLICT:
                raise answer.explained() from None
            self._accept(experiment)

    def _accept(self, experiment: Experiment) -> None:
        """The name is taken: by an earlier call of ours, or by something else."""
        there = self.experiment(experiment.name) or {}
        metadata = there.get("metadata", {})
        same = (metadata.get("annotations") or {}).get(DIGEST) == experiment.digest
        if not same or metadata.get("deletionTimestamp"):
            raise BadInputError(
                f"namespace {self._namespace} has another Experiment {experiment.name}; delete "
                "it, or give this one another name with --name"
            )
        self._on_event(TuningEvent("note", f"{experiment.name} is there already; following it"))

    def experiment(self, name: str) -> dict[str, Any] | None:
        """The Experiment as it is now; None when there is none."""
        try:
            found: dict[str, Any] = self._ask(
                lambda api: api.get_namespaced_custom_object(
                    *self._kind(EXPERIMENTS), name, _request_timeout=REQUEST_TIMEOUT_S
                )
            )
        except _AnswerError as answer:
            if answer.code == NOT_FOUND:
                return None
            raise answer.explained() from None
        return found

    def trials(self, name: str) -> list[dict[str, Any]]:
        """The Trials of an Experiment, the oldest first."""
        try:
            found = self._ask(
                lambda api: api.list_namespaced_custom_object(
                    *self._kind(TRIALS),
                    label_selector=f"{LABEL}={name}",
                    _request_timeout=REQUEST_TIMEOUT_S,
                )
            )
        except _AnswerError as answer:
            raise answer.explained() from None
        items: list[dict[str, Any]] = found.get("items") or []
        return sorted(items, key=lambda t: (t["metadata"].get("creationTimestamp") or "", _name(t)))

    def delete(self, name: str) -> None:
        """Delete an Experiment with its trials; none being there is no error."""
        try:
            self._ask(
                lambda api: api.delete_namespaced_custom_object(
                    *self._kind(EXPERIMENTS),
                    name,
                    propagation_policy="Foreground",
                    _request_timeout=REQUEST_TIMEOUT_S,
                )
            )
        except _AnswerError as answer:
            if answer.code != NOT_FOUND:
                raise answer.explained() from None

    def _kind(self, plural: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self._namespace, plural

    def _ask(self, request: Callable[[Any], T]) -> T:
        """Make a request, again and again while the server may recover."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        began, wait = time.monotonic(), SHORTEST_WAIT_S
        while True:
            pause = wait
            try:
                return request(self._api)
            except ApiException as error:
                answer = _AnswerError(error)
                if not answer.passing:
                    raise answer from None
                reason = str(answer)
                if answer.code == UNAUTHORIZED:  # the token may have been renewed meanwhile
                    self._api, _ = _connect(self._kubeconfig)
                pause = answer.retry_after or wait
            except HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() - began + pause > self._patience_s:
                raise UnavailableError(
                    f"the cluster did not answer within {self._patience_s:g} s ({reason})"
                ) from None
            self._on_event(TuningEvent("note", f"asking again in {pause:.1f} s: {reason}"))
            time.sleep(pause)
            wait = min(wait * 2, LONGEST_WAIT_S)


class _AnswerError(Exception):
    """An answer of Kubernetes that is an error."""

    def __init__(self, error: Any) -> None:
        try:
            text = str(json.loads(error.body or "{}").get("message") or error.reason)
        except (ValueError, AttributeError):
            text = str(error.reason)
        super().__init__(f"{error.status} {' '.join(text.split())[:2000]}")
        self.code = int(error.status or 0)
        header = (error.headers or {}).get("Retry-After", "")
        self.retry_after = min(float(header), LONGEST_WAIT_S) if header.isdigit() else 0.0

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered a moment later."""
        return self.code in (UNAUTHORIZED, THROTTLED) or self.code == 0 or self.code >= 500

    def explained(self) -> PlatecryptError:
        """The error for a person."""
        if self.code in BAD_REQUESTS:
            return BadInputError(f"the cluster refuses the Experiment: {self}")
        if self.code == FORBIDDEN:
            return RefusedError(f"the account may not do this on the cluster: {self}")
        if self.code == NOT_FOUND:
            return UnavailableError(f"{self}; is Katib installed on this cluster?")
        return UnavailableError(f"the cluster answers {self}")


class _Watch:
    """Turns Katib's objects into ours, and their changes into events."""

    def __init__(self, experiment: Experiment, on_event: EventHandler) -> None:
        self._experiment = experiment
        self._on_event = on_event
        self._numbers: dict[str, int] = {}
        self._trials: dict[str, Trial] = {}

    def look(self, raw: Sequence[Mapping[str, Any]]) -> bool:
        """Take in the Trial objects; returns whether anything changed."""
        happened = False
        for item in raw:
            name = _name(item)
            number = self._numbers.setdefault(name, len(self._numbers))
            before, now = self._trials.get(name), read_trial_object(item, number)
            self._trials[name] = now
            if before == now:
                continue
            happened = True
            self._tell(before, now)
        return happened

    def _tell(self, before: Trial | None, now: Trial) -> None:
        value = now.value(self._experiment)
        shown = "" if value is None else f", {self._experiment.objective.metric}={value:g}"
        if before is None:
            given = ", ".join(f"{name}={text}" for name, text in now.parameters.items())
            self._on_event(TuningEvent("started", f"{now.name}: {given}", now))
        if now.status in ENDED and (before is None or before.status not in ENDED):
            why = f" ({now.message})" if now.message else ""
            text = f"{now.name}: {now.status}{shown}, {now.seconds:.1f} s{why}"
            self._on_event(TuningEvent("ended", text, now))
        elif before is not None and before.metrics != now.metrics:
            self._on_event(TuningEvent("metric", f"{now.name}{shown}", now))

    def last_seen(self) -> str:
        """One line about what was last seen."""
        best = best_of(self._experiment, self._trials.values())
        value = best.value(self._experiment) if best else None
        counts = [
            f"{count} {status}"
            for status in (*STATES, "Pending")
            if (count := sum(trial.status == status for trial in self._trials.values()))
        ]
        text = f"last seen: {', '.join(counts) or 'no trial'}"
        return f"{text}, best {value:g} of {best.name}" if best and value is not None else text

    def result(self, raw: Mapping[str, Any], seconds: float) -> TuningResult:
        """What is known now."""
        trials = tuple(sorted(self._trials.values(), key=lambda trial: trial.number))
        best = best_of(self._experiment, trials)
        return TuningResult(
            experiment=self._experiment,
            trials=trials,
            best=best,
            best_value=best.value(self._experiment) if best else None,
            conditions=_conditions(raw),
            seconds=round(seconds, 2),
        )


def read_trial_object(raw: Mapping[str, Any], number: int) -> Trial:
    """A `kubeflow.org/v1beta1` Trial as ours; what it does not say yet is left out."""
    status = raw.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or [] if c["status"] == "True"}
    state: Status = next((name for name in STATES if name in conditions), "Pending")
    metrics = {}
    for row in (status.get("observation") or {}).get("metrics") or []:
        values = [_number(row.get(name)) for name in ("min", "max", "latest")]
        latest = values[2]
        if latest is not None:  # min and max may be missing where the latest is there
            low, high = (latest if value is None else value for value in values[:2])
            metrics[str(row["name"])] = Observed(low, high, latest)
    assignments = (raw.get("spec") or {}).get("parameterAssignments") or []
    message = conditions[state].get("message", "") if state in conditions else ""
    return Trial(
        number=number,
        name=_name(raw),
        parameters={row["name"]: str(row["value"]) for row in assignments},
        status=state,
        metrics=metrics,
        seconds=_duration(status),
        message=message if state in ("Failed", "Killed", "MetricsUnavailable") else "",
    )


def _conditions(raw: Mapping[str, Any]) -> tuple[Condition, ...]:
    found = [
        Condition(c["type"], c.get("reason", ""), c.get("message", ""), c.get(TRANSITION, ""))
        for c in (raw.get("status") or {}).get("conditions") or []
        if c.get("status") == "True" or c["type"] == "Running"
    ]
    order = ("Created", "Running", "Restarting", "Succeeded", "Failed")
    found.sort(key=lambda c: order.index(c.type) if c.type in order else -1)
    created = raw.get("metadata", {}).get("creationTimestamp", "")
    return tuple(found) or (Condition("Created", outcome.CREATED, "it was created", created),)


TRANSITION = "lastTransitionTime"


def _name(raw: Mapping[str, Any]) -> str:
    return str(raw["metadata"]["name"])


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:  # Katib's "unavailable"
        return None


def _duration(status: Mapping[str, Any]) -> float:
    try:
        began, ended = (datetime.fromisoformat(status[n]) for n in ("startTime", "completionTime"))
    except (KeyError, ValueError, TypeError):
        return 0.0
    return (ended - began).total_seconds()


def _connect(kubeconfig: Path | None) -> tuple[Any, str]:
    """The custom objects API of the cluster in force, and the namespace of its context."""
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = False  # we repeat ourselves, with bounds
    in_pod = kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        if in_pod:
            config.load_incluster_config(client_configuration=configuration)
            namespace = NAMESPACE_FILE.read_text().strip()
        else:
            file = str(kubeconfig) if kubeconfig else None
            config.load_kube_config(file, client_configuration=configuration)
            _, active = config.list_kube_config_contexts(file)
            namespace = active["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise BadInputError(
            f"no cluster is configured ({error}); set KUBECONFIG, or run with --engine local"
        ) from None
    return client.CustomObjectsApi(client.ApiClient(configuration)), namespace
