"""What soak tests share: servers that no other test disturbs, and that they may ask anything."""

import pytest

from cli.private_servers import PrivateServer
from tests.end_to_end.conftest import deploy as deploy
from tests.end_to_end.conftest import forkserver as forkserver
from tests.end_to_end.conftest import undisturbed as undisturbed


@pytest.fixture
def rabbitmq_url(rabbitmq_server: PrivateServer) -> str:
    """Return the URL of the broker that deployments use."""
    return rabbitmq_server.url


@pytest.fixture
def redis_url(redis_server: PrivateServer) -> str:
    """Return the URL of the store that deployments use."""
    return redis_server.url
