"""One round of a run with a real server worker in this process, on a store and a broker in memory."""

import threading
import time
from collections.abc import Sequence

import torch

from broker import topology
from broker.codec import split
from broker.events import Emit, Event
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import Activations, EndOfRound, Message
from coordinator.experiment import Experiment
from coordinator.rounds import Rounds
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import LEADER, ClientRecord, Roster, RunRecord, StreamRecord
from learning.layers import build_network
from tests.contract.stores import Clock
from workers.features import FIRST_DIGEST, next_digest, to_wire
from workers.server import ServerWorker

PATIENCE = 60.0  # seconds after which a round hangs


class OneRound:
    """Round 1 of an experiment with listed clients, all of them admitted. incarnation: which one of each."""

    def __init__(self, experiment: Experiment, sample_shape: tuple[int, ...], classes: int, incarnation: int = 1) -> None:
        self.experiment = experiment
        self.incarnation = incarnation
        self.clock = Clock()
        self.network = build_network(experiment.model, sample_shape, classes, experiment.training.seed)
        self.ledger = Ledger(MemoryStore(clock=self.clock))
        self.transport = MemoryTransport(MemoryBroker())
        self.heard: list[Event] = []
        record = RunRecord(
            name=experiment.name,
            experiment=experiment.to_json(),
            fingerprint="f",
            sample_shape=sample_shape,
            classes=classes,
            versions={},
        )
        self.ledger.create_run(record)
        lease = self.ledger.store.acquire(LEADER, "nonce", "coordinator", 3600.0)
        assert lease is not None
        rounds = Rounds(self.ledger, experiment, self.network, lease)
        rounds.initialise()
        roster = Roster(
            clients={
                entry.id: ClientRecord(
                    id=entry.id, index=index, cut=entry.cut, incarnation=incarnation, process="p", samples=None, first_round=1
                )
                for index, entry in enumerate(experiment.clients.roster())
            }
        )
        self.ledger.lead(lease, [self.ledger.roster().change(roster)])
        opened = rounds.open(self.ledger.state(), self.ledger.roster())
        assert opened is not None
        self.record = opened
        for queue in (topology.dead(experiment.name), topology.coordinator(experiment.name)):
            self.transport.declare(queue)
        for entry in experiment.clients.roster():
            self.transport.declare(topology.activations(experiment.name, entry.id, experiment.transport))

    def publish(self, client: str, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], half: bytes | None = None) -> None:
        """Publish a client's round: features (batch, ...) and labels (batch,) of each batch, and the marker, with a half."""
        cut = next(entry.cut for entry in self.experiment.clients.roster() if entry.id == client)
        digest, samples = FIRST_DIGEST, 0
        for sequence, (features, labels) in enumerate(batches):
            wire, label_wire = to_wire(features, "float32")[0], to_wire(labels, "int64")[0]
            self.send(client, sequence, Activations(cut=cut, digest=digest, features=wire, labels=label_wire))
            digest, samples = next_digest(digest, wire, label_wire), samples + len(labels)
        self.send(client, len(batches), EndOfRound(digest=digest, samples=samples, loss=1.0, dropped_samples=0, half=half))

    def send(self, client: str, sequence: int, message: Message) -> None:
        """Publish one data message, in as many parts as it takes."""
        queue = topology.activations(self.experiment.name, client, self.experiment.transport)
        for frame in split(message, client, self.incarnation, 1, sequence, self.experiment.transport.message_limit):
            self.transport.publish(queue.name, frame)

    def worker(self, hear: Emit | None = None) -> ServerWorker:
        """Return a server worker that has not begun. hear: what hears its events; None: ``heard`` keeps them."""
        return ServerWorker("server", self.experiment.name, self.ledger.store, lambda _: self.transport, hear or self.heard.append)

    def work(self) -> dict[str, StreamRecord]:
        """Let a server worker train the round; return its streams."""
        worker = self.worker()
        thread = threading.Thread(target=worker.run, name="worker", daemon=True)
        thread.start()
        until = time.monotonic() + PATIENCE
        while thread.is_alive() and self.ledger.unfinished(self.record) and time.monotonic() < until:
            time.sleep(0.01)
        worker.stop()
        thread.join(PATIENCE)
        assert not self.ledger.unfinished(self.record), self.heard[-5:]
        return {key: kept.record for key, kept in self.ledger.streams(self.record).items()}
