"""Each test of this folder runs on both stores."""

import time
from collections.abc import Iterator

import pytest
import redis

from coordinator.store.interface import Store
from coordinator.store.memory import MemoryStore
from coordinator.store.redis import RedisStore
from tests.contract.stores import Backend, Clock


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        clock = Clock()
        yield Backend(MemoryStore(clock=clock), clock.move)
        return
    url, run = request.getfixturevalue("redis_url"), request.getfixturevalue("run_name")
    store = RedisStore(url, run)
    yield Backend(store, time.sleep)
    store.wipe()
    with redis.Redis.from_url(url) as client:
        assert not list(client.scan_iter(f"*{run}*")), "wipe left keys behind"
    store.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store
