"""What the failures of an AMQP connection mean, and how long to wait after one."""

import random
import re

from pika.exceptions import ChannelClosed, ConnectionClosed

from broker.errors import BrokerError, BrokerRefused, BrokerUnavailable, UnknownQueue

_REFUSED = {403, 406, 501, 502, 503, 504, 505, 530, 540}  # AMQP reply codes that come again however often one tries
_INTERNAL_ERROR = 541


class Backoff:
    """Delays in seconds before the next try: doubling from 0.1 to 5, jittered so that many clients spread out."""

    def __init__(self) -> None:
        self._tries = 0
        self._random = random.Random()

    def next(self) -> float:
        """Return the next delay."""
        delay = min(5.0, 0.1 * 2.0**self._tries)
        self._tries = min(self._tries + 1, 10)
        return delay * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again from the shortest delay."""
        self._tries = 0


def translate(error: BaseException) -> BrokerError:
    """Return what an exception of pika means to a role."""
    code, text = _reply(error)
    if code == 404 and ("no queue" in text or "no exchange" in text):
        return UnknownQueue(text)
    transient = "delivery acknowledgement" in text or "delivery tag" in text or "exclusive use" in text
    if code in _REFUSED and not transient:
        return BrokerRefused(text)
    return BrokerUnavailable(text)


def is_internal_error(error: BaseException) -> bool:
    """Return whether the broker closed a connection for a fault of its own."""
    return _reply(error)[0] == _INTERNAL_ERROR


def _reply(error: BaseException) -> tuple[int | None, str]:
    """Return the broker's reply code, if it gave one, and the innermost reason."""
    if isinstance(error, ChannelClosed | ConnectionClosed):
        return error.reply_code, error.reply_text
    nested = getattr(error, "exception", None) or (getattr(error, "exceptions", None) or [None])[-1]
    nested = nested or next((argument for argument in error.args if isinstance(argument, BaseException)), None)
    if nested is not None:
        return _reply(nested)
    text = str(error) or type(error).__name__
    # pika keeps a close during the handshake only as the repr of the exception
    handshake = re.search(r"ConnectionClosedByBroker: \((\d+)\) ['\"](.*)['\"]", text)
    return (int(handshake[1]), handshake[2]) if handshake else (None, text)
