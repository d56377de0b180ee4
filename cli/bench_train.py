"""`splitee bench train`: samples a second through queues and stores, against a plain loop on the same cores."""

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

from broker import events
from broker.messages import ITEM_SIZES
from cli import roles
from cli.bench_data import CLASSES, IMAGES, TRAIN_SAMPLES
from cli.bench_plain import plain_rate
from cli.bench_run import ENDLESS, Servers, forget, lead, pinned, problems, run_name, scratch, servers
from cli.embedded import Roles, start_roles
from cli.errors import CommandError
from cli.machine import machine
from cli.metrics import NOWHERE, MetricsAt
from cli.options import Precision
from cli.prepare import prepare
from cli.processes import Children
from cli.servers import connect
from coordinator.experiment import Experiment, resolve
from coordinator.results import round_to
from coordinator.settings import ClientsSettings
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.open import open_store
from learning.settings import DataSettings, ModelSettings, TrainingSettings

CLIENTS = 4
CUT = 3
SERVERS = 2
CORES = 2
WARM_UP = 1  # rounds before the measured ones: afterwards every role is busy and the queues are as full as they stay


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured. batches: of a client in a round; rounds: measured; seconds: of each plain loop."""

    width: int = 64
    batch_size: int = 64
    batches: int = 10
    rounds: int = 1
    repetitions: int = 5
    seconds: float = 12.0
    precision: Precision = "auto"


QUICK = Scale(width=4, batch_size=8, batches=2, repetitions=2, seconds=0.5)


@dataclass(frozen=True)
class Window:
    """What was durably trained between the close of one round and of a later one, in seconds of the coordinator's clock."""

    samples: int
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds


@dataclass(frozen=True)
class Repetition:
    """Samples a second of one round of measurements, taken one after another. loops: of the plain loop, by its shape."""

    plain: float
    embedded: float
    rabbitmq: float
    bytes_per_sample: float
    loops: dict[str, float]


def measure_train(scale: Scale, broker: str | None, store: str | None, say: Callable[[str], None]) -> dict[str, object]:
    """Return the figures of docs/benchmarks.md. Raises CommandError if something cannot be started or fails."""
    check_scale(scale)
    with ExitStack() as stack:
        cores = stack.enter_context(pinned(CORES))
        folder = stack.enter_context(scratch())
        started = stack.enter_context(servers(broker, store, folder))
        say(f"{scale.repetitions} repetitions on {cores} cores")
        found = []
        for number in range(1, scale.repetitions + 1):
            found.append(_repeat(scale, cores, started, folder / f"{number}"))
            say(f"repetition {number}: " + _line(found[-1]))
        return _report(scale, found)


def check_scale(scale: Scale) -> None:
    """Raise CommandError if there are not samples enough."""
    if scale.batches * scale.batch_size * CLIENTS > TRAIN_SAMPLES:
        raise CommandError(f"--batches {scale.batches} is more than the {TRAIN_SAMPLES // scale.batch_size // CLIENTS} there are")


def experiment_of(scale: Scale) -> Experiment:
    """Return the experiment that is measured: Averaging, four clients at cut 3, an endless run.

    A client may be one round ahead of what is durable. It is so at the beginning and at the end of what is measured, so
    that the clients' share of the work in between is neither more nor less than the servers'.
    """
    experiment = Experiment(
        name=run_name(),
        model=ModelSettings(name="resnet18", width=scale.width),
        data=DataSettings(
            name=IMAGES, train_limit=CLIENTS * scale.batches * scale.batch_size, classes=CLASSES, sample_shape=(3, 32, 32)
        ),
        clients=ClientsSettings(count=CLIENTS, cuts=(CUT,)),
        training=TrainingSettings(
            rounds=ENDLESS, evaluate_every=ENDLESS, batch_size=scale.batch_size, precision=scale.precision, device="cpu"
        ),
    )
    resolved = resolve(experiment, torch.cuda.is_available())
    values = math.prod(prepare(resolved).network.feature_shape(CUT)) * scale.batch_size
    ahead = (2 * scale.batches + 3) * values * ITEM_SIZES[str(resolved.transport.wire_dtype)] // 2  # half a message for the markers
    transport = resolved.transport.model_copy(update={"run_ahead_bytes": ahead})
    return resolved.model_copy(update={"transport": transport})


def _repeat(scale: Scale, cores: int, started: Servers, folder: Path) -> Repetition:
    experiment = experiment_of(scale)
    shapes = {(1, cores), (cores, 1)}  # processes, threads
    loops = {f"{p} x {t}": plain_rate(experiment, p, t, scale.seconds) for p, t in sorted(shapes)}
    window = Window(**report_of_child(embedded, experiment=experiment, rounds=scale.rounds, folder=folder / "embedded"))
    rabbitmq = rabbitmq_window(experiment, scale.rounds, folder / "rabbitmq", started)
    return Repetition(max(loops.values()), window.rate, rabbitmq.rate, rabbitmq.bytes / rabbitmq.samples, loops)


def report_of_child(run: Callable[..., None], **arguments: Any) -> dict[str, Any]:
    """Have an embedded run in a process of its own; return what it sends to its ``report``. Raises CommandError if it fails."""
    children = Children()
    reader, writer = Pipe(duplex=False)
    children.start(run, report=writer, **arguments)
    writer.close()
    try:
        found: dict[str, Any] = json.loads(reader.recv_bytes())
        return found
    except EOFError:
        raise CommandError("the embedded run failed; its message is above") from None
    finally:
        children.stop()


def embedded(experiment: Experiment, rounds: int, folder: Path, report: Connection) -> None:
    """Run in this process and report the window as JSON."""
    report.send_bytes(json.dumps(asdict(embedded_window(experiment, rounds, folder))).encode())


def embedded_window(experiment: Experiment, rounds: int, folder: Path, emit: events.Emit = events.ignore) -> Window:
    """Run in this process, as `splitee train` does, until the measured rounds are closed. emit: hears all events."""
    last = WARM_UP + rounds
    store = MemoryStore(folder / "store")
    running = Roles()

    def listen(event: events.Event) -> None:
        emit(event)
        if isinstance(event, events.RoundClosed) and event.round == last:
            threading.Thread(target=running.stop).start()  # it waits for the thread that says this

    start_roles(running, prepare(experiment), folder, store, SERVERS, listen, folder / "clients")
    running.wait()
    return window(Ledger(store), last)


def rabbitmq_window(
    experiment: Experiment, rounds: int, folder: Path, started: Servers, metrics: Sequence[MetricsAt] = ()
) -> Window:
    """Run as one process each until the measured rounds are closed. metrics: of coordinator, server workers and clients."""
    at = iter(metrics)
    prepared = prepare(experiment)
    last = WARM_UP + rounds
    with ExitStack() as stack:
        store = open_store(started.store, experiment.name)
        stack.callback(store.close)
        transport = connect(started.broker)
        stack.callback(transport.close)
        stack.callback(forget, experiment, store, transport)
        children = Children()
        stack.callback(children.stop)
        own = next(at, NOWHERE)
        for role, arguments in _processes(experiment, started, folder):
            children.start(role, **arguments, emit=problems, metrics=next(at, NOWHERE))
        with children.watched():
            lead(prepared, store, transport, folder, last, own)
        return window(Ledger(store), last)


def _processes(experiment: Experiment, started: Servers, folder: Path) -> Iterator[tuple[Callable[..., None], dict[str, object]]]:
    for _ in range(SERVERS):
        yield roles.server, {"run": experiment.name, "broker": started.broker, "store": started.store}
    for entry in experiment.clients.roster():
        yield (
            roles.client,
            {
                "run": experiment.name,
                "id": entry.id,
                "cut": entry.cut,
                "broker": started.broker,
                "data": experiment.data.name,
                "state": folder / "clients" / entry.id,
            },
        )


def window(ledger: Ledger, last: int) -> Window:
    """Return what was trained from the close of the warm-up to the close of round ``last``."""
    kept = {number: ledger.round(number) for number in range(WARM_UP, last + 1)}
    records = {number: found.record for number, found in kept.items() if found and found.record.phase == "closed"}
    if len(records) < len(kept):
        raise CommandError(f"the run ended before round {last} was closed")
    first, final = records.pop(WARM_UP), records[last]
    return Window(
        samples=sum(record.tallies.samples for record in records.values()),
        bytes=sum(record.tallies.bytes for record in records.values()),
        seconds=final.opened_at + final.seconds - first.opened_at - first.seconds,
    )


def _report(scale: Scale, found: list[Repetition]) -> dict[str, object]:
    resolved = experiment_of(scale)
    return {
        "samples_per_second": {
            name: round_to(median(getattr(one, name) for one in found)) for name in ("plain", "embedded", "rabbitmq")
        },
        "ratio": {name: round_to(median(getattr(one, name) / one.plain for one in found)) for name in ("embedded", "rabbitmq")},
        "bytes_per_sample": round_to(median(one.bytes_per_sample for one in found)),
        "repetitions": [asdict(one) for one in found],
        "machine": machine(),
        "settings": {
            **asdict(scale),
            "precision": resolved.training.precision,
            "wire_dtype": resolved.transport.wire_dtype,
            "clients": CLIENTS,
            "cut": CUT,
            "servers": SERVERS,
            "warm_up_rounds": WARM_UP,
        },
    }


def _line(one: Repetition) -> str:
    loops = ", ".join(f"{rate:.1f} as {shape}" for shape, rate in one.loops.items())
    return (
        f"plain {one.plain:.1f} samples/s ({loops}), embedded {one.embedded:.1f} ({one.embedded / one.plain:.2f}), "
        f"rabbitmq {one.rabbitmq:.1f} ({one.rabbitmq / one.plain:.2f})"
    )
