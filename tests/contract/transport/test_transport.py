"""Delivery and redelivery: the same promises kept by both transports."""

import random
import threading

from broker.topology import Queue
from broker.transport import Delivery, Reopened, Settled, Transport
from tests.contract.transports import (
    MANY,
    Backend,
    Recorder,
    Settlements,
    drain,
    eventually_depth,
    publish_all,
)


class TestDelivery:
    def test_messages_arrive_whole_in_order_and_once(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        assert publish_all(transport, queue.name, MANY) == [Settled.CONFIRMED] * 8
        sink = Recorder()
        backend.connect().subscribe(queue.name, 100, sink)
        assert sink.stays_at(8)
        assert sink.bodies == MANY
        assert [(d.queue, d.generation, d.redelivered, d.sender) for d in sink.deliveries] == [
            (queue.name, 1, False, "splitee")
        ] * 8

    def test_a_large_body_is_intact(self, transport: Transport, queue: Queue) -> None:
        body = random.Random(0).randbytes(20 * 2**20)
        assert publish_all(transport, queue.name, [body, b""]) == [Settled.CONFIRMED] * 2
        assert drain(transport, queue.name, 2) == [body, b""]

    def test_no_more_than_prefetch_are_unacknowledged(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        sink = Recorder()
        subscription = transport.subscribe(queue.name, 3, sink)
        assert sink.stays_at(3)
        subscription.ack([sink.deliveries[1]])
        assert sink.stays_at(4)
        subscription.ack(sink.deliveries[2:4])
        assert sink.stays_at(6)
        assert sink.bodies == MANY[:6]

    def test_a_delivery_acknowledged_twice_counts_once(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        sink = Recorder()
        subscription = transport.subscribe(queue.name, 2, sink)
        first = sink.wait_deliveries(2)[0]
        subscription.ack([first, first])
        subscription.ack([first])
        assert sink.stays_at(3)
        subscription.close()
        assert eventually_depth(transport, queue.name, 7) == 7

    def test_consumers_share_a_queue(self, backend: Backend, transport: Transport) -> None:
        shared = backend.queue("shared")
        transport.declare(shared)
        sinks = [Recorder(), Recorder()]
        for sink in sinks:
            transport.subscribe(shared.name, 4, sink)
        publish_all(transport, shared.name, MANY)
        for sink in sinks:
            assert sink.stays_at(4)
        assert sorted(sinks[0].bodies + sinks[1].bodies) == MANY

    def test_many_threads_publish_at_once(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        settlements = Settlements()

        def publish(thread: int) -> None:
            for number in range(50):
                transport.publish(queue.name, b"%d:%d" % (thread, number) + bytes(10_000), settlements.next())

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        sink = Recorder()
        subscription = backend.connect().subscribe(queue.name, 1000, sink)
        for thread in threads:
            thread.join()
        assert settlements.wait() == [Settled.CONFIRMED] * 400
        assert sink.stays_at(400)
        for thread_number in range(8):
            mine = [body.rstrip(b"\0") for body in sink.bodies if body.startswith(b"%d:" % thread_number)]
            assert mine == [b"%d:%d" % (thread_number, number) for number in range(50)]
        subscription.close()

    def test_a_sink_may_publish_and_acknowledge(self, backend: Backend, transport: Transport, queue: Queue) -> None:
        answers = backend.queue("answers")
        transport.declare(answers)
        settlements = Settlements()
        heard = Recorder()

        def answer(item: Delivery | Reopened) -> None:
            heard(item)
            if isinstance(item, Delivery):
                transport.publish(answers.name, b"re:" + item.body, settlements.next())
                subscription.ack([item])

        subscription = transport.subscribe(queue.name, 1, answer)
        publish_all(transport, queue.name, MANY)
        heard.wait_deliveries(8)
        assert settlements.wait(8) == [Settled.CONFIRMED] * 8
        assert drain(transport, answers.name, 8) == [b"re:" + body for body in MANY]

    def test_a_sink_that_fails_stops_nobody_else(self, transport: Transport, queue: Queue, backend: Backend) -> None:
        def fail(_: object) -> None:
            raise RuntimeError("a fault of this role")

        other = backend.queue("other")
        transport.declare(other)
        transport.subscribe(other.name, 10, fail)
        sink = Recorder()
        transport.subscribe(queue.name, 10, sink)
        transport.publish(other.name, b"", fail)
        transport.publish(queue.name, b"after", fail)
        assert sink.wait_deliveries(1)[0].body == b"after"


class TestRedelivery:
    def test_what_a_closed_subscription_held_comes_again(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        first = Recorder()
        subscription = transport.subscribe(queue.name, 5, first)
        subscription.ack([first.wait_deliveries(5)[0]])
        subscription.close()
        assert eventually_depth(transport, queue.name, 7) == 7
        second = Recorder()
        transport.subscribe(queue.name, 100, second)
        assert second.stays_at(7)
        assert sorted(second.bodies) == MANY[1:]
        assert {d.body for d in second.deliveries if d.redelivered} >= set(MANY[1:5])

    def test_a_closed_subscription_hears_nothing_more(self, transport: Transport, queue: Queue) -> None:
        sink = Recorder()
        subscription = transport.subscribe(queue.name, 5, sink)
        subscription.close()
        subscription.close()
        publish_all(transport, queue.name, MANY)
        assert sink.items == []
        assert eventually_depth(transport, queue.name, 8) == 8

    def test_reopening_announces_the_generation_first_and_brings_everything_again(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        sink = Recorder()
        subscription = transport.subscribe(queue.name, 100, sink)
        subscription.ack(sink.wait_deliveries(8)[:2])
        subscription.reopen()
        sink.wait_deliveries(14)
        assert subscription.generation == 2
        assert [type(item) for item in sink.items] == [Delivery] * 8 + [Reopened] + [Delivery] * 6
        assert sink.reopened == [Reopened(queue.name, 2)]
        assert sorted(d.body for d in sink.current(2)) == MANY[2:]
        assert all(d.redelivered for d in sink.current(2))

    def test_tags_of_an_earlier_generation_remove_nothing(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        sink = Recorder()
        subscription = transport.subscribe(queue.name, 100, sink)
        stale = list(sink.wait_deliveries(8))
        subscription.reopen()
        sink.wait_deliveries(16)
        subscription.ack(stale)
        subscription.close()
        assert eventually_depth(transport, queue.name, 8) == 8

    def test_consumers_with_different_prefetch_scramble_but_lose_nothing(self, backend: Backend, transport: Transport) -> None:
        shared = backend.queue("shared", delivery_limit=1_000_000 if backend.kind == "quorum" else None)
        transport.declare(shared)
        bodies = [b"%02d" % number for number in range(40)]
        publish_all(transport, shared.name, bodies)
        for _ in range(3):
            sinks = [Recorder(), Recorder(), Recorder()]
            held = [transport.subscribe(shared.name, size, sink) for size, sink in zip((4, 11, 2), sinks, strict=True)]
            for size, sink in zip((4, 11, 2), sinks, strict=True):
                sink.wait_deliveries(size)
            for subscription in held:
                subscription.close()
            assert eventually_depth(transport, shared.name, 40) == 40
        order = drain(transport, shared.name, 40)
        assert sorted(order) == bodies
        if backend.name == "memory":
            scrambling = order != bodies
            assert scrambling == (backend.scramble is not None)

    def test_a_queue_with_one_active_consumer_hands_over_when_its_channel_closes(
        self, backend: Backend, transport: Transport, queue: Queue
    ) -> None:
        publish_all(transport, queue.name, MANY)
        first, second = Recorder(), Recorder()
        active = transport.subscribe(queue.name, 2, first)
        waiting = backend.connect().subscribe(queue.name, 100, second)
        assert first.stays_at(2)
        assert second.items == []
        active.close()
        second.wait_deliveries(8)
        if backend.scramble is None:
            assert second.bodies == MANY  # what the first held comes before the rest
        assert sorted(second.bodies) == MANY
        waiting.close()

    def test_twenty_graceful_closes_keep_every_message(self, transport: Transport, queue: Queue) -> None:
        publish_all(transport, queue.name, MANY)
        for _ in range(21):
            sink = Recorder()
            subscription = transport.subscribe(queue.name, 100, sink)
            sink.wait_deliveries(8)
            subscription.close()
        assert sorted(drain(transport, queue.name, 8)) == MANY
