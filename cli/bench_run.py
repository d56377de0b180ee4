"""What both benchmarks share: cores, servers, and leading a run until enough of its rounds are closed."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from broker import events
from broker.transport import Transport
from cli.embedded import available_cores
from cli.errors import CommandError
from cli.logs import current
from cli.metrics import NOWHERE, MetricsAt, exported
from cli.prepare import Prepared
from cli.private_servers import PrivateServer, PrivateServerError, start_rabbitmq, start_redis
from cli.roles import run_role
from coordinator.coordinator import Coordinator
from coordinator.experiment import Experiment
from coordinator.removal import remove_run
from coordinator.store.interface import Store
from coordinator.store.ledger import Ledger

ENDLESS = 10_000  # rounds of a run that is stopped before its end, so that nothing is evaluated


@dataclass(frozen=True)
class Servers:
    """URLs of a RabbitMQ and a Redis. rabbitmq: its process, where it is one of ours."""

    broker: str
    store: str
    rabbitmq: PrivateServer | None = None


@contextmanager
def servers(broker: str | None, store: str | None, folder: Path) -> Iterator[Servers]:
    """Yield the servers at these URLs, or private ones where there are none; Redis then answers after fsync.

    Raises CommandError if one URL is missing or a server does not start.
    """
    if (broker is None) != (store is None):
        raise CommandError("--broker and --store go together: give both, or neither to start private servers")
    if broker is not None and store is not None:
        yield Servers(broker, store)
        return
    with ExitStack() as stack:
        try:
            rabbitmq = stack.enter_context(start_rabbitmq(folder / "rabbitmq"))
            redis = stack.enter_context(start_redis(folder / "redis", appendfsync="always"))
        except PrivateServerError as error:
            raise CommandError(str(error)) from error
        yield Servers(rabbitmq.url, redis.url, rabbitmq)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="splitee-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def pinned(cores: int) -> Iterator[int]:
    """Keep this thread, and all processes that it starts, on so many cores; yield how many there are, at most those."""
    if not hasattr(os, "sched_setaffinity"):
        yield min(cores, available_cores())
        return
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[:cores]
    os.sched_setaffinity(0, chosen)
    try:
        yield len(chosen)
    finally:
        os.sched_setaffinity(0, before)


def run_name() -> str:
    """Return the name of a run that nobody else has."""
    return f"bench-{secrets.token_hex(4)}"


def problems(event: events.Event) -> None:
    """Print what should not happen in a benchmark."""
    if isinstance(event, events.StreamLost | events.MessageRefused | events.ClientDropped):
        current()(event)


def lead(prepared: Prepared, store: Store, transport: Transport, folder: Path, rounds: int, metrics: MetricsAt = NOWHERE) -> None:
    """Be the run's coordinator until a number of rounds is closed, or a signal asks to stop. metrics: where it serves its own."""
    torch.set_num_threads(1)

    def listen(event: events.Event) -> None:
        problems(event)
        if isinstance(event, events.RoundClosed) and event.round == rounds:
            coordinator.stop()

    with exported(metrics, "coordinator", listen, current().say) as (emit, _):
        coordinator = Coordinator(prepared.experiment, prepared.record, prepared.network, store, transport, folder, emit)
        run_role(coordinator)
    closed = Ledger(store).state().record.closed
    if closed < rounds:
        raise CommandError(f"stopped after {closed} of {rounds} rounds")


def forget(experiment: Experiment, store: Store, transport: Transport) -> None:
    """Delete all that a run has left in store and broker."""
    remove_run(experiment.name, [entry.id for entry in experiment.clients.roster()], store, transport)
