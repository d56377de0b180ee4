"""What a worker is told of its lease: its own lease only, and at the latest when its time has passed."""

import threading
import time

import pytest

from coordinator.errors import DamagedDocument, LeaseLost
from coordinator.store.interface import Lease
from coordinator.store.lease_keeper import LeaseKeeper
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore

PATIENCE = 30.0


class Slow(MemoryStore):
    """A store that has something to say against a lease's renewal, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer = threading.Event(), threading.Event()

    def renew(self, lease: Lease) -> bool:
        if lease.name != "stream/a":
            return super().renew(lease)
        self.asked.set()
        assert self.answer.wait(PATIENCE)
        raise DamagedDocument("document of stream a is damaged")


def taken(store: MemoryStore, name: str, ttl: float = 600.0) -> Lease:
    lease = store.acquire(name, "nonce", "worker", ttl)
    assert lease is not None
    return lease


def lost(keeper: LeaseKeeper) -> str:
    until = time.monotonic() + PATIENCE
    with pytest.raises(LeaseLost) as raised:  # noqa: PT012  # it is told when it turns
        while time.monotonic() < until:
            keeper.turn()
            time.sleep(0.01)
    return str(raised.value)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def keeper(store: Slow) -> LeaseKeeper:
    return LeaseKeeper(Ledger(store))


def test_what_is_wrong_with_one_lease_is_not_said_of_the_next(store: Slow, keeper: LeaseKeeper) -> None:
    keeper.keep(taken(store, "stream/a"), time.monotonic())
    assert store.asked.wait(PATIENCE)
    keeper.let_go()
    keeper.keep(taken(store, "stream/b"), time.monotonic() - 60)
    store.answer.set()
    keeper.look()
    until = time.monotonic() + PATIENCE
    while time.monotonic() - keeper.confirmed > 30:  # the next one is renewed: the answer about the first was taken
        assert time.monotonic() < until
        keeper.turn()
        time.sleep(0.01)
    keeper.turn()
    keeper.close()


def test_what_is_wrong_with_a_lease_is_said(store: Slow, keeper: LeaseKeeper) -> None:
    store.answer.set()
    keeper.keep(taken(store, "stream/a"), time.monotonic())
    assert lost(keeper) == "document of stream a is damaged"
    keeper.close()


def test_a_lease_taken_by_another_and_one_that_passes(store: Slow, keeper: LeaseKeeper) -> None:
    lease = taken(store, "stream/b")
    store.release(lease)
    keeper.keep(lease, time.monotonic())
    assert lost(keeper) == "stream/b passed to another holder"
    keeper.keep(taken(store, "stream/a", ttl=5.0), time.monotonic() - 6)
    assert lost(keeper) == "could not renew stream/a within 5 s"
    store.answer.set()
    keeper.close()
