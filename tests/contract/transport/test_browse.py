"""A queue can be looked at without taking anything out, on every transport."""

import pytest

from broker import browse
from broker.browse import Browser
from broker.errors import BrokerUnavailable, UnknownQueue
from broker.topology import Queue
from broker.transport import Delivery, Transport
from tests.contract.transports import MANY, Backend, drain, eventually_depth, publish_all, rabbitmq_backend
from tests.proxy import proxied


@pytest.fixture
def letters(backend: Backend, transport: Transport) -> Queue:
    """A queue like that of dead letters, with something in it."""
    queue = backend.queue("letters", kind="classic")
    transport.declare(queue)
    publish_all(transport, queue.name, MANY)
    return queue


def body(delivery: Delivery) -> bytes:
    return delivery.body


def test_everything_is_seen_and_stays_where_it_was(backend: Backend, transport: Transport, letters: Queue) -> None:
    with Browser(transport, letters.name, body) as browser:
        assert [entry.value for entry in browser.entries] == MANY
        assert [entry.delivery.body for entry in browser.entries] == [b""] * 8, "a body is not kept"
    assert eventually_depth(transport, letters.name, 8) == 8
    if backend.scramble is None:
        assert drain(transport, letters.name, 8) == MANY


def test_what_is_removed_is_gone(transport: Transport, letters: Queue) -> None:
    with Browser(transport, letters.name, body) as browser:
        browser.remove(entry for entry in browser.entries if entry.value in MANY[2:5])
    assert sorted(drain(transport, letters.name, 5)) == [*MANY[:2], *MANY[5:]]


def test_a_queue_longer_than_one_prefetch(transport: Transport, letters: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "PREFETCH", 3)
    with Browser(transport, letters.name, body) as browser:
        assert sorted(entry.value for entry in browser.entries) == MANY
        browser.remove(browser.entries)
    assert eventually_depth(transport, letters.name, 0) == 0


def test_an_empty_queue_and_one_that_is_not_there(transport: Transport, queue: Queue) -> None:
    with Browser(transport, queue.name, body) as browser:
        assert browser.entries == []
    with pytest.raises(UnknownQueue), Browser(transport, queue.name + ".not", body):
        pass


def test_a_connection_lost_while_removing_is_told(rabbitmq_url: str) -> None:
    backend = rabbitmq_backend(rabbitmq_url, "classic")
    letters = backend.queue("letters")
    direct = backend.connect()
    direct.declare(letters)
    publish_all(direct, letters.name, MANY)
    with proxied(rabbitmq_url) as proxy:
        backend.connect_one = rabbitmq_backend(proxy.url, "classic").connect_one
        transport = backend.connect()

        def lose() -> None:
            with Browser(transport, letters.name, body) as browser:
                proxy.cut()
                assert eventually_depth(direct, letters.name, 8) == 8
                browser.remove(browser.entries)

        with pytest.raises(BrokerUnavailable, match="look again what is left"):
            lose()
        assert eventually_depth(direct, letters.name, 8) == 8
        transport.close()
    backend.connect_one = rabbitmq_backend(rabbitmq_url, "classic").connect_one
    backend.clear()
