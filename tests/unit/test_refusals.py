"""What a stream refuses: a hole, filled at most once and only by what was requeued on purpose; acknowledged when that is safe."""

import random

import pytest

from broker import events, topology
from broker.codec import decode, encode
from broker.dead_letters import DeadLetters
from broker.errors import MalformedMessage
from broker.mailbox import Mailbox
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import DeadLetter, Frame
from broker.transport import Reopened
from coordinator.store.records import ClientProgress, StreamClient, StreamPlan, StreamRecord
from learning.halves import Step
from tests.contract.transports import Recorder
from tests.unit.test_intake import CLIENT, ROUND, Queue, frame
from workers.intake import Intake
from workers.position import Position
from workers.refusals import Refusals
from workers.run_settings import Bounds

STEP = Step(loss=0.5, correct=3, samples=8)


class Stream:
    """One client's stream: sequence 0 was refused, 1 was trained. ``faulty``: whether sequence 0 still cannot be trained."""

    def __init__(self) -> None:
        self.queue = Queue(random.Random(0))
        self.faulty = True
        self.late: list[int] = []
        transport = MemoryTransport(MemoryBroker(), "server")
        transport.declare(topology.dead("run"))
        self.dead = Recorder()
        transport.subscribe(topology.dead("run").name, 100, self.dead)
        self.mailbox = Mailbox()
        self.position = Position(StreamPlan(id="all", clients=[CLIENT]), StreamRecord(round=ROUND, stream="all", worker="server"))
        letters = DeadLetters(transport, "run", self.mailbox, events.ignore)
        self.refusals = Refusals(CLIENT, self.position, letters, self._effect)
        self.intake = Intake(CLIENT, ROUND, 0, self.refusals, Bounds())
        self.intake.subscription = self.queue
        self.receive(frame(0), frame(1))
        taken = self.intake.next()
        assert taken is not None
        self.refusals.refuse(self.intake, taken, "not understood")
        assert self.intake.next()
        self.position.trained(CLIENT.id, STEP, 10, b"", b"\0" * 32)

    def receive(self, *frames: Frame) -> None:
        self.receive_bytes(*map(encode, frames))

    def receive_bytes(self, *bodies: bytes) -> None:
        self.queue.ready += bodies
        while self.queue.ready:
            self.intake.receive(self.queue.deliver())

    def checkpoint(self) -> StreamRecord:
        return self.position.record()

    def durable(self, record: StreamRecord) -> None:
        self.mailbox.handle(0)
        self.position.now_durable(record)
        self.intake.settle(self.position.durable(CLIENT.id))
        self.refusals.settle(self.intake, record)

    def reasons(self) -> list[str]:
        self.mailbox.handle(0)
        return [decode(body, DeadLetter).reason for body in self.dead.bodies]

    def _effect(self, client: StreamClient, one: Frame) -> None:
        if self.faulty:
            raise MalformedMessage("still not understood")
        self.late.append(one.sequence)
        self.position.trained_late(client.id, one.sequence, STEP, 10)


REQUEUED = frame(0, requeued=True)


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_a_requeued_frame_fills_its_hole_once(stream: Stream) -> None:
    stream.faulty = False
    stream.receive(REQUEUED, REQUEUED)
    while stream.refusals.late is not None:
        stream.refusals.turn(stream.intake)
    progress = stream.position.of(CLIENT.id)
    assert (stream.late, progress.holes, progress.sequence) == ([0], [], 2)
    assert (progress.tallies.samples, progress.tallies.refused) == (16, 0)
    assert stream.refusals.unsaved
    stream.durable(stream.checkpoint())
    assert len(stream.queue.acked) == 4
    assert not stream.refusals.unsaved
    stream.receive(REQUEUED)
    assert stream.refusals.late is None, "it was trained twice"


def test_a_late_effect_is_acknowledged_only_when_it_is_in_a_durable_record(stream: Stream) -> None:
    stream.faulty = False
    before = stream.checkpoint()
    stream.receive(REQUEUED)
    stream.refusals.turn(stream.intake)
    stream.durable(before)
    assert encode(REQUEUED) not in stream.queue.acked
    stream.durable(stream.checkpoint())
    assert encode(REQUEUED) in stream.queue.acked


def test_a_record_from_before_the_refusal_holds_no_late_effect(stream: Stream) -> None:
    stream.faulty = False
    stream.receive(REQUEUED)
    stream.refusals.turn(stream.intake)
    stream.durable(
        StreamRecord(
            round=ROUND,
            stream="all",
            worker="server",
            clients={CLIENT.id: ClientProgress(incarnation=CLIENT.incarnation, cut=CLIENT.cut)},
        )
    )
    assert stream.refusals.unsaved


def test_a_mere_redelivery_is_refused_again_and_never_trained(stream: Stream) -> None:
    stream.faulty = False
    stream.queue.reopen()
    stream.intake.receive(Reopened("queue", stream.queue.generation))
    stream.receive()
    assert stream.refusals.late is None
    assert stream.reasons() == ["not understood", "not understood"]
    stream.durable(stream.checkpoint())
    assert len(stream.queue.acked) == 2


def test_what_is_refused_again_is_a_dead_letter_with_its_new_reason(stream: Stream) -> None:
    stream.receive(REQUEUED)
    stream.refusals.turn(stream.intake)
    again = f"round {ROUND} sequence 0, requeued: still not understood"
    assert stream.reasons() == ["not understood", again]
    progress = stream.position.of(CLIENT.id)
    assert ([hole.reason for hole in progress.holes], progress.tallies.refused) == ([again], 1)
    stream.durable(stream.checkpoint())
    assert len(stream.queue.acked) == 3


def test_a_part_of_a_message_is_not_requeued(stream: Stream) -> None:
    stream.receive(frame(0, 0, 2, requeued=True))
    assert stream.refusals.late is None
    assert stream.reasons() == ["not understood", "not understood"]


def test_what_was_requeued_too_late_is_a_dead_letter_again(stream: Stream) -> None:
    stream.receive(frame(0, round=ROUND - 1, requeued=True))
    assert stream.reasons()[-1] == f"requeued, and still here after its round {ROUND - 1}"
    stream.durable(stream.checkpoint())
    assert len(stream.queue.acked) == 3


def test_what_has_no_place_is_acknowledged_when_its_count_is_durable(stream: Stream) -> None:
    def refused() -> int:
        return stream.position.of(CLIENT.id).tallies.refused - 1  # sequence 0

    stream.durable(stream.checkpoint())
    acked = len(stream.queue.acked)
    stream.receive_bytes(b"no message")
    before = stream.checkpoint()
    stream.mailbox.handle(0)  # its dead letter is safe
    assert refused() == 1
    stream.durable(before)
    assert (len(stream.queue.acked), stream.refusals.unsettled) == (acked, True)

    stream.queue.reopen()
    stream.intake.receive(Reopened("queue", stream.queue.generation))
    stream.receive_bytes()
    assert refused() == 1, "it was counted again"
    stream.durable(stream.checkpoint())
    assert (len(stream.queue.acked), stream.refusals.unsettled) == (acked + 1, False)
