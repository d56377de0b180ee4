"""A broker inside one process, with the promises and the awkwardness of the real one. Moves encoded bytes."""

import functools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from broker.errors import BrokerRefused, BrokerUnavailable, UnknownQueue
from broker.memory_queue import Consumer, MemoryQueue
from broker.topology import Queue
from broker.transport import Delivery, OnSettled, Settled, Sink, Subscription

log = logging.getLogger(__name__)


class MemoryBroker:
    """Queues shared by the ``MemoryTransport`` objects of a process.

    scramble: seed of a generator that puts redelivered messages back among the ready ones at random places, as RabbitMQ
    does where consumers have different prefetch; None puts them back where they were. Time limits are applied when a queue
    is next used; ``delivery_limit`` has no effect here.

    Callbacks run after the lock is released, one at a time and in the order they arose, on whichever thread made them due:
    a sink may publish, acknowledge or close.
    """

    def __init__(self, *, scramble: int | None = None) -> None:
        self._scramble = None if scramble is None else random.Random(scramble)
        self._lock = threading.Lock()
        self._queues: dict[str, MemoryQueue] = {}
        self._orphans: dict[str, list[Consumer]] = {}  # consumers whose queue was deleted
        self._callbacks: deque[Callable[[], None]] = deque()
        self._running = False

    def declare(self, queue: Queue) -> None:
        """Create a queue if it is not there; raise BrokerRefused if it is there with other arguments."""
        with self._locked():
            existing = self._find(queue.name)
            if existing is None:
                existing = self._queues[queue.name] = MemoryQueue(queue, self._scramble, self._callbacks)
                for consumer in self._orphans.pop(queue.name, []):
                    existing.attach(consumer)
            elif existing.queue != queue:
                raise BrokerRefused(f"queue {queue.name} exists as {existing.queue}, which does not match {queue}")
            existing.used_at = time.monotonic()

    def delete(self, name: str) -> None:
        """Delete a queue; its consumers start again when it is next declared."""
        with self._locked():
            queue = self._find(name)
            if queue is not None:
                self._remove(queue)

    def depth(self, name: str) -> int:
        """Return the number of ready messages; raise UnknownQueue."""
        with self._locked():
            queue = self._known(name)
            queue.drop_expired()
            return len(queue.ready)

    def consumers(self, name: str) -> int:
        """Return the number of a queue's consumers; raise UnknownQueue."""
        with self._locked():
            return len(self._known(name).consumers)

    def publish(self, name: str, body: bytes, sender: str | None, ttl: float | None, on_settled: OnSettled | None) -> None:
        """Put a message into a queue and say how that ended."""
        with self._locked():
            queue = self._find(name)
            settled = Settled.UNROUTABLE if queue is None else queue.put(body, sender, ttl)
            if on_settled is not None:
                self._callbacks.append(functools.partial(on_settled, settled))

    def attach(self, consumer: Consumer) -> None:
        """Start delivering to a consumer; raise UnknownQueue."""
        with self._locked():
            self._known(consumer.queue).attach(consumer)

    def ack(self, consumer: Consumer, deliveries: Iterable[Delivery]) -> None:
        """Forget deliveries that the consumer's current generation holds."""
        with self._locked():
            for delivery in deliveries:
                if delivery.generation == consumer.generation:
                    consumer.held.pop(delivery.tag, None)
            queue = self._queues.get(consumer.queue)
            if queue is not None:
                queue.dispatch()

    def detach(self, consumer: Consumer, *, reopen: bool = False) -> None:
        """Take back what a consumer holds; with reopen, attach it again, behind the queue's others."""
        with self._locked():
            queue = self._queues.get(consumer.queue)
            if queue is not None and consumer in queue.consumers:
                queue.detach(consumer)
                if reopen:
                    queue.attach(consumer)
            elif not reopen and consumer in self._orphans.get(consumer.queue, []):
                self._orphans[consumer.queue].remove(consumer)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            yield
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        while True:
            with self._lock:
                if self._running or not self._callbacks:
                    return  # the thread that is running one takes the next
                self._running = True
                callback = self._callbacks.popleft()
            try:
                callback()
            except Exception:  # one role's fault must not stop the deliveries of others
                log.exception("a sink or on_settled callback failed")
            finally:
                with self._lock:
                    self._running = False

    def _find(self, name: str) -> MemoryQueue | None:
        queue = self._queues.get(name)
        if queue is not None and queue.is_unused():
            self._remove(queue)
            return None
        return queue

    def _known(self, name: str) -> MemoryQueue:
        queue = self._find(name)
        if queue is None:
            raise UnknownQueue(f"no queue {name}")
        return queue

    def _remove(self, queue: MemoryQueue) -> None:
        del self._queues[queue.queue.name]
        for consumer in queue.consumers:
            consumer.held.clear()
        if queue.consumers:
            self._orphans[queue.queue.name] = queue.consumers


class MemoryTransport:
    """A ``Transport`` on a ``MemoryBroker``.

    user: name that deliveries of its messages carry as their sender.
    """

    def __init__(self, broker: MemoryBroker, user: str | None = None) -> None:
        self._broker = broker
        self._user = user
        self._closed = False
        self._subscriptions: set[MemorySubscription] = set()

    def declare(self, queue: Queue) -> None:
        """Create a queue if it is not there; raise BrokerRefused if it is there with other arguments."""
        self._open_broker().declare(queue)

    def delete(self, name: str) -> None:
        """Delete a queue with what is in it; no error if it is not there."""
        self._open_broker().delete(name)

    def depth(self, name: str) -> int:
        """Return the number of ready messages; raise UnknownQueue."""
        return self._open_broker().depth(name)

    def consumers(self, name: str) -> int:
        """Return the number of subscriptions to a queue; raise UnknownQueue."""
        return self._open_broker().consumers(name)

    def publish(self, queue: str, body: bytes, on_settled: OnSettled | None = None, *, ttl: float | None = None) -> None:
        """Send a message; LOST once the transport is closed."""
        if not self._closed:
            self._broker.publish(queue, body, self._user, ttl, on_settled)
        elif on_settled is not None:
            on_settled(Settled.LOST)

    def subscribe(self, queue: str, prefetch: int, sink: Sink) -> Subscription:
        """Consume a queue, at most ``prefetch`` (at least 1) deliveries unacknowledged; raise UnknownQueue."""
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {prefetch}")
        consumer = Consumer(queue, prefetch, sink)
        subscription = MemorySubscription(self._open_broker(), consumer, on_close=self._subscriptions.discard)
        self._subscriptions.add(subscription)
        try:
            self._broker.attach(consumer)
        except UnknownQueue:
            self._subscriptions.discard(subscription)
            raise
        return subscription

    def wait_connected(self, timeout: float) -> bool:  # noqa: ARG002  nothing to wait for
        """Return whether the transport is open."""
        return not self._closed

    def close(self) -> None:
        """Close every subscription."""
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.close()

    def _open_broker(self) -> MemoryBroker:
        if self._closed:
            raise BrokerUnavailable("the transport is closed")
        return self._broker


class MemorySubscription:
    """A ``Subscription`` on a ``MemoryBroker``."""

    def __init__(self, broker: MemoryBroker, consumer: Consumer, on_close: "Callable[[MemorySubscription], None]") -> None:
        self._broker = broker
        self._consumer = consumer
        self._on_close = on_close

    @property
    def generation(self) -> int:
        """Number of the current channel, from 1."""
        return self._consumer.generation

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge deliveries; those of an earlier generation, or acknowledged before, are ignored."""
        self._broker.ack(self._consumer, deliveries)

    def reopen(self) -> None:
        """Return everything unacknowledged to the queue and consume it again."""
        self._broker.detach(self._consumer, reopen=True)

    def close(self) -> None:
        """Return everything unacknowledged to the queue."""
        self._broker.detach(self._consumer)
        self._on_close(self)
