"""What a stream cannot train: a dead letter and a hole in the record, until it is requeued in time."""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from broker.crash_points import Between, crash_point
from broker.dead_letters import MOST_REASON, DeadLetters
from broker.errors import MalformedMessage, PoisonedMessage
from broker.events import RefusalKind
from broker.messages import Frame
from broker.transport import Delivery
from coordinator.store.records import StreamClient, StreamRecord
from learning.errors import NonFiniteError, TensorError
from workers.intake import Intake
from workers.parked import Taken
from workers.position import Position


@dataclass
class _Counted:
    """What had no place, by number; the body is told by its digest, as it may be large."""

    number: int
    delivery: Delivery
    digest: bytes


class Refusals:
    """The refusals of one client's round. No delivery is acknowledged before its dead letter is safe.

    late_effect: called with a requeued frame whose sequence is a hole; it fills the hole, behind what came meanwhile, or
    raises MalformedMessage or TensorError.
    """

    def __init__(
        self, client: StreamClient, position: Position, dead: DeadLetters, late_effect: Callable[[StreamClient, Frame], None]
    ) -> None:
        self._client = client
        self._position = position
        self._dead = dead
        self._late_effect = late_effect
        self._late: deque[tuple[Delivery, Frame]] = deque()
        self._filled: list[int] = []  # sequences whose late effect is not durable yet
        self._counted: deque[_Counted] = deque()  # that count is not durable yet

    @property
    def late(self) -> int | None:
        """The sequence whose requeued frame is to have its effect next."""
        return self._late[0][1].sequence if self._late else None

    @property
    def unsaved(self) -> bool:
        """Whether a late effect is not durable yet."""
        return bool(self._filled)

    @property
    def unsettled(self) -> bool:
        """Whether anything has had its effect and waits until that is durable."""
        return bool(self._filled or self._counted)

    def refuse(self, intake: Intake, taken: Taken, reason: str, kind: RefusalKind = "unfit") -> None:
        """Refuse a sequence whose turn it is: it leaves a hole."""
        reason = reason[:MOST_REASON]
        self._position.refused(self._client.id, taken.sequence, reason)
        crash_point(Between.REFUSAL_AND_LETTER)
        for delivery, frame in zip(taken.deliveries, taken.frames, strict=True):
            self.placed(intake, delivery, frame, reason, kind)
        for copy in taken.copies:
            self.placed(intake, copy, taken.frames[0], reason, kind)

    def unplaced(self, intake: Intake, delivery: Delivery, frame: Frame | None, reason: str) -> None:
        """Refuse what has no place. Counted when it is safe: until then it comes again with every new channel."""

        digest = hashlib.sha256(delivery.body).digest()
        if self._counted_before(intake, delivery, digest):
            return
        emptied = replace(delivery, body=b"")

        def safe() -> None:
            if intake.may_count(emptied):
                self._counted.append(_Counted(self._position.count_refused(self._client.id), emptied, digest))

        self._dead.refuse(delivery, frame, reason, safe, "misplaced" if frame else "malformed")

    def given_up(self, intake: Intake, delivery: Delivery) -> None:
        """Count what was refused as part of a sequence whose turn will not come; its dead letter is safe."""
        if intake.may_count(delivery):
            self._counted.append(_Counted(self._position.count_refused(self._client.id), delivery, b""))

    def again(self, intake: Intake, delivery: Delivery, frame: Frame) -> bool:
        """Take a sequence that comes again; return whether it was requeued whole, to fill its hole.

        What is merely delivered again is never trained late, a crash would change the bits; but its dead letter may have
        been lost with the worker that refused it.
        """
        reason = self._position.hole(self._client.id, frame.sequence)
        if reason is None:
            return False
        if frame.requeued and frame.parts == 1:
            intake.block(frame.sequence)
            self._late.append((delivery, frame))
            return True
        self.placed(intake, delivery, frame, reason, "unfit")
        return False

    def turn(self, intake: Intake) -> None:
        """Let one requeued frame have its effect, once, or refuse it again."""
        if not self._late:
            return
        delivery, frame = self._late.popleft()
        sequence = frame.sequence
        if self._position.hole(self._client.id, sequence) is None:  # another copy has filled it
            intake.unblock(sequence)
            return
        try:
            self._late_effect(self._client, frame)
            self._filled.append(sequence)
        except (MalformedMessage, TensorError) as error:
            reason = f"round {frame.round} sequence {sequence}, requeued: {error}"[:MOST_REASON]
            self._position.refused_again(self._client.id, sequence, reason)
            self._dead.refuse(delivery, frame, reason, lambda: intake.unblock(sequence), kind_of(error))

    def settle(self, intake: Intake, record: StreamRecord) -> None:
        """A record is durable: let the late effects and the refusals that it holds be acknowledged."""
        progress = record.clients[self._client.id]
        holes = {hole.sequence for hole in progress.holes}
        durable = [sequence for sequence in self._filled if sequence < progress.sequence and sequence not in holes]
        self._filled = [sequence for sequence in self._filled if sequence not in durable]
        for sequence in durable:
            intake.unblock(sequence)
        while self._counted and self._counted[0].number <= progress.unplaced:
            intake.ack_refused(self._counted.popleft().delivery)

    def _counted_before(self, intake: Intake, delivery: Delivery, digest: bytes) -> bool:
        """Return whether this is what was counted, delivered again by a new channel before the count was durable."""
        for known in self._counted:
            if known.delivery.generation < delivery.generation and known.digest == digest:
                known.delivery = replace(delivery, body=b"")
                return intake.may_count(known.delivery)
        return False

    def placed(self, intake: Intake, delivery: Delivery, frame: Frame, reason: str, kind: RefusalKind = "malformed") -> None:
        """Refuse part of a sequence: it is not acknowledged before its dead letter is safe."""
        sequence = frame.sequence  # of the frame nothing else is kept until its letter is safe
        intake.block(sequence)
        self._dead.refuse(delivery, frame, reason, lambda: intake.unblock(sequence), kind)


def kind_of(error: Exception) -> RefusalKind:
    """Return of which kind the refusal is that an error asks for."""
    if isinstance(error, PoisonedMessage):
        return "poison"
    if isinstance(error, NonFiniteError):
        return "nonfinite"
    return "malformed" if isinstance(error, MalformedMessage) else "unfit"
