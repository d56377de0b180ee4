"""`splitee bench inference`: offloaded samples a second and latency over RabbitMQ, against both halves in one loop."""

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from broker import events
from cli import roles
from cli.bench_inference_loops import latencies, rates
from cli.bench_run import Servers, forget, pinned, run_name, scratch, servers
from cli.machine import machine
from cli.prepare import Prepared, prepare
from cli.processes import Children
from cli.servers import connect
from coordinator.experiment import Experiment, resolve
from coordinator.results import Results, round_to
from coordinator.settings import ClientsSettings
from coordinator.store.interface import Store
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.open import open_store
from coordinator.store.records import LEADER, ClientRecord, Record, Roster, RunState, VersionRecord, version_key
from learning.halves import ClientHalf
from learning.settings import DataSettings, ModelSettings, TrainingSettings
from learning.tensors import pack

CLIENTS = 2
CUT = 3
SERVERS = 2
CORES = 2
LEASE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured. seconds: of each rate; requests: of each requester; requesters: at the same time, one image each."""

    width: int = 64
    batch: int = 64
    seconds: float = 10.0
    repetitions: int = 5
    requests: int = 30
    requesters: tuple[int, ...] = (1, 8, 64)


QUICK = Scale(width=4, batch=8, seconds=0.5, repetitions=1, requests=2, requesters=(1, 4))


def measure_inference(scale: Scale, broker: str | None, store: str | None, say: Callable[[str], None]) -> dict[str, object]:
    """Return the figures of docs/benchmarks.md. Raises CommandError if something cannot be started or fails."""
    with ExitStack() as stack:
        cores = stack.enter_context(pinned(CORES))
        folder = stack.enter_context(scratch())
        started = stack.enter_context(servers(broker, store, folder))
        say(f"{scale.repetitions} repetitions on {cores} cores")
        together, waiting = _measure(scale, started, folder / "together", 64, say)
        _, apart = _measure(Scale(**{**asdict(scale), "repetitions": 0}), started, folder / "apart", 1, say)
    ratios = [offloaded / plain for plain, offloaded in together]
    return {
        "samples_per_second": {
            "plain": round_to(median(plain for plain, _ in together)),
            "rabbitmq": round_to(median(offloaded for _, offloaded in together)),
        },
        "ratio": round_to(median(ratios)),
        "ratios": [round_to(ratio) for ratio in ratios],
        "latency_seconds": {"together": waiting, "one by one": apart},
        "scale": asdict(scale),
        "machine": machine(),
    }


def _measure(
    scale: Scale, started: Servers, folder: Path, batch: int, say: Callable[[str], None]
) -> tuple[list[tuple[float, float]], dict[str, dict[str, float]]]:
    """Return (plain, offloaded) samples a second of each repetition, and latencies by requesters.

    batch: samples of waiting requests that a server worker computes at once.
    """
    prepared = _prepared(scale, batch)
    name = prepared.record.name
    with ExitStack() as stack:
        store = open_store(started.store, name)
        stack.callback(store.close)
        transport = connect(started.broker)
        stack.callback(transport.close)
        stack.callback(lambda: forget(prepared.experiment, store, transport))
        _publish(prepared, store, folder)
        pool = Children()
        stack.callback(pool.stop)
        for _ in range(SERVERS):
            pool.start(roles.server, run=name, broker=started.broker, store=started.store, stay=True, emit=events.ignore)
        found = []
        for number in range(1, scale.repetitions + 1):
            plain = rates(folder, None, CLIENTS, scale.batch, scale.seconds)
            found.append((plain, rates(folder, started.broker, CLIENTS, scale.batch, scale.seconds)))
            say(f"repetition {number}: plain {plain:.1f}, RabbitMQ {found[-1][1]:.1f} samples/s")
        waited = {}
        for requesters in scale.requesters:
            seconds = latencies(folder, started.broker, requesters, scale.requests)
            waited[str(requesters)] = {"p50": _quantile(seconds, 0.5), "p99": _quantile(seconds, 0.99)}
            say(f"{requesters} requesters, batches of up to {batch}: p50 {waited[str(requesters)]['p50'] * 1000:.1f} ms")
        return found, waited


def _prepared(scale: Scale, batch: int) -> Prepared:
    experiment = Experiment(
        name=run_name(),
        model=ModelSettings(name="resnet18", width=scale.width),
        data=DataSettings(name="cifar10"),
        clients=ClientsSettings(count=CLIENTS, cuts=(CUT,)),
        training=TrainingSettings(rounds=1, precision="float32", device="cpu"),
    )
    resolved = resolve(experiment, cuda=False)
    return prepare(resolved.model_copy(update={"transport": resolved.transport.model_copy(update={"inference_batch": batch})}))


def _publish(prepared: Prepared, store: Store, folder: Path) -> None:
    """Put a run that is finished, its layers as they are initialised, into a store and a folder: how fast they are is the same."""
    ledger, training, network = Ledger(store), prepared.experiment.training, prepared.network
    ledger.create_run(prepared.record)
    numbers = range(CUT + 1, network.depth + 1)
    scope, entries = version_key(training.rounds), prepared.experiment.clients.roster()
    layers = store.put_blobs(scope, [pack(network.build_layer(number).state_dict()) for number in numbers])
    halves = store.put_blobs(scope, [pack(ClientHalf(network, entry.cut, training).state()) for entry in entries])
    version = VersionRecord(
        round=training.rounds,
        layers=dict(zip(numbers, layers, strict=True)),
        halves=dict(zip((entry.id for entry in entries), halves, strict=True)),
    )
    clients = {
        entry.id: ClientRecord(id=entry.id, index=index, cut=entry.cut, incarnation=1, process="", samples=None, first_round=1)
        for index, entry in enumerate(entries)
    }
    lease = store.acquire(LEADER, secrets.token_hex(8), "bench", LEASE_SECONDS)
    assert lease is not None
    state = RunState(phase="finished", round=training.rounds, closed=training.rounds, over=True)
    documents: list[Kept[Record]] = [Kept(scope, version, None), ledger.roster(), ledger.state()]  # type: ignore[list-item]
    written: list[Record] = [version, Roster(clients=clients), state]
    ledger.lead(lease, [kept.change(record) for kept, record in zip(documents, written, strict=True)])
    Results(folder, ledger, prepared.experiment, events.ignore).write_all(state)


def _quantile(seconds: list[float], share: float) -> float:
    return round_to(float(torch.tensor(seconds).quantile(share)))
