"""How far a stream is: what counts, what is durable, and what a checkpoint writes."""

from broker.messages import EndOfRound
from coordinator.store.interface import BlobRef
from coordinator.store.records import Hole, StreamClient, StreamPlan, StreamRecord
from learning.halves import Step
from workers.features import FIRST_DIGEST
from workers.position import Position

A, B = "client-01", "client-02"
PLAN = StreamPlan(id="all", clients=[StreamClient(id=A, incarnation=1, cut=3), StreamClient(id=B, incarnation=2, cut=4)])
DIGESTS = [FIRST_DIGEST, *(bytes([number]) * 32 for number in range(1, 5))]


def fresh() -> Position:
    return Position(PLAN, StreamRecord(round=2, stream="all", worker="server"))


def train(position: Position, client: str, number: int, said: bytes | None = None) -> None:
    step = Step(loss=0.5, correct=3, samples=8)
    position.trained(client, step, 100, DIGESTS[number] if said is None else said, DIGESTS[number + 1])


def marker(digest: bytes) -> EndOfRound:
    return EndOfRound(digest=digest, samples=16, loss=0.25, dropped_samples=1, half=None)


def test_what_is_trained_counts_and_is_durable_only_once_it_is_written() -> None:
    position = fresh()
    train(position, A, 0)
    written = position.record()
    train(position, A, 1)
    assert (position.of(A).sequence, position.durable(A)) == (2, 0)
    position.now_durable(written)
    assert (position.durable(A), position.durable(B)) == (1, 0)
    tallies = position.record().tallies()
    assert (tallies.samples, tallies.loss_sum, tallies.correct, tallies.bytes) == (16, 8.0, 6, 200)


def test_a_record_does_not_change_with_what_comes_after() -> None:
    position = fresh()
    train(position, A, 0)
    written = position.record()
    train(position, A, 1)
    position.refused(A, 2, "shape")
    assert written.clients[A].sequence == 1
    assert not written.clients[A].holes


def test_another_worker_goes_on_from_a_record() -> None:
    position = fresh()
    train(position, A, 0)
    position.end(A, marker(DIGESTS[1]))
    position.keep_half(A, BlobRef("s", "d", 1))
    train(position, B, 0)
    taken = Position(PLAN, position.record())
    assert taken.record() == position.record()
    assert (taken.of(A).ended, taken.of(A).sequence, taken.of(B).sequence) == (True, 2, 1)
    assert not taken.unsaved
    assert (taken.durable(A), taken.durable(B)) == (0, 0), "the store may still lose it"
    taken.now_durable(position.record())
    assert (taken.durable(A), taken.durable(B)) == (2, 1)
    train(taken, B, 1)
    assert taken.unsaved
    assert taken.record().tallies().divergent == 0


def test_a_refused_sequence_leaves_a_hole_and_the_position_goes_on() -> None:
    position = fresh()
    train(position, A, 0)
    position.refused(A, 1, "not finite")
    train(position, A, 2)
    progress = position.of(A)
    assert (progress.sequence, progress.holes) == (3, [Hole(sequence=1, reason="not finite")])
    assert (progress.tallies.samples, progress.tallies.refused, progress.tallies.divergent) == (16, 1, 0)


def test_a_client_that_recomputed_differently_is_noticed() -> None:
    position = fresh()
    train(position, A, 0)
    train(position, A, 1, said=b"x" * 32)
    assert position.of(A).tallies.divergent == 1
    train(position, B, 0, said=b"x" * 32)
    assert position.of(B).tallies.divergent == 1, "the first batch has no predecessors"
    position.end(A, marker(b"y" * 32))
    assert position.of(A).tallies.divergent == 2


def test_a_marker_ends_the_clients_round() -> None:
    position = fresh()
    train(position, A, 0)
    position.end(A, marker(DIGESTS[1]))
    progress = position.of(A)
    assert (progress.ended, progress.closed, progress.sequence) == (True, "", 2)
    assert (progress.tallies.client_samples, progress.tallies.client_loss_sum, progress.tallies.dropped_samples) == (16, 4.0, 1)
    assert progress.tallies.divergent == 0


def test_a_client_that_is_closed_keeps_what_came_before() -> None:
    position = fresh()
    train(position, A, 0)
    position.close(A, "dropped out")
    progress = position.of(A)
    assert (progress.ended, progress.closed, progress.tallies.samples) == (True, "dropped out before sequence 1", 8)


def test_duplicates_and_what_has_no_place_are_counted_without_moving() -> None:
    position = fresh()
    position.add_duplicates(A, 0)
    assert not position.unsaved
    position.add_duplicates(A, 3)
    position.count_refused(A)
    progress = position.of(A)
    assert (progress.sequence, progress.tallies.duplicates, progress.tallies.refused) == (0, 3, 1)


def test_a_commit_holds_everything_together() -> None:
    position = fresh()
    ref = BlobRef("stream/2/all", "d", 1)
    position.keep_half(A, ref)
    train(position, A, 0)
    record = position.record("committed")
    assert (record.status, record.halves, record.clients.keys()) == ("committed", {A: ref}, {A, B})
    assert (record.clients[B].incarnation, record.clients[B].cut) == (2, 4)
