"""What ``splitee status`` makes of a run's documents and queues."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from broker import topology
from broker.memory import MemoryBroker, MemoryTransport
from cli.prepare import prepare
from cli.status import Queues, Snapshot, snapshot
from cli.status_view import view
from coordinator.errors import ExperimentError
from coordinator.store.interface import Lease
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import (
    LEADER,
    ROSTER,
    SIGHT,
    STATE,
    ClientProgress,
    ClientRecord,
    Departure,
    Record,
    Roster,
    RoundRecord,
    RunState,
    Scores,
    Sight,
    StreamClient,
    StreamPlan,
    StreamRecord,
    Tallies,
    round_key,
    scores_key,
    stream_key,
)
from tests.end_to_end.harness import tiny

CLIENTS = ("client-01", "client-02", "client-03")


class Scene:
    """A run of three clients, put into a store document by document."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.ledger = Ledger(self.store)
        self.ledger.create_run(prepare(tiny(folder, "name=scene", "clients.count=3", "training.rounds=2")).record)
        clients = [
            ClientRecord(id=name, index=at, cut=3 + at, incarnation=1, process="p", samples=None, first_round=1)
            for at, name in enumerate(CLIENTS)
        ]
        self.roster = Roster(clients={client.id: client for client in clients})
        self.put(ROSTER, self.roster)

    def put(self, key: str, record: Record) -> None:
        there = self.store.read([key])[0]
        self.ledger.store.transact([Kept(key, record, there.version if there else None).change(record)])

    def lead(self) -> None:
        assert self.store.acquire(LEADER, "n", "coordinator", 1e6)

    def claim(self, stream: str) -> Lease | None:
        return self.store.acquire(f"stream/{stream}", "n", f"server-{stream[-1]}", 1e6)

    def open(self, round: int, closed: int, ago: float = 42.0) -> None:
        self.put(STATE, RunState(phase="training", round=round, closed=closed))
        plans = [
            StreamPlan(id=one.id, clients=[StreamClient(id=one.id, incarnation=1, cut=one.cut)])
            for one in self.roster.clients.values()
        ]
        self.put(round_key(round), RoundRecord(round=round, streams=plans, opened_at=time.time() - ago))

    def checkpoint(self, round: int, client: str, *, ended: bool) -> None:
        tallies = Tallies(samples=10, refused=1, duplicates=2)
        progress = ClientProgress(incarnation=1, cut=3, sequence=3, ended=ended, tallies=tallies)
        status = "committed" if ended else "training"
        record = StreamRecord(round=round, stream=client, worker="w", status=status, clients={client: progress})
        self.put(stream_key(round, client), record)

    def see(self) -> Snapshot:
        return snapshot("scene", self.store)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def shown(found: Snapshot, rate: float | None = None) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(view(found, rate))
    return captured.get()


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="there is no run 'x' in this store"):
        snapshot("x", MemoryStore())


def test_before_the_first_round(scene: Scene) -> None:
    assert scene.see().waiting == ["coordinator: none leads"]
    scene.lead()
    scene.put(SIGHT, Sight(at=time.time(), lacks="clients: 1 of 3 are here"))
    assert scene.see().waiting == ["clients: 1 of 3 are here"]


def test_a_silent_client_in_an_open_round(scene: Scene) -> None:
    scene.lead()
    scene.open(1, closed=0)
    for client in CLIENTS:
        scene.claim(client)
    scene.checkpoint(1, "client-01", ended=True)
    scene.checkpoint(1, "client-02", ended=False)
    scene.put(SIGHT, Sight(at=time.time(), silent={"client-01": time.time() - 60, "client-03": time.time() - 31}))
    found = scene.see()
    assert found.waiting == [
        "round 1, open for 42 s: client-03, last heard 31 s ago",
        "round 1, open for 42 s: the batches of client-02",
    ]
    assert [(one["id"], one["batches"], one["ended"], bool(one["last_heard"])) for one in found.clients] == [
        ("client-01", 2, True, True),
        ("client-02", 3, False, False),
        ("client-03", 0, False, True),
    ]
    assert [(one["status"], one["worker"]) for one in found.streams] == [
        ("committed", "server-1"),
        ("training", "server-2"),
        ("training", "server-3"),
    ]
    assert (found.samples, found.refused, found.duplicates) == (20, 2, 4)
    text = shown(found, rate=12.4)
    assert "waiting for round 1, open for 42 s: client-03, last heard 31 s ago" in text
    assert "now: 12 samples/s made durable" in text
    assert "refused 2 messages, dropped 4 that came again" in text
    assert "give --broker" in text
    assert json.loads(json.dumps(asdict(found)))["waiting"] == found.waiting


def test_a_client_that_is_being_given_up(scene: Scene) -> None:
    scene.lead()
    scene.open(1, closed=0)
    for client in CLIENTS:
        scene.claim(client)
        scene.checkpoint(1, client, ended=client != "client-03")
    left = scene.roster.clients["client-03"].model_copy(update={"state": "closing"})
    scene.put(ROSTER, Roster(clients={**scene.roster.clients, "client-03": left}))
    assert scene.see().waiting == ["round 1, open for 42 s: the workers to end the part of client-03, given up"]


def test_streams_without_a_worker(scene: Scene) -> None:
    scene.lead()
    scene.open(1, closed=0)
    first, second = scene.see().waiting
    assert first == "round 1, open for 42 s: streams client-01, client-02, client-03 unclaimed: no worker"
    assert second == "round 1, open for 42 s: the batches of client-01, client-02, client-03"
    scene.claim("client-01")
    scene.claim("client-02")
    assert scene.see().waiting[0] == "round 1, open for 42 s: stream client-03 unclaimed: the workers have others"


def test_no_coordinator(scene: Scene) -> None:
    scene.open(1, closed=0)
    for client in CLIENTS:
        scene.checkpoint(1, client, ended=True)
    scene.put(SIGHT, Sight(at=time.time() - 200))
    assert scene.see().waiting == ["coordinator: none leads, last seen 3 min ago", "round 1, open for 42 s: its average"]


def test_dropouts_closed_rounds_and_last_scores(scene: Scene) -> None:
    scene.lead()
    scene.open(1, closed=0)
    record = scene.ledger.round(1)
    assert record is not None
    for number in (1, 2):
        changes = {"round": number, "phase": "closed", "seconds": 2.0, "tallies": Tallies(samples=100)}
        scene.put(round_key(number), record.record.model_copy(update=changes))
    gone = Departure(client="client-03", cut=5, incarnation=1, round=1, reason="silent for 30 s", at=time.time())
    left = scene.roster.clients["client-03"].model_copy(update={"state": "gone", "reason": gone.reason})
    scene.put(ROSTER, Roster(clients={**scene.roster.clients, "client-03": left}, departures=[gone]))
    scene.put(STATE, RunState(phase="training", round=2, closed=2))
    scene.put(scores_key(2), Scores(round=2))
    found = scene.see()
    assert found.last_rounds[0] == {"round": 1, "seconds": 2.0, "samples": 100, "samples_per_second": 50.0}
    assert found.dropouts_by_reason == {"silent for 30 s": 1}
    assert found.waiting == ["scores of the last round: client-01, client-02"]
    text = shown(found)
    assert "last rounds: 1: 2.0 s, 50 samples/s; 2: 2.0 s, 50 samples/s" in text
    assert "dropouts: 1 silent for 30 s" in text
    assert "client-03 in round 1, at " in text
    scene.put(STATE, RunState(phase="finished", round=2, closed=2))
    assert scene.see().waiting == []


class OnMemory(Queues):
    """The queues of a run on a memory broker."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__("scene", None)
        self._transport = MemoryTransport(broker)


def test_queues(scene: Scene) -> None:
    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    transport.declare(topology.dead("scene"))
    transport.declare(topology.inbox("scene", "client-01"))
    transport.publish(topology.dead("scene").name, b"letter")
    transport.subscribe(topology.inbox("scene", "client-01").name, 1, lambda _: None)
    found = snapshot("scene", scene.store, OnMemory(broker))
    assert found.queues == [
        {"queue": "splitee.scene.dead", "ready": 1, "consumers": 0},
        {"queue": "splitee.scene.inbox.client-01", "ready": 0, "consumers": 1},
    ]
    assert "splitee.scene.inbox.client-01" in shown(found)


def test_a_broker_that_is_away_hides_nothing_else(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.servers.CONNECT_SECONDS", 0.5)
    queues = Queues("scene", "amqp://127.0.0.1:1")
    found = snapshot("scene", scene.store, queues)
    assert found.queues is None
    assert "RabbitMQ at amqp://127.0.0.1:1 does not answer" in shown(found)
