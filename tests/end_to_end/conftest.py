"""Fixtures of the end-to-end tests."""

import os
from collections.abc import Callable, Iterator
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest

from cli.private_servers import PrivateServer, start_rabbitmq
from tests.end_to_end.harness import Deployment, Node, Setup
from tests.end_to_end.undisturbed import Undisturbed as Undisturbed
from tests.prometheus import Prometheus, start_prometheus
from tests.services import installed

Deploy = Callable[..., Deployment]


@pytest.fixture(scope="session")
def forkserver() -> None:
    """Let the process that all others are forked from begin its imports now, before a command asks for one of its own."""
    ensure_running()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return a function: the summary of the tiny experiment with overrides, trained embedded and undisturbed."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "undisturbed"  # pytest's processes share it
    folder.mkdir(exist_ok=True)
    return Undisturbed(folder)


@pytest.fixture
def deploy(forkserver: None, rabbitmq_url: str, redis_url: str, run_name: str, tmp_path: Path) -> Iterator[Deploy]:
    """Return a function that makes a deployment of the tiny experiment with overrides; it is ended after the test.

    broker, store: URLs of other servers than those that all tests share. suffix: tells the runs of one test apart.
    """
    made: list[Deployment] = []

    def make(*overrides: str, broker: str = rabbitmq_url, store: str = redis_url, suffix: str = "") -> Deployment:
        folder = tmp_path / f"deployment{suffix}"
        deployment = Deployment(Setup.write(tmp_path, *overrides), run_name + suffix, broker, store, folder)
        made.append(deployment)
        return deployment

    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture(scope="session")
def exporting_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateServer]:
    """A RabbitMQ node with its own exporter, of the tests in which a Prometheus scrapes."""
    with installed(start_rabbitmq(tmp_path_factory.mktemp("exporting-rabbitmq"), exporter=True)) as server:
        yield server


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus of one test."""
    with installed(start_prometheus(tmp_path / "prometheus")) as started:
        yield started


@pytest.fixture
def command(forkserver: None, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Return a function that starts a ``splitee`` command as a process, ended after the test."""
    started: list[Node] = []

    def start(*arguments: str) -> Node:
        node = Node(list(arguments), tmp_path / f"command-{len(started)}.log")
        started.append(node)
        return node

    yield start
    for node in started:
        node.kill()
