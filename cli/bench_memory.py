"""`splitee bench memory`: what a server worker, the store and the broker need with many clients against few."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from broker import topology
from broker.errors import UnknownQueue
from broker.transport import Transport
from cli.bench_run import ENDLESS, Servers, forget, lead, problems, run_name, scratch, servers
from cli.embedded import Roles, available_cores
from cli.errors import CommandError
from cli.machine import machine
from cli.prepare import Prepared, prepare
from cli.processes import Children
from cli.servers import connect
from coordinator.experiment import Experiment
from coordinator.results import round_to
from coordinator.settings import ClientsSettings
from coordinator.store.interface import Store
from coordinator.store.open import open_store
from learning.settings import DataSettings, ModelSettings, TrainingSettings
from workers import process_memory
from workers.client import ClientWorker
from workers.client_data import LocalNames
from workers.client_state import ClientState
from workers.run_settings import RunSettings

ROUNDS = 2
CUT = 3
SAMPLE_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: two numbers of clients, and the network. samples: of each client."""

    few: int = 12
    many: int = 96
    width: int = 16
    image_size: int = 16
    batch_size: int = 4
    samples: int = 14


QUICK = Scale(few=2, many=4, width=4, image_size=8)


@dataclass
class Peaks:
    """Most bytes seen: resident in the worker, used in the store, ready in the clients' queues, resident in the broker."""

    worker: int = 0
    store: int = 0
    queues: int = 0
    broker: int = 0


def measure_memory(scale: Scale, broker: str | None, store: str | None, say: Callable[[str], None]) -> dict[str, object]:
    """Return the figures of docs/benchmarks.md. Raises CommandError if something cannot be started or fails."""
    if not process_memory.is_readable():
        raise CommandError("bench memory reads /proc, which only Linux has")
    found = {}
    for count in (scale.few, scale.many):
        with scratch() as folder, servers(broker, store, folder) as started:
            found[count] = _measure(experiment_of(scale, count), started, folder)
        say(f"{count} clients: worker {_mib(found[count].worker)}, store {_mib(found[count].store)}")
    return {
        "worker_rss_bytes": {str(count): peaks.worker for count, peaks in found.items()},
        "ratio": round_to(found[scale.many].worker / found[scale.few].worker),
        "store_bytes": {str(count): peaks.store for count, peaks in found.items()},
        "broker_bytes": {str(count): peaks.queues for count, peaks in found.items()},
        "broker_rss_bytes": {str(count): peaks.broker or None for count, peaks in found.items()},
        "machine": machine(),
        "settings": {**asdict(scale), "cut": CUT, "rounds": ROUNDS},
    }


def experiment_of(scale: Scale, clients: int) -> Experiment:
    """Return the experiment that is measured: each client has as many samples, however many clients there are."""
    return Experiment(
        name=run_name(),
        model=ModelSettings(name="resnet18", width=scale.width),
        data=DataSettings(name="digits", image_size=scale.image_size, train_limit=clients * scale.samples),
        clients=ClientsSettings(count=clients, cuts=(CUT,)),
        training=TrainingSettings(rounds=ENDLESS, evaluate_every=ROUNDS, batch_size=scale.batch_size, device="cpu"),
    )


def clients(run: str, ids: list[str], broker: str) -> None:
    """Be all clients of a run, as threads on two connections."""
    bulk, control = connect(broker), connect(broker)
    slot = threading.Semaphore(available_cores())
    running = Roles()
    for client in ids:
        worker = ClientWorker(run, client, CUT, bulk, control, ClientState(None), LocalNames(), problems, slot)
        running.start(client, worker)
    running.wait()


def _measure(experiment: Experiment, started: Servers, folder: Path) -> Peaks:
    prepared = prepare(experiment)
    with ExitStack() as stack:
        store = open_store(started.store, experiment.name)
        stack.callback(store.close)
        transport = connect(started.broker)
        stack.callback(transport.close)
        stack.callback(forget, prepared.experiment, store, transport)
        worker = stack.enter_context(_worker(experiment.name, started, folder / "worker.log"))
        children = Children()
        stack.callback(children.stop)
        children.start(clients, run=experiment.name, ids=[entry.id for entry in experiment.clients.roster()], broker=started.broker)
        with children.watched(), _sampled(prepared, started, worker, store, transport) as peaks:
            lead(prepared, store, transport, folder / "output", ROUNDS)
        return peaks


@contextmanager
def _worker(run: str, started: Servers, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``splitee server`` for the length of a block: a process as users start it."""
    environment = os.environ | {"SPLITEE_BROKER_URL": started.broker, "SPLITEE_STORE_URL": started.store}
    command = [sys.executable, "-m", "cli.main", "server", "--run", run]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stderr=file)
    try:
        yield process
    except CommandError:
        if process.poll() is not None:
            raise CommandError(f"the server worker ended with exit code {process.returncode}: {_last_line(log)}") from None
        raise
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _sampled(
    prepared: Prepared, started: Servers, worker: subprocess.Popen[bytes], store: Store, transport: Transport
) -> Iterator[Peaks]:
    """Look at worker, store and broker every quarter of a second during a block."""
    peaks = Peaks()
    over = threading.Event()
    settings = RunSettings.from_json(prepared.record.experiment)
    message = settings.largest_message(prepared.network)
    names = [topology.activations(settings.run, e.id, settings.transport).name for e in prepared.experiment.clients.roster()]
    rabbitmq = started.rabbitmq

    def look() -> None:
        while not over.wait(SAMPLE_SECONDS):
            if worker.poll() is not None:
                signal.raise_signal(signal.SIGINT)  # interrupts the coordinator, which would wait for another worker
                return
            peaks.store = max(peaks.store, store.usage().used)
            peaks.queues = max(peaks.queues, message * sum(_depth(transport, name) for name in names))

    thread = threading.Thread(target=look, name="sampler", daemon=True)
    thread.start()
    try:
        yield peaks
        peaks.worker = _peak_resident(worker.pid)
        peaks.broker = _peak_resident(rabbitmq.pid) if rabbitmq else 0
    finally:
        over.set()
        thread.join()


def _depth(transport: Transport, name: str) -> int:
    try:
        return transport.depth(name)
    except UnknownQueue:  # the client has not joined yet
        return 0


def _peak_resident(pid: int) -> int:
    """Return the most bytes of memory that a process has had resident; raise CommandError if it is gone."""
    try:
        return process_memory.peak_resident(pid)
    except ProcessLookupError:
        raise CommandError(f"process {pid} has ended; its memory cannot be read") from None


def _last_line(log: Path) -> str:
    return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
