"""One client's queue in one round: whatever order deliveries come in, each sequence is taken once, in order."""

import random
import weakref
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.codec import encode
from broker.messages import Frame, Notice
from broker.transport import Delivery, Reopened
from coordinator.store.records import StreamClient
from workers.intake import Intake
from workers.run_settings import Bounds

ROUND, INCARNATION = 3, 2
CLIENT = StreamClient(id="client-01", incarnation=INCARNATION, cut=3)


def frame(sequence: int, part: int = 0, parts: int = 1, **changes: object) -> Frame:
    fields = {"client": CLIENT.id, "incarnation": INCARNATION, "round": ROUND, "sequence": sequence, "part": part, "parts": parts}
    return Frame.model_validate({**fields, "body": f"{sequence}/{part}".encode(), **changes})


class Queue:
    """A queue and its one consumer: remembers what is unacknowledged, and redelivers it on a new channel in any order."""

    def __init__(self, shuffle: random.Random) -> None:
        self.generation = 1
        self.ready: list[bytes] = []
        self.unacked: dict[int, bytes] = {}
        self.acked: list[bytes] = []
        self._tag = 0
        self._shuffle = shuffle

    def deliver(self) -> Delivery:
        self._tag += 1
        body = self.ready.pop(0)
        self.unacked[self._tag] = body
        return Delivery("queue", body, self._tag, self.generation, False)

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            assert delivery.generation == self.generation, "a delivery of a channel that is closed was acknowledged"
            self.acked.append(self.unacked.pop(delivery.tag))

    def reopen(self) -> None:
        for body in self.unacked.values():
            self.ready.insert(self._shuffle.randint(0, len(self.ready)), body)
        self.unacked.clear()
        self.generation += 1
        self._tag = 0

    def close(self) -> None:
        self.reopen()


class Reasons:
    """Refuses at once, and remembers why."""

    def __init__(self) -> None:
        self.unplaced_because: list[str] = []
        self.placed_because: list[tuple[int, str]] = []

    def unplaced(self, intake: Intake, delivery: Delivery, _frame: Frame | None, reason: str) -> None:
        self.unplaced_because.append(reason)
        assert intake.may_count(delivery)
        intake.ack_refused(delivery)

    def placed(self, _intake: Intake, delivery: Delivery, frame: Frame, reason: str) -> None:
        assert delivery.body
        self.placed_because.append((frame.sequence, reason))

    def given_up(self, intake: Intake, delivery: Delivery) -> None:
        assert intake.may_count(delivery)
        intake.ack_refused(delivery)

    def again(self, *_: object) -> bool:
        return False


def intake_on(queue: Queue, expected: int = 0, bounds: Bounds | None = None) -> tuple[Intake, list[str]]:
    reasons = Reasons()
    intake = Intake(CLIENT, ROUND, expected, reasons, bounds or Bounds())
    intake.subscription = queue
    return intake, reasons.unplaced_because


class AnyDelivery(RuleBasedStateMachine):
    """Publishes, duplicates, scrambles, reopens, takes and settles in any order."""

    @initialize(parts=st.lists(st.integers(1, 3), min_size=1, max_size=6), start=st.integers(0, 2), seed=st.integers(0, 99))
    def begin(self, parts: list[int], start: int, seed: int) -> None:
        self.shuffle = random.Random(seed)
        self.queue = Queue(self.shuffle)
        self.parts = parts
        self.start = min(start, len(parts))
        self.intake, self.reasons = intake_on(self.queue, self.start)
        self.taken: list[int] = []
        self.durable = self.start
        self.stale = self.refused = self.later = 0
        published = [(sequence, part) for sequence, count in enumerate(parts) for part in range(count)]
        self.shuffle.shuffle(published)
        self.queue.ready = [self.body(*place) for place in published]

    def body(self, sequence: int, part: int) -> bytes:
        return encode(frame(sequence, part, self.parts[sequence]))

    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(0, len(self.parts) - 1))
        part = data.draw(st.integers(0, self.parts[sequence] - 1))
        self.queue.ready.insert(data.draw(st.integers(0, len(self.queue.ready))), self.body(sequence, part))

    @rule(older=st.sampled_from([{"round": ROUND - 1}, {"incarnation": INCARNATION - 1, "round": ROUND + 1}]))
    def publish_stale(self, older: dict[str, int]) -> None:
        self.queue.ready.insert(0, encode(frame(0, **older)))
        self.stale += 1

    @rule()
    def publish_for_a_later_round(self) -> None:
        self.queue.ready.insert(0, encode(frame(0, round=ROUND + 1)))
        self.later += 1

    @rule(body=st.sampled_from([b"", b"junk", encode(Notice(round=1)), encode(frame(0, client="client-02"))]))
    def publish_rubbish(self, body: bytes) -> None:
        self.queue.ready.insert(0, body)
        self.refused += 1

    @precondition(lambda self: self.queue.ready)
    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.queue.ready))):
            self.intake.receive(self.queue.deliver())

    @rule()
    def take(self) -> None:
        taken = self.intake.next()
        if taken is not None:
            sequence = self.start + len(self.taken)
            assert taken.sequence == sequence
            assert [(f.sequence, f.part, f.body) for f in taken.frames] == [
                (sequence, part, f"{sequence}/{part}".encode()) for part in range(self.parts[sequence])
            ]
            self.taken.append(sequence)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        self.durable = data.draw(st.integers(self.durable, self.intake.expected))
        self.intake.settle(self.durable)

    @rule(lost=st.integers(0, 3))
    def reopen(self, lost: int) -> None:
        """The channel breaks with some deliveries still on their way to the intake."""
        late = [self.queue.deliver() for _ in range(min(lost, len(self.queue.ready)))]
        self.queue.reopen()
        self.intake.receive(Reopened("queue", self.queue.generation))
        for delivery in late:
            self.intake.receive(delivery)

    @invariant()
    def nothing_is_acknowledged_before_it_is_durable(self) -> None:
        if not hasattr(self, "queue"):
            return
        for sequence in range(self.durable, len(self.parts)):
            for part in range(self.parts[sequence]):
                assert self.body(sequence, part) not in self.queue.acked, f"sequence {sequence}, durable {self.durable}"

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        while self.queue.ready:
            self.deliver(len(self.queue.ready))
        while self.intake.ready():
            self.take()
        assert self.taken == list(range(self.start, len(self.parts)))
        assert self.intake.expected == len(self.parts)
        self.durable = self.intake.expected
        self.intake.settle(self.durable)
        left = [body for body in self.queue.unacked.values() if body != encode(frame(0, round=ROUND + 1))]
        assert not left, "effects that are durable were not acknowledged"
        assert len(self.queue.unacked) == self.later, "what belongs to a later round was acknowledged"
        assert len(self.reasons) == self.refused
        assert (self.intake.unsettled, self.intake.unsettled_bytes) == (0, 0)


AnyDelivery.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAnyDelivery = AnyDelivery.TestCase


@pytest.fixture
def queue() -> Queue:
    return Queue(random.Random(0))


def receive(intake: Intake, queue: Queue, *frames: Frame) -> None:
    queue.ready += [encode(one) for one in frames]
    while queue.ready:
        intake.receive(queue.deliver())


def test_duplicates_are_counted_once(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    receive(intake, queue, frame(0), frame(0), frame(0))
    assert intake.next()
    receive(intake, queue, frame(0))
    assert (intake.take_duplicates(), intake.take_duplicates()) == (3, 0)


def test_a_duplicate_of_what_is_durable_is_acknowledged_at_once(queue: Queue) -> None:
    intake, _ = intake_on(queue, expected=2)
    receive(intake, queue, frame(0), frame(1))
    assert len(queue.acked) == 2


def test_a_duplicate_of_what_is_not_durable_is_held(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    receive(intake, queue, frame(0))
    intake.next()
    receive(intake, queue, frame(0))
    assert not queue.acked
    intake.settle(1)
    assert len(queue.acked) == 2


def test_what_another_worker_trained_is_held_until_the_store_cannot_lose_it(queue: Queue) -> None:
    intake = Intake(CLIENT, ROUND, 2, Reasons(), Bounds(), durable=0)
    intake.subscription = queue
    receive(intake, queue, frame(0), frame(1))
    assert intake.take_duplicates() == 2
    assert queue.acked == []
    intake.settle(2)
    assert len(queue.acked) == 2


def test_a_refused_sequence_waits_for_its_dead_letter(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    receive(intake, queue, frame(0), frame(1))
    intake.next()
    intake.block(0)
    intake.next()
    intake.settle(2)
    assert queue.acked == [encode(frame(1))]
    intake.unblock(0)
    assert queue.acked == [encode(frame(1)), encode(frame(0))]


def test_a_message_of_too_many_parts_is_refused(queue: Queue) -> None:
    intake, reasons = intake_on(queue)
    receive(intake, queue, frame(0, parts=100_000))
    assert len(reasons) == len(queue.acked) == 1
    assert "100000 parts" in reasons[0]


def test_a_message_sent_again_under_another_limit_is_taken_whole(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    receive(intake, queue, frame(0, 0, 2), frame(0, 0, 3), frame(0, 2, 3), frame(0, 1, 3))
    taken = intake.next()
    assert taken is not None
    assert [one.parts for one in taken.frames] == [3, 3, 3]


def test_bytes_with_an_effect_are_counted_until_they_are_acknowledged(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    receive(intake, queue, frame(0), frame(1))
    assert intake.unsettled_bytes == 0
    intake.next()
    assert (intake.unsettled, intake.unsettled_bytes) == (1, len(encode(frame(0))))
    receive(intake, queue, frame(0))
    assert (intake.unsettled, intake.unsettled_bytes) == (2, len(encode(frame(0)))), "of a duplicate no bytes are held"
    intake.settle(1)
    assert (intake.unsettled, intake.unsettled_bytes) == (0, 0)


class Watched(Delivery):
    """A delivery of which it can be seen whether anything still holds it."""


def test_what_is_closed_holds_no_message(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    held: list[weakref.ref[Watched]] = []
    for message in (frame(0), frame(2), frame(3, 0, 2), frame(0, round=ROUND + 1)):  # trained, early, in parts, of a later round
        delivery = Watched("queue", encode(message), len(held), queue.generation, False)
        held.append(weakref.ref(delivery))
        intake.receive(delivery)
    del delivery
    assert intake.next() is not None
    assert [delivery() is not None for delivery in held] == [False, True, True, True], "what was taken is its taker's"
    intake.close()
    assert all(delivery() is None for delivery in held)
    late = Watched("queue", encode(frame(1)), 9, queue.generation + 1, False)  # of a channel opened before it was closed
    held.append(weakref.ref(late))
    intake.receive(late)
    del late
    assert held[-1]() is None
