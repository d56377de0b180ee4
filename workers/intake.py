"""One client's queue in one round: puts deliveries in order and holds each until its effect is durable."""

from collections import Counter
from dataclasses import replace
from typing import Protocol

from broker.codec import MAX_FRAMES, decode
from broker.errors import MalformedMessage
from broker.messages import Frame
from broker.transport import Delivery, Reopened, Subscription
from coordinator.store.records import StreamClient
from workers.parked import Parked, Taken
from workers.run_settings import Bounds


class Refuse(Protocol):
    """Where an intake sends what it cannot use; each is called with the intake first."""

    def unplaced(self, intake: "Intake", delivery: Delivery, frame: Frame | None, reason: str, /) -> None:
        """Refuse what cannot be placed at all; it ends in ``may_count`` and ``ack_refused``."""

    def placed(self, intake: "Intake", delivery: Delivery, frame: Frame, reason: str, /) -> None:
        """Refuse part of a sequence; between ``block`` and ``unblock``."""

    def given_up(self, intake: "Intake", delivery: Delivery, /) -> None:
        """Count a delivery that was refused as part of a sequence, and whose turn will not come; as ``unplaced`` ends."""

    def again(self, intake: "Intake", delivery: Delivery, frame: Frame, /) -> bool:
        """Take a sequence that comes again, before it is settled; return whether it is of use, else it is a duplicate."""


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
        bounds: Bounds,
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
        self._later_large: dict[tuple[int, int, int], set[int]] = {}  # and the one of a later round, with its parts that are here
        self._unplaced = 0  # deliveries refused and not acknowledged yet
        self._later: list[Delivery] = []  # of later rounds and incarnations
        self._parked: dict[int, Parked] = {}
        self._held: dict[int, list[Delivery]] = {}  # by sequence: what is not acknowledged yet; without bodies, which are parked
        self._bytes: dict[int, int] = {}  # by sequence: of what has had its effect
        self._blocked: Counter[int] = Counter()  # by sequence: dead letters that are not safe yet
        self.unsettled = 0  # deliveries that have had their effect and are not acknowledged,
        self.unsettled_bytes = 0  # and their bytes
        self._generation = 0

    @property
    def prefetch(self) -> int:
        """Deliveries that are handed out unacknowledged."""
        return self._bounds.prefetch

    def receive(self, item: Delivery | Reopened) -> None:
        """Take what the transport delivered."""
        if item.generation < self._generation:
            return
        if item.generation > self._generation:
            self._generation = item.generation
            for kept in (self._parked, self._held, self._bytes, self._later, self._later_large):
                kept.clear()
            self._large = None
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

    @property
    def has_gap(self) -> bool:
        """Whether later sequences are here and the expected one is not."""
        return bool(self._parked) and not self.ready()

    def give_up_ahead(self) -> int:
        """Refuse all that cannot be trained yet, so that the expected sequence can be delivered; a client sends the rest again.

        Returns how many deliveries that were; what was refused already stays until its dead letter is safe.
        """
        reason = f"in the way of sequence {self.expected} of round {self._round}, which does not come"
        given_up = [delivery for delivery in self._later if delivery.body]
        self._later = [delivery for delivery in self._later if not delivery.body]
        copies: list[Delivery] = []
        faults = 0
        for sequence in [known for known in self._held if known >= self.expected and not self._blocked[known]]:
            parked, held = self._parked.pop(sequence), self._held.pop(sequence)
            if parked.fault:
                self._unplaced += len(held)
                faults += len(held)
                for delivery in held:
                    self._refuse.given_up(self, delivery)
            else:
                bodies = {delivery.tag: delivery for delivery in parked.deliveries.values()}
                given_up += bodies.values()
                copies += [delivery for delivery in held if delivery.tag not in bodies]
        self._ack(copies)
        self._large = None
        for delivery in given_up:
            self._refuse_unplaced(delivery, decode(delivery.body, Frame), reason)
        return len(given_up) + len(copies) + faults

    def next(self) -> Taken | None:
        """Return the expected sequence and expect the one after; None if it is not here."""
        if not self.ready():
            return None
        parked, sequence = self._parked.pop(self.expected), self.expected
        if sequence == self._large:
            self._large = None
        deliveries = [parked.deliveries[part] for part in range(parked.parts)] if not parked.fault else []
        self._bytes[sequence] = parked.size if not parked.fault else 0
        self.unsettled += len(self._held[sequence])
        self.unsettled_bytes += self._bytes[sequence]
        self.expected += 1
        return Taken(sequence, [decode(delivery.body, Frame) for delivery in deliveries], deliveries, parked.copies, parked.fault)

    def settle(self, durable: int) -> None:
        """Acknowledge every delivery whose sequence the durable position has passed: the one rule of acknowledgement."""
        self._durable = max(self._durable, durable)
        for sequence in [known for known in self._held if known < self._durable and not self._blocked[known]]:
            deliveries = self._held.pop(sequence)
            self.unsettled -= len(deliveries)
            self.unsettled_bytes -= self._bytes.pop(sequence, 0)
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

    def may_count(self, delivery: Delivery) -> bool:
        """What has no place in the sequence became a dead letter; return whether to count it: else it will come again."""
        current = delivery.generation == self._generation
        self.unsettled += current
        return current

    def ack_refused(self, delivery: Delivery) -> None:
        """Acknowledge what has no place in the sequence and was counted for good."""
        if delivery.generation == self._generation:
            self._unplaced -= 1
            self.unsettled -= 1
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
        if size <= self._bounds.frame:
            self._later.append(delivery)
            return
        place = (frame.incarnation, frame.round, frame.sequence)
        if not self._later_large:
            self._later_large[place] = set()
        parts = self._later_large.get(place)
        if parts is not None and frame.part not in parts:
            parts.add(frame.part)
            self._later.append(_emptied(delivery))
        else:
            self._refuse_unplaced(delivery, frame, f"{size} bytes, more than a batch has, and not the only one")

    def _order(self, delivery: Delivery, frame: Frame) -> None:
        if frame.sequence < self.expected:
            self._repeat(delivery, frame)
            return
        self._held.setdefault(frame.sequence, []).append(_emptied(delivery))
        parked = self._parked.setdefault(frame.sequence, Parked(frame.parts))
        if parked.fault:
            self._duplicates += frame.part in parked.faulty
            parked.faulty.add(frame.part)
            self._refuse.placed(self, delivery, frame, parked.fault)
            return
        if frame.parts != parked.parts and len(parked.deliveries) < parked.parts:  # sent again under another message limit
            parked = self._parked[frame.sequence] = Parked(frame.parts, copies=self._copies(parked))
        if frame.part in parked.deliveries or frame.parts != parked.parts:
            self._duplicates += 1
            parked.copies = self._copies(parked, delivery)
        elif self._fits(len(delivery.body), frame.sequence, parked):
            parked.deliveries[frame.part] = delivery
            parked.size += len(delivery.body)
        else:
            parked.fault = f"{len(delivery.body)} bytes or more, which neither a batch nor a client's half has"
            parked.faulty = {*parked.deliveries, frame.part}
            bodies = [*parked.deliveries.values(), *parked.copies, delivery]
            parked.deliveries, parked.copies = {}, []
            for body in bodies:
                self._refuse.placed(self, body, frame, parked.fault)

    def _repeat(self, delivery: Delivery, frame: Frame) -> None:
        """Take a delivery of a sequence whose turn has been: what has had its effect, or was refused."""
        self._held.setdefault(frame.sequence, []).append(_emptied(delivery))
        self.unsettled += 1
        if len(delivery.body) > self._bounds.frame:
            frame = frame.model_copy(update={"requeued": False})  # it has been refused for its size
        self._duplicates += not self._refuse.again(self, delivery, frame)
        self.settle(self._durable)

    def _fits(self, size: int, sequence: int, parked: Parked) -> bool:
        """Return whether a delivery may be held until its turn comes: as a batch, or as the one message that may be larger."""
        whole = parked.size + size
        if size <= self._bounds.frame and whole <= self._bounds.batch:
            return True
        if self._large is None:
            self._large = sequence
        return sequence == self._large and whole <= self._bounds.marker

    def _copies(self, parked: Parked, *more: Delivery) -> list[Delivery]:
        """Return the copies of a sequence with more of them; of what is larger than a batch none is kept."""
        found = more or parked.deliveries.values()
        return [*parked.copies, *(delivery for delivery in found if len(delivery.body) <= self._bounds.frame)]

    def _refuse_unplaced(self, delivery: Delivery, frame: Frame | None, reason: str) -> None:
        self._unplaced += 1
        self._refuse.unplaced(self, delivery, frame, reason)

    def _ack(self, deliveries: list[Delivery]) -> None:
        if self.subscription is not None:
            self.subscription.ack(deliveries)


def _emptied(delivery: Delivery) -> Delivery:
    """Return what it takes to acknowledge a delivery."""
    return replace(delivery, body=b"")
