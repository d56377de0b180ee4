"""Both stores behind one fixture, for the contract suites."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from coordinator.store.interface import Lease, Store, Write

LONG = 1000.0  # seconds; a lease that does not pass during a test
SHORT = 0.05
MIB = 2**20


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Backend:
    """A store, and what lets time pass for it."""

    store: Store
    wait: Callable[[float], None]


def taken(store: Store, name: str = "stream/1", nonce: str = "n1", ttl: float = LONG) -> Lease:
    lease = store.acquire(name, nonce, f"worker-{nonce}", ttl)
    assert lease is not None
    return lease


def write(key: str, version: str, expected: str | None = None, value: bytes | None = b"value") -> Write:
    return Write(key, value, expected, version)


def passed(backend: Backend, nonce: str = "n1") -> Lease:
    lease = taken(backend.store, nonce=nonce, ttl=SHORT)
    backend.wait(2 * SHORT)
    return lease


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """Run work(0), work(1), ... at the same time; return the results, raise the first exception."""
    barrier = threading.Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
