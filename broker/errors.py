"""What can go wrong between a role and its broker."""


class BrokerError(Exception):
    """Base of every error that this package raises on purpose."""


class MalformedMessage(BrokerError):
    """Bytes from a queue are not a message of this protocol; the text says why."""


class PoisonedMessage(MalformedMessage):
    """A message at which too many server workers were lost; the text says how many."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached; worth another try."""


class BrokerRefused(BrokerError):
    """The broker refused for good: authentication, a permission, or a declaration that does not match."""


class UnknownQueue(BrokerError):
    """The queue named does not exist."""
