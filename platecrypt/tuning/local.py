"""The local engine: runs a Katib Experiment on this machine, each trial as a process.

A proposer proposes, the trial template's own command runs, its output is read by the Experiment's
own rule, and the Experiment's own counts and goal end the search. Its memory is a SQLite file in
the work dir: whoever kills the engine loses the running trials and nothing else.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

from platecrypt.errors import UnavailableError
from platecrypt.processes import file_lock, last_lines, stop_tree
from platecrypt.tuning import result as outcome
from platecrypt.tuning.collector import StdOutCollector
from platecrypt.tuning.command import build_command
from platecrypt.tuning.experiment import Experiment
from platecrypt.tuning.proposer import Proposer, refuse_unsupported
from platecrypt.tuning.result import Condition, Observed, Status, Trial, TuningEvent, TuningResult

POLL_S = 0.02
CHUNK = 1 << 20
LONGEST_HISTORY = 1000
SHOWN_LINES = 20
FAILURES = ("Failed", "MetricsUnavailable")
EventHandler = Callable[[TuningEvent], None]


@dataclass
class _Running:
    """A trial whose process lives."""

    handle: Any
    trial: Trial
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    log: Path
    folder: Path
    collector: StdOutCollector
    started: float


class LocalTuner:
    """Runs Experiments here.

    Args:
        environment: variables for every trial (settings, credentials); never written to disk.
        grace_s: how long an ended trial may take to go before it is killed, seconds.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, grace_s: float = 10.0
    ) -> None:
        self._environment = dict(environment or {})
        self._grace_s = grace_s

    def run(
        self,
        experiment: Experiment,
        work_dir: Path,
        on_event: EventHandler = lambda event: None,
    ) -> TuningResult:
        """Run, or go on with, the search in `work_dir`.

        It holds `study.db` (the memory), `trials/<name>/` (output of each), and at the end
        `experiment.yaml` (the Experiment with its status) and `result.json`.

        Args:
            experiment: what to search.
            work_dir: made if needed; one engine at a time.
            on_event: told of each trial that starts, prints the objective, ends.

        Raises:
            BadInputError: the Experiment asks for what this engine does not do, `work_dir` holds
                another search, or another engine works in it.
            UnavailableError: the disk is full or the study is damaged.
        """
        refuse_unsupported(experiment)
        build_command(experiment, _example(experiment), self._environment)
        work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with file_lock(work_dir / "lock"):
                search = _Search(
                    experiment, work_dir.absolute(), self._environment, self._grace_s, on_event
                )
                found = search.run()
                _write(work_dir / "result.json", found.to_json())
                document = {**experiment.document, "status": found.status()}
                _write(work_dir / "experiment.yaml", yaml.safe_dump(document, sort_keys=False))
        except OSError as error:
            raise UnavailableError(f"tuning in {work_dir} failed: {error}") from error
        on_event(TuningEvent("finished", found.conditions[-1].message))
        return found


class _Search:
    """One run of the engine over one work dir."""

    def __init__(
        self,
        experiment: Experiment,
        work_dir: Path,
        environment: Mapping[str, str],
        grace_s: float,
        on_event: EventHandler,
    ) -> None:
        self.experiment = experiment
        self.folder = work_dir / "trials"
        self.environment = environment
        self.grace_s = grace_s
        self.on_event = on_event
        self.running: list[_Running] = []
        self.proposer = Proposer(experiment, work_dir)
        self.began = time.monotonic()
        self.began_at = _now()
        for orphan in self.proposer.recover():
            _end_orphan(int(orphan["pid"]), float(orphan["created"]), grace_s)
        self.ended = self.proposer.trials()

    def run(self) -> TuningResult:
        """Start and follow trials until the Experiment ends; leave no process behind."""
        try:
            while (verdict := self._verdict()) is None:
                happened = self._start_next()
                for one in list(self.running):
                    happened |= self._follow(one)
                if not happened:
                    time.sleep(POLL_S)
        finally:
            for one in self.running:
                stop_tree(one.process.pid, self.grace_s)
            for one in list(self.running):
                self._finish(one, "Killed", "the search ended before it")
        return self._result(verdict)

    def _verdict(self) -> Condition | None:
        """How the Experiment ended, or None; Katib's rules in Katib's order."""
        best = _best(self.experiment, self.ended)
        value = best.value(self.experiment) if best else None
        failed = sum(trial.status in FAILURES for trial in self.ended)
        counts = sum(trial.status != "Killed" for trial in self.ended)
        most, most_failed = self.experiment.max_trials, self.experiment.max_failed
        if value is not None and self.experiment.objective.reached(value):
            return _succeeded(outcome.GOAL_REACHED, f"the goal is reached with {value:g}")
        if most_failed is not None and failed and failed >= most_failed:
            last = next(
                t for t in reversed(self.ended) if t.status in ("Failed", "MetricsUnavailable")
            )
            text = f"{failed} trials failed; {last.name}: {last.message}"
            return Condition("Failed", outcome.FAILED, text, _now())
        if most is not None and counts >= most:
            return _succeeded(outcome.MAX_TRIALS_REACHED, f"{counts} trials have ended")
        return None

    def _start_next(self) -> bool:
        """Start one more trial if the counts allow it."""
        counts = sum(trial.status != "Killed" for trial in self.ended) + len(self.running)
        most = self.experiment.max_trials
        if len(self.running) >= self.experiment.parallel_trials:
            return False
        if most is not None and counts >= most:
            return False
        self._start()
        return True

    def _start(self) -> None:
        handle, trial = self.proposer.ask()
        folder = self.folder / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "output.log"
        command = build_command(self.experiment, trial.parameters, self.environment)
        env = {**os.environ, "OMP_NUM_THREADS": str(self._threads()), **command.env}
        try:
            with log.open("wb") as out:
                process = subprocess.Popen(
                    command.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=command.cwd or folder,
                    start_new_session=True,
                )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            message = f"{command.argv[0]} cannot be started: {error.strerror}"
            trial = replace(trial, status="Failed", message=message)
            self._settle(handle, trial)
            return
        one = _Running(
            handle=handle,
            trial=trial,
            process=process,
            output=log.open("rb"),
            log=log,
            folder=folder,
            collector=StdOutCollector(
                self.experiment.objective.metrics, self.experiment.metrics_filter
            ),
            started=time.monotonic(),
        )
        self.running.append(one)
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended already
            self.proposer.started(handle, process.pid, psutil.Process(process.pid).create_time())
        given = ", ".join(f"{name}={value}" for name, value in trial.parameters.items())
        self.on_event(TuningEvent("started", f"{trial.name}: {given}", trial))

    def _threads(self) -> int:
        return max(1, len(os.sched_getaffinity(0)) // self.experiment.parallel_trials)

    def _follow(self, one: _Running) -> bool:
        """Read what a trial printed; settle it when it ended. Returns whether anything happened."""
        code = one.process.poll()
        data = one.output.read(CHUNK)
        self._observe(one, one.collector.feed(data))
        if code is None or len(data) == CHUNK:
            return bool(data)
        self._observe(one, one.collector.close())
        if code != 0:
            how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            self._finish(one, "Failed", f"{how}: {last_lines(one.log, SHOWN_LINES)}")
        elif one.trial.value(self.experiment) is None:
            metric = self.experiment.objective.metric
            text = f"{metric} was never printed: {last_lines(one.log, SHOWN_LINES)}"
            self._finish(one, "MetricsUnavailable", text)
        else:
            self._finish(one, "Succeeded", "")
        return True

    def _observe(self, one: _Running, found: Any) -> None:
        metrics, history = dict(one.trial.metrics), list(one.trial.history)
        latest: float | None = None
        for name, value in found:
            seen = metrics.get(name, Observed(value, value, value))
            metrics[name] = Observed(min(seen.min, value), max(seen.max, value), value)
            if name == self.experiment.objective.metric:
                latest = value
                if len(history) < LONGEST_HISTORY:
                    history.append(value)
        if metrics:
            one.trial = replace(one.trial, metrics=metrics, history=tuple(history))
        if latest is not None:
            text = f"{one.trial.name}: {self.experiment.objective.metric}={latest:g}"
            self.on_event(TuningEvent("metric", text, one.trial))

    def _finish(self, one: _Running, status: Status, message: str) -> None:
        if one.process.poll() is None:
            stop_tree(one.process.pid, self.grace_s)
        # What a trial started and left behind lives in its process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.output.close()
        self.running.remove(one)
        seconds = round(time.monotonic() - one.started, 2)
        trial = replace(one.trial, status=status, message=message, seconds=seconds)
        if not self.experiment.retain:
            _keep_log_only(one.folder, one.log)
        self._settle(one.handle, trial)

    def _settle(self, handle: Any, trial: Trial) -> None:
        self.proposer.ended(handle, trial)
        self.ended.append(trial)
        value = trial.value(self.experiment)
        shown = "" if value is None else f", {self.experiment.objective.metric}={value:g}"
        why = f" ({trial.message})" if trial.message else ""
        text = f"{trial.name}: {trial.status}{shown}, {trial.seconds:.1f} s{why}"
        self.on_event(TuningEvent("ended", text, trial))

    def _result(self, verdict: Condition) -> TuningResult:
        trials = tuple(sorted(self.ended, key=lambda trial: trial.number))
        best = _best(self.experiment, trials)
        return TuningResult(
            experiment=self.experiment,
            trials=trials,
            best=best,
            best_value=best.value(self.experiment) if best else None,
            conditions=(
                Condition("Created", outcome.CREATED, "the search is created", self.began_at),
                Condition("Running", outcome.RUNNING, "the search is running", self.began_at),
                verdict,
            ),
            seconds=round(time.monotonic() - self.began, 2),
        )


def _best(experiment: Experiment, trials: Sequence[Trial]) -> Trial | None:
    """The best trial that succeeded, the earlier of two equal ones."""
    best: Trial | None = None
    best_value = 0.0
    for trial in sorted(trials, key=lambda trial: trial.number):
        value = trial.value(experiment) if trial.status == "Succeeded" else None
        if value is not None and (best is None or experiment.objective.better(value, best_value)):
            best, best_value = trial, value
    return best


def _succeeded(reason: str, message: str) -> Condition:
    return Condition("Succeeded", reason, message, _now())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _example(experiment: Experiment) -> dict[str, str]:
    """Any value for each parameter: a template is tried before the first trial is paid for."""
    return {p.name: p.choices[0] if p.choices else str(p.low) for p in experiment.parameters}


def _end_orphan(pid: int, created: float, grace_s: float) -> None:
    try:
        if abs(psutil.Process(pid).create_time() - created) < 0.1:
            stop_tree(pid, grace_s)
    except psutil.NoSuchProcess:
        return


def _keep_log_only(folder: Path, log: Path) -> None:
    for path in folder.iterdir():
        if path == log:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
