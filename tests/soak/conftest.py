"""What soak tests share: servers that no other test disturbs, and that they may ask anything."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.private_servers import PrivateServer
from tests.end_to_end.conftest import undisturbed as undisturbed
from tests.end_to_end.harness import Deployment, Setup

Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(rabbitmq_server: PrivateServer, redis_server: PrivateServer, run_name: str, tmp_path: Path) -> Iterator[Deploy]:
    """Return a function that makes a deployment of the tiny experiment with overrides; it is ended after the test."""
    made: list[Deployment] = []

    def make(*overrides: str) -> Deployment:
        setup = Setup.write(tmp_path, *overrides)
        deployment = Deployment(setup, run_name, rabbitmq_server.url, redis_server.url, tmp_path / "deployment")
        made.append(deployment)
        return deployment

    yield make
    for deployment in made:
        deployment.close()
