"""A whole run in one process: the same roles over the memory transport and store."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from broker.events import Emit, Event
from broker.memory import MemoryBroker, MemoryTransport
from cli.prepare import Prepared, say_needs
from coordinator.baseline import Baseline, parts_of
from coordinator.coordinator import Coordinator
from coordinator.store.interface import Store
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from learning.strategies import is_split
from monitoring.display import Listener
from monitoring.exporter import Health
from workers.client import ClientWorker
from workers.client_data import LocalNames, open_data
from workers.client_state import ClientState
from workers.run_settings import RunSettings
from workers.server import ServerWorker

Role = Coordinator | ServerWorker | ClientWorker


def train_embedded(
    prepared: Prepared, output: Path, servers: int, display: Listener, emit: Emit | None = None, health: Health | None = None
) -> None:
    """Run coordinator, server workers and clients as threads until the run is finished.

    A run that was interrupted goes on after its last completed round. Raises what the first failing role raised. A baseline has
    no roles: its networks are trained one after another, on this thread. emit: hears the roles' events, the display if None.
    health: told what to watch.
    """
    emit = emit or display
    if not is_split(prepared.experiment.training):
        train_baseline(prepared, output, emit, health)
        return
    state = output / "state"
    store = MemoryStore(state / "store")
    roles = Roles()
    try:
        say_needs(prepared, store, display.say)
        if Ledger(store).state().record.phase == "finished":
            leader(prepared, output, store, MemoryBroker(), emit).run()
            return
        start_roles(roles, prepared, output, store, servers, emit, state / "clients")
        if health is not None:
            health.watch(roles.turned, {})
        roles.wait()
    finally:
        roles.stop()
        store.close()


def train_baseline(prepared: Prepared, output: Path, emit: Emit, health: Health | None = None) -> None:
    """Train the whole networks of a baseline. An interrupted one goes on. Raises LearningError or CoordinatorError."""
    torch.set_num_threads(1)
    turned = time.monotonic()

    def turning(event: Event) -> None:
        nonlocal turned
        turned = time.monotonic()
        emit(event)

    if health is not None:
        health.watch(lambda: turned, {})
    experiment, record = prepared.experiment, prepared.record
    settings = RunSettings.from_json(record.experiment)
    dataset, parts = open_data(settings, parts_of(experiment), record.sample_shape, record.classes)
    Baseline(experiment, record, prepared.network, dataset, parts, output, turning).run()


def start_roles(
    roles: "Roles", prepared: Prepared, output: Path, store: Store, servers: int, emit: Emit, states: Path | None
) -> MemoryBroker:
    """Start all roles of a run on one memory broker, and return that."""
    experiment = prepared.experiment
    broker = MemoryBroker()
    roles.start("coordinator", leader(prepared, output, store, broker, emit), leads=True)
    for number in range(1, servers + 1):
        name = f"server-{number}"
        roles.start(name, ServerWorker(name, experiment.name, store, lambda _: MemoryTransport(broker), emit))
    slot = threading.Semaphore(available_cores())
    names = LocalNames(data=experiment.data.name, model=experiment.model.name, exit=experiment.model.exit)
    for entry in experiment.clients.roster():
        state = ClientState(states / entry.id if states else None)
        bulk, control = MemoryTransport(broker), MemoryTransport(broker)
        roles.start(entry.id, ClientWorker(experiment.name, entry.id, entry.cut, bulk, control, state, names, emit, slot))
    return broker


def leader(prepared: Prepared, output: Path, store: Store, broker: MemoryBroker, emit: Emit) -> Coordinator:
    """Return the coordinator of a run on a memory broker."""
    return Coordinator(prepared.experiment, prepared.record, prepared.network, store, MemoryTransport(broker), output, emit)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Roles:
    """Threads of one process, each running a role. The first failure stops all."""

    def __init__(self) -> None:
        self._running: list[tuple[threading.Thread, Role]] = []
        self._over = threading.Event()
        self._error: BaseException | None = None

    def start(self, name: str, role: Role, *, leads: bool = False) -> None:
        """Run a role on a thread of its own; the run is over when the one that leads returns."""
        thread = threading.Thread(target=self._run, args=(role.run, leads), name=name, daemon=True)
        self._running.append((thread, role))
        thread.start()

    def wait(self) -> None:
        """Wait until the run is over; raise what a role raised."""
        while not self._over.wait(1.0):  # wakes up so that the main thread hears signals
            pass
        if self._error is not None:
            raise self._error
        for thread, _ in self._running:
            thread.join(timeout=30)

    def turned(self) -> float:
        """Return when that role last turned which has not for the longest time, of those that still run."""
        return min((role.turned for thread, role in self._running if thread.is_alive()), default=time.monotonic())

    def stop(self) -> None:
        """Ask all roles to stop and wait for them."""
        for _, role in self._running:
            role.stop()
        for thread, _ in self._running:
            thread.join(timeout=30)

    def _run(self, run: Callable[[], None], leads: bool) -> None:
        torch.set_num_threads(1)  # a setting of each thread; with more, sums change their order
        try:
            run()
            if leads:
                self._over.set()
        except BaseException as error:  # noqa: BLE001  # whatever it is, the main thread raises it
            self._error = self._error or error
            self._over.set()
