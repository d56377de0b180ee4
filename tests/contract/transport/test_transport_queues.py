"""Limits, queues and closing: the same promises kept by both transports."""

import threading
import time

import pytest

from broker.errors import BrokerRefused, BrokerUnavailable, UnknownQueue
from broker.topology import Queue
from broker.transport import Reopened, Settled, Transport
from tests.contract.transports import (
    MANY,
    PATIENCE,
    Backend,
    Recorder,
    Settlements,
    drain,
    eventually_depth,
    publish_all,
)


class TestLimits:
    def test_a_full_queue_refuses_and_keeps_what_it_confirmed(self, backend: Backend, transport: Transport) -> None:
        full = backend.queue("full", max_bytes=100_000, overflow="reject-publish")
        transport.declare(full)
        bodies = [b"%03d" % number + bytes(10_000) for number in range(60)]
        settled = [publish_all(transport, full.name, [body])[0] for body in bodies]
        kept = [body for body, end in zip(bodies, settled, strict=True) if end is Settled.CONFIRMED]
        assert set(settled) == {Settled.CONFIRMED, Settled.REFUSED}
        assert 9 <= len(kept) < 30
        assert drain(transport, full.name, len(kept)) == kept
        assert publish_all(transport, full.name, [b"room again"]) == [Settled.CONFIRMED]

    def test_only_ready_bytes_count(self, backend: Backend, transport: Transport) -> None:
        full = backend.queue("full", max_bytes=50_000, overflow="reject-publish")
        transport.declare(full)
        sink = Recorder()
        transport.subscribe(full.name, 20, sink)
        for number in range(20):
            assert publish_all(transport, full.name, [b"%d" % number + bytes(10_000)]) == [Settled.CONFIRMED]
            sink.wait_deliveries(number + 1)

    def test_a_bounded_queue_drops_its_oldest(self, backend: Backend, transport: Transport) -> None:
        bounded = backend.queue("bounded", max_length=3, overflow="drop-head")
        transport.declare(bounded)
        assert publish_all(transport, bounded.name, MANY) == [Settled.CONFIRMED] * 8
        assert drain(transport, bounded.name, 3) == MANY[-3:]

    def test_messages_expire_by_their_own_time_or_the_queue(self, backend: Backend, transport: Transport) -> None:
        plain, brief = backend.queue("plain"), backend.queue("brief", message_ttl=0.2)
        for queue in (plain, brief):
            transport.declare(queue)
        settlements = Settlements()
        transport.publish(plain.name, b"brief", settlements.next(), ttl=0.2)
        transport.publish(plain.name, b"lasting", settlements.next())
        transport.publish(brief.name, b"brief", settlements.next(), ttl=100.0)
        assert settlements.wait() == [Settled.CONFIRMED] * 3
        assert eventually_depth(transport, brief.name, 0) == 0
        assert eventually_depth(transport, plain.name, 1) == 1
        assert drain(transport, plain.name, 1) == [b"lasting"]

    def test_an_unused_queue_expires(self, backend: Backend, transport: Transport) -> None:
        transport.declare(backend.queue("inbox", kind="classic", expires=0.3))
        name = backend.queue("inbox").name
        assert publish_all(transport, name, [b""]) == [Settled.CONFIRMED]
        deadline = time.monotonic() + PATIENCE
        while publish_all(transport, name, [b""]) != [Settled.UNROUTABLE] and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        with pytest.raises(UnknownQueue):
            transport.depth(name)


class TestQueues:
    def test_a_message_to_no_queue_is_unroutable_and_hurts_no_other(self, transport: Transport, queue: Queue) -> None:
        settlements = Settlements()
        for number in range(12):
            transport.publish(queue.name if number % 3 else queue.name + ".not", b"", settlements.next())
        assert settlements.wait() == [Settled.CONFIRMED if number % 3 else Settled.UNROUTABLE for number in range(12)]

    def test_a_queue_that_is_not_there_is_unknown(self, transport: Transport, queue: Queue) -> None:
        with pytest.raises(UnknownQueue, match=r"stream\.not"):
            transport.subscribe(queue.name + ".not", 1, Recorder())
        with pytest.raises(UnknownQueue, match=r"stream\.not"):
            transport.depth(queue.name + ".not")
        with pytest.raises(UnknownQueue, match=r"stream\.not"):
            transport.consumers(queue.name + ".not")
        assert publish_all(transport, queue.name, [b"still usable"]) == [Settled.CONFIRMED]

    def test_consumers_are_counted(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        shared = backend.queue("shared", kind="classic")
        transport.declare(shared)
        assert [transport.consumers(one.name) for one in (shared, queue)] == [0, 0]
        first, second = (made.subscribe(shared.name, 1, Recorder()) for made in (transport, backend.connect()))
        alone = transport.subscribe(queue.name, 1, Recorder())
        assert [transport.consumers(one.name) for one in (shared, queue)] == [2, 1]
        first.close()
        assert transport.consumers(shared.name) == 1
        second.close()
        alone.close()

    def test_declaring_again_keeps_the_content(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        backend.connect().declare(queue)
        assert eventually_depth(transport, queue.name, 8) == 8

    def test_declaring_with_other_arguments_is_refused(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        with pytest.raises(BrokerRefused, match=r"\.stream"):
            transport.declare(backend.queue("stream", max_length=5))
        assert publish_all(transport, queue.name, [b"still usable"]) == [Settled.CONFIRMED]

    def test_deleting_removes_the_content_and_may_be_repeated(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        transport.delete(queue.name)
        transport.delete(queue.name)
        assert publish_all(transport, queue.name, [b""]) == [Settled.UNROUTABLE]
        transport.declare(queue)
        assert transport.depth(queue.name) == 0

    def test_a_subscription_survives_its_queue(self, transport: Transport, queue: Queue) -> None:
        sink = Recorder()
        subscription = transport.subscribe(queue.name, 10, sink)
        publish_all(transport, queue.name, [b"old"])
        stale = sink.wait_deliveries(1)
        transport.delete(queue.name)
        transport.declare(queue)
        publish_all(transport, queue.name, [b"new"])
        assert sink.wait_deliveries(2)[1].body == b"new"
        assert isinstance(sink.items[-2], Reopened)
        subscription.ack(stale)
        subscription.close()
        assert eventually_depth(transport, queue.name, 1) == 1


class TestClosing:
    def test_closing_flushes_and_gives_back(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        closing = backend.connect()
        sink = Recorder()
        publish_all(transport, queue.name, [b"held"])
        closing.subscribe(queue.name, 1, sink)
        sink.wait_deliveries(1)
        settlements = Settlements()
        for body in MANY:
            closing.publish(queue.name, body, settlements.next())
        closing.close()
        assert settlements.wait() == [Settled.CONFIRMED] * 8
        assert eventually_depth(transport, queue.name, 9) == 9

    def test_a_closed_transport_says_so(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        closed = backend.connect()
        assert closed.wait_connected(PATIENCE)
        subscription = closed.subscribe(queue.name, 1, Recorder())
        closed.close()
        closed.close()
        assert publish_all(closed, queue.name, [b""]) == [Settled.LOST]
        assert not closed.wait_connected(0.0)
        with pytest.raises(BrokerUnavailable):
            closed.depth(queue.name)
        with pytest.raises(BrokerUnavailable):
            closed.subscribe(queue.name, 1, Recorder())
        subscription.close()

    @pytest.mark.parametrize("prefetch", [0, -1])
    def test_prefetch_must_be_positive(self, transport: Transport, queue: Queue, prefetch: int) -> None:
        with pytest.raises(ValueError, match="prefetch"):
            transport.subscribe(queue.name, prefetch, Recorder())
