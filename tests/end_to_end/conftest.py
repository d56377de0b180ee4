"""Fixtures of the end-to-end tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.harness import Deployment, Node, Setup, tiny, train

Deploy = Callable[..., Deployment]
Undisturbed = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return the summary of the tiny experiment with overrides, trained embedded and undisturbed: once for all tests."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def summary(*overrides: str) -> dict[str, Any]:
        if overrides not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            known[overrides] = {**train(tiny(folder, *overrides), folder / "output"), "folder": folder / "output"}
        return known[overrides]

    return summary


@pytest.fixture
def deploy(rabbitmq_url: str, redis_url: str, run_name: str, tmp_path: Path) -> Iterator[Deploy]:
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


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Return a function that starts a ``splitee`` command as a process, ended after the test."""
    started: list[Node] = []

    def start(*arguments: str) -> Node:
        node = Node(list(arguments), tmp_path / f"command-{len(started)}.log")
        started.append(node)
        return node

    yield start
    for node in started:
        node.kill()
