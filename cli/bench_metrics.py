"""`splitee bench train --metrics on`: what exporters in all roles cost of the samples a second, measured twice over."""

import json
import math
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean, median, stdev

from scipy.special import stdtrit

from broker import events
from broker.client_counts import counted
from cli.bench_run import Servers, pinned, scratch, servers
from cli.bench_train import (
    CLIENTS,
    CORES,
    CUT,
    SERVERS,
    Scale,
    check_scale,
    embedded_window,
    experiment_of,
    rabbitmq_window,
    report_of_child,
)
from cli.errors import CommandError
from cli.machine import machine
from cli.metrics import MetricsAt
from cli.private_servers import HOST, free_ports
from coordinator.experiment import Experiment
from coordinator.results import round_to
from monitoring.metrics import Metrics

CONFIDENCE = 0.95
SCRAPE_SECONDS = 5.0  # between two scrapes of every role, as monitoring/prometheus has it
REPLAYS = 20  # of a run's events


@dataclass(frozen=True)
class Pair:
    """Samples a second of two runs, one after the other."""

    off: float
    on: float


@dataclass(frozen=True)
class Listening:
    """What the listeners of all roles take for the events of a run."""

    events: int
    batches: int
    seconds_per_event: float


def measure_metrics(scale: Scale, broker: str | None, store: str | None, say: Callable[[str], None]) -> dict[str, object]:
    """Return the figures of docs/benchmarks.md. Raises CommandError if something cannot be started or fails."""
    check_scale(scale)
    with ExitStack() as stack:
        cores = stack.enter_context(pinned(CORES))
        folder = stack.enter_context(scratch())
        started = stack.enter_context(servers(broker, store, folder))
        say(f"{scale.repetitions} repetitions on {cores} cores")
        found = []
        for number in range(1, scale.repetitions + 1):
            found.append(_pair(scale, started, folder / f"{number}", on_first=number % 2 == 0))
            say(f"repetition {number}: {found[-1].off:.1f} samples/s without, {found[-1].on:.1f} with exporters")
        heard = report_of_child(listened, experiment=experiment_of(scale), rounds=scale.rounds, folder=folder / "events")
        return _report(scale, found, Listening(**heard))


def ratio_of(pairs: Sequence[Pair]) -> tuple[float, list[float] | None]:
    """Return the geometric mean of on/off, and Student's interval for it on the logarithms; None of one pair."""
    logarithms = [math.log(pair.on / pair.off) for pair in pairs]
    mean = fmean(logarithms)
    if len(pairs) == 1:
        return math.exp(mean), None
    half = float(stdtrit(len(pairs) - 1, (1 + CONFIDENCE) / 2)) * stdev(logarithms) / math.sqrt(len(pairs))
    return math.exp(mean), [math.exp(mean - half), math.exp(mean + half)]


def _pair(scale: Scale, started: Servers, folder: Path, *, on_first: bool) -> Pair:
    rates = {}
    for on in (True, False) if on_first else (False, True):
        ports = free_ports(1 + SERVERS + CLIENTS) if on else []
        with _scraped(ports):
            at = [MetricsAt(port, HOST) for port in ports]
            rates[on] = rabbitmq_window(experiment_of(scale), scale.rounds, folder / str(on), started, at).rate
    return Pair(rates[False], rates[True])


@contextmanager
def _scraped(ports: Sequence[int]) -> Iterator[None]:
    """Scrape these ports again and again while the block runs; raise CommandError if one has never answered."""
    over, missing = threading.Event(), set(ports)

    def scrape() -> None:
        while not over.wait(SCRAPE_SECONDS if not missing else 0.2):
            for port in ports:
                with suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
                    answer.read()
                    missing.discard(port)

    thread = threading.Thread(target=scrape, name="scrape", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if missing:
        raise CommandError(f"{len(missing)} of {len(ports)} roles served no metrics")


def listened(experiment: Experiment, rounds: int, folder: Path, report: Connection) -> None:
    """Keep the events of a run in this process, then give them to listeners as roles have them; report Listening as JSON."""
    heard: list[events.Event] = []
    embedded_window(experiment, rounds, folder, heard.append)
    listeners = [
        (Metrics("client", client=("client-01", CUT)), [event for event in heard if counted(event)]),
        (Metrics("train"), [event for event in heard if not counted(event)]),
    ]
    seconds = min(_replay(listeners) for _ in range(REPLAYS))
    batches = sum(isinstance(event, events.BatchTrained) for event in heard)
    report.send_bytes(json.dumps(asdict(Listening(len(heard), batches, seconds / len(heard)))).encode())


def _replay(listeners: Sequence[tuple[Metrics, Sequence[events.Event]]]) -> float:
    began = time.perf_counter()
    for listen, heard in listeners:
        for event in heard:
            listen(event)
    return time.perf_counter() - began


def _report(scale: Scale, found: list[Pair], listening: Listening) -> dict[str, object]:
    ratio, interval = ratio_of(found)
    off = median(pair.off for pair in found)
    per_batch, batch_seconds = listening.events / listening.batches, scale.batch_size / off
    return {
        "samples_per_second": {"off": round_to(off), "on": round_to(median(pair.on for pair in found))},
        "ratio": round_to(ratio),
        "interval": interval and [round_to(bound) for bound in interval],
        "confidence": CONFIDENCE,
        "listening": {
            "seconds_per_event": listening.seconds_per_event,
            "events_per_batch": round_to(per_batch),
            "seconds_per_batch": round_to(batch_seconds),
            "share": listening.seconds_per_event * per_batch / batch_seconds,
        },
        "repetitions": [asdict(pair) for pair in found],
        "machine": machine(),
        "settings": {**asdict(scale), "clients": CLIENTS, "cut": CUT, "servers": SERVERS, "scrape_seconds": SCRAPE_SECONDS},
    }
