"""What a worker refuses goes to the run's dead-letter queue with its reason."""

import hashlib
from collections.abc import Callable

from broker import topology
from broker.codec import encode
from broker.events import Emit, MessageRefused
from broker.mailbox import Mailbox
from broker.messages import DeadLetter, Frame
from broker.transport import Delivery, Settled, Transport


class DeadLetters:
    """Publishes dead letters; the caller acknowledges the delivery when one is safe."""

    def __init__(self, transport: Transport, run: str, mailbox: Mailbox, emit: Emit) -> None:
        self._transport = transport
        self._queue = topology.dead(run).name
        self._mailbox = mailbox
        self._emit = emit

    def refuse(self, delivery: Delivery, frame: Frame | None, reason: str, safe: Callable[[], None]) -> None:
        """Publish a delivery as a dead letter; ``safe`` is called on the role's thread when the broker has it.

        If the broker does not take it, the delivery stays unacknowledged and comes again.
        """
        letter = DeadLetter(
            id=hashlib.sha256(delivery.body).hexdigest()[:32],
            queue=delivery.queue,
            reason=reason[:2000],
            sender=delivery.sender,
            client=frame.client if frame else None,
            round=frame.round if frame else None,
            sequence=frame.sequence if frame else None,
            body=delivery.body,
        )
        self._emit(MessageRefused(queue=delivery.queue, reason=reason))
        self._publish(encode(letter), safe)

    def _publish(self, body: bytes, safe: Callable[[], None]) -> None:
        def settled(outcome: Settled) -> None:
            if outcome is Settled.CONFIRMED:
                self._mailbox.post(safe)

        self._transport.publish(self._queue, body, settled)
