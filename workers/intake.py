"""One client's queue in one round: puts deliveries in order and holds each until its effect is durable."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.codec import MAX_FRAMES, decode
from broker.errors import MalformedMessage
from broker.messages import Frame
from broker.transport import Delivery, Reopened, Subscription
from coordinator.store.records import StreamClient

Refuse = Callable[["Intake", Delivery, Frame | None, str], None]
Again = Callable[["Intake", Delivery, Frame], None]


@dataclass
class _Parked:
    """The frames of one sequence that have arrived, by part; the number of parts is the first frame's."""

    parts: int
    frames: dict[int, Frame] = field(default_factory=dict)


class Intake:
    """Orders one client's frames by sequence. Redelivery order is not trusted.

    refuse: called with what cannot be placed at all; it must end in ``ack_refused``. again: called with every duplicate, before
    it is settled.
    """

    def __init__(self, client: StreamClient, round: int, expected: int, refuse: Refuse, again: Again) -> None:
        self.client = client
        self.expected = expected  # the sequence to be trained next
        self._duplicates = 0
        self.subscription: Subscription | None = None
        self._round = round
        self._durable = expected
        self._refuse = refuse
        self._again = again
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
            self.unsettled = self.unsettled_bytes = 0
        if isinstance(item, Delivery):
            self._place(item)

    def ready(self) -> bool:
        """Return whether the expected sequence is complete."""
        parked = self._parked.get(self.expected)
        return parked is not None and len(parked.frames) == parked.parts

    def gap(self) -> bool:
        """Return whether later sequences are here while the expected one is not."""
        return bool(self._parked) and not self.ready()

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

    def ack_refused(self, delivery: Delivery) -> bool:
        """Acknowledge what became a dead letter and has no place in the sequence; False if it will come again."""
        current = delivery.generation == self._generation
        if current:
            self._ack([delivery])
        return current

    def _place(self, delivery: Delivery) -> None:
        try:
            frame = decode(delivery.body, Frame)
        except MalformedMessage as error:
            self._refuse(self, delivery, None, str(error))
            return
        if frame.client != self.client.id:
            self._refuse(self, delivery, frame, f"from client {frame.client!r} in the queue of {self.client.id!r}")
        elif frame.parts > MAX_FRAMES:
            self._refuse(self, delivery, frame, f"{frame.parts} parts, at most {MAX_FRAMES} are allowed")
        elif (frame.incarnation, frame.round) < (self.client.incarnation, self._round):
            self._duplicates += 1
            self._ack([delivery])
        elif (frame.incarnation, frame.round) == (self.client.incarnation, self._round):
            self._order(delivery, frame)
        # A later round's frames stay unacknowledged and come again when the channel closes.

    def _order(self, delivery: Delivery, frame: Frame) -> None:
        self._held.setdefault(frame.sequence, []).append(delivery)
        if frame.sequence < self.expected:
            self._duplicates += 1
            self._count([delivery], 1)
            self._again(self, delivery, frame)
            self.settle(self._durable)
            return
        parked = self._parked.setdefault(frame.sequence, _Parked(frame.parts))
        if frame.parts != parked.parts:  # sent again under another message limit
            parked = self._parked[frame.sequence] = _Parked(frame.parts)
        if frame.part in parked.frames:
            self._duplicates += 1
        parked.frames.setdefault(frame.part, frame)

    def _count(self, deliveries: list[Delivery], sign: int) -> None:
        self.unsettled += sign * len(deliveries)
        self.unsettled_bytes += sign * sum(len(delivery.body) for delivery in deliveries)

    def _ack(self, deliveries: list[Delivery]) -> None:
        if self.subscription is not None:
            self.subscription.ack(deliveries)
