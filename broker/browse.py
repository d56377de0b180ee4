"""Looks at what is in a queue without taking it out."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

from broker.errors import BrokerUnavailable
from broker.transport import Delivery, Reopened, Subscription, Transport

T = TypeVar("T")
Look = Callable[[Delivery], T]

PREFETCH = 65_535  # AMQP counts in 16 bits: a longer queue takes several subscriptions
QUIET_SECONDS = 0.5  # without a message, after which the queue's depth is read again
PATIENCE_SECONDS = 30.0  # without a message although there are some


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One message as it was seen. delivery: without its body."""

    value: T
    delivery: Delivery
    reader: "_Reader[T]"


class Browser(Generic[T]):
    """Everything that is ready in a queue, held while it is looked at; it goes back where it was when the browser is closed.

    look: called with every message on the transport's own thread, which fetches no more meanwhile: one body is in memory at a
    time. What it returns is kept. What another consumer holds is not seen.
    Raises UnknownQueue if there is no such queue, BrokerUnavailable if the broker does not hand over what it has.
    """

    def __init__(self, transport: Transport, queue: str, look: Look[T]) -> None:
        self._transport = transport
        self._queue = queue
        self._look = look
        self._removed = False
        self._changed = threading.Condition()
        self._readers: list[_Reader[T]] = []

    def __enter__(self) -> Self:
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        lost = any(reader.lost for reader in self._readers) or not self._transport.wait_connected(0)
        if kind is None and self._removed and lost:
            raise BrokerUnavailable(
                f"the connection was lost while messages were being removed from {self._queue}; look again what is left"
            )

    @property
    def entries(self) -> list[Entry[T]]:
        """What is held, in the order of its arrival; several subscriptions are one after the other."""
        with self._changed:
            return [entry for reader in self._readers for entry in reader.entries]

    def remove(self, entries: Iterable[Entry[T]]) -> None:
        """Take messages out of the queue for good; leaving the browser tells if that may have failed."""
        self._removed = True
        by_reader: defaultdict[_Reader[T], list[Delivery]] = defaultdict(list)
        for entry in entries:
            by_reader[entry.reader].append(entry.delivery)
        for reader, deliveries in by_reader.items():
            reader.ack(deliveries)

    def close(self) -> None:
        """Give back everything that was not removed."""
        for reader in self._readers:
            reader.close()

    def _read(self) -> None:
        wanted = self._transport.depth(self._queue)
        for _ in range(wanted // PREFETCH + 1):
            self._readers.append(_Reader(self._transport, self._queue, self._look, self._changed))
        heard, since = 0, time.monotonic()
        while (seen := self._seen()) < wanted:
            if seen != heard:
                heard, since = seen, time.monotonic()
            with self._changed:
                moved = self._changed.wait_for(lambda seen=seen: self._seen() != seen, QUIET_SECONDS)  # type: ignore[misc]
            if not moved and self._transport.depth(self._queue) == 0 and self._seen() == seen:
                return  # the rest expired, made room for others, or is held by another consumer
            if not moved and time.monotonic() - since > PATIENCE_SECONDS:
                raise BrokerUnavailable(f"{self._queue} holds {wanted} messages, the broker has handed over {seen}; try again")

    def _seen(self) -> int:
        with self._changed:
            return sum(len(reader.entries) for reader in self._readers)


class _Reader(Generic[T]):
    """One subscription and what it holds."""

    def __init__(self, transport: Transport, queue: str, look: Look[T], changed: threading.Condition) -> None:
        self.entries: list[Entry[T]] = []
        self.lost = False  # whether what was acknowledged may still be in the queue
        self._acked = False
        self._look = look
        self._changed = changed
        self._subscription: Subscription = transport.subscribe(queue, PREFETCH, self._receive)

    def ack(self, deliveries: list[Delivery]) -> None:
        self._acked = True
        self._subscription.ack(deliveries)
        self.lost = self.lost or any(delivery.generation != self._subscription.generation for delivery in deliveries)

    def close(self) -> None:
        self._subscription.close()

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Reopened):  # everything comes again
            with self._changed:
                self.lost = self.lost or self._acked
                self.entries.clear()
            return
        entry = Entry(self._look(item), replace(item, body=b""), self)
        with self._changed:
            self.entries.append(entry)
            self._changed.notify_all()
