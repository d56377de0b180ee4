"""One queue of the memory broker: its ready messages, its consumers and its limits."""

import functools
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.topology import Queue
from broker.transport import Delivery, Reopened, Settled, Sink


@dataclass(eq=False, slots=True)
class Stored:
    """A message in a queue or held by a consumer."""

    body: bytes
    sender: str | None
    position: int  # order of arrival
    expires_at: float  # monotonic seconds
    redelivered: bool = False


@dataclass(eq=False, slots=True)
class Consumer:
    """One subscription as its queue sees it."""

    queue: str
    prefetch: int
    sink: Sink
    generation: int = 0
    tag: int = 0  # last one used; starts again with every generation
    held: dict[int, Stored] = field(default_factory=dict)

    def deliver(self, delivery: Delivery) -> None:
        """Hand a delivery to the sink, unless it has been taken back since."""
        if delivery.generation == self.generation and delivery.tag in self.held:
            self.sink(delivery)


class MemoryQueue:
    """Every method runs under the broker's lock; what a sink must hear is left in ``callbacks`` for afterwards.

    scramble: puts redelivered messages back at random places; None puts them back where they were.
    """

    def __init__(self, queue: Queue, scramble: random.Random | None, callbacks: deque[Callable[[], None]]) -> None:
        self.queue = queue
        self.ready: deque[Stored] = deque()
        self.consumers: list[Consumer] = []
        self.used_at = time.monotonic()
        self._ready_bytes = 0
        self._positions = 0
        self._first_expiry = math.inf  # no ready message expires earlier
        self._scramble = scramble
        self._callbacks = callbacks

    def is_unused(self) -> bool:
        """Return whether the queue has had no consumer and no declaration for as long as it may."""
        expires = self.queue.expires
        return expires is not None and not self.consumers and time.monotonic() >= self.used_at + expires

    def put(self, body: bytes, sender: str | None, ttl: float | None) -> Settled:
        """Add a message, or refuse it where the queue is full and says so; else the oldest make room."""
        self.drop_expired()
        if self.queue.overflow == "reject-publish" and self._is_full():
            return Settled.REFUSED
        limits = [limit for limit in (ttl, self.queue.message_ttl) if limit is not None]
        expires_at = time.monotonic() + min(limits) if limits else math.inf
        self.ready.append(Stored(body, sender, self._positions, expires_at))
        self._positions += 1
        self._ready_bytes += len(body)
        self._first_expiry = min(self._first_expiry, expires_at)
        self.dispatch()
        while self.queue.overflow != "reject-publish" and self._is_over_full():
            self._take()
        return Settled.CONFIRMED

    def attach(self, consumer: Consumer) -> None:
        """Start the next generation of a consumer, behind the others."""
        consumer.generation += 1
        consumer.tag = 0
        self.consumers.append(consumer)
        if consumer.generation > 1:
            self._callbacks.append(functools.partial(consumer.sink, Reopened(self.queue.name, consumer.generation)))
        self.dispatch()

    def detach(self, consumer: Consumer) -> None:
        """Take back what a consumer holds, for redelivery."""
        self.used_at = time.monotonic()
        self.consumers.remove(consumer)
        returned = list(consumer.held.values())
        consumer.held.clear()
        for stored in returned:
            stored.redelivered = True
            self._ready_bytes += len(stored.body)
            self._first_expiry = min(self._first_expiry, stored.expires_at)
        if self._scramble is None:
            self.ready = deque(sorted([*returned, *self.ready], key=lambda stored: stored.position))
        else:
            for stored in returned:
                self.ready.insert(self._scramble.randint(0, len(self.ready)), stored)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand ready messages to consumers that have room, in turn."""
        self.drop_expired()
        while self.ready and (consumer := self._next_consumer()) is not None:
            stored = self._take()
            consumer.tag += 1
            consumer.held[consumer.tag] = stored
            delivery = Delivery(self.queue.name, stored.body, consumer.tag, consumer.generation, stored.redelivered, stored.sender)
            self._callbacks.append(functools.partial(consumer.deliver, delivery))

    def drop_expired(self) -> None:
        """Drop ready messages whose time is over."""
        now = time.monotonic()
        if now < self._first_expiry:
            return
        self.ready = deque(stored for stored in self.ready if stored.expires_at > now)
        self._ready_bytes = sum(len(stored.body) for stored in self.ready)
        self._first_expiry = min((stored.expires_at for stored in self.ready), default=math.inf)

    def _next_consumer(self) -> Consumer | None:
        single = self.queue.single_active_consumer
        candidates = self.consumers[:1] if single else self.consumers
        consumer = next((one for one in candidates if len(one.held) < one.prefetch), None)
        if consumer is not None and not single:
            self.consumers.remove(consumer)
            self.consumers.append(consumer)
        return consumer

    def _take(self) -> Stored:
        stored = self.ready.popleft()
        self._ready_bytes -= len(stored.body)
        return stored

    def _is_full(self) -> bool:
        length, size = self.queue.max_length, self.queue.max_bytes
        return (length is not None and len(self.ready) >= length) or (size is not None and self._ready_bytes >= size)

    def _is_over_full(self) -> bool:
        length, size = self.queue.max_length, self.queue.max_bytes
        return (length is not None and len(self.ready) > length) or (size is not None and self._ready_bytes > size)
