"""Fixtures of all tests: servers of their own, started when first asked for, and names that no other test uses."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported; it holds for every thread

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.private_servers import PrivateServer, start_rabbitmq, start_redis
from tests.services import installed


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The amqp:// URL of a RabbitMQ node that all tests share and none disturbs."""
    with installed(start_rabbitmq(tmp_path_factory.mktemp("rabbitmq"))) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The redis:// URL of a Redis server that all tests share and none disturbs."""
    with installed(start_redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server.url


@pytest.fixture
def rabbitmq_server(tmp_path: Path) -> Iterator[PrivateServer]:
    """A RabbitMQ node of one test, to be killed, paused and restarted."""
    with installed(start_rabbitmq(tmp_path / "rabbitmq")) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[PrivateServer]:
    """A Redis server of one test, to be killed, paused and restarted. It loses nothing that it has confirmed."""
    with installed(start_redis(tmp_path / "redis", appendfsync="always")) as server:
        yield server


@pytest.fixture
def run_name() -> str:
    """A run name that nobody else uses."""
    return f"test-{secrets.token_hex(6)}"
