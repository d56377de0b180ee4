"""One subscription to a RabbitMQ queue: a channel of its own, opened again whenever it is lost."""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from broker.connection import Channel, Connection
from broker.errors import BrokerError, BrokerUnavailable
from broker.failures import Backoff, is_internal_error, translate
from broker.transport import Delivery, Reopened, Sink

log = logging.getLogger(__name__)

UNANSWERED_SECONDS = 55.0  # RabbitMQ gives up after 65, by 541 or, where several channels wait, by closing the socket


class RabbitSubscription:
    """Implements ``Subscription``. Public methods may be called from any thread, the rest runs on the I/O thread.

    opened: set when the first channel consumes, or with the error that prevented it.
    on_unusable: called when a channel is lost because the broker cannot answer for this queue: a quorum queue without a leader.
    """

    def __init__(
        self,
        connection: Connection,
        queue: str,
        prefetch: int,
        sink: Sink,
        opened: Future[None],
        on_finished: "Callable[[RabbitSubscription], None]",
        on_unusable: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self.queue = queue
        self._prefetch = prefetch
        self._sink = sink
        self._opened = opened
        self._on_finished = on_finished
        self._on_unusable = on_unusable
        self._asked: float | None = None  # time.monotonic at which the broker was told to consume, while it has not answered
        self._generation = 0
        self._announced = True  # whether the sink knows the generation
        self._channel: Channel | None = None
        self._consumer_tag = ""
        self._outstanding: set[int] = set()  # tags of the current channel
        self._finished = False
        self._closers: list[Future[None]] = []
        self._backoff = Backoff()
        self._warned = ""

    @property
    def generation(self) -> int:
        """Number of the current channel, from 1."""
        return self._generation

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge deliveries; those of an earlier generation, or acknowledged before, are ignored."""
        self._connection.call(self._ack, list(deliveries))

    def reopen(self) -> None:
        """Close the channel and open another: all unacknowledged deliveries come again."""
        self._connection.call(self._close_channel)

    def close(self) -> None:
        """Close the channel and return when that is done: unacknowledged deliveries go back to the queue."""
        closed: Future[None] = Future()
        if self._connection.call(self.finish, closed):
            self._connection.wait(closed)

    def open(self) -> None:
        """Open the next channel, unless there is one."""
        if self._finished or self._channel is not None:
            return
        try:
            self._channel = self._connection.channel(self._on_channel_open, self._on_channel_closed)
        except BrokerError as error:
            self._on_not_opened(error)
            return
        self._outstanding.clear()
        self._generation += 1
        self._announced = self._generation == 1

    def finish(self, closed: Future[None] | None = None) -> None:
        """Close for good; ``closed`` is set when that is done."""
        self._finished = True
        if closed is not None:
            self._closers.append(closed)
        if self._channel is None:
            self._settle_finished()
        else:
            self._close_channel()

    def _ack(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            current = delivery.generation == self._generation and delivery.tag in self._outstanding
            if current and self._channel is not None and self._channel.is_open:
                self._outstanding.discard(delivery.tag)
                self._channel.basic_ack(delivery.tag)

    def _close_channel(self) -> None:
        channel = self._channel
        if channel is None or channel.is_closing or channel.is_closed:
            return
        # pika would send basic.cancel first, and the next consumer be served behind the messages that this one still holds
        channel._cancelled.add(self._consumer_tag)
        channel.close()

    def _on_channel_open(self, channel: Channel) -> None:
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        channel.basic_qos(prefetch_count=self._prefetch)
        self._asked = time.monotonic()
        self._consumer_tag = channel.basic_consume(self.queue, self._on_message, callback=self._on_consuming)

    def _on_consuming(self, _frame: object) -> None:
        self._asked = None
        self._backoff.reset()
        self._announce()
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_message(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        if channel is not self._channel:
            return
        self._announce()
        self._outstanding.add(method.delivery_tag)
        self._hand_over(
            Delivery(self.queue, body, method.delivery_tag, self._generation, bool(method.redelivered), properties.user_id)
        )

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._hand_over(Reopened(self.queue, self._generation))

    def _hand_over(self, item: Delivery | Reopened) -> None:
        try:
            self._sink(item)
        except Exception:  # one role's fault must not end the connection that serves all
            log.exception("the sink of %s failed", self.queue)

    def _on_cancelled_by_broker(self, _frame: object) -> None:
        log.info("the broker cancelled the consumer of %s", self.queue)
        self._close_channel()

    def _on_channel_closed(self, channel: Channel, reason: Exception) -> None:
        if channel is self._channel:
            asked, self._asked = self._asked, None
            if asked is not None and (is_internal_error(reason) or time.monotonic() - asked > UNANSWERED_SECONDS):
                self._on_unusable(self.queue)
            self._channel = None
            self._outstanding.clear()
            self._on_not_opened(translate(reason))

    def _on_not_opened(self, error: BrokerError) -> None:
        if not self._opened.done():
            self._finished = True
            self._opened.set_exception(error)
        if self._finished:
            self._settle_finished()
        elif self._connection.is_ready:  # else it is opened again with the connection
            if not isinstance(error, BrokerUnavailable) and str(error) != self._warned:
                self._warned = str(error)
                log.warning("consumer of %s: %s; trying again", self.queue, error)
            self._connection.call_later(self._backoff.next(), self.open)

    def _settle_finished(self) -> None:
        for closed in self._closers:
            closed.set_result(None)
        self._closers.clear()
        self._on_finished(self)
