"""A whole run as local processes against real servers: coordinator here, clients and server workers as children."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from broker.events import Emit
from cli import roles
from cli.errors import CommandError, report_errors
from cli.logs import LogAs, of_child
from cli.metrics import MetricsAt
from cli.prepare import Prepared
from monitoring.exporter import Health

GOODBYE_SECONDS = 30.0
_PRELOADED = ["cli.roles", "coordinator.store.redis", "sklearn.datasets", "sklearn.model_selection"]


def train_with_processes(
    prepared: Prepared,
    output: Path,
    broker: str,
    store: str,
    servers: int,
    say: Callable[[str], None],
    emit: Emit,
    health: Health,
    metrics: MetricsAt,
) -> None:
    """Start all roles against a RabbitMQ and a Redis and lead the run to its end.

    metrics: where this process serves its own; server workers do beside it, clients nowhere: the coordinator has what they count.
    Raises CommandError if a role refuses to work. A role that is killed does not end the run: that is for the run to bear.
    """
    experiment = prepared.experiment
    if roles.is_finished(store, experiment.name):
        roles.lead(prepared, output, broker, store, say, emit, health)
        return
    children = Children()
    for place in range(1, servers + 1):
        children.start(roles.server, run=experiment.name, broker=broker, store=store, metrics=metrics.beside(place))
    for entry in experiment.clients.roster():
        children.start(
            roles.client,
            run=experiment.name,
            id=entry.id,
            cut=entry.cut,
            broker=broker,
            data=experiment.data.name,
            model=experiment.model.name,
            exit=experiment.model.exit,
            state=output / "state" / "clients" / entry.id,
        )
    try:
        with children.watched():
            roles.lead(prepared, output, broker, store, say, emit, health)
        if roles.is_finished(store, experiment.name):  # else they were stopped, and would wait
            children.join(GOODBYE_SECONDS)
    finally:
        children.stop()
    children.check()


class Children:
    """Processes forked from a server that has imported torch already: it takes seconds and half a gigabyte each time."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._processes: list[ForkServerProcess] = []
        self._done = threading.Event()

    def start(self, role: Callable[..., None], **arguments: Any) -> ForkServerProcess:
        """Start a role as a child process."""
        process = self._context.Process(
            target=_child, args=(role, of_child(role.__name__), arguments), name=arguments.get("id", role.__name__)
        )
        process.start()
        self._processes.append(process)
        return process

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Interrupt the main thread if a child gives up by itself while the block runs."""
        thread = threading.Thread(target=self._watch, name="children", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
        self.check()

    def check(self) -> None:
        """Raise CommandError if a child gave up by itself; one that was killed has not."""
        for process in self._processes:
            if process.exitcode is not None and process.exitcode > 0:
                raise CommandError(f"{process.name} ended with exit code {process.exitcode}; its message is above")
        if self._processes and all(process.exitcode is not None and process.exitcode < 0 for process in self._processes):
            raise CommandError("all server workers and clients were killed")

    def join(self, timeout: float) -> None:
        """Wait for all children to end, up to timeout seconds in all."""
        deadline = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(deadline - time.monotonic(), 0))

    def stop(self) -> None:
        """Ask children that still run to stop, then make them."""
        for process in self._processes:
            if process.exitcode is None:
                process.terminate()
        self.join(GOODBYE_SECONDS)
        for process in self._processes:
            if process.exitcode is None:
                process.kill()
                process.join()

    def _watch(self) -> None:
        running = list(self._processes)
        while running and not self._done.is_set():
            wait([process.sentinel for process in running], timeout=1.0)
            running = [process for process in running if process.exitcode is None]
            if any((process.exitcode or 0) > 0 for process in self._processes):
                signal.raise_signal(signal.SIGINT)
                return


def _child(role: Callable[..., None], log: LogAs, arguments: dict[str, Any]) -> None:
    def program() -> None:
        log.begin()
        role(**arguments)

    report_errors(program)
