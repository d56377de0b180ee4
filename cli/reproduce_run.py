"""Trains many independent runs, some at a time, each in a process of its own. What is finished is not trained again."""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from broker import events
from cli.embedded import train_embedded
from cli.errors import CommandError
from cli.machine import machine
from cli.prepare import check_clients_here, check_output, prepare
from cli.reproduce_plan import TIME, Trial
from coordinator.errors import CoordinatorError
from coordinator.experiment import Experiment
from coordinator.results import write_json
from learning.errors import LearningError
from monitoring.display import Display

_SERVERS = 1  # of a run: other runs use the other cores


def is_finished(trial: Trial) -> bool:
    """Return whether a run is there from beginning to end."""
    return (trial.folder / "summary.json").exists()


def train_all(trials: Sequence[Trial], jobs: int) -> None:
    """Train the runs that are not finished, so many at a time, showing progress.

    Raises CommandError, which names the folder, as soon as one fails; the others are stopped then and go on next time.
    """
    left = [trial for trial in trials if not is_finished(trial)]
    with _progress(trials, left) as progress:
        _Pool(left, jobs, progress).run()


class _Shown:
    """How far the runs are: a bar each in a terminal, and a line when one begins or ends."""

    def __init__(self, trials: Sequence[Trial], left: Sequence[Trial]) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"))
        self.bars = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._count = len(trials)
        self.finished = len(trials) - len(left)
        self._rounds = sum(trial.experiment.training.rounds for trial in left)  # still to be trained
        self._trained = 0  # by these processes
        self._began = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        if self.finished:
            self.say(f"{self.finished} of {self._count} runs are finished already")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def started(self, trial: Trial, place: int) -> None:
        self.say(f"run {place} of {self._count}: {trial.name}")
        self._tasks[trial.name] = self.bars.add_task(
            f"run {place} of {self._count}: {trial.name}", total=trial.experiment.training.rounds
        )

    def resumed(self, trial: Trial, closed: int) -> None:
        self._rounds -= closed
        self.bars.update(self._tasks[trial.name], completed=closed)

    def closed(self, trial: Trial, round: int) -> None:
        self._rounds -= 1
        self._trained += 1
        self.bars.update(self._tasks[trial.name], completed=round)

    def ended(self, trial: Trial, seconds: float) -> None:
        self.finished += 1
        self.bars.remove_task(self._tasks.pop(trial.name))
        self.say(f"{trial.name} took {_duration(seconds)}; {self.finished} of {self._count} runs are finished{self._left()}")

    def _left(self) -> str:
        if not self._rounds or not self._trained:
            return ""
        return f", about {_duration((time.monotonic() - self._began) / self._trained * self._rounds)} left"


class _Pool:
    """Processes that train one run each."""

    def __init__(self, trials: Sequence[Trial], jobs: int, shown: _Shown) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cli.reproduce_run", "sklearn.datasets"])
        self._waiting = list(trials)
        self._jobs = jobs
        self._shown = shown
        self._running: dict[Connection, tuple[Trial, ForkServerProcess, float]] = {}
        self._place = shown.finished

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                while self._waiting and len(self._running) < self._jobs:
                    self._start(self._waiting.pop(0))
                for connection in wait(list(self._running), timeout=1.0):
                    assert isinstance(connection, Connection)
                    self._hear(connection)
        finally:
            self._stop()

    def _start(self, trial: Trial) -> None:
        receiving, sending = self._context.Pipe(duplex=False)
        arguments = (trial.experiment.to_json(), trial.folder, self._jobs, sending)
        process = self._context.Process(target=_train, args=arguments, daemon=True)
        process.start()
        sending.close()
        self._place += 1
        self._shown.started(trial, self._place)
        self._running[receiving] = trial, process, time.monotonic()

    def _hear(self, connection: Connection) -> None:
        trial, process, began = self._running[connection]
        try:
            kind, value = connection.recv_bytes().decode().split(" ", 1)
        except EOFError:
            del self._running[connection]
            process.join()
            if process.exitcode or not is_finished(trial):
                raise CommandError(f"{trial.folder}: its process ended with exit code {process.exitcode}") from None
            self._shown.ended(trial, time.monotonic() - began)
            return
        if kind == "error":
            raise CommandError(f"{trial.folder}: {value}")
        if kind == "resumed":
            self._shown.resumed(trial, int(value))
        elif kind == "closed":
            self._shown.closed(trial, int(value))

    def _stop(self) -> None:
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, _ in self._running.values():
            process.join()


class _Reporter(Display):
    """Tells the parent process what it shows of a run."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(Console(quiet=True))
        self._connection = connection

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            self.tell(f"resumed {event.resumed_at - 1}")
        elif isinstance(event, events.RoundClosed):
            self.tell(f"closed {event.round}")

    def tell(self, text: str) -> None:
        with self._lock:
            self._connection.send_bytes(text.encode())


def _train(experiment: str, folder: Path, jobs: int, connection: Connection) -> None:
    """Train one run in this process, as `splitee train` does, and write down how long it took if it was done in one go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    reporter, began, new = _Reporter(connection), time.monotonic(), not (folder / "experiment.json").exists()
    try:
        prepared = prepare(Experiment.from_json(experiment))
        check_clients_here(prepared)
        check_output(prepared, folder)
        train_embedded(prepared, folder, _SERVERS, reporter)
        if new:
            taken = {"seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(time.process_time(), 1)}
            write_json(folder / TIME, {**taken, "jobs": jobs, "machine": machine()})
    except (LearningError, CoordinatorError, CommandError) as error:
        with suppress(OSError):
            reporter.tell(f"error {' '.join(str(error).split())}")


@contextmanager
def _progress(trials: Sequence[Trial], left: Sequence[Trial]) -> Iterator[_Shown]:
    shown = _Shown(trials, left)
    with shown.bars:
        yield shown


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
