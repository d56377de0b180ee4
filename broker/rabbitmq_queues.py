"""What is asked of RabbitMQ about queues: each function works on a channel of its own and calls ``done`` with the answer."""

from collections import deque
from collections.abc import Callable

from broker.connection import Channel
from broker.topology import EXCHANGE, Queue


def declare_exchange(passive: bool, channel: Channel, done: Callable[[None], None]) -> None:
    """Create the exchange; passive: only see whether it is there, for which no permission is needed."""
    channel.exchange_declare(EXCHANGE, "topic", passive=passive, durable=True, callback=lambda _: done(None))


def declare(queues: deque[Queue], channel: Channel, done: Callable[[None], None]) -> None:
    """Declare and bind queues in turn; when that fails, the first in ``queues`` is the one at fault."""

    def declare_first() -> None:
        if not queues:
            done(None)
            return
        queue = queues[0]
        channel.queue_declare(queue.name, durable=True, arguments=_arguments(queue), callback=lambda _: bind_first())

    def bind_first() -> None:
        channel.queue_bind(queues[0].name, EXCHANGE, queues[0].name, callback=lambda _: go_on())

    def go_on() -> None:
        queues.popleft()
        declare_first()

    declare_first()


def delete(name: str, channel: Channel, done: Callable[[None], None]) -> None:
    """Delete a queue, or none."""
    channel.queue_delete(name, callback=lambda _: done(None))


def depth(name: str, channel: Channel, done: Callable[[int], None]) -> None:
    """Find the number of a queue's ready messages."""
    channel.queue_declare(name, passive=True, callback=lambda frame: done(int(frame.method.message_count)))


def consumers(name: str, channel: Channel, done: Callable[[int], None]) -> None:
    """Find the number of a queue's consumers."""
    channel.queue_declare(name, passive=True, callback=lambda frame: done(int(frame.method.consumer_count)))


def _arguments(queue: Queue) -> dict[str, str | int | bool]:
    arguments: dict[str, str | int | bool | None] = {
        "x-queue-type": queue.kind,
        "x-single-active-consumer": queue.single_active_consumer or None,
        "x-max-length": queue.max_length,
        "x-max-length-bytes": queue.max_bytes,
        "x-overflow": queue.overflow,
        "x-message-ttl": None if queue.message_ttl is None else round(queue.message_ttl * 1000),
        "x-expires": None if queue.expires is None else round(queue.expires * 1000),
        "x-delivery-limit": queue.delivery_limit,
    }
    return {name: value for name, value in arguments.items() if value is not None}
