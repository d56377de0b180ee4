"""A transport that may be opened while nobody answers, and finds its broker later."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker.errors import BrokerRefused
from broker.rabbitmq import RabbitTransport
from broker.topology import Queue
from broker.transport import Settled
from tests.contract.transports import MANY, PATIENCE, Backend, Recorder, eventually_depth, publish_all, rabbitmq_backend
from tests.proxy import at_port, closed_port, proxied

NEVER = 3600.0  # seconds: nothing here may wait for a broker that is away
LOGIN = "amqp://user:secret-word@"


@pytest.fixture
def backend(rabbitmq_url: str) -> Iterator[Backend]:
    backend = rabbitmq_backend(rabbitmq_url, "classic")
    yield backend
    backend.clear()


def sockets() -> set[str]:
    """Return what this process has open of them."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add(str(link.readlink()))
    return {name for name in found if name.startswith("socket:")}


def test_what_was_asked_for_takes_effect_when_the_broker_comes(
    backend: Backend, rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = closed_port()
    queue = backend.queue()
    transport = RabbitTransport(at_port(rabbitmq_url, port), timeout=NEVER, may_be_away=True)
    sink = Recorder()
    transport.declare(queue)
    subscription = transport.subscribe(queue.name, 3, sink)
    unwanted = transport.subscribe(queue.name, 10, Recorder())
    unwanted.close()
    assert publish_all(transport, queue.name, MANY) == [Settled.LOST] * 8
    assert not transport.wait_connected(1.0)  # several tries, of which one is told
    [said] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"RabbitMQ at amqp://127.0.0.1:{port} does not answer: " in said
    assert "start it, or check --broker" in said
    with proxied(rabbitmq_url, port) as proxy:
        assert transport.wait_connected(PATIENCE)
        assert publish_all(transport, queue.name, MANY) == [Settled.CONFIRMED] * 8
        assert sink.stays_at(3)
        assert not sink.reopened
        subscription.ack(sink.deliveries)
        sink.wait_deliveries(6)
        proxy.cut()  # after which all is as with any other transport
        assert sink.wait(lambda recorder: len(recorder.current(subscription.generation)) == 3 and bool(recorder.reopened))
        subscription.close()
        assert eventually_depth(transport, queue.name, 5) == 5
        transport.close()


def test_a_broker_that_is_there_is_used_at_once_and_may_refuse(backend: Backend, rabbitmq_url: str) -> None:
    transport = RabbitTransport(rabbitmq_url, timeout=NEVER, may_be_away=True)
    assert transport.wait_connected(0)
    queue = backend.queue(max_length=5)
    transport.declare(queue)
    assert transport.depth(queue.name) == 0
    with pytest.raises(BrokerRefused, match="inequivalent arg"):
        transport.declare(Queue(queue.name))
    transport.close()


def test_a_wrong_password_is_refused_at_once(rabbitmq_url: str) -> None:
    with pytest.raises(BrokerRefused, match="ACCESS_REFUSED"):
        RabbitTransport(f"{LOGIN}127.0.0.1:{urlsplit(rabbitmq_url).port}/", timeout=NEVER, may_be_away=True)


def test_a_wrong_password_that_is_found_out_later_is_told(rabbitmq_url: str, caplog: pytest.LogCaptureFixture) -> None:
    port = closed_port()
    transport = RabbitTransport(f"{LOGIN}127.0.0.1:{port}/", timeout=NEVER, may_be_away=True)
    with proxied(rabbitmq_url, port):
        deadline = time.monotonic() + PATIENCE
        while "refused: ACCESS_REFUSED" not in caplog.text:
            assert time.monotonic() < deadline, caplog.text
            threading.Event().wait(0.05)
        transport.close()
    assert "secret-word" not in caplog.text


@pytest.mark.parametrize("address", ["host:port", "two..dots:5672", "x" * 64])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BrokerRefused, match="not a URL like amqp"):
        RabbitTransport(f"{LOGIN}{address}/", may_be_away=True)


@pytest.mark.parametrize("kind", ["nobody listens", "no such name", "nothing is said", "nothing is accepted"])
def test_closing_while_it_is_tried_leaves_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        address = f"127.0.0.1:{closed_port()}"
        if kind == "no such name":
            address = "nowhere.invalid:5672"
        elif kind != "nobody listens":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            for _ in range(3 if kind == "nothing is accepted" else 0):  # more than are kept waiting
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        threads, before = set(threading.enumerate()), sockets()
        transport = RabbitTransport(f"{LOGIN}{address}/", timeout=NEVER, connect_timeout=0.2, may_be_away=True)
        transport.declare(Queue("splitee.never"))
        transport.subscribe("splitee.never", 10, Recorder())
        assert not transport.wait_connected(0)
        transport.close()
        assert set(threading.enumerate()) <= threads
        assert sockets() <= before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "secret-word" not in caplog.text
