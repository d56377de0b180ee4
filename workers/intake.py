"""One client's queue in one round: puts deliveries in order and holds each until its effect is durable."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Protocol

from broker.codec import MAX_FRAMES, decode
from broker.errors import MalformedMessage
from broker.messages import Frame
from broker.settings import MIB
from broker.transport import Delivery, Reopened, Subscription
from coordinator.store.records import StreamClient


@dataclass(frozen=True)
class Bounds:
    """How much an intake takes, the same for every worker of a run.

    prefetch: deliveries that the subscription hands out unacknowledged; a message of more parts would never be complete.
    limit: bytes of the largest message. batch: bytes of the largest frame of a batch: so many for each of the prefetch may be
    held. marker: bytes of an end of round that brings the client's half; one message may have these instead.
    """

    prefetch: int = MAX_FRAMES
    limit: int = 32 * MIB
    batch: int = 32 * MIB
    marker: int = 0


class Refuse(Protocol):
    """Where an intake sends what it cannot use; each is called with the intake first."""

    def unplaced(self, intake: "Intake", delivery: Delivery, frame: Frame | None, reason: str, /) -> None:
        """Refuse what cannot be placed at all; it ends in ``may_count`` and ``ack_refused``."""

    def placed(self, intake: "Intake", delivery: Delivery, frame: Frame, reason: str, /) -> None:
        """Refuse part of a sequence; between ``block`` and ``unblock``."""

    def again(self, intake: "Intake", delivery: Delivery, frame: Frame, /) -> bool:
        """Take a sequence that comes again, before it is settled; return whether it is of use, else it is a duplicate."""


@dataclass
class _Parked:
    """The deliveries of one sequence that have arrived, by part; the number of parts is the first one's."""

    parts: int
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    fault: str = ""  # why it was refused when it arrived, before its turn


@dataclass(frozen=True)
class Taken:
    """A sequence whose turn it is: its frames, in order, or why they were refused when they arrived."""

    sequence: int
    frames: list[Frame]
    fault: str = ""


class Intake:
    """Orders one client's frames by sequence. Redelivery order is not trusted.

    durable: the sequence before which everything lasts, where that is not the one expected.
    """

    def __init__(
        self,
        client: StreamClient,
        round: int,
        expected: int,
        refuse: Refuse,
        bounds: Bounds = Bounds(),
        *,
        durable: int | None = None,
    ) -> None:
        self.client = client
        self.expected = expected  # the sequence to be trained next
        self._duplicates = 0
        self.subscription: Subscription | None = None
        self._round = round
        self._durable = expected if durable is None else durable
        self._refuse = refuse
        self._bounds = bounds
        self._over = False
        self._large: int | None = None  # the sequence that may be larger than a batch,
        self._later_large: tuple[int, int, int] | None = None  # and the one of a later round
        self._unplaced = 0  # deliveries refused and not acknowledged yet
        self._later: list[Delivery] = []  # of later rounds and incarnations
        self._parked: dict[int, _Parked] = {}
        self._held: dict[int, list[Delivery]] = {}  # by sequence: what is not acknowledged yet
        self._blocked: Counter[int] = Counter()  # by sequence: dead letters that are not safe yet
        self.unsettled = 0  # deliveries that have had their effect and are not acknowledged,
        self.unsettled_bytes = 0  # and their bytes
        self._generation = 0

    def receive(self, item: Delivery | Reopened) -> None:
        """Take what the transport delivered."""
        if item.generation < self._generation:
            return
        if item.generation > self._generation:
            self._generation = item.generation
            self._parked.clear()
            self._held.clear()
            self._later.clear()
            self.unsettled = self.unsettled_bytes = self._unplaced = 0
        if isinstance(item, Delivery) and not self._over:
            self._place(item)

    def stop(self) -> None:
        """The client's round has ended: what is delivered from now on stays unacknowledged and comes again."""
        self._over = True

    def ready(self) -> bool:
        """Return whether the expected sequence is complete."""
        parked = self._parked.get(self.expected)
        return parked is not None and (len(parked.deliveries) == parked.parts or bool(parked.fault))

    def clogged(self) -> bool:
        """Return whether nothing more will be delivered while the expected sequence is not here."""
        held = sum(map(len, self._held.values())) + len(self._later) + self._unplaced
        return held >= self._bounds.prefetch and not self.ready()

    def give_up_ahead(self) -> None:
        """Refuse all that cannot be trained yet, so that the expected sequence can be delivered; a client sends the rest again."""
        reason = f"in the way of sequence {self.expected} of round {self._round}, which does not come"
        given_up = [delivery for delivery in self._later if delivery.body]
        self._later = [delivery for delivery in self._later if not delivery.body]
        for sequence in [known for known in self._held if known >= self.expected and not self._blocked[known]]:
            self._parked.pop(sequence, None)
            held = self._held.pop(sequence)
            given_up += [delivery for delivery in held if delivery.body]
            self._ack([delivery for delivery in held if not delivery.body])  # copies of the others
        for delivery in given_up:
            self._refuse_unplaced(delivery, decode(delivery.body, Frame), reason)

    def next(self) -> Taken | None:
        """Return the expected sequence and expect the one after; None if it is not here."""
        if not self.ready():
            return None
        parked, sequence = self._parked.pop(self.expected), self.expected
        self._count(self._held[sequence], 1)
        self.expected += 1
        if parked.fault:
            return Taken(sequence, [], parked.fault)
        return Taken(sequence, [decode(parked.deliveries[part].body, Frame) for part in range(parked.parts)])

    def settle(self, durable: int) -> None:
        """Acknowledge every delivery whose sequence the durable position has passed: the one rule of acknowledgement."""
        self._durable = max(self._durable, durable)
        for sequence in [known for known in self._held if known < self._durable and not self._blocked[known]]:
            deliveries = self._held.pop(sequence)
            self._count(deliveries, -1)
            self._ack(deliveries)

    def block(self, sequence: int) -> None:
        """Hold a refused sequence back from ``settle`` until ``unblock``: its dead letter comes before its acknowledgement."""
        self._blocked[sequence] += 1

    def unblock(self, sequence: int) -> None:
        """One dead letter of a refused sequence is safe."""
        self._blocked[sequence] -= 1
        self.settle(self._durable)

    def take_duplicates(self) -> int:
        """Return how many duplicates were dropped since this was last asked."""
        count, self._duplicates = self._duplicates, 0
        return count

    def bodies(self, sequence: int) -> list[Delivery]:
        """Return the deliveries held for a sequence, without copies."""
        return [delivery for delivery in self._held.get(sequence, ()) if delivery.body]

    def may_count(self, delivery: Delivery) -> bool:
        """What has no place in the sequence became a dead letter; return whether to count it: else it will come again."""
        current = delivery.generation == self._generation
        if current:
            self._count([delivery], 1)
        return current

    def ack_refused(self, delivery: Delivery) -> None:
        """Acknowledge what has no place in the sequence and was counted for good."""
        if delivery.generation == self._generation:
            self._unplaced -= 1
            self._count([delivery], -1)
            self._ack([delivery])

    def close(self) -> None:
        """Stop consuming: what is not acknowledged comes again, to whoever consumes next."""
        self._generation += 1
        self._over = True  # also for what a channel that was opened meanwhile has delivered
        for kept in (self._parked, self._held, self._later):  # megabytes, which a cycle of references may outlive
            kept.clear()
        if self.subscription is not None:
            self.subscription.close()

    def _place(self, delivery: Delivery) -> None:
        size, limit = len(delivery.body), self._bounds.limit
        if size > limit:
            self._refuse_unplaced(delivery, None, f"{size} bytes, a message of this run has at most {limit}")
            return
        try:
            frame = decode(delivery.body, Frame)
        except MalformedMessage as error:
            self._refuse_unplaced(delivery, None, str(error))
            return
        most_parts = min(MAX_FRAMES, self._bounds.prefetch)
        if frame.client != self.client.id:
            self._refuse_unplaced(delivery, frame, f"from client {frame.client!r} in the queue of {self.client.id!r}")
        elif frame.parts > most_parts:
            self._refuse_unplaced(delivery, frame, f"{frame.parts} parts, at most {most_parts} are allowed")
        elif (frame.incarnation, frame.round) < (self.client.incarnation, self._round) and frame.requeued:
            self._refuse_unplaced(delivery, frame, f"requeued, and still here after its round {frame.round}")
        elif (frame.incarnation, frame.round) < (self.client.incarnation, self._round):
            self._duplicates += 1
            self._ack([delivery])
        elif (frame.incarnation, frame.round) == (self.client.incarnation, self._round):
            self._order(delivery, frame)
        else:
            self._put_off(delivery, frame)

    def _put_off(self, delivery: Delivery, frame: Frame) -> None:
        """Hold a later round's frame: it stays unacknowledged and comes again when the channel closes."""
        size = len(delivery.body)
        if size <= self._bounds.batch:
            self._later.append(delivery)
            return
        place = (frame.incarnation, frame.round, frame.sequence)
        self._later_large = self._later_large or place
        if self._later_large == place:
            self._later.append(_emptied(delivery))
        else:
            self._refuse_unplaced(delivery, frame, f"{size} bytes, more than a batch has, and not the only one")

    def _order(self, delivery: Delivery, frame: Frame) -> None:
        if frame.sequence < self.expected:
            self._repeat(delivery, frame)
            return
        held = self._held.setdefault(frame.sequence, [])
        parked = self._parked.setdefault(frame.sequence, _Parked(frame.parts))
        if frame.parts != parked.parts and len(parked.deliveries) < parked.parts:  # sent again under another message limit
            held[:] = map(_emptied, held)
            parked = self._parked[frame.sequence] = _Parked(frame.parts, fault=parked.fault)
        if parked.fault or not self._fits(delivery, frame.sequence, parked):
            parked.fault = parked.fault or f"{len(delivery.body)} bytes or more, which neither a batch nor a client's half has"
            bodies = [*(known for known in held if known.body), delivery]
            held[:] = map(_emptied, (*held, delivery))
            parked.deliveries.clear()
            for body in bodies:
                self._refuse.placed(self, body, frame, parked.fault)
        elif frame.part in parked.deliveries or frame.parts != parked.parts:
            held.append(_emptied(delivery))
            self._duplicates += 1
        else:
            held.append(delivery)
            parked.deliveries[frame.part] = delivery

    def _repeat(self, delivery: Delivery, frame: Frame) -> None:
        """Take a delivery of a sequence whose turn has been: what has had its effect, or was refused."""
        emptied = _emptied(delivery)
        self._held.setdefault(frame.sequence, []).append(emptied)
        self._count([emptied], 1)
        if len(delivery.body) > self._bounds.batch:
            frame = frame.model_copy(update={"requeued": False})  # it has been refused for its size
        self._duplicates += not self._refuse.again(self, delivery, frame)
        self.settle(self._durable)

    def _fits(self, delivery: Delivery, sequence: int, parked: _Parked) -> bool:
        """Return whether a delivery may be held until its turn comes: as a batch, or as the one message that may be larger."""
        size = len(delivery.body)
        if size > self._bounds.batch and self._large is None:
            self._large = sequence
        held = sum(len(known.body) for known in parked.deliveries.values())
        return size <= self._bounds.batch or (sequence == self._large and held + size <= self._bounds.marker)

    def _refuse_unplaced(self, delivery: Delivery, frame: Frame | None, reason: str) -> None:
        self._unplaced += 1
        self._refuse.unplaced(self, delivery, frame, reason)

    def _count(self, deliveries: list[Delivery], sign: int) -> None:
        self.unsettled += sign * len(deliveries)
        self.unsettled_bytes += sign * sum(len(delivery.body) for delivery in deliveries)

    def _ack(self, deliveries: list[Delivery]) -> None:
        if self.subscription is not None:
            self.subscription.ack(deliveries)


def _emptied(delivery: Delivery) -> Delivery:
    """Return what it takes to acknowledge a delivery whose body is of no use any more, or is kept elsewhere."""
    return replace(delivery, body=b"")
