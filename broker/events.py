"""What roles say about their work. Listeners (progress, metrics files, exporters) are wired by the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["coordinator", "server", "client"]
# of no message of the run, or larger than any; of one that has no place there; of what does not fit the run; of values, or what
# comes of them, that are NaN or infinite; of a killer of workers
RefusalKind = Literal["malformed", "misplaced", "unfit", "nonfinite", "poison"]
DropoutKind = Literal["silent", "overdue", "replaced"]
Awaited = Literal["broker", "servers", "round", "client", "stream"]  # the first three by clients, the others by server workers


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, kw_only=True)
class Waiting(Event):
    """A role cannot go on until something else is there."""

    role: str
    what: str


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A coordinator has created or resumed a run."""

    run: str
    strategy: str
    rounds: int
    clients: int
    resumed_at: int  # first round still to be trained


@dataclass(frozen=True, kw_only=True)
class ClientJoined(Event):
    """A client was admitted."""

    client: str
    cut: int
    round: int  # first round that it takes part in


@dataclass(frozen=True, kw_only=True)
class ClientDropped(Event):
    """A client was given up."""

    client: str
    round: int
    reason: str
    kind: DropoutKind


@dataclass(frozen=True, kw_only=True)
class ClientsCounted(Event):
    """How many clients are in which state, where that has changed."""

    states: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class ClientReported(Event):
    """A coordinator has heard what a client has counted since its last heartbeat, by field of ``ClientCounts``."""

    client: str
    cut: int
    counts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RoundOpened(Event):
    """Streams of a round can be claimed."""

    round: int
    streams: int  # 0: none, the round is of whole networks
    clients: int
    opened_at: float  # Unix time


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """How far the open round is, as far as the coordinator has heard."""

    round: int
    opened_at: float  # Unix time
    clients: int
    streams_committed: int
    streams: int
    client_samples: int  # trained by clients since the coordinator started
    server_samples: int  # durably trained by server workers in all
    client_loss: float | None
    server_loss: float | None


@dataclass(frozen=True, kw_only=True)
class RoundClosed(Event):
    """A round has been averaged; its version of the layers is there."""

    round: int
    seconds: float
    samples: int
    server_loss: float | None
    server_accuracy: float | None  # on the batches trained
    client_loss: float | None


@dataclass(frozen=True, kw_only=True)
class RoundEvaluated(Event):
    """All clients still there have reported their scores of a round: accuracy by cut."""

    round: int
    accuracy: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run is over; the summary is what summary.json holds."""

    summary: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StreamClaimed(Event):
    """A worker has taken a stream."""

    worker: str
    round: int
    stream: str
    epoch: int
    trained: int  # batches already durable
    again: bool  # a worker has had it in this round, or was lost with it


@dataclass(frozen=True, kw_only=True)
class BatchTrained(Event):
    """A server half has made one step."""

    round: int
    stream: str
    client: str
    cut: int
    sequence: int
    samples: int
    correct: int
    bytes: int  # of features and labels, as they came
    loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NetworkStep(Event):
    """A whole network has made one step; only the baselines train such."""

    round: int
    network: str
    place: int  # 1 to networks: they are trained in this order
    networks: int
    batches: int  # trained in this round, of so many
    of: int


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A stream's position is durable up to here."""

    round: int
    stream: str
    bytes: int
    seconds: float
    commits: bool  # it is the stream's last


@dataclass(frozen=True, kw_only=True)
class StreamCommitted(Event):
    """A stream's replica of a round is complete and in the store."""

    worker: str
    round: int
    stream: str
    samples: int


@dataclass(frozen=True, kw_only=True)
class StreamLost(Event):
    """A worker dropped a stream whose lease passed to another."""

    worker: str
    round: int
    stream: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ClientRoundEnded(Event):
    """A worker has ended a client's round before its marker."""

    client: str
    round: int
    kept: bool  # whether what came before counts
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReplicaSetBack(Event):
    """A worker has set a replica that became non-finite back to before the clients that it was being trained with."""

    round: int
    stream: str


@dataclass(frozen=True, kw_only=True)
class MessageRefused(Event):
    """A message became a dead letter."""

    queue: str
    reason: str
    kind: RefusalKind


@dataclass(frozen=True, kw_only=True)
class DuplicatesDropped(Event):
    """A worker has recognised messages of a client that came again."""

    client: str
    count: int


@dataclass(frozen=True, kw_only=True)
class GapFound(Event):
    """A client's messages are here, but not the one that is next: it is asked for again."""

    client: str
    round: int
    sequence: int


@dataclass(frozen=True, kw_only=True)
class FeaturesPublished(Event):
    """A client half has made one step and its features are on their way."""

    client: str
    cut: int
    round: int
    sequence: int
    samples: int
    correct: int  # by its exit
    bytes: int
    raw_bytes: int  # as float32 features and int64 labels
    loss: float
    clamped: int  # values beyond the wire dtype's range
    seconds: float  # of the step
    window: float  # share of transport.run_ahead_bytes that is published and not durable


@dataclass(frozen=True, kw_only=True)
class Acknowledged(Event):
    """The broker has confirmed messages of a client, or a server has said that they are durable."""

    client: str
    by: Literal["broker", "server"]
    messages: int
    seconds: float  # since each was published, summed


@dataclass(frozen=True, kw_only=True)
class Waited(Event):
    """A role had nothing to do but to wait; a long wait is told in pieces."""

    role: str
    awaited: Awaited
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Reconnected(Event):
    """A role's consumer has a new channel to the broker, after the one before was lost."""

    role: Role


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
