"""One role in this process, against real servers: coordinator, server worker or client."""

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import torch

from broker import events
from broker.rabbitmq import RabbitTransport
from broker.transport import Transport
from cli.embedded import Role
from cli.logs import current, listener
from cli.metrics import NOWHERE, MetricsAt, exported
from cli.prepare import Prepared, check_has_servers, check_output, prepare, say_needs
from cli.servers import check_name, check_servers, connect
from coordinator.coordinator import Coordinator
from coordinator.experiment import Experiment
from coordinator.store.interface import Store
from coordinator.store.ledger import Ledger
from coordinator.store.open import open_store
from monitoring.exporter import Health
from workers.client import ClientWorker
from workers.client_data import LocalNames
from workers.client_state import ClientState
from workers.server import ServerWorker


def coordinator(*, experiment: Experiment, output: Path, broker: str, store: str, metrics: MetricsAt = NOWHERE) -> None:
    """Lead a run until it is finished, showing its progress. Raises ExperimentError for a baseline, which needs no coordinator."""
    current().bind(run=experiment.name)
    check_has_servers(experiment)
    heard = listener()
    with exported(metrics, "coordinator", heard, heard.say) as (emit, health):
        prepared = prepare(experiment)
        check_servers(broker, store, experiment.name)
        check_output(prepared, output)
        with heard:
            lead(prepared, output, broker, store, heard.say, emit, health)


def lead(
    prepared: Prepared, output: Path, broker: str, store: str, say: Callable[[str], None], emit: events.Emit, health: Health
) -> None:
    """Lead a prepared run until it is finished."""
    torch.set_num_threads(1)
    with ExitStack() as stack:
        opened = open_store(store, prepared.record.name)
        stack.callback(opened.close)
        say_needs(prepared, opened, say)
        transport = connect(broker, prepared.experiment.transport.amqp_heartbeat)
        stack.callback(transport.close)
        role = Coordinator(prepared.experiment, prepared.record, prepared.network, opened, transport, output, emit)
        _watch(health, role, [transport], opened)
        run_role(role)


def is_finished(store: str, run: str) -> bool:
    """Return whether a run of that name is over."""
    opened = open_store(store, run)
    try:
        return Ledger(opened).state().record.phase == "finished"
    finally:
        opened.close()


def server(
    *,
    run: str,
    broker: str,
    store: str,
    stay: bool = False,
    emit: events.Emit | None = None,
    metrics: MetricsAt = NOWHERE,
) -> None:
    """Be one worker of a run's pool until the run is finished; stay: until stopped."""
    torch.set_num_threads(1)
    name = f"server-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    log = current()
    log.bind(run=run, worker=name)
    check_name("--run", run)
    with ExitStack() as stack:
        said, health = stack.enter_context(exported(metrics, "server", emit or log, log.say))
        opened = open_store(store, run)
        stack.callback(opened.close)
        connect(broker).close()  # what is wrong with the address is said now, not when there is a run
        transports: list[Transport] = []

        def connected(heartbeat: int) -> RabbitTransport:
            transport = connect(broker, heartbeat)
            stack.callback(transport.close)
            transports.append(transport)
            return transport

        role = ServerWorker(name, run, opened, connected, said, stays=stay)
        _watch(health, role, transports, opened)
        run_role(role)


def client(
    *,
    run: str,
    id: str,
    cut: int,
    broker: str,
    data: str | None = None,
    model: str | None = None,
    exit: str | None = None,
    state: Path | None = None,
    emit: events.Emit | None = None,
    metrics: MetricsAt = NOWHERE,
) -> None:
    """Take part in a run until it is finished."""
    torch.set_num_threads(1)
    log = current()
    log.bind(run=run, client=id)
    check_name("--run", run)
    check_name("--id", id)
    with ExitStack() as stack:
        said, health = stack.enter_context(exported(metrics, "client", emit or log, log.say, client=(id, cut)))
        kept = ClientState(state)
        stack.callback(kept.close)
        bulk, control = connect(broker), connect(broker)
        stack.callback(control.close)
        stack.callback(bulk.close)
        names = LocalNames(data=data, model=model, exit=exit)
        role = ClientWorker(run, id, cut, bulk, control, kept, names, said)
        _watch(health, role, [bulk, control])
        run_role(role)


def run_role(role: Role) -> None:
    """Run a role until it returns; SIGTERM and SIGINT ask it to stop."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        # on a thread of its own: this one may be within a lock that stop needs
        threading.Thread(target=role.stop, name="stop", daemon=True).start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        role.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(health: Health, role: Role, transports: list[Transport], store: Store | None = None) -> None:
    """Let a role's health be known: its loop, its connections, of which some may come later, and its store if it has one."""
    reachable = {"broker": lambda: all(transport.wait_connected(0) for transport in transports)}
    if store is not None:
        reachable["store"] = lambda: store.reachable
    health.watch(lambda: role.turned, reachable)
