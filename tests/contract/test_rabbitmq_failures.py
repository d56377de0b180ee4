"""What only a real connection can do to a transport."""

import socket
import struct
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from broker.errors import BrokerRefused, BrokerUnavailable
from broker.rabbitmq import RabbitTransport
from broker.topology import Queue
from broker.transport import Delivery, Reopened, Settled
from cli.private_servers import PrivateServer
from tests.contract.transports import (
    MANY,
    PATIENCE,
    Backend,
    Recorder,
    Settlements,
    eventually_depth,
    publish_all,
    rabbitmq_backend,
)
from tests.proxy import Proxy, proxied


@pytest.fixture
def backend(rabbitmq_url: str) -> Iterator[Backend]:
    backend = rabbitmq_backend(rabbitmq_url, "quorum")
    yield backend
    backend.clear()


@pytest.fixture
def proxy(rabbitmq_url: str) -> Iterator[Proxy]:
    with proxied(rabbitmq_url) as proxy:
        yield proxy


@pytest.fixture
def remote(proxy: Proxy) -> Iterator[RabbitTransport]:
    """A transport whose connection a test can cut."""
    transport = RabbitTransport(proxy.url, timeout=PATIENCE)
    yield transport
    transport.close()


@pytest.fixture
def queue(backend: Backend, remote: RabbitTransport) -> Queue:
    queue = backend.queue("stream", single_active_consumer=True, delivery_limit=1_000_000)
    remote.declare(queue)
    return queue


def test_every_unconfirmed_message_is_lost_once(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    assert publish_all(remote, queue.name, [b"before"]) == [Settled.CONFIRMED]
    proxy.hold_answers()
    settlements = Settlements()
    for body in MANY:
        remote.publish(queue.name, body + bytes(100_000), settlements.next())
    proxy.cut()
    assert settlements.wait() == [Settled.LOST] * 8
    assert remote.wait_connected(PATIENCE)
    assert publish_all(remote, queue.name, [b"after"]) == [Settled.CONFIRMED]
    assert settlements.wait() == [Settled.LOST] * 8


def test_publishing_without_a_connection_is_lost_at_once(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    proxy.cut(stay_down=True)
    publish_all(remote, queue.name, [b"notices"])
    assert publish_all(remote, queue.name, MANY) == [Settled.LOST] * 8
    assert not remote.wait_connected(0.0)
    proxy.restore()
    assert remote.wait_connected(PATIENCE)
    assert publish_all(remote, queue.name, MANY) == [Settled.CONFIRMED] * 8


def test_subscriptions_are_reopened_and_everything_comes_again(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    publish_all(remote, queue.name, MANY)
    sink = Recorder()
    subscription = remote.subscribe(queue.name, 100, sink)
    stale = list(sink.wait_deliveries(8))
    proxy.cut()
    assert sink.wait(lambda recorder: len(recorder.current(subscription.generation)) == 8 and bool(recorder.reopened))
    generation = subscription.generation
    assert generation > 1
    assert sink.items.index(Reopened(queue.name, generation)) < sink.items.index(sink.current(generation)[0])
    assert sorted(d.body for d in sink.current(generation)) == MANY
    subscription.ack(stale)
    subscription.ack(sink.current(generation)[:3])
    subscription.close()
    assert eventually_depth(remote, queue.name, 5) == 5


def test_every_subscription_of_a_connection_is_reopened(backend: Backend, proxy: Proxy, remote: RabbitTransport) -> None:
    queues = [backend.queue(f"many-{number}", kind="classic") for number in range(5)]
    sinks = [Recorder() for _ in queues]
    for queue, sink in zip(queues, sinks, strict=True):
        remote.declare(queue)
        remote.subscribe(queue.name, 10, sink)
    closed = remote.subscribe(queues[0].name, 10, unwanted := Recorder())
    closed.close()
    proxy.cut()
    for sink in sinks:
        assert sink.wait(lambda recorder: len(recorder.reopened) > 0)
    for queue, sink in zip(queues, sinks, strict=True):
        publish_all(remote, queue.name, [b"after"])
        assert sink.wait_deliveries(1)[0].body == b"after"
    assert unwanted.items == []


def test_queues_declared_here_are_declared_again(backend: Backend, proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    sink = Recorder()
    remote.subscribe(queue.name, 10, sink)
    proxy.cut(stay_down=True)
    publish_all(remote, queue.name, [b"notices"])
    backend.connect().delete(queue.name)
    proxy.restore()
    assert remote.wait_connected(PATIENCE)
    assert publish_all(remote, queue.name, [b"after"]) == [Settled.CONFIRMED]
    assert sink.wait(lambda recorder: recorder.bodies == [b"after"])


BASIC_CONSUME = struct.pack(">HH", 60, 20)


def closing(code: int, text: bytes) -> bytes:
    """Return the frame with which a broker closes a connection that has asked it to consume."""
    payload = struct.pack(">HHHB", 10, 50, code, len(text)) + text + BASIC_CONSUME
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def test_a_quorum_queue_without_a_leader_is_made_again(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    """A broker that is killed just after a queue was declared answers so, 65 seconds after it was asked, for ever."""
    publish_all(remote, queue.name, [b"unreachable"])
    proxy.answer(BASIC_CONSUME, closing(541, b"INTERNAL_ERROR"))
    sink = Recorder()
    remote.subscribe(queue.name, 10, sink)
    assert publish_all(remote, queue.name, [b"sent again"]) == [Settled.CONFIRMED]
    sink.wait_deliveries(1)
    assert sink.bodies == [b"sent again"]


def test_any_other_lost_connection_leaves_a_queue_alone(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    publish_all(remote, queue.name, [b"kept"])
    proxy.answer(BASIC_CONSUME, closing(320, b"CONNECTION_FORCED"))
    sink = Recorder()
    remote.subscribe(queue.name, 10, sink)
    sink.wait_deliveries(1)
    assert sink.bodies == [b"kept"]


def test_a_subscription_can_be_closed_without_a_connection(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    subscription = remote.subscribe(queue.name, 10, Recorder())
    proxy.cut(stay_down=True)
    publish_all(remote, queue.name, [b"notices"])
    subscription.close()
    remote.close()


def test_calls_wait_for_a_connection_that_comes_back(proxy: Proxy, remote: RabbitTransport, queue: Queue) -> None:
    publish_all(remote, queue.name, MANY)
    proxy.cut()
    assert eventually_depth(remote, queue.name, 8) == 8


def test_a_sink_that_waits_for_the_broker_is_told_so(remote: RabbitTransport, queue: Queue) -> None:
    raised: list[BaseException] = []
    done = Recorder()

    def wait(item: Delivery | Reopened) -> None:
        try:
            remote.depth(queue.name)
        except RuntimeError as error:
            raised.append(error)
        done(item)

    remote.subscribe(queue.name, 10, wait)
    publish_all(remote, queue.name, [b""])
    done.wait_deliveries(1)
    assert "hand over" in str(raised[0])


def test_a_wrong_password_is_refused_and_not_printed(rabbitmq_url: str) -> None:
    parts = urlsplit(rabbitmq_url)
    url = urlunsplit(parts._replace(netloc=f"splitee:secret-word@{parts.hostname}:{parts.port}"))
    with pytest.raises(BrokerRefused, match="ACCESS_REFUSED") as refused:
        RabbitTransport(url, timeout=PATIENCE)
    assert "secret-word" not in str(refused.value)
    assert str(parts.port) in str(refused.value)


def test_an_unknown_virtual_host_is_refused(rabbitmq_url: str) -> None:
    with pytest.raises(BrokerRefused, match="not found"):
        RabbitTransport(rabbitmq_url + "nowhere", timeout=PATIENCE)


@pytest.mark.parametrize("url", ["", "localhost", "http://user:secret-word@host/", "amqp://user:secret-word@host:port/"])
def test_an_address_that_is_none_is_refused_and_not_printed(url: str) -> None:
    with pytest.raises(BrokerRefused, match="not a URL like amqp") as refused:
        RabbitTransport(url)
    assert "secret-word" not in str(refused.value)


def test_nothing_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        BrokerUnavailable, match=f"127.0.0.1:{port} does not answer: .*refused.*start it, or check --broker"
    ) as error:
        RabbitTransport(f"amqp://user:secret-word@127.0.0.1:{port}/", timeout=1.0)
    assert "secret-word" not in str(error.value)


def test_a_server_that_says_nothing_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            RabbitTransport(f"amqp://user:word@127.0.0.1:{port}/", timeout=1.0)


def test_a_killed_server_keeps_what_it_confirmed(rabbitmq_server: PrivateServer) -> None:
    transport = RabbitTransport(rabbitmq_server.url, timeout=120.0)
    queues = [Queue("splitee.quorum", kind="quorum", delivery_limit=1_000_000), Queue("splitee.classic")]
    sinks = [Recorder(), Recorder()]
    for queue, sink in zip(queues, sinks, strict=True):
        transport.declare(queue)
        assert publish_all(transport, queue.name, MANY) == [Settled.CONFIRMED] * 8
        transport.subscribe(queue.name, 100, sink)
        sink.wait_deliveries(8)
    threading.Event().wait(2.0)  # a quorum queue younger than about a second may never elect a leader again
    rabbitmq_server.kill()
    early = RabbitTransport(rabbitmq_server.url, may_be_away=True)
    early.declare(Queue("splitee.early"))
    early.subscribe("splitee.early", 10, heard := Recorder())
    rabbitmq_server.restart()
    assert transport.wait_connected(120.0)
    assert early.wait_connected(120.0)
    assert publish_all(early, "splitee.early", MANY) == [Settled.CONFIRMED] * 8
    heard.wait_deliveries(8)
    early.close()
    for queue, sink in zip(queues, sinks, strict=True):
        assert sink.wait(lambda recorder: sorted(set(recorder.bodies[8:])) == MANY, 120.0), queue.name
        assert publish_all(transport, queue.name, [b"after"]) == [Settled.CONFIRMED]
    transport.close()
