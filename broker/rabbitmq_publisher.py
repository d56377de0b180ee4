"""What a RabbitMQ connection publishes on: a channel with confirms."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from itertools import takewhile
from typing import Any

import pika

from broker.connection import Channel, Connection
from broker.errors import BrokerError
from broker.failures import translate
from broker.topology import EXCHANGE
from broker.transport import OnSettled, Settled

log = logging.getLogger(__name__)

_PERSISTENT = 2


class Publisher:
    """The publishing channel with its confirms. Runs on the I/O thread."""

    def __init__(self, connection: Connection, on_ready: Callable[[], None], on_closed: Callable[[BrokerError], None]) -> None:
        self._connection = connection
        self._on_ready = on_ready
        self._on_closed = on_closed
        self._channel: Channel | None = None
        self._published = 0  # on this channel: the broker's tag of the latest
        self._unconfirmed: dict[int, OnSettled] = {}  # by tag, in order
        self._returned: set[int] = set()
        self._flushing: list[Future[None]] = []

    def open(self) -> None:
        """Open a channel with confirms."""
        self._published = 0
        try:
            self._connection.channel(self._on_channel_open, self._on_channel_closed)
        except BrokerError as error:
            self._connection.fail(error)

    def publish(self, queue: str, body: bytes, on_settled: OnSettled, ttl: float | None) -> None:
        """Send one message."""
        if self._channel is None or not self._channel.is_open:
            _settle(on_settled, Settled.LOST)
            return
        self._published += 1
        self._unconfirmed[self._published] = on_settled
        properties = pika.BasicProperties(
            delivery_mode=_PERSISTENT,
            message_id=str(self._published),
            expiration=None if ttl is None else str(max(0, round(ttl * 1000))),
            user_id=self._connection.user,
        )
        self._channel.basic_publish(EXCHANGE, queue, body, properties, mandatory=True)

    def flush(self, flushed: Future[None]) -> None:
        """Set the future when everything published is settled."""
        self._flushing.append(flushed)
        self._check_flushed()

    def lose(self) -> None:
        """Settle what is unconfirmed as lost."""
        self._channel = None
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._returned.clear()
        for on_settled in unconfirmed.values():
            _settle(on_settled, Settled.LOST)
        self._check_flushed()

    def _on_channel_open(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._on_confirming(channel))

    def _on_confirming(self, channel: Channel) -> None:
        self._channel = channel
        self._on_ready()

    def _on_return(self, _channel: Channel, _method: Any, properties: Any, _body: bytes) -> None:
        self._returned.add(int(properties.message_id))  # its confirm follows

    def _on_confirm(self, frame: Any) -> None:
        confirm = frame.method
        refused = isinstance(confirm, pika.spec.Basic.Nack)
        tags = [confirm.delivery_tag]
        if confirm.multiple:
            tags = list(takewhile(lambda tag: tag <= confirm.delivery_tag, self._unconfirmed))
        for tag in tags:
            on_settled = self._unconfirmed.pop(tag, None)
            unroutable = tag in self._returned
            self._returned.discard(tag)
            if on_settled is not None:
                _settle(on_settled, Settled.REFUSED if refused else Settled.UNROUTABLE if unroutable else Settled.CONFIRMED)
        self._check_flushed()

    def _on_channel_closed(self, _channel: Channel, reason: Exception) -> None:
        self.lose()
        self._on_closed(translate(reason))

    def _check_flushed(self) -> None:
        if not self._unconfirmed:
            for flushed in self._flushing:
                flushed.set_result(None)
            self._flushing.clear()


def _settle(on_settled: OnSettled, settled: Settled) -> None:
    try:
        on_settled(settled)
    except Exception:  # one role's fault must not end the connection that serves all
        log.exception("an on_settled callback failed")
