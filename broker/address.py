"""What an AMQP URL says."""

from typing import Any

import pika

from broker.errors import BrokerRefused


def parameters(url: str, heartbeat: int, timeout: float) -> Any:
    """Return pika's parameters of a connection; heartbeat and timeout in seconds. Raises BrokerRefused if the URL is not one."""
    try:
        if not url.startswith(("amqp://", "amqps://")):
            raise ValueError
        found = pika.URLParameters(url)
        str(found.host).encode("idna")  # else it would fail whenever it is looked up
        found.heartbeat = heartbeat
        found.socket_timeout = found.stack_timeout = timeout
    except (ValueError, TypeError, LookupError):
        raise BrokerRefused("the broker's address is not a URL like amqp://user:password@host:5672/vhost") from None
    found.client_properties = {"connection_name": "splitee"}
    return found
