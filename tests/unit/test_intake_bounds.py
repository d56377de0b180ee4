"""How much an intake holds, whatever a client sends: batches that are due, each once, and one message that may be larger."""

import random
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest

from broker import events
from broker.codec import encode
from broker.dead_letters import DeadLetters
from broker.mailbox import Mailbox
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import Frame
from broker.transport import Delivery
from coordinator.store.records import StreamPlan, StreamRecord
from tests.unit.test_intake import CLIENT, ROUND, Queue, Watched, frame, intake_on, receive
from workers.intake import Intake
from workers.position import Position
from workers.refusals import Refusals
from workers.run_settings import Bounds

LIMIT, BATCH = 40_000, 10_000
BOUNDS = Bounds(prefetch=32, limit=LIMIT, frame=BATCH, batch=2 * BATCH)


def sized(sequence: int, size: int, **changes: object) -> Frame:
    """Return a frame that has so many bytes when encoded, or some fewer."""
    return frame(sequence, body=bytes(size - 300), **changes)


@pytest.fixture
def queue() -> Queue:
    return Queue(random.Random(0))


@pytest.fixture
def watch(queue: Queue) -> Callable[[Intake, Frame], weakref.ref[Watched]]:
    def receive_watched(intake: Intake, message: Frame) -> weakref.ref[Watched]:
        queue.ready.append(encode(message))
        plain = queue.deliver()
        delivery = Watched(plain.queue, plain.body, plain.tag, plain.generation, False)
        intake.receive(delivery)
        return weakref.ref(delivery)

    return receive_watched


def held(deliveries: list[weakref.ref[Watched]]) -> int:
    return sum(len(delivery.body) for known in deliveries if (delivery := known()) is not None)


def test_what_is_held_is_held_once(queue: Queue) -> None:
    intake, _ = intake_on(queue)
    bodies = [encode(frame(sequence, body=bytes(100_000))) for sequence in range(1, 21)]
    tracemalloc.start()
    for number, body in enumerate(bodies):
        intake.receive(Delivery("queue", bytes(bytearray(body)), number, 1, False))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 20 * 100_000 < kept < 1.1 * 20 * 100_000


def test_a_client_can_make_nobody_hold_more_than_batches(queue: Queue, watch: Callable) -> None:
    intake, reasons = intake_on(queue, bounds=BOUNDS)
    large = [sized(sequence, LIMIT) for sequence in range(1, 5)]
    parts = [sized(6, LIMIT, part=part, parts=8) for part in range(8)]
    copies = [sized(7, BATCH) for _ in range(4)]
    later = [sized(sequence, LIMIT, round=ROUND + 1) for sequence in range(4)]
    kept = [watch(intake, message) for message in (*large, *parts, *copies, *later)]
    assert 3 * BATCH < held(kept) <= 4 * BATCH, "the one that is no larger than a batch, and its copies"
    assert [reason for reason in reasons if "not the only one" in reason] == reasons
    assert len(reasons) == 3, "the first may be its end of round, with its half"
    assert not queue.acked[3:]


class Deaf(MemoryTransport):
    """Reaches a broker that takes no messages."""

    def publish(self, *_args: object, **_options: object) -> None:
        pass


def test_letters_that_the_broker_does_not_take_pin_no_message(queue: Queue) -> None:
    letters = DeadLetters(Deaf(MemoryBroker(), "server"), "run", Mailbox(), events.ignore, limit=BATCH)
    position = Position(StreamPlan(id="all", clients=[CLIENT]), StreamRecord(round=ROUND, stream="all", worker="server"))
    intake = Intake(CLIENT, ROUND, 0, Refusals(CLIENT, position, letters, lambda *_: None), BOUNDS)
    bodies = [encode(sized(sequence, LIMIT)) for sequence in range(1, 31)] + [bytes(LIMIT) for _ in range(30)]
    tracemalloc.start()
    for number, body in enumerate(bodies):
        intake.receive(Delivery("queue", bytes(bytearray(body)), number, 1, False))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert letters.pending == 60
    assert kept < 10 * LIMIT


def test_what_is_too_large_leaves_a_hole_in_its_place(queue: Queue) -> None:
    intake, _ = intake_on(queue, bounds=BOUNDS)
    receive(intake, queue, sized(1, BATCH), sized(0, LIMIT))
    taken = intake.next()
    assert taken is not None
    assert (taken.sequence, taken.frames) == (0, [])
    assert "neither a batch nor a client's half" in taken.fault
    assert [sequence for sequence, _ in intake._refuse.placed_because] == [0]
    following = intake.next()
    assert following is not None
    assert (following.sequence, len(following.frames), following.fault) == (1, 1, "")
    intake.settle(2)
    assert len(queue.acked) == 2


def test_one_message_may_have_a_half(queue: Queue) -> None:
    intake, _ = intake_on(queue, bounds=replace(BOUNDS, marker=2 * LIMIT))
    receive(intake, queue, sized(0, LIMIT, part=0, parts=2), sized(1, LIMIT), sized(0, LIMIT, part=1, parts=2))
    taken, following = intake.next(), intake.next()
    assert taken is not None
    assert (len(taken.frames), taken.fault) == (2, "")
    assert following is not None
    assert following.fault


def test_what_is_in_the_way_goes_and_what_is_not_safe_stays(queue: Queue) -> None:
    intake, reasons = intake_on(queue, bounds=replace(BOUNDS, prefetch=6))
    receive(intake, queue, sized(1, BATCH), sized(1, BATCH), sized(2, LIMIT), frame(0, round=ROUND + 1), frame(3), frame(4))
    assert intake.clogged()
    intake.block(2)
    intake.give_up_ahead()
    assert len(reasons) == 4, "one copy of a batch, the later round and two more; not the one whose letter is not safe"
    assert not intake.clogged()
    receive(intake, queue, frame(0))
    assert intake.ready()


def test_an_end_of_round_that_comes_twice_before_its_turn_is_taken(queue: Queue) -> None:
    intake, _ = intake_on(queue, bounds=replace(BOUNDS, marker=2 * LIMIT))
    marker = [sized(1, LIMIT, part=part, parts=2) for part in range(2)]
    receive(intake, queue, *marker, *marker, frame(0))
    first, taken = intake.next(), intake.next()
    assert first is not None
    assert taken is not None
    assert (len(taken.frames), taken.fault, intake.take_duplicates()) == (2, "", 2)


def test_an_end_of_round_may_follow_one_that_was_refused(queue: Queue) -> None:
    intake, _ = intake_on(queue, bounds=replace(BOUNDS, marker=LIMIT))
    for sequence in range(3):
        receive(intake, queue, sized(sequence, LIMIT))
        taken = intake.next()
        assert taken is not None
        assert taken.fault == ""


def test_a_batch_in_parts_has_no_more_than_a_batch(queue: Queue) -> None:
    intake, _ = intake_on(queue, bounds=BOUNDS)
    receive(intake, queue, *(sized(0, BATCH, part=part, parts=2) for part in range(2)))
    receive(intake, queue, *(sized(1, BATCH, part=part, parts=3) for part in range(3)))
    whole, more = intake.next(), intake.next()
    assert whole is not None
    assert (len(whole.frames), whole.fault) == (2, "")
    assert more is not None
    assert "neither a batch" in more.fault
    intake.settle(2)
    assert len(queue.acked) == 5


def test_what_was_refused_ahead_is_given_up_and_counted(queue: Queue) -> None:
    intake, reasons = intake_on(queue, bounds=replace(BOUNDS, prefetch=3))
    receive(intake, queue, *(sized(sequence, LIMIT) for sequence in (1, 2, 3)))
    assert intake.clogged()
    assert intake.give_up_ahead() == 3
    assert (len(queue.acked), reasons, intake.clogged()) == (3, [], False)
    assert intake.give_up_ahead() == 0


def test_copies_of_what_is_refused_are_dead_letters_too(queue: Queue) -> None:
    intake, _ = intake_on(queue, bounds=BOUNDS)
    receive(intake, queue, frame(0, body=b"wrong"), frame(0, body=b"right"), sized(0, LIMIT))
    taken = intake.next()
    assert taken is not None
    assert (len(taken.deliveries), taken.copies) == (1, [Delivery("queue", encode(frame(0, body=b"right")), 2, 1, False)])
