"""Whose clock runs in a round: that of a client behind, never that of one whose servers are."""

import pytest

from coordinator import deadlines
from coordinator.deadlines import Deadlines
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import ClientProgress, Record, RoundRecord, StreamClient, StreamPlan, StreamRecord, stream_key

ROUND = RoundRecord(round=1, streams=[StreamPlan(id="all", clients=[StreamClient(id="a", incarnation=1, cut=3)])], opened_at=0.0)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Round:
    """One client in one round: what the broker has of it, what of it is durable, and who is overdue after some seconds."""

    def __init__(self, clock: Clock, limit: float | None = 5.0) -> None:
        self.clock = clock
        self.ledger = Ledger(MemoryStore())
        self.confirmed = 0
        self._deadlines = Deadlines(self.ledger, limit, lambda _client, _round: self.confirmed)
        self._version: str | None = None
        self.after(1.0)

    def durable(self, sequence: int, **changes: object) -> None:
        progress = ClientProgress(incarnation=1, cut=3, sequence=sequence)
        record = StreamRecord(round=1, stream="all", worker="w", clients={"a": progress.model_copy(update=changes)})
        self._write(record)

    def committed(self) -> None:
        self._write(StreamRecord(round=1, stream="all", worker="w", status="committed"))

    def after(self, seconds: float, round: RoundRecord = ROUND, step: float = 1.0) -> list[str]:
        overdue: list[str] = []
        for _ in range(int(seconds / step)):
            self.clock.now += step
            overdue = self._deadlines.overdue(round)
        return overdue

    def _write(self, record: Record) -> None:
        write = Kept(stream_key(1, "all"), record, self._version).change(record)
        self.ledger.store.transact([write])
        self._version = write.version


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadlines, "time", clock)
    return clock


def test_a_client_that_sends_nothing(clock: Clock) -> None:
    held = Round(clock)
    assert held.after(5) == []
    assert held.after(1) == ["a"]


def test_a_client_whose_batches_are_all_trained_and_no_more_come(clock: Clock) -> None:
    held = Round(clock)
    held.confirmed = 3
    held.durable(3)
    assert held.after(6) == ["a"]


def test_a_client_that_the_servers_have_not_caught_up_with(clock: Clock) -> None:
    held = Round(clock)
    held.confirmed = 3
    assert held.after(100) == [], "no worker has taken its stream"
    held.durable(2)
    assert held.after(100) == []


def test_the_clock_stands_still_while_the_servers_are_behind(clock: Clock) -> None:
    held = Round(clock)
    assert held.after(4) == []
    held.confirmed = 1
    assert held.after(50) == []
    held.durable(1)
    assert held.after(1) == []
    assert held.after(1) == ["a"]


def test_a_client_that_has_ended_its_round_or_whose_stream_is_committed(clock: Clock) -> None:
    held = Round(clock)
    held.durable(3, ended=True)
    assert held.after(100) == []
    held.committed()
    assert held.after(100) == []


def test_a_coordinator_that_was_away_blames_nobody(clock: Clock) -> None:
    held = Round(clock)
    assert held.after(100, step=100) == []


def test_every_round_begins_anew(clock: Clock) -> None:
    held = Round(clock)
    assert held.after(5) == []
    assert held.after(5, ROUND.model_copy(update={"round": 2})) == []


def test_no_limit(clock: Clock) -> None:
    assert Round(clock, None).after(1000) == []
