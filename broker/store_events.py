"""What coordinators say about the store."""

from dataclasses import dataclass

from broker.events import Event


@dataclass(frozen=True, kw_only=True)
class StoreWentBack(Event):
    """The store has lost its last writes, and rounds that were closed with them: they are trained again."""

    from_closed: int
    to_closed: int


@dataclass(frozen=True, kw_only=True)
class StoreUsed(Event):
    """How many bytes the whole store uses, and the most that it may use."""

    used: int
    limit: int | None
