"""The transport on RabbitMQ."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from broker.connection import Connection, Work
from broker.consumer import RabbitSubscription
from broker.errors import BrokerError, BrokerUnavailable, UnknownQueue
from broker.failures import Backoff
from broker.rabbitmq_publisher import Publisher
from broker.rabbitmq_queues import consumers, declare, declare_exchange, delete, depth
from broker.topology import Queue
from broker.transport import OnSettled, Settled, Sink, Subscription

log = logging.getLogger(__name__)

_MAX_PREFETCH = 65_535
_LATER_SECONDS = 0.1


class RabbitTransport:
    """A ``Transport`` on one RabbitMQ connection.

    url: ``amqp://`` or ``amqps://`` as pika reads it; heartbeat in seconds. timeout: seconds until an operation is given up;
    connect_timeout: the same for the first connection.
    may_be_away: open all the same where the broker does not answer a first time, and go on trying in the background. While there
    is no connection ``declare`` and ``subscribe`` do not wait: they take effect with the next one, which logs what is refused.
    Raises BrokerUnavailable if there is no connection in that time, BrokerRefused on failed authentication or a
    refused virtual host. Later losses are repaired in the background: queues that were declared here are declared again,
    subscriptions reopened. A quorum queue that cannot be consumed is made again: it was declared just before the broker was killed
    and never gets a leader; what was in it has to be published again.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat: int = 20,
        timeout: float = 30.0,
        connect_timeout: float = 30.0,
        may_be_away: bool = False,
    ) -> None:
        self._may_be_away = may_be_away
        self._declared: dict[str, Queue] = {}
        self._leaderless: set[str] = set()
        self._subscriptions: set[RabbitSubscription] = set()
        self._connection = Connection(
            url, heartbeat=heartbeat, timeout=timeout, may_be_away=may_be_away, on_open=self._restore, on_lost=self._lose
        )
        self._publisher = Publisher(self._connection, on_ready=self._on_ready, on_closed=self._on_publisher_closed)
        self._backoff = Backoff()
        self._restores = 0
        self._connection.start(min(timeout, connect_timeout))

    def declare(self, queue: Queue) -> None:
        """Create a queue if it is not there; raise BrokerRefused if it is there with other arguments."""
        _check_name(queue.name)
        asked = self._ask(partial(self._connection.once, partial(declare, deque([queue]))))
        self._connection.call(self._remember, queue, asked)

    def delete(self, name: str) -> None:
        """Delete a queue with what is in it; no error if it is not there."""
        self._connection.call(self._declared.pop, name, None)
        self._connection.ask(partial(self._connection.once, partial(delete, name)))
        # consumers of a quorum queue that is declared again at once may be left attached to the one that is gone
        self._connection.call(self._reopen, name)

    def depth(self, name: str) -> int:
        """Return the number of ready messages; raise UnknownQueue if there is no such queue."""
        ready: int = self._connection.ask(partial(self._connection.once, partial(depth, name)))
        return ready

    def consumers(self, name: str) -> int:
        """Return the number of subscriptions to a queue, of all processes; raise UnknownQueue if there is no such queue."""
        found: int = self._connection.ask(partial(self._connection.once, partial(consumers, name)))
        return found

    def publish(self, queue: str, body: bytes, on_settled: OnSettled | None = None, *, ttl: float | None = None) -> None:
        """Send a message without waiting; ``on_settled`` is called exactly once, also when there is no connection."""
        _check_name(queue)
        settle = on_settled or _ignore
        if not self._connection.call(self._publisher.publish, queue, body, settle, ttl):
            settle(Settled.LOST)

    def subscribe(self, queue: str, prefetch: int, sink: Sink) -> Subscription:
        """Consume a queue with 1 to 65535 deliveries unacknowledged; raise UnknownQueue if it is not there."""
        if not 1 <= prefetch <= _MAX_PREFETCH:
            raise ValueError(f"prefetch must be 1 to {_MAX_PREFETCH}, got {prefetch}")
        subscription: RabbitSubscription | None = None

        def start(opened: Future[None]) -> None:
            nonlocal subscription
            subscription = self._subscription(queue, prefetch, sink, opened)
            self._open(subscription)

        asked = False
        try:
            asked = self._ask(start)
        finally:
            if not asked and subscription is not None:
                self._connection.call(subscription.finish)
        if asked:
            assert subscription is not None
            return subscription
        opened: Future[None] = Future()
        opened.set_result(None)  # whatever comes of it
        later = self._subscription(queue, prefetch, sink, opened)
        self._connection.call(self._open, later)
        return later

    def wait_connected(self, timeout: float) -> bool:
        """Wait up to timeout seconds for a connection; return whether there is one."""
        return self._connection.wait_ready(timeout)

    def close(self) -> None:
        """Flush what was published, close the connection and stop its thread."""
        flushed: Future[None] = Future()
        if self._connection.call(self._finish, flushed):
            try:
                self._connection.wait(flushed)
            finally:
                self._connection.close()

    def _ask(self, start: Callable[[Future[None]], None]) -> bool:
        """Return True when the broker has done something, False where it is away and may be."""
        if self._may_be_away and not self._connection.is_ready:
            return False
        try:
            self._connection.ask(start)
        except BrokerUnavailable:
            if not self._may_be_away:
                raise
            return False
        return True

    def _subscription(self, queue: str, prefetch: int, sink: Sink, opened: Future[None]) -> RabbitSubscription:
        return RabbitSubscription(self._connection, queue, prefetch, sink, opened, self._subscriptions.discard, self._on_unusable)

    # The rest runs on the I/O thread.

    def _remember(self, queue: Queue, is_declared: bool) -> None:
        self._declared[queue.name] = queue
        if is_declared or not self._connection.is_open:
            return
        if self._connection.is_ready:
            self._step(partial(declare, deque([queue])), lambda: None, failed=partial(_say_undeclared, queue.name))
        else:  # the others are being declared, with this one or already without it
            self._connection.call_later(_LATER_SECONDS, partial(self._remember, queue, False))

    def _open(self, subscription: RabbitSubscription) -> None:
        self._subscriptions.add(subscription)
        subscription.open()

    def _reopen(self, queue: str) -> None:
        for subscription in list(self._subscriptions):
            if subscription.queue == queue:
                subscription.reopen()

    def _finish(self, flushed: Future[None]) -> None:
        for subscription in list(self._subscriptions):
            subscription.finish()
        self._publisher.flush(flushed)

    def _restore(self) -> None:
        self._restores += 1
        self._step(partial(declare_exchange, True), self._restore_queues, missing=self._create_exchange)

    def _create_exchange(self) -> None:
        self._step(partial(declare_exchange, False), self._restore_queues)

    def _on_unusable(self, name: str) -> None:
        if name in self._declared and self._declared[name].kind == "quorum":
            log.warning("%s has no leader: it is made again", name)
            self._leaderless.add(name)  # the connection is gone: this is done with the next one

    def _restore_queues(self) -> None:
        if self._leaderless:
            name = self._leaderless.pop()
            self._step(partial(delete, name), self._restore_queues, failed=lambda _: self._restore_queues())
            return
        remaining = deque(self._declared.values())

        def skip(error: BrokerError) -> None:
            _say_undeclared(remaining.popleft().name, error)
            self._step(partial(declare, remaining), self._publisher.open, failed=skip)

        self._step(partial(declare, remaining), self._publisher.open, failed=skip)

    def _step(
        self,
        work: Work[None],
        then: Callable[[], None],
        *,
        missing: Callable[[], None] | None = None,
        failed: Callable[[BrokerError], None] | None = None,
    ) -> None:
        def ended(future: Future[None]) -> None:
            error = future.exception()
            if error is None:
                then()
            elif not self._connection.is_open:
                return
            elif missing is not None and isinstance(error, UnknownQueue):
                missing()
            else:
                assert isinstance(error, BrokerError)
                (failed or self._connection.fail)(error)

        future: Future[None] = Future()
        future.add_done_callback(ended)
        self._connection.once(work, future)

    def _on_ready(self) -> None:
        self._backoff.reset()
        self._connection.mark_ready()
        for subscription in list(self._subscriptions):
            subscription.open()

    def _on_publisher_closed(self, error: BrokerError) -> None:
        self._connection.mark_unready()
        if self._connection.is_open:
            log.warning("the publishing channel was closed: %s; opening another", error)
            self._connection.call_later(self._backoff.next(), partial(self._restore_again, self._restores))

    def _restore_again(self, restores: int) -> None:
        if restores == self._restores and self._connection.is_open:  # no new connection has done it since
            self._restore()

    def _lose(self) -> None:
        self._publisher.lose()


def _say_undeclared(queue: str, error: BrokerError) -> None:
    log.error("cannot declare %s: %s", queue, error)


def _ignore(_settled: Settled) -> None:
    """Stand in for an ``on_settled`` that was not given."""


def _check_name(queue: str) -> None:
    if not 0 < len(queue.encode()) <= 255:
        raise ValueError(f"a queue's name has 1 to 255 bytes, got {queue[:40]!r}")
