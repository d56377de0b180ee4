"""What a role refuses goes to the run's dead-letter queue with its reason."""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from broker import topology
from broker.codec import encode
from broker.crash_points import Between, crash_point
from broker.events import Emit, MessageRefused, RefusalKind
from broker.mailbox import Mailbox
from broker.messages import DeadLetter, Frame
from broker.settings import MIB
from broker.transport import Delivery, Settled, Transport

RETRY_SECONDS = 1.0
MOST_REASON = 500  # characters
BEGINNING_BYTES = 1024  # kept of what is too large for a letter
ENVELOPE_BYTES = 4096  # that a letter adds to the body of what was refused


@dataclass(frozen=True)
class _Letter:
    body: bytes
    safe: Callable[[], None]


class DeadLetters:
    """Publishes dead letters until the broker has them; the caller acknowledges the delivery then.

    Belongs to one thread; confirms come in through its mailbox. limit: bytes of the largest letter; a broker closes the
    channel on one that is too large for it, however often it is sent.
    """

    def __init__(self, transport: Transport, run: str, mailbox: Mailbox, emit: Emit, limit: int = 32 * MIB) -> None:
        self._transport = transport
        self._queue = topology.dead(run)
        self._mailbox = mailbox
        self._emit = emit
        self._limit = limit
        self._failed: deque[tuple[float, _Letter]] = deque()  # with the time of the next try, in order
        self.pending = 0  # letters that the broker does not have yet

    def refuse(
        self,
        delivery: Delivery,
        frame: Frame | None,
        reason: str,
        safe: Callable[[], None],
        kind: RefusalKind = "malformed",
    ) -> None:
        """Publish a delivery as a dead letter; ``safe`` is called on the role's thread when the broker has it.

        The same delivery refused twice gives two letters of one id.
        """
        fits = len(delivery.body) <= self._limit - min(ENVELOPE_BYTES, self._limit // 4)
        letter = DeadLetter(
            id=hashlib.sha256(delivery.body).hexdigest()[:32],
            queue=delivery.queue,
            reason=reason[:MOST_REASON],
            sender=delivery.sender,
            client=frame.client if frame else None,
            round=frame.round if frame else None,
            sequence=frame.sequence if frame else None,
            size=len(delivery.body),
            body=delivery.body if fits else delivery.body[:BEGINNING_BYTES],
        )
        self._emit(MessageRefused(queue=delivery.queue, reason=reason, kind=kind))
        self.pending += 1
        self._publish(_Letter(encode(letter), safe))
        crash_point(Between.LETTER_AND_CONFIRM)

    def turn(self) -> None:
        """Publish again what the broker did not take, when it is time."""
        while self._failed and self._failed[0][0] <= time.monotonic():
            self._publish(self._failed.popleft()[1])

    def _publish(self, letter: _Letter) -> None:
        self._transport.publish(
            self._queue.name, letter.body, lambda outcome: self._mailbox.post(lambda: self._settled(letter, outcome))
        )

    def _settled(self, letter: _Letter, outcome: Settled) -> None:
        if outcome is Settled.CONFIRMED:
            self.pending -= 1
            crash_point(Between.CONFIRM_AND_REFUSAL_ACK)
            letter.safe()
            return
        self._failed.append((time.monotonic() + RETRY_SECONDS, letter))
        if outcome is Settled.UNROUTABLE:
            self._transport.declare(self._queue)
