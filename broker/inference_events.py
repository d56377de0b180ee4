"""What workers and clients say about inference."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.events import Event


@dataclass(frozen=True, kw_only=True)
class InferenceAnswered(Event):
    """A worker has answered inference requests, all at once."""

    worker: str
    requests: int
    samples: int
    seconds: float  # from taking them up to sending the answers


@dataclass(frozen=True, kw_only=True)
class InferenceLate(Event):
    """A worker has dropped an inference request that nobody waits for any more."""

    worker: str
    client: str


@dataclass(frozen=True, kw_only=True)
class InferenceFinished(Event):
    """A batch of samples has its answers at an inference client."""

    client: str
    where: Mapping[str, int]  # samples by who answered: "client", "server" or "degraded"
    seconds: float  # from its first layer to its last answer
