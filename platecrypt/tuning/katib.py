"""The cluster engine: hands an Experiment to Katib and follows it until it ends.

An Experiment that somebody deletes, or that does not end in time, is told with what was last seen.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from platecrypt.cluster import CONFLICT, PATIENCE_S, AnswerError, Cluster
from platecrypt.errors import BadInputError, PlatecryptError, UnavailableError
from platecrypt.tuning import result as outcome
from platecrypt.tuning.experiment import RESTARTABLE, Experiment
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

GROUP, VERSION = "kubeflow.org", "v1beta1"
EXPERIMENTS, TRIALS = (GROUP, VERSION, "experiments"), (GROUP, VERSION, "trials")
LABEL = "katib.kubeflow.org/experiment"
DIGEST = "platecrypt.dev/experiment-digest"
SHORTEST_POLL_S, LONGEST_POLL_S = 1.0, 15.0
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
COUNTS = ("maxTrialCount", "maxFailedTrialCount", "parallelTrialCount")  # Katib lets them change


class KatibTuner:
    """Runs Experiments on a cluster that has Katib.

    Args:
        namespace: "" takes the Experiment's own, else the one of the kubeconfig's context, or the
            pod's.
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
        patience_s: float = PATIENCE_S,
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
        namespace = self._namespace or experiment.document["metadata"].get("namespace", "")
        cluster = _Cluster(self._kubeconfig, namespace, self._patience_s, on_event)
        began = time.monotonic()
        cluster.wait_until(None if self._timeout_s is None else began + self._timeout_s)
        before = cluster.create(experiment)
        found = self._follow(cluster, experiment, began, on_event, before)
        work_dir.mkdir(parents=True, exist_ok=True)
        write_result(found, work_dir)
        if found.ended and not self._keep:
            cluster.wait_until(None)  # the search is over, and cleaning up has its own patience
            cluster.delete(experiment.name)
        on_event(TuningEvent("finished", found.conditions[-1].message))
        return found

    def _follow(
        self,
        cluster: "_Cluster",
        experiment: Experiment,
        began: float,
        on_event: EventHandler,
        before: Condition | None,
    ) -> TuningResult:
        watch = _Watch(experiment, on_event)
        pause, longest = self._poll_s
        found: TuningResult | None = None
        while True:
            try:
                raw = cluster.experiment(experiment.name)
                happened = raw is not None and watch.look(cluster.trials(experiment.name))
            except UnavailableError as error:
                if found is None or not self._late(began):
                    raise UnavailableError(f"{error}; {watch.last_seen()}") from None
                happened = False
            else:
                if raw is None:
                    raise UnavailableError(
                        f"Experiment {experiment.name} was deleted while it ran; "
                        f"{watch.last_seen()}"
                    )
                found = watch.result(raw, time.monotonic() - began)
                if found.ended and found.conditions[-1] != before:
                    return found
            pause = self._poll_s[0] if happened else min(pause * 1.5, longest)
            if self._late(began):
                text = f"not ended after {self._timeout_s:g} s, it goes on; {watch.last_seen()}"
                on_event(TuningEvent("note", text))
                return found
            time.sleep(pause)

    def _late(self, began: float) -> bool:
        return self._timeout_s is not None and time.monotonic() - began >= self._timeout_s


class _Cluster:
    """What the tuner asks of the cluster."""

    def __init__(
        self, kubeconfig: Path | None, namespace: str, patience_s: float, on_event: EventHandler
    ) -> None:
        self._on_event = on_event
        self._cluster = Cluster(kubeconfig, namespace, patience_s, self._note)

    def wait_until(self, end: float | None) -> None:
        """No request is repeated beyond that moment of the monotonic clock."""
        self._cluster.end = end

    def create(self, experiment: Experiment) -> Condition | None:
        """Create it, or accept that this very Experiment is there.

        Returns:
            How it had ended before it was told to go on with more trials, else None.
        """
        body = json.loads(json.dumps(experiment.document))
        body.pop("status", None)
        body["metadata"]["namespace"] = self._cluster.namespace
        body["metadata"].setdefault("annotations", {})[DIGEST] = experiment.digest
        try:
            self._cluster.create(EXPERIMENTS, body)
        except AnswerError as answer:
            if answer.code != CONFLICT:
                raise _explained(answer) from None
            return self._accept(experiment)
        return None

    def _accept(self, experiment: Experiment) -> Condition | None:
        """The name is taken: by an earlier call of ours, or by something else."""
        there = self.experiment(experiment.name) or {}
        metadata = there.get("metadata", {})
        same = (metadata.get("annotations") or {}).get(DIGEST) == experiment.digest
        if not same or metadata.get("deletionTimestamp"):
            raise BadInputError(
                f"namespace {self._cluster.namespace} has another Experiment {experiment.name}; "
                "delete it, or give this one another name with --name"
            )
        self._note(f"{experiment.name} is there already; following it")
        wanted = {name: experiment.document["spec"].get(name) for name in COUNTS}
        changed = {
            name: count
            for name, count in wanted.items()
            if count is not None and count != there.get("spec", {}).get(name)
        }
        last, ran = _conditions(there)[-1], int((there.get("status") or {}).get("trials") or 0)
        ended = last.type in ("Succeeded", "Failed")
        more = experiment.max_trials is not None and experiment.max_trials > ran
        if not changed or (ended and not (more and last.reason == outcome.MAX_TRIALS_REACHED)):
            return None  # it is what it was: its end is the answer, as with the local engine
        return self._change(experiment, changed, last if ended else None)

    def _change(
        self, experiment: Experiment, counts: Mapping[str, int], last: Condition | None
    ) -> Condition | None:
        """Give it other counts; what has ended goes on if its policy says so."""
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        policy = experiment.resume_policy
        if last and policy not in RESTARTABLE:
            raise BadInputError(
                f"{experiment.name} has ended on the cluster ({last.reason}) and its resumePolicy "
                f"is {policy}, so it does not go on with {shown}; give this one another name with "
                "--name"
            )
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Experiment",
            "metadata": {"name": experiment.name, "namespace": self._cluster.namespace},
            "spec": dict(counts),
        }
        try:
            self._cluster.apply(EXPERIMENTS, body)
        except AnswerError as answer:
            raise _explained(answer) from None
        self._note(f"it goes on with {shown}")
        return last

    def experiment(self, name: str) -> dict[str, Any] | None:
        """The Experiment as it is now; None when there is none."""
        try:
            return self._cluster.get(EXPERIMENTS, name)
        except AnswerError as answer:
            raise _explained(answer) from None

    def trials(self, name: str) -> list[dict[str, Any]]:
        """The Trials of an Experiment, the oldest first."""
        try:
            items = self._cluster.list(TRIALS, f"{LABEL}={name}")
        except AnswerError as answer:
            raise _explained(answer) from None
        return sorted(items, key=lambda t: (t["metadata"].get("creationTimestamp") or "", _name(t)))

    def delete(self, name: str) -> None:
        """Delete an Experiment with its trials; none being there is no error."""
        try:
            self._cluster.delete(EXPERIMENTS, name)
        except AnswerError as answer:
            raise _explained(answer) from None

    def _note(self, text: str) -> None:
        self._on_event(TuningEvent("note", text))


def _explained(answer: AnswerError) -> PlatecryptError:
    return answer.explained("Experiment", "Katib")


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
        found = float(str(value))
    except ValueError:  # Katib's "unavailable"
        return None
    return found if math.isfinite(found) else None


def _duration(status: Mapping[str, Any]) -> float:
    try:
        began, ended = (datetime.fromisoformat(status[n]) for n in ("startTime", "completionTime"))
    except (KeyError, ValueError, TypeError):
        return 0.0
    return (ended - began).total_seconds()
