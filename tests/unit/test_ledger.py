"""Claims, checkpoints, commits and freezes: what a worker or a coordinator that is outdated can no longer do."""

import pytest

from coordinator.errors import LeaseLost, RunConflict, StoreError
from coordinator.store.interface import Document, Lease, Outcome, Write
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import (
    LEADER,
    ClientProgress,
    RoundRecord,
    RunRecord,
    RunState,
    StreamClient,
    StreamPlan,
    StreamRecord,
    round_key,
    stream_lease,
)

TTL = 10.0


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    """A run whose round 1 is open, with streams a and b."""
    ledger = Ledger(MemoryStore(clock=clock))
    plans = [StreamPlan(id=name, clients=[StreamClient(id=name, incarnation=1, cut=3)]) for name in ("a", "b")]
    record = RoundRecord(round=1, streams=plans, opened_at=0.0)
    assert ledger.lead(leader(ledger), [Kept(round_key(1), record, None).change(record)])
    return ledger


def leader(ledger: Ledger, nonce: str = "first") -> Lease:
    lease = ledger.store.acquire(LEADER, nonce, nonce, TTL)
    assert lease is not None
    return lease


def at(sequence: int, status: str = "training") -> StreamRecord:
    progress = ClientProgress(incarnation=1, cut=3, sequence=sequence)
    return StreamRecord.model_validate({"round": 1, "stream": "a", "worker": "w", "status": status, "clients": {"a": progress}})


def sequence(ledger: Ledger) -> int:
    kept = ledger.stream(1, "a")
    return kept.record.clients["a"].sequence if kept else 0


class TestRun:
    RECORD = RunRecord(name="run", experiment="{}", fingerprint="f", sample_shape=(1,), classes=2, versions={"torch": "1"})

    def test_is_created_once_and_found_again(self, ledger: Ledger) -> None:
        assert ledger.run() is None
        assert ledger.create_run(self.RECORD) == self.RECORD
        later = self.RECORD.model_copy(update={"versions": {"torch": "2"}})
        assert ledger.create_run(later) == self.RECORD, "a run was replaced"

    def test_a_different_experiment_is_refused_with_a_way_out(self, ledger: Ledger) -> None:
        ledger.create_run(self.RECORD)
        with pytest.raises(RunConflict, match=r"'run' exists with a different experiment; .*--set name="):
            ledger.create_run(self.RECORD.model_copy(update={"fingerprint": "g"}))
        assert ledger.run() == self.RECORD


class TestClaim:
    def test_one_worker_at_a_time(self, ledger: Ledger, clock: Clock) -> None:
        first = ledger.claim(1, "a", "one", TTL)
        assert first is not None
        assert ledger.claim(1, "a", "two", TTL) is None
        assert ledger.claim(1, "b", "two", TTL) is not None
        clock.now += TTL + 1
        second = ledger.claim(1, "a", "two", TTL)
        assert second is not None
        assert second.lease.epoch == first.lease.epoch + 1

    def test_goes_on_from_the_last_checkpoint(self, ledger: Ledger, clock: Clock) -> None:
        first = ledger.claim(1, "a", "one", TTL)
        ledger.advance(first, at(3))
        clock.now += TTL + 1
        assert ledger.claim(1, "a", "two", TTL).kept.record == at(3)

    def test_what_is_committed_is_not_to_be_had(self, ledger: Ledger) -> None:
        claim = ledger.claim(1, "a", "one", TTL)
        ledger.advance(claim, at(5, "committed"))
        ledger.store.release(claim.lease)
        assert ledger.claim(1, "a", "two", TTL) is None
        assert ledger.store.holder(stream_lease("a")) is None, "a claim that came to nothing keeps the lease"

    def test_nor_what_belongs_to_a_round_that_is_over_or_never_opened(self, ledger: Ledger) -> None:
        assert ledger.claim(2, "a", "one", TTL) is None
        assert ledger.freeze(leader(ledger), ledger.round(1))
        assert ledger.claim(1, "a", "one", TTL) is None
        assert ledger.store.holder(stream_lease("a")) is None


class TestAdvance:
    def test_each_checkpoint_follows_the_one_before(self, ledger: Ledger) -> None:
        claim = ledger.claim(1, "a", "one", TTL)
        later = ledger.advance(claim, at(2))
        assert sequence(ledger) == 2
        with pytest.raises(LeaseLost):
            ledger.advance(claim, at(1))  # from a position that is outdated
        ledger.advance(later, at(4))
        assert sequence(ledger) == 4

    def test_a_worker_whose_lease_passed_writes_nothing(self, ledger: Ledger, clock: Clock) -> None:
        zombie = ledger.claim(1, "a", "zombie", TTL)
        clock.now += TTL + 1
        with pytest.raises(LeaseLost):
            ledger.advance(zombie, at(9, "committed"))
        assert ledger.stream(1, "a") is None

    def test_nor_one_whose_stream_another_has_taken_even_at_the_same_position(self, ledger: Ledger, clock: Clock) -> None:
        zombie = ledger.claim(1, "a", "zombie", TTL)
        clock.now += TTL + 1
        heir = ledger.claim(1, "a", "heir", TTL)
        with pytest.raises(LeaseLost):
            ledger.advance(zombie, at(9, "committed"))
        ledger.advance(heir, at(2))
        assert sequence(ledger) == 2

    def test_sent_twice_it_takes_effect_once(self, ledger: Ledger) -> None:
        """A reply was lost: the adapter sends the same transaction again, perhaps after the lease has passed."""
        claim = ledger.claim(1, "a", "one", TTL)
        write = claim.kept.change(at(2))
        assert ledger.store.transact([write], fence=claim.lease) is Outcome.DONE
        assert ledger.store.transact([write], fence=claim.lease) is Outcome.ALREADY_DONE
        assert sequence(ledger) == 2


class TestFreeze:
    def test_fixes_what_is_committed_and_fences_the_rest(self, ledger: Ledger) -> None:
        done, late = ledger.claim(1, "a", "one", TTL), ledger.claim(1, "b", "two", TTL)
        ledger.advance(done, at(5, "committed"))
        ledger.advance(late, at(2).model_copy(update={"stream": "b"}))
        assert ledger.freeze(leader(ledger), ledger.round(1))
        frozen = ledger.round(1).record
        assert (frozen.phase, frozen.frozen) == ("frozen", ["a"])
        kept = ledger.stream(1, "b")
        with pytest.raises(LeaseLost):
            ledger.advance(late, at(5, "committed"))
        assert not ledger.store.renew(late.lease)
        assert ledger.stream(1, "b") == kept

    def test_is_decided_once(self, ledger: Ledger) -> None:
        open_round = ledger.round(1)
        assert ledger.freeze(leader(ledger), open_round)
        assert not ledger.freeze(leader(ledger), open_round)

    def test_frozen_streams_are_in_the_order_of_the_round(self, ledger: Ledger) -> None:
        for name in ("b", "a"):
            claim = ledger.claim(1, name, "one", TTL)
            ledger.advance(claim, at(1, "committed").model_copy(update={"stream": name}))
        ledger.freeze(leader(ledger), ledger.round(1))
        assert ledger.round(1).record.frozen == ["a", "b"]


class TestLeader:
    def test_one_that_was_succeeded_writes_nothing(self, ledger: Ledger, clock: Clock) -> None:
        old = leader(ledger)
        clock.now += TTL + 1
        leader(ledger, "second")
        with pytest.raises(LeaseLost, match="another coordinator"):
            ledger.lead(old, [ledger.state().change(RunState(phase="failed"))])
        with pytest.raises(LeaseLost):
            ledger.freeze(old, ledger.round(1))
        assert ledger.state().record.phase == "waiting"
        assert ledger.round(1).record.phase == "open"

    def test_does_not_write_over_what_has_changed_since_it_was_read(self, ledger: Ledger) -> None:
        read = ledger.state()
        assert ledger.lead(leader(ledger), [read.change(RunState(phase="training", round=1))])
        assert not ledger.lead(leader(ledger), [read.change(RunState(phase="failed"))])
        assert ledger.state().record == RunState(phase="training", round=1)


@pytest.mark.parametrize("value", [b"", b"\xff", b"{}", b'{"phase": "odd"}', b'{"odd": 1}'])
def test_a_damaged_document_is_named(ledger: Ledger, value: bytes) -> None:
    key = round_key(7)
    ledger.store.transact([Write(key, value, None, "v")])
    assert ledger.store.read([key]) == [Document(value, "v")]
    with pytest.raises(StoreError, match=f"document {key} in the store is damaged"):
        ledger.round(7)
