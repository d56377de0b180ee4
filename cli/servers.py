"""A run's servers as they are named on the command line."""

import re

from broker.errors import BrokerRefused
from broker.messages import CLIENT_PATTERN
from broker.rabbitmq import RabbitTransport
from coordinator.errors import ExperimentError
from coordinator.store.open import open_store

BROKER_SCHEMES = ("amqp://", "amqps://")
CONNECT_SECONDS = 10.0  # for a first connection: an address that does not answer is likely to be wrong


def check_broker(url: str | None) -> None:
    """Raise BrokerRefused if a broker's URL is given and is not one of RabbitMQ."""
    if url is not None and not url.startswith(BROKER_SCHEMES):
        raise BrokerRefused(
            f"--broker {url.split('@')[-1]!r} is no RabbitMQ URL; give amqp://user:password@host:port/ (or amqps://)"
        )


def connect(url: str, heartbeat: int = 20) -> RabbitTransport:
    """Return a transport to RabbitMQ; raise BrokerRefused if the URL is not one of it."""
    check_broker(url)
    return RabbitTransport(url, heartbeat=heartbeat, connect_timeout=CONNECT_SECONDS)


def check_servers(broker: str, store: str, run: str) -> None:
    """Raise BrokerError or StoreError if one of a run's servers cannot be used."""
    connect(broker).close()
    opened = open_store(store, run)
    try:
        opened.usage()
    finally:
        opened.close()


def check_name(option: str, name: str) -> None:
    """Raise ExperimentError if a name cannot be a run's or a client's."""
    if not re.match(CLIENT_PATTERN, name):
        raise ExperimentError(f"{option} {name!r}: use lower-case letters, digits and '-', at most 63, such as client-01")
