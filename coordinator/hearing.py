"""Whether a coordinator hears what is said to it."""

import secrets
import time

from broker.codec import encode
from broker.messages import Echo
from broker.transport import Settled, Transport

ECHOES = 8  # in a time-out


class Hearing:
    """Sends messages to the coordinator's own queue and waits for them to come back.

    One that has come back shows that the broker takes messages and that everything sent before it has been heard. While none
    does, a silent client may be as well as the coordinator is: the broker is away or takes no messages, its queue is long, or
    this process stood still. timeout: seconds of silence that would count against a client.
    """

    def __init__(self, transport: Transport, queue: str, timeout: float) -> None:
        self._transport = transport
        self._queue = queue
        self._timeout = timeout
        self._sender = secrets.token_hex(8)
        self._sent = self._heard = time.monotonic()
        self._on_its_way = False  # one at a time: what a broker does not take piles up here

    @property
    def is_up_to_date(self) -> bool:
        """Whether what was said until half a time-out ago has been heard."""
        return time.monotonic() - self._heard <= self._timeout / 2

    def turn(self) -> None:
        """Send the next message, when it is time."""
        now = time.monotonic()
        if not self._on_its_way and now - self._sent >= self._timeout / ECHOES:
            self._sent, self._on_its_way = now, True
            self._transport.publish(self._queue, encode(Echo(sender=self._sender, sent=now)), self._settled, ttl=self._timeout)

    def hear(self, message: Echo) -> bool:
        """Take a message that came back; return whether those before it had been away for too long."""
        if message.sender != self._sender or not self._heard < message.sent <= time.monotonic():
            return False
        gap, self._heard = message.sent - self._heard, message.sent
        return gap > self._timeout / 2

    def _settled(self, _outcome: Settled) -> None:
        self._on_its_way = False
