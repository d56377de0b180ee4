"""One client's queue in one round: puts deliveries in order and holds each until its effect is durable."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.codec import MAX_FRAMES, decode
from broker.errors import MalformedMessage
from broker.messages import Frame
from broker.settings import MIB
from broker.transport import Delivery, Reopened, Subscription
from coordinator.store.records import StreamClient

Refuse = Callable[["Intake", Delivery, Frame | None, str], None]
Again = Callable[["Intake", Delivery, Frame], bool]


@dataclass
class _Parked:
    """The frames of one sequence that have arrived, by part; the number of parts is the first frame's."""

    parts: int
    frames: dict[int, Frame] = field(default_factory=dict)


class Intake:
    """Orders one client's frames by sequence. Redelivery order is not trusted.

    durable: the sequence before which everything lasts, where that is not the one expected.
    refuse: called with what cannot be placed at all; it must end in ``may_count`` and ``ack_refused``. again: called with every
    sequence that comes again, before it is settled; returns whether it is of use, else it is a duplicate. prefetch: deliveries
    that the subscription hands out unacknowledged; a message of more parts would never be complete. limit: bytes of the largest
    message.
    """

    def __init__(
        self,
        client: StreamClient,
        round: int,
        expected: int,
        refuse: Refuse,
        again: Again,
        *,
        durable: int | None = None,
        prefetch: int = MAX_FRAMES,
        limit: int = 32 * MIB,
    ) -> None:
        self.client = client
        self.expected = expected  # the sequence to be trained next
        self._duplicates = 0
        self.subscription: Subscription | None = None
        self._round = round
        self._durable = expected if durable is None else durable
        self._refuse = refuse
        self._again = again
        self._prefetch = prefetch
        self._limit = limit
        self._over = False
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
        return parked is not None and len(parked.frames) == parked.parts

    def gap(self) -> bool:
        """Return whether later sequences are here while the expected one is not."""
        return bool(self._parked) and not self.ready()

    def clogged(self) -> bool:
        """Return whether nothing more will be delivered while the expected sequence is not here."""
        held = sum(map(len, self._held.values())) + len(self._later) + self._unplaced
        return held >= self._prefetch and not self.ready()

    def give_up_ahead(self) -> None:
        """Refuse all that cannot be trained yet, so that the expected sequence can be delivered; a client sends the rest again."""
        waiting = [known for known in self._held if known >= self.expected]
        given_up = [delivery for known in waiting for delivery in self._held.pop(known)] + self._later
        self._parked.clear()
        self._later = []
        reason = f"in the way of sequence {self.expected} of round {self._round}, which does not come"
        for delivery in given_up:
            self._refuse_unplaced(delivery, decode(delivery.body, Frame), reason)

    def next(self) -> list[Frame] | None:
        """Return the frames of the expected sequence, in order, and expect the one after; None if it is not here."""
        if not self.ready():
            return None
        parked = self._parked.pop(self.expected)
        self._count(self._held[self.expected], 1)
        self.expected += 1
        return [parked.frames[part] for part in range(parked.parts)]

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
        """Return the deliveries held for a sequence."""
        return list(self._held.get(sequence, ()))

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
        if len(delivery.body) > self._limit:
            self._refuse_unplaced(delivery, None, f"{len(delivery.body)} bytes, a message of this run has at most {self._limit}")
            return
        try:
            frame = decode(delivery.body, Frame)
        except MalformedMessage as error:
            self._refuse_unplaced(delivery, None, str(error))
            return
        most_parts = min(MAX_FRAMES, self._prefetch)
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
        else:  # a later round's frames stay unacknowledged and come again when the channel closes
            self._later.append(delivery)

    def _order(self, delivery: Delivery, frame: Frame) -> None:
        self._held.setdefault(frame.sequence, []).append(delivery)
        if frame.sequence < self.expected:
            self._count([delivery], 1)
            self._duplicates += not self._again(self, delivery, frame)
            self.settle(self._durable)
            return
        parked = self._parked.setdefault(frame.sequence, _Parked(frame.parts))
        if frame.parts != parked.parts and len(parked.frames) < parked.parts:  # sent again under another message limit
            parked = self._parked[frame.sequence] = _Parked(frame.parts)
        if frame.part in parked.frames or frame.parts != parked.parts:
            self._duplicates += 1
        else:
            parked.frames[frame.part] = frame

    def _refuse_unplaced(self, delivery: Delivery, frame: Frame | None, reason: str) -> None:
        self._unplaced += 1
        self._refuse(self, delivery, frame, reason)

    def _count(self, deliveries: list[Delivery], sign: int) -> None:
        self.unsettled += sign * len(deliveries)
        self.unsettled_bytes += sign * sum(len(delivery.body) for delivery in deliveries)

    def _ack(self, deliveries: list[Delivery]) -> None:
        if self.subscription is not None:
            self.subscription.ack(deliveries)
