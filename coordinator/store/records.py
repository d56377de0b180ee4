"""The documents of a run and their keys. Everything that decides anything is in one of these.

| key | document | written by |
|---|---|---|
| run | RunRecord | whoever creates the run, once |
| state | RunState | the coordinator |
| roster | Roster | the coordinator |
| round/<r> | RoundRecord | the coordinator |
| stream/<r>/<id> | StreamRecord | the worker that holds the stream's lease; deleted when its round is closed |
| version/<r> | VersionRecord | the coordinator; the last two are kept |
| scores/<r> | Scores | the coordinator |
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from broker.messages import Score
from coordinator.store.interface import BlobRef

RUN, STATE, ROSTER = "run", "state", "roster"
LEADER = "leader"  # the coordinator's lease


def round_key(round: int) -> str:
    """Return the key of a round's document."""
    return f"round/{round:06d}"


def stream_key(round: int, stream: str) -> str:
    """Return the key of a stream's document, which is also the scope of its blobs."""
    return f"stream/{round:06d}/{stream}"


def stream_lease(stream: str) -> str:
    """Return the name of a stream's lease: one for all rounds, so that leases do not grow with them."""
    return f"stream/{stream}"


def version_key(round: int) -> str:
    """Return the key of a version's document, which is also the scope of its blobs."""
    return f"version/{round:06d}"


def scores_key(round: int) -> str:
    """Return the key of a round's scores."""
    return f"scores/{round:06d}"


class Record(BaseModel):
    """Base of all documents; travels as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunRecord(Record):
    """What a run is: fixed when it is created."""

    name: str
    experiment: str  # JSON, every "auto" resolved
    fingerprint: str
    sample_shape: tuple[int, ...]
    classes: int
    versions: dict[str, str]  # of the libraries that decide bits
    id: str = ""  # random: tells it from an earlier run of the same name and experiment


class Rollback(Record):
    """A store that lost its last writes: rounds after ``to_closed``, up to ``from_closed``, were closed and are so no more."""

    from_closed: int
    to_closed: int


class RunState(Record):
    """Where a run is."""

    phase: Literal["waiting", "training", "finished", "failed"] = "waiting"
    round: int = 0  # the open round, 0 before the first
    closed: int = 0  # the last round whose version is published
    reason: str = ""
    over: bool = False  # finished, and the clients have heard or have had time enough to: nothing is left to do
    rollbacks: list[Rollback] = []


class ClientRecord(Record):
    """One client as the coordinator knows it."""

    id: str
    index: int  # place in the roster; never reassigned
    cut: int
    incarnation: int
    process: str
    samples: int | None  # of its own data, None where the run's data set is partitioned
    first_round: int
    state: Literal["active", "closing", "gone", "left"] = "active"  # left: it has heard that the run is finished
    reason: str = ""


class Departure(Record):
    """A client that was given up, whether or not it came back later."""

    client: str
    cut: int
    incarnation: int
    round: int
    reason: str
    at: float  # seconds since the epoch, by the coordinator's clock


class Roster(Record):
    """All clients that were ever admitted."""

    clients: dict[str, ClientRecord] = {}
    departures: list[Departure] = []

    def without_leavers(self) -> "Roster":
        """Return the roster after a round: clients that were being closed in it are gone."""
        gone = {c.id: c.model_copy(update={"state": "gone"}) for c in self.clients.values() if c.state == "closing"}
        return self.model_copy(update={"clients": {**self.clients, **gone}})

    def active(self) -> list[ClientRecord]:
        """Return the clients that take part, in the order of the roster."""
        return sorted((c for c in self.clients.values() if c.state == "active"), key=lambda c: c.index)


class StreamClient(Record):
    """A client's place in a stream."""

    id: str
    incarnation: int
    cut: int


class StreamPlan(Record):
    """One stream of a round."""

    id: str
    clients: list[StreamClient]


class Tallies(Record):
    """What a round or stream amounted to."""

    samples: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    bytes: int = 0  # of message bodies that took effect
    refused: int = 0
    duplicates: int = 0
    divergent: int = 0
    dropped_samples: int = 0
    client_samples: int = 0  # trained by client halves, as their markers say
    client_loss_sum: float = 0.0
    discarded_samples: int = 0  # trained and rolled back

    @property
    def server_loss(self) -> float | None:
        """Mean server loss over the samples."""
        return self.loss_sum / self.samples if self.samples else None

    @property
    def client_loss(self) -> float | None:
        """Mean local loss over the clients' samples."""
        return self.client_loss_sum / self.client_samples if self.client_samples else None

    def __add__(self, other: "Tallies") -> "Tallies":
        mine, theirs = self.model_dump(), other.model_dump()
        return Tallies(**{name: mine[name] + theirs[name] for name in mine})


class Closing(Record):
    """How many batches count of a client that was given up in a round."""

    client: str
    incarnation: int
    batches: int
    discarded: bool  # what it had sent was rolled back


class RoundRecord(Record):
    """A round: its streams, and after the freeze which of them count."""

    round: int
    phase: Literal["open", "frozen", "closed"] = "open"
    streams: list[StreamPlan]
    frozen: list[str] = []  # streams that are averaged, in fixed order
    opened_at: float  # seconds since the epoch, by the coordinator's clock
    seconds: float = 0.0  # from opened to closed
    tallies: Tallies = Tallies()
    closings: list[Closing] = []

    def plan_of(self, client: str) -> StreamPlan | None:
        """Return the stream that a client is in, None if it takes no part."""
        return next((plan for plan in self.streams if any(member.id == client for member in plan.clients)), None)


class Hole(Record):
    """A sequence that was refused."""

    sequence: int
    reason: str


class ClientProgress(Record):
    """A stream's position in one client's round: everything before ``sequence`` has had its effect."""

    incarnation: int
    cut: int
    sequence: int = 0
    ended: bool = False
    closed: str = ""  # why it ended before its marker
    discarded: bool = False  # what came before that was rolled back
    digest: str = ""  # hex; running SHA-256 over what was trained
    tallies: Tallies = Tallies()
    unplaced: int = 0  # of those refused, how many had no place in the sequence
    holes: list[Hole] = []


class Savepoint(Record):
    """A replica as it was when a stream went over to its next client."""

    layers: dict[int, BlobRef]
    optimizer: BlobRef

    def blobs(self) -> set[BlobRef]:
        """Return all blobs that it points to."""
        return {*self.layers.values(), self.optimizer}


class StreamRecord(Record):
    """A stream's last checkpoint, or its commit: replica, optimizer state, position and tallies together."""

    round: int
    stream: str
    worker: str
    status: Literal["training", "committed"] = "training"
    clients: dict[str, ClientProgress] = {}
    layers: dict[int, BlobRef] = {}
    optimizer: BlobRef | None = None
    halves: dict[str, BlobRef] = {}
    savepoint: Savepoint | None = None  # where its client began; None: where the round starts, or nothing is ever discarded

    def blobs(self) -> set[BlobRef]:
        """Return all blobs that this document points to."""
        saved = self.savepoint.blobs() if self.savepoint else set()
        return {*self.layers.values(), *self.halves.values(), *([self.optimizer] if self.optimizer else []), *saved}

    def closing(self, client: str) -> Closing:
        """Return what counts of a client that was given up, in mid-round or after its last batch."""
        progress = self.clients[client]
        marker = progress.ended and not progress.closed
        batches = 0 if progress.discarded else progress.sequence - marker
        return Closing(client=client, incarnation=progress.incarnation, batches=batches, discarded=progress.discarded)

    def tallies(self) -> Tallies:
        """Return the sum over its clients."""
        return sum((client.tallies for client in self.clients.values()), Tallies())


class VersionRecord(Record):
    """The server layers after a round, and what replicas start the next one from. Version 0 is the initialisation."""

    round: int
    layers: dict[int, BlobRef]
    replicas: dict[str, dict[int, BlobRef]] = {}  # by stream, where replicas are not averaged
    optimizers: dict[str, BlobRef] = {}  # by stream, where optimizer state is kept
    halves: dict[str, BlobRef] = {}  # by client, after the last round

    def layers_of(self, stream: str) -> dict[int, BlobRef]:
        """Return the layers that a stream's replica starts from and that its clients' inference uses."""
        return {**self.layers, **self.replicas.get(stream, {})}

    def scopes(self) -> set[str]:
        """Return the scopes of all blobs that this document points to."""
        refs = [*self.layers.values(), *self.optimizers.values(), *self.halves.values()]
        for layers in self.replicas.values():
            refs.extend(layers.values())
        return {ref.scope for ref in refs}


class Scores(Record):
    """Scores of a round by client."""

    round: int
    clients: dict[str, Score] = {}
