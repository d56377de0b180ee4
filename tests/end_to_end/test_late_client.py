"""Clients' halves averaged at the end of every round: how a client begins that comes late."""

import threading
from pathlib import Path

from broker.events import BatchTrained, ClientJoined, Event, RoundClosed
from broker.memory import MemoryBroker, MemoryTransport
from cli import embedded
from cli.prepare import prepare
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from tests.end_to_end.harness import PATIENCE, final_layers, summary, tiny
from tests.end_to_end.reference import assert_equal, train_reference
from workers.client import ClientWorker
from workers.client_data import LocalNames
from workers.client_state import ClientState
from workers.server import ServerWorker

OWN = ("clients.count=3", "clients.cuts=[4, 3, 3]", "data.train_limit=144", "training.rounds=4", "training.average=all")
LATE = "client-03"  # at the cut of another


def test_a_client_that_comes_late_goes_on_from_the_average(tmp_path: Path) -> None:
    prepared = prepare(tiny(tmp_path, *OWN, "clients.min_clients=2", "clients.join_timeout=0.1"))
    roles, broker, store, joined = embedded.Roles(), MemoryBroker(), MemoryStore(), threading.Event()
    run, names = prepared.experiment.name, LocalNames(data="digits", model="resnet18", exit="auto")

    def start_client(index: int) -> None:
        entry = prepared.experiment.clients.roster()[index]
        bulk, control = MemoryTransport(broker), MemoryTransport(broker)
        roles.start(entry.id, ClientWorker(run, entry.id, entry.cut, bulk, control, ClientState(None), names, hear))

    def hear(event: Event) -> None:
        if isinstance(event, RoundClosed) and event.round == 1:
            start_client(2)
        elif isinstance(event, ClientJoined) and event.client == LATE:
            joined.set()
        elif isinstance(event, BatchTrained) and event.round == 2:
            assert joined.wait(PATIENCE)

    try:
        roles.start("coordinator", embedded.leader(prepared, tmp_path / "output", store, broker, hear), leads=True)
        roles.start("server-1", ServerWorker("server-1", run, store, lambda _: MemoryTransport(broker), hear))
        for index in range(2):
            start_client(index)
        roles.wait()
    finally:
        roles.stop()
    found = summary(tmp_path / "output")
    assert (found["dropouts"], found["refused"], found["divergent_replay"]) == ([], 0, 0)
    assert Ledger(store).roster().record.clients[LATE].first_round == 3
    assert_equal(final_layers(tmp_path / "output"), train_reference(prepared.experiment, joined={LATE: 3}))
