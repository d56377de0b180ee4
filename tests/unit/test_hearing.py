"""A coordinator knows whether it hears: silence counts against clients only while it does."""

import pytest

from broker.codec import decode
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import Echo
from broker.topology import Queue
from broker.transport import Delivery, Reopened
from coordinator import hearing
from coordinator.hearing import Hearing

TIMEOUT = 8.0
QUEUE = Queue("splitee.run.coordinator")


class Time:
    """Stands in for the module ``time`` of hearing: a monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Coordinator:
    """Takes its turns over a real transport, and hears what has come back when it is told to."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.transport = MemoryTransport(MemoryBroker())
        self.transport.declare(QUEUE)
        self.hearing = Hearing(self.transport, QUEUE.name, TIMEOUT)
        self.came: list[Echo] = []
        self.transport.subscribe(QUEUE.name, 100, self._receive)

    def _receive(self, item: Delivery | Reopened) -> None:
        assert isinstance(item, Delivery)
        self.came.append(decode(item.body, Echo))

    def go_on(self, seconds: float, *, hears: bool = True) -> list[bool]:
        """Let time pass in turns of a second; return what was learnt from every message that was heard."""
        learnt = []
        for _ in range(round(seconds)):
            self.time.now += 1.0
            self.hearing.turn()
            if hears:
                learnt += [self.hearing.hear(message) for message in self.came]
                self.came.clear()
        return learnt


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    time = Time()
    monkeypatch.setattr(hearing, "time", time)
    return Coordinator(time)


def test_what_comes_back_shows_that_it_hears(coordinator: Coordinator) -> None:
    assert coordinator.go_on(20) == [False] * 20
    assert coordinator.hearing.is_up_to_date


def test_it_does_not_while_nothing_comes_back(coordinator: Coordinator) -> None:
    coordinator.go_on(3)
    coordinator.go_on(4, hears=False)
    assert coordinator.hearing.is_up_to_date, "for half a time-out it cannot tell"
    coordinator.go_on(1, hears=False)
    assert not coordinator.hearing.is_up_to_date


def test_what_comes_back_late_shows_only_what_was_said_before(coordinator: Coordinator) -> None:
    coordinator.go_on(3)
    coordinator.transport.close()  # what is published is lost
    coordinator.time.now += 60
    assert coordinator.hearing.hear(Echo(sender="another", sent=coordinator.time.now)) is False
    assert not coordinator.hearing.is_up_to_date


def test_after_an_outage_it_listens_anew(coordinator: Coordinator) -> None:
    coordinator.go_on(3)
    coordinator.time.now += 60  # the process stood still
    assert not coordinator.hearing.is_up_to_date
    assert coordinator.go_on(2) == [True, False]
    assert coordinator.hearing.is_up_to_date


def test_one_message_at_a_time_is_on_its_way(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monkeypatch.setattr(coordinator.transport, "publish", lambda queue, body, on_settled, ttl: sent.append(on_settled))
    coordinator.go_on(60)
    assert len(sent) == 1, "what a broker does not take piles up"
