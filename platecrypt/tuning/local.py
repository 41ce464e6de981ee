"""The local engine: runs a Katib Experiment on this machine, each trial as a process.

A proposer proposes, the trial template's own command runs, its output is read by the Experiment's
own rule, and the Experiment's own counts and goal end the search. Its memory is a SQLite file in
the work dir: whoever kills the engine loses the running trials and nothing else.
"""

import contextlib
import errno
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.machine import cores
from platecrypt.processes import file_lock, last_lines
from platecrypt.tuning import result as outcome
from platecrypt.tuning.collector import Metric, make_collector
from platecrypt.tuning.command import Supply, build_command
from platecrypt.tuning.devices import VISIBLE, GpuPool, visible_gpus
from platecrypt.tuning.experiment import RESTARTABLE, Experiment
from platecrypt.tuning.process import TrialProcess, end_marked
from platecrypt.tuning.proposer import EarlierResult, Proposer, refuse_unsupported
from platecrypt.tuning.result import (
    Condition,
    EventHandler,
    Observed,
    Status,
    Trial,
    TuningEvent,
    TuningResult,
    best_of,
    device_seconds,
    write_result,
)
from platecrypt.tuning.samplers import proposals
from platecrypt.tuning.stopping import LONGEST_HISTORY, make_stopper

POLL_S = 0.02
SHOWN_LINES = 20
LONGEST_MESSAGE = 4000
FAILURES = ("Failed", "MetricsUnavailable")
# Why no trial at all can be started, as opposed to this one's command.
OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EROFS,
    errno.EIO,
)
BEGAN, ENDED = "began", "ended"


@dataclass(frozen=True)
class Limits:
    """What ends a call of the engine beside the Experiment itself.

    Attributes:
        device_hours: no trial starts that would not fit in, and what runs when they are spent
            ends; None: no limit.
        trials: so many new trials and no more; None: no limit.
    """

    device_hours: float | None = None
    trials: int | None = None


NO_LIMITS = Limits()


@dataclass
class _Running:
    """A trial whose process lives."""

    handle: Any
    trial: Trial
    process: TrialProcess
    folder: Path
    gpus: tuple[str, ...]
    status: Status | None = None  # set when the engine ends it
    message: str = ""


class LocalTuner:
    """Runs Experiments here.

    Args:
        environment: variables for every trial (settings, credentials); never written to disk.
        sources: secrets and config maps whose variables stand in `environment` as a whole.
        parallel: at most so many trials at once on this machine, whatever the Experiment says.
        gpus: of this machine; None asks it.
        grace_s: how long an ended trial may take to go before it is killed, seconds.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        sources: Sequence[str] = (),
        parallel: int | None = None,
        gpus: Sequence[str] | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.supply = Supply(dict(environment or {}), tuple(sources))
        self.grace_s = grace_s
        self._parallel = parallel
        self._gpus = gpus

    def run(
        self,
        experiment: Experiment,
        work_dir: Path,
        on_event: EventHandler = lambda event: None,
        *,
        earlier: Sequence[EarlierResult] = (),
        limits: Limits = NO_LIMITS,
    ) -> TuningResult:
        """Run, or go on with, the search in `work_dir`.

        It holds `study.db` (the memory), `trials/<name>/` (output of each), and at the end
        `experiment.yaml` (the Experiment with its status) and `result.json`.

        Args:
            experiment: what to search.
            work_dir: made if needed; one engine at a time.
            on_event: told of each trial that starts, prints the objective, ends.
            earlier: results of another search that a new one begins with.
            limits: what ends this call beside the Experiment.

        Raises:
            BadInputError: the Experiment asks for what this engine does not do, `work_dir` holds
                another search, or another engine works in it; the search has ended and its
                resume policy does not let it go on.
            UnavailableError: the disk is full or the study is damaged.
        """
        refuse_unsupported(experiment)
        build_command(experiment, _example(experiment), self.supply)
        pool = self._pool(experiment)
        at_once = min(
            count
            for count in (experiment.parallel_trials, self._parallel, pool.at_once)
            if count is not None
        )
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            with file_lock(work_dir / "lock"):
                proposer = Proposer(experiment, work_dir, earlier)
                search = _Search(
                    self, experiment, work_dir.absolute(), proposer, pool, at_once, limits, on_event
                )
                found = search.run()
                write_result(found, work_dir)
        except OSError as error:
            raise UnavailableError(f"tuning in {work_dir} failed: {error}") from error
        on_event(TuningEvent("finished", found.conditions[-1].message))
        return found

    def _pool(self, experiment: Experiment) -> GpuPool:
        each = experiment.container.gpus
        gpus = () if not each else visible_gpus() if self._gpus is None else self._gpus
        return GpuPool(gpus, each)


class _Search:
    """One run of the engine over one work dir."""

    def __init__(
        self,
        tuner: LocalTuner,
        experiment: Experiment,
        work_dir: Path,
        proposer: Proposer,
        pool: GpuPool,
        at_once: int,
        limits: Limits,
        on_event: EventHandler,
    ) -> None:
        self.tuner = tuner
        self.experiment = experiment
        self.work_dir = work_dir
        self.proposer = proposer
        self.pool = pool
        self.at_once = at_once
        self.limits = limits
        self.on_event = on_event
        self.running: list[_Running] = []
        self.began = time.monotonic()
        end_marked(work_dir)
        proposer.recover()
        if proposer.recall(BEGAN) is None:
            proposer.remember(BEGAN, _now())
        self.ended = proposer.trials()
        self.started = 0
        self.spent: Condition | None = None
        self.stopper = make_stopper(experiment, proposer.study, self.ended)

    def run(self) -> TuningResult:
        """Start and follow trials until the Experiment ends; leave no process behind."""
        verdict = self._verdict()
        before = self.proposer.recall(ENDED)
        if before and verdict:
            return self._result(Condition(**before) if _same(before, verdict) else verdict)
        if before:
            self._refuse_restart(before)
        try:
            while verdict is None:
                happened = self._start_next()
                for one in list(self.running):
                    happened |= self._follow(one)
                if not happened:
                    time.sleep(POLL_S)
                verdict = self._verdict()
        finally:
            self._end_all("the search ended before it")
        self.proposer.remember(ENDED, asdict(verdict) if self._lasts(verdict) else None)
        return self._result(verdict)

    def _lasts(self, verdict: Condition) -> bool:
        """Whether the Experiment ended by its own rules, so that it does not simply go on."""
        return verdict.reason != outcome.BUDGET_REACHED and verdict != self.spent

    def _refuse_restart(self, before: Mapping[str, str]) -> None:
        """Katib's rule: what ended by its counts may go on where the resume policy says so."""
        policy = self.experiment.resume_policy
        if before["reason"] != outcome.MAX_TRIALS_REACHED or policy not in RESTARTABLE:
            raise BadInputError(
                f"the search in {self.work_dir} has ended ({before['reason']}) and "
                f"spec.resumePolicy is {policy}: one that reached maxTrialCount goes on with "
                f"{' or '.join(RESTARTABLE)}; else use another work dir"
            )

    def _verdict(self) -> Condition | None:
        """How the Experiment ended, or None; Katib's rules in Katib's order."""
        best = best_of(self.experiment, self.ended)
        value = best.value(self.experiment) if best else None
        failed = [trial for trial in self.ended if trial.status in FAILURES]
        counts = self._count()
        most, most_failed = self.experiment.max_trials, self.experiment.max_failed
        if value is not None and self.experiment.objective.reached(value):
            return _condition(outcome.GOAL_REACHED, f"the goal is reached with {value:g}")
        if most_failed is not None and failed and len(failed) >= most_failed:
            text = f"{len(failed)} trials failed; {failed[-1].name}: {failed[-1].message}"
            return _condition(outcome.FAILED, text)
        if most is not None and counts >= most:
            return _condition(outcome.MAX_TRIALS_REACHED, f"{counts} trials have ended")
        there_are = proposals(self.experiment)
        if there_are is not None and counts >= there_are:
            return _condition(outcome.SUGGESTION_END, f"all {there_are} points were tried")
        return self._spent(best)

    def _spent(self, best: Trial | None) -> Condition | None:
        """Whether a limit of this call ends the search."""
        if self.limits.trials is not None and self.started >= self.limits.trials:
            if self.running:
                return None
            return _condition(outcome.BUDGET_REACHED, f"{self.started} new trials have ended")
        hours = self.limits.device_hours
        if hours is None:
            return None
        left = hours * 3600 - self._device_seconds()
        if left > 0 and (self.running or self._fits(left)):
            return None
        text = f"{hours:g} device hours are spent, or what is left is too little for a trial"
        self.spent = _condition(outcome.BUDGET_REACHED if best else outcome.FAILED, text)
        return self.spent

    def _device_seconds(self) -> float:
        running = sum(one.process.seconds for one in self.running)
        each = max(1, self.experiment.container.gpus)
        return device_seconds(self.experiment, self.ended) + running * each

    def _fits(self, left: float) -> bool:
        """Whether one more trial fits in what is left; the first ones are let to find out.

        What those that run will still use is not left.
        """
        whole = [trial for trial in self.ended if trial.status == "Succeeded"]
        if not whole:
            return True
        each = max(1, self.experiment.container.gpus)
        usual = device_seconds(self.experiment, whole) / len(whole)
        bound = sum(max(0.0, usual - one.process.seconds * each) for one in self.running)
        return left - bound >= usual

    def _count(self) -> int:
        """Trials that have ended; those that will be repeated do not count."""
        return sum(trial.status != "Killed" for trial in self.ended)

    def _start_next(self) -> bool:
        """Start one more trial if the counts and limits allow it."""
        if len(self.running) >= self.at_once:
            return False
        counts = self._count() + len(self.running)
        most = [self.experiment.max_trials, proposals(self.experiment)]
        if any(count is not None and counts >= count for count in most):
            return False
        if self.limits.trials is not None and self.started >= self.limits.trials:
            return False
        hours = self.limits.device_hours
        if hours is not None and not self._fits(hours * 3600 - self._device_seconds()):
            return False
        self.started += 1
        self._start()
        return True

    def _start(self) -> None:
        handle, trial = self.proposer.ask()
        folder = self.work_dir / "trials" / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        command = build_command(
            self.experiment, trial.parameters, self.tuner.supply, trial=trial.name, folder=folder
        )
        gpus = self.pool.take()
        env = {"OMP_NUM_THREADS": str(self._threads())}
        if gpus:
            env[VISIBLE] = ",".join(gpus)
        try:
            process = TrialProcess(
                command,
                trial.name,
                self.work_dir,
                folder,
                env,
                make_collector(self.experiment.objective.metrics, self.experiment.collector),
                from_file=bool(self.experiment.collector.path),
            )
        except (OSError, ValueError) as error:
            self.pool.give_back(gpus)
            if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
                raise
            where = f" in {command.cwd}" if command.cwd else ""
            why = getattr(error, "strerror", None) or error
            message = f"{command.argv[0]} cannot be started{where}: {why}"
            self._settle(handle, replace(trial, status="Failed", message=message))
            return
        self.running.append(_Running(handle, trial, process, folder, gpus))
        given = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
        self.on_event(TuningEvent("started", f"{trial.name}: {given}", trial))

    def _threads(self) -> int:
        return max(1, cores() // self.at_once)

    def _follow(self, one: _Running) -> bool:
        """Read what a trial measured; settle it when it ended. Says whether anything happened."""
        if one.process.ending:
            if one.process.gone():
                self._finish(one, one.status or "Killed", one.message)
                return True
            return False
        found, code = one.process.read()
        self._observe(one, found)
        deadline = self.experiment.deadline_s
        if code is None and deadline is not None and one.process.seconds > deadline:
            one.status, one.message = "Failed", f"longer than activeDeadlineSeconds, {deadline} s"
            one.process.terminate(self.tuner.grace_s)
        if code is None or one.process.ending:
            return bool(found)
        shown = last_lines(one.process.log, SHOWN_LINES)[-LONGEST_MESSAGE:]
        if code != 0:
            how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            self._finish(one, "Failed", f"{how}: {shown}")
        elif one.trial.value(self.experiment) is None:
            metric = self.experiment.objective.metric
            self._finish(one, "MetricsUnavailable", f"{metric} was never printed: {shown}")
        else:
            self._finish(one, "Succeeded", "")
        return True

    def _observe(self, one: _Running, found: Sequence[Metric]) -> None:
        metrics, history = dict(one.trial.metrics), list(one.trial.history)
        latest: float | None = None
        for name, value in found:
            seen = metrics.get(name, Observed(value, value, value))
            metrics[name] = Observed(min(seen.min, value), max(seen.max, value), value)
            if name == self.experiment.objective.metric:
                latest = value
                if len(history) < LONGEST_HISTORY:
                    history.append(value)
                    if self.stopper.should_stop(one.handle, history):
                        self._stop_early(one, len(history))
                        break
        if found:
            one.trial = replace(one.trial, metrics=metrics, history=tuple(history))
        if latest is not None:
            text = f"{one.trial.name}: {self.experiment.objective.metric}={latest:g}"
            self.on_event(TuningEvent("metric", text, one.trial))

    def _stop_early(self, one: _Running, step: int) -> None:
        one.status, one.message = "EarlyStopped", f"stopped early at step {step}"
        one.process.terminate(self.tuner.grace_s)

    def _end_all(self, message: str) -> None:
        """End what still runs; all at once, so that it takes one grace."""
        for one in self.running:
            if not one.process.ending:
                one.process.terminate(self.tuner.grace_s)
        while not all(one.process.gone() for one in self.running):
            time.sleep(POLL_S)
        for one in self.running:  # before anything is written, which may fail
            one.process.finish()
        end_marked(self.work_dir)
        for one in list(self.running):
            self._finish(one, one.status or "Killed", one.message or message)

    def _finish(self, one: _Running, status: Status, message: str) -> None:
        one.process.finish()
        if one.gpus:  # who left the trial's process group may still use them
            end_marked(self.work_dir, one.trial.name)
        self.running.remove(one)
        self.pool.give_back(one.gpus)
        seconds = round(one.process.seconds, 2)
        if not self.experiment.retain:
            _keep_log_only(one.folder, one.process.log)
        self._settle(
            one.handle, replace(one.trial, status=status, message=message, seconds=seconds)
        )

    def _settle(self, handle: Any, trial: Trial) -> None:
        self.proposer.ended(handle, trial)
        self.ended.append(trial)
        self.stopper.finished(trial)
        value = trial.value(self.experiment)
        shown = "" if value is None else f", {self.experiment.objective.metric}={value:g}"
        why = f" ({trial.message})" if trial.message else ""
        text = f"{trial.name}: {trial.status}{shown}, {trial.seconds:.1f} s{why}"
        self.on_event(TuningEvent("ended", text, trial))

    def _result(self, verdict: Condition) -> TuningResult:
        trials = tuple(sorted(self.ended, key=lambda trial: trial.number))
        best = best_of(self.experiment, trials)
        began = str(self.proposer.recall(BEGAN))
        return TuningResult(
            experiment=self.experiment,
            trials=trials,
            best=best,
            best_value=best.value(self.experiment) if best else None,
            conditions=(
                Condition("Created", outcome.CREATED, "the search is created", began),
                Condition("Running", outcome.RUNNING, "the search is running", began),
                verdict,
            ),
            seconds=round(time.monotonic() - self.began, 2),
            earlier=self.proposer.earlier,
        )


def _condition(reason: str, message: str) -> Condition:
    kind = "Failed" if reason == outcome.FAILED else "Succeeded"
    return Condition(kind, reason, message, _now())


def _same(before: Mapping[str, str], verdict: Condition) -> bool:
    return (before["reason"], before["message"]) == (verdict.reason, verdict.message)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _example(experiment: Experiment) -> dict[str, str]:
    """Any value for each parameter: a template is tried before the first trial is paid for."""
    return {p.name: p.choices[0] if p.choices else str(p.low) for p in experiment.parameters}


def _keep_log_only(folder: Path, log: Path) -> None:
    """Remove what a trial left; what cannot be removed stays, the trial counts all the same."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path == log:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
