"""What `splitee bench inference` times, in processes of their own: both halves in a loop, offloading, and single requests."""

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from cli.errors import CommandError
from cli.processes import Children
from learning.seeds import generator
from workers.inference_client import InferenceClient, Where
from workers.trained_run import TrainedRun

PATIENCE = 60.0  # seconds: nothing may be answered by a client itself here
_START_SECONDS = 120.0
_WARM_UP = 3  # batches
_WARM_UP_REQUESTS = 10  # one after the other: server workers, who take them in turn, load their layers for their first


def rates(folder: Path, broker: str | None, processes: int, batch: int, seconds: float) -> float:
    """Return samples a second of so many clients of the run in a folder, one process each, all of them together.

    broker: behind which servers compute the deeper layers; None: the same loop computes them.
    """
    found = _run(processes, forward if broker is None else offload, folder=folder, broker=broker, batch=batch, seconds=seconds)
    return float(sum(found))


def latencies(folder: Path, broker: str, requesters: int, requests: int) -> list[float]:
    """Return the seconds that each of so many requests, an image each, took of so many requesters at the same time."""
    found: list[float] = _run(1, request, folder=folder, broker=broker, requesters=requesters, requests=requests)[0]
    return found


def forward(folder: Path, broker: None, number: int, batch: int, seconds: float, start: Barrier, report: Connection) -> None:  # noqa: ARG001
    """Compute a client's half and then the servers' on its features, batch after batch."""
    torch.set_num_threads(1)
    run = TrainedRun.open(folder)
    client = list(run.clients)[number]
    half, server, images = run.client_half(client), run.server_half(client), _images(run, batch)

    def step() -> int:
        return len(server.predict(half.evaluate(run.normalise(images))[1], half.cut))

    for _ in range(_WARM_UP):
        step()
    _time(step, seconds, start, report)


def offload(folder: Path, broker: str, number: int, batch: int, seconds: float, start: Barrier, report: Connection) -> None:
    """Compute a client's half and have the servers finish it, batch after batch."""
    torch.set_num_threads(1)
    run = TrainedRun.open(folder)
    client, images = list(run.clients)[number], _images(run, batch)

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield images

    with InferenceClient.open(folder, client=client, broker=broker, max_entropy=0.0, patience=PATIENCE) as opened:
        _await_servers(opened, images[:1])
        answers = opened.iterate(endless())

        def step() -> int:
            found = next(answers)
            if set(found.where) != {Where.SERVER}:
                raise CommandError(f"the servers did not answer: {found.reason}")
            return len(found)

        for _ in range(_WARM_UP):
            step()
        _time(step, seconds, start, report)


def request(folder: Path, broker: str, number: int, requesters: int, requests: int, start: Barrier, report: Connection) -> None:  # noqa: ARG001
    """Ask for one image at a time, from several threads; report the seconds of each request."""
    torch.set_num_threads(1)
    seconds: list[float] = []
    with InferenceClient.open(folder, broker=broker, max_entropy=0.0, patience=PATIENCE) as client:
        image = _images(client.run, 1)

        def ask() -> None:
            torch.set_num_threads(1)
            for _ in range(requests):
                began = time.perf_counter()
                if client.predict(image).where != (Where.SERVER,):
                    return  # too few reports are an error
                seconds.append(time.perf_counter() - began)

        _await_servers(client, image)
        for _ in range(_WARM_UP_REQUESTS):
            client.predict(image)
        start.wait(_START_SECONDS)
        threads = [threading.Thread(target=ask) for _ in range(requesters)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(seconds) != requesters * requests:
        raise CommandError(f"the servers answered {len(seconds)} of {requesters * requests} requests")
    report.send_bytes(json.dumps(seconds).encode())


def _await_servers(client: InferenceClient, image: torch.Tensor) -> None:
    """Wait for server workers to come up; raise CommandError if none does."""
    deadline = time.monotonic() + _START_SECONDS
    while client.predict(image).where != (Where.SERVER,):
        if time.monotonic() > deadline:
            raise CommandError("no server worker answers")
        time.sleep(0.1)


def _run(processes: int, loop: Callable[..., None], **arguments: Any) -> list[Any]:
    """Run a loop in so many processes that start it together; return what each has reported."""
    children = Children()
    barrier = multiprocessing.get_context("forkserver").Barrier(processes)
    readers = []
    try:
        for number in range(processes):
            reader, writer = Pipe(duplex=False)
            children.start(loop, number=number, start=barrier, report=writer, **arguments)
            writer.close()
            readers.append(reader)
        return [_receive(reader) for reader in readers]
    finally:
        children.stop()


def _time(step: Callable[[], int], seconds: float, start: Barrier, report: Connection) -> None:
    """Report how many samples a second are done."""
    start.wait(_START_SECONDS)
    began, samples = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        samples += step()
    report.send_bytes(json.dumps(samples / (time.perf_counter() - began)).encode())


def _images(run: TrainedRun, count: int) -> torch.Tensor:
    return torch.rand(count, *run.network.sample_shape, generator=generator(0, "bench-inference"))


def _receive(reader: Connection) -> Any:
    try:
        return json.loads(reader.recv_bytes())
    except EOFError:
        raise CommandError("a measuring process failed; its message is above") from None
