"""The ledger of a coordinator that leads: it reads once a turn, and sees what has changed when it must."""

from collections.abc import Sequence

import pytest

from broker.events import ignore
from broker.messages import Heartbeat, Join, Target, Welcome
from coordinator.errors import LeaseLost, StoreUnavailable
from coordinator.experiment import Experiment
from coordinator.membership import Membership
from coordinator.rounds import Rounds
from coordinator.store.interface import Document, Lease
from coordinator.store.leader_ledger import LeaderLedger
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import (
    LEADER,
    ClientRecord,
    Roster,
    RoundRecord,
    RunRecord,
    StreamClient,
    StreamPlan,
    StreamRecord,
    round_key,
)
from learning.layers import build_network
from learning.settings import ModelSettings


class CountedStore(MemoryStore):
    """A store that remembers which keys were read in which call, and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[set[str]] = []
        self.away = False

    def read(self, keys: Sequence[str]) -> list[Document | None]:
        if self.away:
            raise StoreUnavailable("it is away")
        self.calls.append(set(keys))
        return super().read(keys)


def roster(number: int) -> Roster:
    """Return a roster of one client, with that number."""
    name = f"client-{number}"
    client = ClientRecord(id=name, index=number, cut=3, incarnation=1, process="p", samples=1, first_round=1)
    return Roster(clients={name: client})


@pytest.fixture
def store() -> CountedStore:
    return CountedStore()


@pytest.fixture
def lease(store: CountedStore) -> Lease:
    taken = store.acquire(LEADER, "nonce", "coordinator", 60.0)
    assert taken is not None
    return taken


@pytest.fixture
def ledger(store: CountedStore, lease: Lease) -> LeaderLedger:
    made = LeaderLedger(store)
    made.lead(lease, [made.roster().change(roster(1))])
    made.look_anew()
    return made


def test_a_turn_reads_each_document_once_and_the_next_one_all_in_one_call(store: CountedStore, ledger: LeaderLedger) -> None:
    store.calls.clear()
    for _ in range(3):
        ledger.roster(), ledger.state(), ledger.round(1)
    assert store.calls == [{"roster"}, {"state"}, {"round/000001"}]
    store.calls.clear()
    ledger.look_anew()
    ledger.state(), ledger.round(1), ledger.roster()
    assert store.calls == [{"roster", "state", "round/000001"}]
    ledger.look_anew()
    ledger.state()
    store.calls.clear()
    ledger.look_anew()
    ledger.state()
    assert store.calls == [{"state"}], "only what the turn before has asked for"


def test_what_has_not_changed_is_not_parsed_again(ledger: LeaderLedger) -> None:
    first = ledger.roster().record
    ledger.look_anew()
    assert ledger.roster().record is first


def test_its_own_writes_are_seen_at_once(store: CountedStore, ledger: LeaderLedger, lease: Lease) -> None:
    kept = ledger.roster()
    assert ledger.lead(lease, [kept.change(roster(2))])
    store.calls.clear()
    seen = ledger.roster()
    assert store.calls == []
    assert seen == Ledger(store).roster()
    assert seen.record.clients.keys() == {"client-2"}
    assert ledger.lead(lease, [seen.delete()])
    assert ledger.roster() == Ledger(store).roster()
    assert ledger.roster().version is None


def test_the_writes_of_others_are_seen_in_the_next_turn_or_when_a_write_fails(
    store: CountedStore, ledger: LeaderLedger, lease: Lease
) -> None:
    kept, other = ledger.roster(), Ledger(store)
    assert other.lead(lease, [other.roster().change(roster(2))])
    assert ledger.roster() == kept
    assert not ledger.lead(lease, [kept.change(Roster())])
    assert ledger.roster().record.clients.keys() == {"client-2"}
    assert other.lead(lease, [other.roster().change(roster(3))])
    ledger.look_anew()
    assert ledger.roster().record.clients.keys() == {"client-3"}


def test_streams_are_those_of_the_turn(store: CountedStore, ledger: LeaderLedger, lease: Lease) -> None:
    plan = StreamPlan(id="a", clients=[StreamClient(id="a", incarnation=1, cut=3)])
    record = RoundRecord(round=1, streams=[plan], opened_at=0.0)
    assert ledger.lead(lease, [Kept(round_key(1), record, None).change(record)])
    assert ledger.unfinished(record) == [plan]
    worker = Ledger(store)
    claim = worker.claim(1, "a", "worker", 60.0)
    assert claim is not None
    worker.advance(claim, StreamRecord(round=1, stream="a", worker="worker", status="committed"))
    assert ledger.unfinished(record) == [plan]
    ledger.look_anew()
    assert ledger.unfinished(record) == []


def test_after_a_lost_lease_or_an_absent_store_everything_is_read(store: CountedStore, ledger: LeaderLedger, lease: Lease) -> None:
    kept = ledger.roster()
    store.release(lease)
    with pytest.raises(LeaseLost):
        ledger.lead(lease, [kept.change(Roster())])
    store.away = True
    with pytest.raises(StoreUnavailable):
        ledger.roster()
    store.away = False
    assert ledger.roster() == kept


def test_all_heartbeats_of_a_turn_cost_one_look(store: CountedStore, lease: Lease) -> None:
    names = [f"client-{number:02}" for number in range(1, 51)]
    experiment = Experiment.model_validate({"name": "run", "clients": {"count": len(names), "cuts": [3]}})
    record = RunRecord(
        name="run", experiment=experiment.to_json(), fingerprint="f", sample_shape=(1, 8, 8), classes=10, versions={}
    )
    network = build_network(ModelSettings(width=4), (1, 8, 8), 10, seed=0)
    ledger = LeaderLedger(store)
    members = Membership(ledger, experiment, record, network, lease, ignore)
    for name in names:
        assert isinstance(members.join(Join(client=name, cut=3, incarnation=None, process="p", samples=None)), Welcome)
    assert Rounds(ledger, experiment, network, lease).open(ledger.state(), ledger.roster())

    def turn() -> list[set[str]]:
        """Hear every client once; return what was read in which call."""
        store.calls.clear()
        ledger.look_anew()
        for name in names:
            beat = Heartbeat(client=name, incarnation=1, process="p", round=1, confirmed=0, samples=0, bytes=0, loss=0.0, scores=())
            assert isinstance(members.hear(beat), Target)
        return store.calls

    turn()
    (read,) = turn()
    assert read == {"roster", "state", "round/000001", *(f"stream/000001/{name}" for name in names)}
