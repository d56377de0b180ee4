"""What the transport contract is run on, and what watches it."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.memory import MemoryBroker, MemoryTransport
from broker.rabbitmq import RabbitTransport
from broker.topology import Queue
from broker.transport import Delivery, OnSettled, Reopened, Settled, Transport

PATIENCE = 30.0  # seconds after which what a test waits for has failed to happen


class Recorder:
    """A sink that keeps what it was given."""

    def __init__(self) -> None:
        self.items: list[Delivery | Reopened] = []
        self._changed = threading.Condition()

    def __call__(self, item: Delivery | Reopened) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    @property
    def deliveries(self) -> list[Delivery]:
        return [item for item in self.items if isinstance(item, Delivery)]

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    @property
    def reopened(self) -> list[Reopened]:
        return [item for item in self.items if isinstance(item, Reopened)]

    def current(self, generation: int) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if delivery.generation == generation]

    def wait(self, condition: Callable[["Recorder"], bool], patience: float = PATIENCE) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), patience)

    def wait_deliveries(self, count: int) -> list[Delivery]:
        assert self.wait(lambda recorder: len(recorder.deliveries) >= count), f"{len(self.deliveries)} of {count} deliveries"
        return self.deliveries

    def stays_at(self, count: int, seconds: float = 0.3) -> bool:
        """Return whether there are so many deliveries and no more come for a while."""
        self.wait_deliveries(count)
        return not self.wait(lambda recorder: len(recorder.deliveries) > count, seconds)


class Settlements:
    """Hands out ``on_settled`` callbacks and keeps how each publish ended; a second call for one publish is an error."""

    def __init__(self) -> None:
        self.ended: dict[int, list[Settled]] = {}
        self._handed_out = 0
        self._changed = threading.Condition()

    def next(self) -> OnSettled:
        with self._changed:
            number = self._handed_out
            self._handed_out += 1

        def on_settled(settled: Settled) -> None:
            with self._changed:
                self.ended.setdefault(number, []).append(settled)
                self._changed.notify_all()

        return on_settled

    def wait(self, count: int | None = None) -> list[Settled]:
        """Wait until so many (default: all) have ended; return how, in the order they were published."""
        with self._changed:
            wanted = self._handed_out if count is None else count
            assert self._changed.wait_for(lambda: len(self.ended) >= wanted, PATIENCE), f"{len(self.ended)} of {wanted} settled"
            assert all(len(ends) == 1 for ends in self.ended.values()), "a publish settled twice"
            return [self.ended[number][0] for number in sorted(self.ended)]


def publish_all(transport: Transport, queue: str, bodies: list[bytes]) -> list[Settled]:
    """Publish, one message after the other, and return how each ended."""
    settlements = Settlements()
    for body in bodies:
        transport.publish(queue, body, settlements.next())
    return settlements.wait()


@dataclass
class Backend:
    """A kind of broker: connects transports to one and the same broker, and clears up after a test."""

    name: str
    kind: str
    connect_one: Callable[[], Transport]
    scramble: int | None = None
    prefix: str = field(default_factory=lambda: f"splitee.contract-{secrets.token_hex(4)}")
    _transports: list[Transport] = field(default_factory=list)
    _queues: set[str] = field(default_factory=set)

    def connect(self) -> Transport:
        transport = self.connect_one()
        self._transports.append(transport)
        return transport

    def queue(self, name: str = "queue", **arguments: object) -> Queue:
        queue = Queue(f"{self.prefix}.{name}", **{"kind": self.kind} | arguments)  # type: ignore[arg-type]
        self._queues.add(queue.name)
        return queue

    def clear(self) -> None:
        for transport in self._transports:
            transport.close()
        transport = self.connect_one()
        for name in self._queues:
            transport.delete(name)
        transport.close()


def memory_backend(scramble: int | None = None) -> Backend:
    broker = MemoryBroker(scramble=scramble)
    return Backend("memory", "classic", lambda: MemoryTransport(broker, "splitee"), scramble)


def rabbitmq_backend(url: str, kind: str) -> Backend:
    return Backend("rabbitmq", kind, lambda: RabbitTransport(url, timeout=PATIENCE))


MANY = [b"%d" % number for number in range(8)]


def eventually_depth(transport: Transport, name: str, wanted: int) -> int:
    """Return the number of ready messages, once it is as wanted or it is too late."""
    deadline = time.monotonic() + PATIENCE
    while (depth := transport.depth(name)) != wanted and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    return depth


def drain(transport: Transport, name: str, count: int) -> list[bytes]:
    """Consume and acknowledge so many messages; return them in the order they came."""
    sink = Recorder()
    subscription = transport.subscribe(name, 1000, sink)
    subscription.ack(sink.wait_deliveries(count))
    eventually_depth(transport, name, 0)
    subscription.close()
    return sink.bodies
