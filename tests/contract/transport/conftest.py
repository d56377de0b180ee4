"""Each test of this folder runs on all transports."""

from collections.abc import Iterator

import pytest

from broker.topology import Queue
from broker.transport import Transport
from tests.contract.transports import Backend, memory_backend, rabbitmq_backend


@pytest.fixture(params=["memory", "memory-scrambled", "rabbitmq-classic", "rabbitmq-quorum"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    name, _, kind = request.param.partition("-")
    if name == "memory":
        backend = memory_backend(scramble=3 if kind else None)
    else:
        backend = rabbitmq_backend(request.getfixturevalue("rabbitmq_url"), kind)
    yield backend
    backend.clear()


@pytest.fixture
def transport(backend: Backend) -> Transport:
    return backend.connect()


@pytest.fixture
def queue(backend: Backend, transport: Transport) -> Queue:
    """A queue like those of activations."""
    queue = backend.queue("stream", single_active_consumer=True, delivery_limit=1_000_000 if backend.kind == "quorum" else None)
    transport.declare(queue)
    return queue
