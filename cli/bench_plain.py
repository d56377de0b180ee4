"""The yardstick of `splitee bench train`: both halves trained in one loop, with nothing between them."""

import json
import multiprocessing
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch

from cli.errors import CommandError
from cli.prepare import prepare
from cli.processes import Children
from coordinator.experiment import Experiment
from learning.data import ClientData, load_dataset
from learning.halves import ClientHalf, ServerHalf
from learning.partition import partition

_START_SECONDS = 120.0
_WARM_UP = 2  # steps: memory is allocated, kernels are chosen


def plain_rate(experiment: Experiment, processes: int, threads: int, seconds: float) -> float:
    """Return samples a second of the plain loop, run for ``seconds`` in so many processes of so many torch threads at once.

    Each process trains one pair of halves on one client's batches. Raises CommandError if one fails.
    """
    children = Children()
    barrier = multiprocessing.get_context("forkserver").Barrier(processes)
    readers = []
    try:
        for part in range(processes):
            reader, writer = Pipe(duplex=False)
            children.start(loop, experiment=experiment, part=part, threads=threads, seconds=seconds, start=barrier, report=writer)
            writer.close()
            readers.append(reader)
        return sum(_receive(reader) for reader in readers)
    finally:
        children.stop()


def loop(experiment: Experiment, part: int, threads: int, seconds: float, start: Barrier, report: Connection) -> None:
    """Train a client half, then a server half on its features, batch after batch; report samples a second as JSON."""
    torch.set_num_threads(threads)
    prepared = prepare(experiment)
    settings, training = prepared.experiment, prepared.experiment.training
    entry = settings.clients.roster()[part]
    client = ClientHalf(prepared.network, entry.cut, training)
    server = ServerHalf(prepared.network, entry.cut + 1, training)
    dataset = load_dataset(settings.data, training.seed)
    parts = partition(dataset.train.labels, len(settings.clients.roster()), settings.data, training.seed)
    data = ClientData(dataset, parts[part], settings.data, training, entry.id)
    done = 0

    def step() -> int:
        nonlocal done
        number, sequence = divmod(done, data.batches_in_round())
        images, labels = data.batch(number + 1, sequence)
        _, features = client.step(images, labels, (entry.id, number + 1, sequence))
        done += 1
        return server.step(features, labels, entry.cut, (entry.id, number + 1, sequence)).samples

    for _ in range(_WARM_UP):
        step()
    start.wait(_START_SECONDS)
    began = time.perf_counter()
    samples = 0
    while time.perf_counter() - began < seconds:
        samples += step()
    report.send_bytes(json.dumps(samples / (time.perf_counter() - began)).encode())


def _receive(reader: Connection) -> float:
    try:
        return float(json.loads(reader.recv_bytes()))
    except EOFError:
        raise CommandError("the plain training loop failed; its message is above") from None
