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
| sight | Sight | the coordinator, now and then; nothing is decided by it |
"""

import math
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.messages import ClientId, Count, Positive, Score
from coordinator.store.interface import BlobRef

RUN, STATE, ROSTER, SIGHT = "run", "state", "roster", "sight"
LEADER = "leader"  # the coordinator's lease

StreamId = ClientId  # a stream has a client's name, or one of that form
Round = Annotated[int, Field(ge=0, le=999_999)]  # keys have six digits
Number = Annotated[int, Field(gt=-(2**80), lt=2**80)]  # sums of counts; differences too
Time = Annotated[float, Field(ge=0, lt=2.5e11)]  # seconds since the epoch; dates end with the year 9999
Size = Annotated[int, Field(ge=1, lt=2**31)]
Layers = dict[Size, BlobRef]  # by number
_MOST_CLASSES, _MOST_VALUES = 100_000, 2**32  # of a network, of one sample


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


def round_of(scope: str) -> int | None:
    """Return the round of a scope of blobs, None if it is none that a role has made."""
    found = re.match("(?:stream|version)/([0-9]{6})(?:/|$)", scope)
    return int(found[1]) if found else None


def scores_key(round: int) -> str:
    """Return the key of a round's scores."""
    return f"scores/{round:06d}"


def _fits_memory(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > _MOST_VALUES:
        raise ValueError(f"one sample has more than {_MOST_VALUES} values")
    return shape


class Record(BaseModel):
    """Base of all documents and their parts; travels as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunRecord(Record):
    """What a run is: fixed when it is created."""

    name: str
    experiment: str  # JSON, every "auto" resolved
    fingerprint: str
    sample_shape: Annotated[tuple[Size, ...], Field(max_length=8), AfterValidator(_fits_memory)]
    classes: Annotated[int, Field(ge=1, le=_MOST_CLASSES)]
    versions: dict[str, str]  # of the libraries that decide bits
    id: str = ""  # random: tells it from an earlier run of the same name and experiment
    class_names: list[str] = []  # in the order of labels, where they have any


class Rollback(Record):
    """A store that lost its last writes: rounds after ``to_closed``, up to ``from_closed``, were closed and are so no more."""

    from_closed: Round
    to_closed: Round


class RunState(Record):
    """Where a run is."""

    phase: Literal["waiting", "training", "finished", "failed"] = "waiting"
    round: Round = 0  # the open round, 0 before the first
    closed: Round = 0  # the last round whose version is published
    reason: str = ""
    over: bool = False  # finished, and the clients have heard or have had time enough to: nothing is left to do
    rollbacks: list[Rollback] = []


class ClientRecord(Record):
    """One client as the coordinator knows it."""

    id: ClientId
    index: Count  # place in the roster; never reassigned
    cut: Size
    incarnation: Positive
    process: str
    samples: Count | None  # of its own data, None where the run's data set is partitioned
    first_round: Round
    state: Literal["active", "closing", "gone", "left"] = "active"  # left: it has heard that the run is finished
    reason: str = ""


class Departure(Record):
    """A client that was given up, whether or not it came back later."""

    client: ClientId
    cut: Size
    incarnation: Positive
    round: Round
    reason: str
    at: Time  # seconds since the epoch, by the coordinator's clock


class Roster(Record):
    """All clients that were ever admitted."""

    clients: dict[ClientId, ClientRecord] = {}
    departures: list[Departure] = []

    def without_leavers(self) -> "Roster":
        """Return the roster after a round: clients that were being closed in it are gone."""
        gone = {c.id: c.model_copy(update={"state": "gone"}) for c in self.clients.values() if c.state == "closing"}
        return self.model_copy(update={"clients": {**self.clients, **gone}})

    def active(self) -> list[ClientRecord]:
        """Return the clients that take part, in the order of the roster."""
        return sorted((c for c in self.clients.values() if c.state == "active"), key=lambda c: c.index)


class Sight(Record):
    """What the coordinator that leads has last seen, for whoever looks at the run."""

    at: Time  # by its clock
    silent: dict[ClientId, Time] = {}  # clients that take part and should have been heard again: when they last were
    lacks: str = ""  # what it needs to open a round


class StreamClient(Record):
    """A client's place in a stream."""

    id: ClientId
    incarnation: Positive
    cut: Size


class StreamPlan(Record):
    """One stream of a round."""

    id: StreamId
    clients: Annotated[list[StreamClient], Field(min_length=1)]


class Tallies(Record):
    """What a round or stream amounted to."""

    samples: Number = 0
    loss_sum: float = 0.0
    correct: Number = 0
    bytes: Number = 0  # of message bodies that took effect
    refused: Number = 0
    duplicates: Number = 0
    divergent: Number = 0
    dropped_samples: Number = 0
    client_samples: Number = 0  # trained by client halves, as their markers say
    client_loss_sum: float = 0.0
    discarded_samples: Number = 0  # trained and rolled back

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

    client: ClientId
    incarnation: Positive
    batches: Count
    discarded: bool  # what it had sent was rolled back


class RoundRecord(Record):
    """A round: its streams, and after the freeze which of them count."""

    round: Round
    phase: Literal["open", "frozen", "closed"] = "open"
    streams: list[StreamPlan]
    frozen: list[StreamId] = []  # streams that are averaged, in fixed order
    opened_at: Time  # by the coordinator's clock
    seconds: float = 0.0  # from opened to closed
    tallies: Tallies = Tallies()
    by_cut: dict[Size, Tallies] = {}  # the same, of the clients of each cut
    closings: list[Closing] = []

    def plan_of(self, client: str) -> StreamPlan | None:
        """Return the stream that a client is in, None if it takes no part."""
        return next((plan for plan in self.streams if any(member.id == client for member in plan.clients)), None)


class Hole(Record):
    """A sequence that was refused."""

    sequence: Count
    reason: str


class ClientProgress(Record):
    """A stream's position in one client's round: everything before ``sequence`` has had its effect."""

    incarnation: Positive
    cut: Size
    sequence: Count = 0
    ended: bool = False
    closed: str = ""  # why it ended before its marker
    discarded: bool = False  # what came before that was rolled back
    digest: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""  # hex; running SHA-256 over what was trained
    tallies: Tallies = Tallies()
    unplaced: Count = 0  # of those refused, how many had no place in the sequence
    holes: list[Hole] = []


class Savepoint(Record):
    """A replica as it was when a stream went over to its next client."""

    layers: Layers
    optimizer: BlobRef

    def blobs(self) -> set[BlobRef]:
        """Return all blobs that it points to."""
        return {*self.layers.values(), self.optimizer}


class Suspect(Record):
    """The message that workers may have been lost at: each has written this before it took it."""

    client: ClientId
    sequence: Count
    workers: Positive


class StreamRecord(Record):
    """A stream's last checkpoint, or its commit: replica, optimizer state, position and tallies together."""

    round: Round
    stream: StreamId
    worker: str
    status: Literal["training", "committed"] = "training"
    clients: dict[ClientId, ClientProgress] = {}
    layers: Layers = {}
    optimizer: BlobRef | None = None
    halves: dict[ClientId, BlobRef] = {}
    savepoint: Savepoint | None = None  # where its client began; None: where the round starts
    suspect: Suspect | None = None

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


def tallies_by_cut(streams: Iterable[StreamRecord]) -> dict[int, Tallies]:
    """Return the sums over the clients of each cut, lowest cut first."""
    found: dict[int, Tallies] = {}
    for stream in streams:
        for client in stream.clients.values():
            found[client.cut] = found.get(client.cut, Tallies()) + client.tallies
    return dict(sorted(found.items()))


class VersionRecord(Record):
    """The server layers after a round, and what replicas start the next one from. Version 0 is the initialisation."""

    round: Round
    layers: Layers
    replicas: dict[StreamId, Layers] = {}  # by stream, where replicas are not averaged
    optimizers: dict[StreamId, BlobRef] = {}  # by stream, where optimizer state is kept
    halves: dict[ClientId, BlobRef] = {}  # by client, after the last round
    client_layers: Layers = {}  # where clients' halves are averaged: the mean of theirs,
    exits: dict[Size, BlobRef] = {}  # and of their exits, by cut

    def half_of(self, cut: int) -> dict[str, BlobRef]:
        """Return what clients at a cut go on from, "layer<l>" and "exit", as far as anybody trained it and halves are averaged."""
        layers = {f"layer{number}": ref for number, ref in sorted(self.client_layers.items()) if number <= cut}
        return layers | ({"exit": self.exits[cut]} if cut in self.exits else {})

    def layers_of(self, stream: str) -> dict[int, BlobRef]:
        """Return the layers that a stream's replica starts from and that its clients' inference uses."""
        return {**self.layers, **self.replicas.get(stream, {})}

    def scopes(self) -> set[str]:
        """Return the scopes of all blobs that this document points to."""
        refs = [*self.layers.values(), *self.optimizers.values(), *self.halves.values()]
        for layers in (self.client_layers, self.exits, *self.replicas.values()):
            refs.extend(layers.values())
        return {ref.scope for ref in refs}


class Scores(Record):
    """Scores of a round by client."""

    round: Round
    clients: dict[ClientId, Score] = {}
