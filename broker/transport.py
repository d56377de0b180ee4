"""What a role needs of a message queue. ``memory`` and ``rabbitmq`` implement it."""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from broker.topology import Queue


class Settled(enum.Enum):
    """How one publish ended."""

    CONFIRMED = "confirmed"  # the broker has it, durably where the queue is durable
    REFUSED = "refused"  # nacked: the queue is full or has no leader
    UNROUTABLE = "unroutable"  # no such queue
    LOST = "lost"  # the connection went before the answer came; the message may or may not be there


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message handed to a consumer, unacknowledged until ``Subscription.ack``."""

    queue: str
    body: bytes
    tag: int
    generation: int  # of the subscription's channel; a tag means nothing on a later one
    redelivered: bool
    sender: str | None = None  # the broker-validated user, where the publisher named one


@dataclass(frozen=True, slots=True)
class Reopened:
    """A subscription has a new channel: every delivery of an earlier generation will come again."""

    queue: str
    generation: int


Sink = Callable[[Delivery | Reopened], None]
OnSettled = Callable[[Settled], None]


class Subscription(Protocol):
    """A consumer with its own channel and prefetch. Survives reconnects, announcing each with ``Reopened``."""

    @property
    def generation(self) -> int:
        """Number of the current channel, from 1."""

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge deliveries one by one; those of an earlier generation are ignored."""

    def reopen(self) -> None:
        """Close the channel and open another: all unacknowledged deliveries come again."""

    def close(self) -> None:
        """Close the channel and return when that is done: unacknowledged deliveries go back to the queue."""


class Transport(Protocol):
    """A connection to a broker; every method may be called from any thread.

    Sinks and ``on_settled`` callbacks run on the transport's own thread: they must only hand over.
    Methods that wait for the broker raise ``BrokerUnavailable`` after the transport's time-out and
    ``BrokerRefused`` where trying again is useless.
    """

    def declare(self, queue: Queue) -> None:
        """Create a queue if it is not there."""

    def delete(self, name: str) -> None:
        """Delete a queue with what is in it; no error if it is not there.

        Subscriptions go on when it is declared again; those of other transports may need ``reopen`` if that was at once.
        """

    def depth(self, name: str) -> int:
        """Return the number of ready messages; raise ``UnknownQueue`` if there is no such queue."""

    def consumers(self, name: str) -> int:
        """Return the number of subscriptions to a queue, of all processes; raise ``UnknownQueue`` if there is no such queue.

        At a queue with a single active consumer it is at least 1 if there are any: a broker need not count those that wait.
        """

    def publish(self, queue: str, body: bytes, on_settled: OnSettled | None = None, *, ttl: float | None = None) -> None:
        """Send a message without waiting; ``on_settled`` is called exactly once, also when there is no connection.

        ttl: seconds after which an unconsumed message is dropped.
        """

    def subscribe(self, queue: str, prefetch: int, sink: Sink) -> Subscription:
        """Consume a queue, at most ``prefetch`` deliveries unacknowledged; raise ``UnknownQueue`` if it is not there."""

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to timeout seconds for a connection; return whether there is one."""

    def close(self) -> None:
        """Flush what was published, close the connection and stop its thread."""
