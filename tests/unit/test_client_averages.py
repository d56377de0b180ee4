"""Clients' halves at the end of a round: who is in the mean of a layer or an exit, with which weight, and what stays."""

import pytest
import torch

from coordinator.client_averages import half_state
from coordinator.errors import DamagedDocument
from coordinator.needs import Needs, compute_needs
from coordinator.rounds import Rounds
from coordinator.store.interface import Lease
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import (
    LEADER,
    ClientProgress,
    ClientRecord,
    Roster,
    RoundRecord,
    StreamClient,
    StreamPlan,
    StreamRecord,
    Tallies,
    VersionRecord,
    stream_key,
)
from learning.errors import TensorError
from learning.halves import client_modules
from learning.tensors import State, pack, unpack
from tests.fuzz.sitting import experiment, network
from tests.hostile import check_line
from tests.unit.test_hostile_blobs import WRONG

CUTS = {"c": 1, "b": 2, "a": 2, "late": 1}  # in the order of the roster
Given = dict[str, tuple[float, int]]  # by client: what all values of its half are, and the samples of its round


def filled(cut: int, value: float) -> State:
    """Return a half of the network, all values the same; counters too."""
    state = client_modules(network(), cut).state_dict()
    return {
        name: torch.full_like(tensor, int(value) if not tensor.is_floating_point() else value) for name, tensor in state.items()
    }


class Run:
    """A run of which rounds are closed that brought halves; each client is in a stream of its own."""

    def __init__(self, rounds: int = 3, weighting: str = "uniform") -> None:
        self.ledger = Ledger(MemoryStore())
        lease = self.ledger.store.acquire(LEADER, "n", "coordinator", 3600.0)
        assert lease is not None
        self.lease: Lease = lease
        training = experiment().training.model_copy(update={"average": "all", "rounds": rounds, "weighting": weighting})
        self.rounds = Rounds(self.ledger, experiment().model_copy(update={"training": training}), network(), lease)
        self.rounds.initialise()
        clients = {
            name: ClientRecord(id=name, index=index, cut=cut, incarnation=1, process="p", samples=None, first_round=1)
            for index, (name, cut) in enumerate(CUTS.items())
        }
        self.ledger.lead(lease, [self.ledger.roster().change(Roster(clients=clients))])

    def freeze(self, number: int, given: Given, **change: object) -> Kept[RoundRecord]:
        """Put a frozen round into the store. change: of the first client's stream."""
        plans = [StreamPlan(id=name, clients=[StreamClient(id=name, incarnation=1, cut=CUTS[name])]) for name in sorted(given)]
        record = RoundRecord(round=number, phase="frozen", streams=plans, frozen=[plan.id for plan in plans], opened_at=0.0)
        kept = Kept(f"round/{number:06d}", record, None)
        state = self.ledger.state()
        writes = [kept.change(record), state.change(state.record.model_copy(update={"phase": "training", "round": number}))]
        for place, (name, (value, samples)) in enumerate(given.items()):
            stream = self._stream(number, name, value, samples).model_copy(update=change if place == 0 else {})
            writes.append(Kept(stream_key(number, name), stream, None).change(stream))
        self.ledger.lead(self.lease, writes)
        found = self.ledger.round(number)
        assert found is not None
        return found

    def close(self, number: int, given: Given) -> VersionRecord:
        kept = self.freeze(number, given)
        assert self.rounds.close(self.ledger.state(), kept) is not None
        return self.version(number)

    def version(self, number: int) -> VersionRecord:
        kept = self.ledger.version(number)
        assert kept is not None
        return kept.record

    def _stream(self, number: int, name: str, value: float, samples: int) -> StreamRecord:
        (ref,) = self.ledger.store.put_blobs(stream_key(number, name), [pack(filled(CUTS[name], value))])
        progress = ClientProgress(incarnation=1, cut=CUTS[name], sequence=4, ended=True, tallies=Tallies(client_samples=samples))
        return StreamRecord(round=number, stream=name, worker="w", status="committed", clients={name: progress}, halves={name: ref})


def values(run: Run, version: VersionRecord, cut: int) -> dict[str, float]:
    """Return the one value that each part of an averaged half has."""
    found: dict[str, set[float]] = {}
    for name, tensor in half_state(run.ledger.store, version, cut).items():
        if not name.endswith("num_batches_tracked"):
            found.setdefault(name.partition(".")[0], set()).update(tensor.flatten().tolist())
    assert all(len(different) == 1 for different in found.values())
    return {part: different.pop() for part, different in found.items()}


def test_a_layer_is_the_mean_over_clients_that_have_it_and_an_exit_over_those_at_its_cut() -> None:
    run = Run()
    version = run.close(1, {"a": (1.0, 8), "b": (2.0, 24), "c": (6.0, 8)})
    assert values(run, version, 1) == {"layer1": 3.0, "exit": 6.0}
    assert values(run, version, 2) == {"layer1": 3.0, "layer2": 1.5, "exit": 1.5}
    tracked = half_state(run.ledger.store, version, 2)["layer2.1.num_batches_tracked"]
    assert (tracked.dtype, tracked.item()) == (torch.int64, 2), "a counter is averaged"
    assert version.layers == run.version(0).layers, "the servers' layers are mixed with the clients'"


def test_weighted_by_samples() -> None:
    run = Run(weighting="samples")
    version = run.close(1, {"a": (1.0, 8), "b": (2.0, 24), "c": (6.0, 8)})
    assert values(run, version, 1) == {"layer1": pytest.approx((8 + 48 + 48) / 40), "exit": 6.0}
    assert values(run, version, 2)["layer2"] == 1.75


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
def test_who_trained_nothing_or_whose_marker_did_not_come_is_not_in_the_mean(weighting: str) -> None:
    run = Run(weighting=weighting)
    kept = run.freeze(1, {"a": (100.0, 8), "b": (2.0, 24), "c": (6.0, 0)}, halves={})
    assert run.rounds.close(run.ledger.state(), kept) is not None
    version = run.version(1)
    assert values(run, version, 2) == {"layer1": 2.0, "layer2": 2.0, "exit": 2.0}
    assert set(values(run, version, 1)) == {"layer1"}, "an exit that nobody has trained"


def test_what_nobody_trains_keeps_its_version_for_who_comes_later() -> None:
    run = Run()
    run.close(1, {"a": (1.0, 8), "c": (5.0, 8)})
    version = run.close(2, {"late": (7.0, 8)})
    assert values(run, version, 2) == {"layer1": 7.0, "layer2": 1.0, "exit": 1.0}
    assert values(run, version, 1) == {"layer1": 7.0, "exit": 7.0}
    run.close(3, {"c": (8.0, 8)})
    assert {scope for scope in run.ledger.store.scopes() if scope.startswith("version/")} == {f"version/{n:06d}" for n in range(4)}
    assert values(run, run.version(3), 2) == {"layer1": 8.0, "layer2": 1.0, "exit": 1.0}


def test_streams_of_closed_rounds_are_dropped() -> None:
    run = Run()
    version = run.close(1, {"a": (1.0, 8), "c": (5.0, 8)})
    assert not version.halves
    assert not [scope for scope in run.ledger.store.scopes() if scope.startswith("stream/")]


def test_the_order_is_the_rosters_and_not_that_of_names() -> None:
    run = Run()
    version = run.close(1, {"a": (-1e17, 8), "b": (1e17, 8), "c": (1.0, 8)})
    expected = float((torch.tensor(1.0).double() + torch.tensor(1e17).double() + torch.tensor(-1e17).double()) / 3)
    assert values(run, version, 1)["layer1"] == torch.tensor(expected, dtype=torch.float32).item()
    other = float((torch.tensor(-1e17).double() + torch.tensor(1e17).double() + torch.tensor(1.0).double()) / 3)
    assert expected != pytest.approx(other), "the values cannot tell one order from another"


def test_it_may_be_repeated_and_depends_on_what_was_frozen_alone() -> None:
    given = {"a": (1.25, 8), "b": (2.5, 24), "c": (6.0, 8)}
    run, again = Run(), Run()
    version = run.close(1, given)
    kept = again.freeze(1, dict(reversed(given.items())))
    for record in (kept.record.model_copy(update={"frozen": ["c", "a", "b"]}), kept.record):
        before = again.ledger.state()  # of a coordinator that has lost its lease meanwhile: nothing is published
        assert again.rounds.close(Kept("state", before.record, "lost"), Kept(kept.key, record, kept.version)) is None
    assert again.rounds.close(again.ledger.state(), kept) is not None
    assert again.version(1) == version
    assert again.ledger.store.scopes() == run.ledger.store.scopes()


def test_after_the_last_round_every_client_has_its_averaged_half() -> None:
    run = Run(rounds=1)
    version = run.close(1, {"a": (1.0, 8), "b": (2.0, 24), "c": (6.0, 0)})
    assert version.halves.keys() == {"a", "b", "c"}
    assert version.halves["a"] == version.halves["b"]
    state = unpack(run.ledger.store.get_blob(version.halves["a"]))
    averaged = half_state(run.ledger.store, version, 2)
    assert state.keys() == averaged.keys()
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in state.items())
    untrained = unpack(run.ledger.store.get_blob(version.halves["c"]))
    assert untrained["layer1.1.weight"].unique().item() == 1.5
    assert {tensor.unique().item() for name, tensor in untrained.items() if name.startswith("exit.")} == {6.0}


def test_what_halves_need_of_store_and_broker() -> None:
    first, second, head = 4 * 132, 4 * (156 + 48) + 8, 4 * 65  # bytes, of halves at cuts 1, 2 and 1
    given = 3 * first + second + 3 * head
    means, final = first + second + 2 * head, 2 * first + second + 2 * head
    for state, copies in (("keep", 3), ("reset", 1)):
        server, halves = (needs(state, average) for average in ("server", "all"))
        assert (halves.store or 0) - (server.store or 0) == copies * given + 2 * means + final
        assert (halves.broker or 0) - (server.broker or 0) == 2 * given


def needs(optimizer_state: str, average: str) -> Needs:
    training = experiment().training.model_copy(update={"optimizer_state": optimizer_state, "average": average})
    return compute_needs(experiment().model_copy(update={"training": training}), network(), 100)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_half_that_is_none(wrong: str) -> None:
    run = Run()
    state = filled(2, 1.0)
    WRONG[wrong](state)
    (ref,) = run.ledger.store.put_blobs(stream_key(1, "a"), [pack({name: tensor.clone() for name, tensor in state.items()})])
    kept = run.freeze(1, {"a": (1.0, 8), "b": (2.0, 8)}, halves={"a": ref})
    with pytest.raises(TensorError) as caught:
        run.rounds.close(run.ledger.state(), kept)
    check_line(caught.value, "half of client a in stream/000001/a in the store")
    assert run.ledger.version(1) is None


def test_a_half_of_nobody_in_the_stream() -> None:
    run = Run()
    (ref,) = run.ledger.store.put_blobs(stream_key(1, "a"), [pack(filled(2, 1.0))])
    kept = run.freeze(1, {"a": (1.0, 8)}, halves={"b": ref})
    with pytest.raises(DamagedDocument) as caught:
        run.rounds.close(run.ledger.state(), kept)
    check_line(caught.value, "document stream/000001/a in the store is damaged: it has a half of b, which is not in it")
