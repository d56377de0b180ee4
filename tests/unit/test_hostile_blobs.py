"""Blobs that are whole but hold other tensors than they should: refused by name where a worker or the coordinator loads them."""

from collections.abc import Callable

import pytest
import torch

from coordinator.errors import DamagedDocument, MissingBlob, StoreError
from coordinator.rounds import Rounds
from coordinator.store.interface import BlobRef
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import (
    LEADER,
    ClientProgress,
    RoundRecord,
    StreamClient,
    StreamPlan,
    StreamRecord,
    Tallies,
    VersionRecord,
    stream_key,
    version_key,
)
from learning.errors import LearningError, TensorError
from learning.halves import ServerHalf
from learning.tensors import State, pack, unpack
from tests.fuzz.sitting import experiment, network
from tests.hostile import Hostile, check_line
from workers.replica import ReplicaCache, load_replica, load_version

CUT, MUTATIONS = 1, 100
TRAINING = experiment().training
FEATURES = (torch.linspace(-1, 1, 4 * 12).reshape(4, 12), torch.tensor([0, 1, 2, 3]))
Change = Callable[[State], object]
WRONG: dict[str, Change] = {
    "nothing in it": lambda state: state.clear(),
    "one missing": lambda state: state.pop(min(state)),
    "one more": lambda state: state.update(odd=torch.zeros(1)),
    "renamed": lambda state: state.update({"a\nb\x1b[2J" * 500: state.pop(min(state))}),
    "another shape": lambda state: state.update({name: tensor[..., :-1] for name, tensor in state.items() if tensor.ndim}),
    "a scalar": lambda state: state.update({name: tensor.sum() for name, tensor in state.items() if tensor.ndim}),
    "a batch more": lambda state: state.update({name: tensor[None] for name, tensor in state.items()}),
    "doubles": lambda state: state.update({name: tensor.double() for name, tensor in state.items()}),
    "halves": lambda state: state.update({name: tensor.half() for name, tensor in state.items()}),
    "integers": lambda state: state.update({name: tensor.long() for name, tensor in state.items() if tensor.is_floating_point()}),
    "complex": lambda state: state.update({name: tensor.to(torch.complex64) for name, tensor in state.items()}),
    "not finite": lambda state: state.update({name: tensor / 0 for name, tensor in state.items() if tensor.is_floating_point()}),
}


class Run:
    """A run of one client whose first round is committed, and not averaged yet."""

    def __init__(self) -> None:
        self.ledger = Ledger(MemoryStore())
        lease = self.ledger.store.acquire(LEADER, "n", "coordinator", 3600.0)
        assert lease is not None
        self.rounds = Rounds(self.ledger, experiment(), network(), lease)
        self.rounds.initialise()
        half = ServerHalf(network(), CUT + 1, TRAINING)
        half.step(*FEATURES, CUT, ("a", 1, 0))
        self.layers = {number: self.put(half.state_of(f"layer{number}")) for number in half.numbers}
        self.optimizer = self.put(half.optimizer_state())
        start = self.ledger.version(0)
        assert start is not None
        self.start = start.record

    def put(self, state: State, scope: str = stream_key(1, "a")) -> BlobRef:
        return self.ledger.store.put_blobs(scope, [pack(state)])[0]

    def state(self, ref: BlobRef) -> State:
        return unpack(self.ledger.store.get_blob(ref))

    def changed(self, ref: BlobRef, change: Change) -> BlobRef:
        state = self.state(ref)
        change(state)
        return self.put({name: tensor.clone() for name, tensor in state.items()})

    def record(self, layers: dict[int, BlobRef], optimizer: BlobRef | None, cut: int = CUT) -> StreamRecord:
        progress = ClientProgress(incarnation=1, cut=cut, sequence=1, tallies=Tallies(samples=4))
        return StreamRecord(
            round=1, stream="a", worker="w", status="committed", clients={"a": progress}, layers=layers, optimizer=optimizer
        )

    def load(self, record: StreamRecord, start: VersionRecord | None = None) -> ServerHalf:
        return load_replica(network(), TRAINING, self.ledger, start or self.start, record, ReplicaCache())

    def close(self, record: StreamRecord) -> None:
        """Average what a round of this one stream committed."""
        plans = [StreamPlan(id="a", clients=[StreamClient(id="a", incarnation=1, cut=CUT)])]
        kept = Kept("round/000001", RoundRecord(round=1, phase="frozen", streams=plans, frozen=["a"], opened_at=0.0), None)
        self.ledger.lead(self.rounds.leader, [kept.change(kept.record), Kept(stream_key(1, "a"), record, None).change(record)])
        found = self.ledger.round(1)
        assert found is not None
        assert self.rounds.close(self.ledger.state(), found) is not None


@pytest.fixture
def run() -> Run:
    return Run()


def refused(action: Callable[[], object], *kinds: type[Exception]) -> str:
    with pytest.raises(kinds) as caught:
        action()
    check_line(caught.value)
    return str(caught.value)


def test_what_belongs_there_is_taken(run: Run) -> None:
    record = run.record(run.layers, run.optimizer)
    run.load(record).step(*FEATURES, CUT, ("a", 1, 1))
    run.close(record)
    kept = run.ledger.version(1)
    assert kept is not None
    half = load_version(network(), TRAINING, run.ledger, kept.record, "a")
    assert half.predict(FEATURES[0], CUT).isfinite().all()


@pytest.mark.parametrize("wrong", WRONG)
def test_other_layers(run: Run, wrong: str) -> None:
    layers = {**run.layers, 3: run.changed(run.layers[3], WRONG[wrong])}
    record = run.record(layers, run.optimizer)
    at_worker = refused(lambda: run.load(record), TensorError)
    version = VersionRecord(round=1, layers=layers)
    at_inference = refused(lambda: load_version(network(), TRAINING, run.ledger, version, "a"), TensorError)
    at_coordinator = refused(lambda: run.close(record), TensorError)
    for text in (at_worker, at_inference, at_coordinator):
        assert "layer 3 " in text
        assert stream_key(1, "a") in text
    assert run.ledger.version(1) is None


@pytest.mark.parametrize("wrong", WRONG)
def test_another_optimizer_state(run: Run, wrong: str) -> None:
    optimizer = run.changed(run.optimizer, WRONG[wrong])
    if wrong in ("nothing in it", "one more"):  # as at the start, or of a client with other layers that has left the stream
        run.load(run.record(run.layers, optimizer)).step(*FEATURES, CUT, ("a", 1, 1))
    else:
        text = refused(lambda: run.load(run.record(run.layers, optimizer)), TensorError)
        assert "optimizer" in text
        assert stream_key(1, "a") in text


def test_bytes_that_are_no_tensors(run: Run) -> None:
    hostile, whole = Hostile("tensors"), run.ledger.store.get_blob(run.layers[3])
    outcomes = set()
    for _ in range(MUTATIONS):
        (ref,) = run.ledger.store.put_blobs("version/000000", [hostile.data(whole)])
        for record in (run.record({**run.layers, 3: ref}, run.optimizer), run.record(run.layers, ref)):
            try:
                run.load(record).step(*FEATURES, CUT, ("a", 1, 1))
                outcomes.add("taken")  # other values of the right form: only the digest could tell, and it fits
            except TensorError as error:
                check_line(error, ref.scope)
                outcomes.add("refused")
    assert outcomes == {"taken", "refused"}


def test_blobs_that_are_gone(run: Run) -> None:
    gone = BlobRef(stream_key(1, "a"), "0" * 64, 9)
    for record in (run.record({**run.layers, 3: gone}, run.optimizer), run.record(run.layers, gone)):
        assert gone.digest in refused(lambda record=record: run.load(record), MissingBlob)  # type: ignore[misc]
    assert gone.digest in refused(lambda: run.close(run.record({**run.layers, 3: gone}, run.optimizer)), MissingBlob)


@pytest.mark.parametrize("left", [[], [2], [3], [1, 2], [99]])
def test_layers_that_no_document_names(run: Run, left: list[int]) -> None:
    layers = {number: run.layers.get(number, run.layers[3]) for number in left}
    empty = run.start.model_copy(update={"layers": layers})
    text = refused(lambda: run.load(run.record(layers, run.optimizer), empty), DamagedDocument)
    assert "names no layer" in text
    assert (stream_key(1, "a") if layers else version_key(0)) in text
    if left in ([], [2], [99]):  # else they are those of a run whose clients cut elsewhere
        assert "names no layer" in refused(lambda: load_version(network(), TRAINING, run.ledger, empty, "a"), DamagedDocument)
    assert "names no layer" in refused(lambda: run.close(run.record(layers, run.optimizer)), DamagedDocument)


@pytest.mark.parametrize("cut", [3, 99, 10**9])
def test_a_cut_that_is_none_of_the_network(run: Run, cut: int) -> None:
    assert f"cut {cut}" in refused(lambda: run.load(run.record(run.layers, run.optimizer, cut)), LearningError, StoreError)


def test_scopes_that_are_none_of_ours_are_left_alone(run: Run) -> None:
    for scope in ("", "odd", "stream", "stream/x/y", "version/\u0663", "\x1b[2J"):
        run.put({}, scope)
    before = set(run.ledger.store.scopes())
    run.close(run.record(run.layers, run.optimizer))
    run.rounds.sweep()
    assert before - {"version/000000"} <= set(run.ledger.store.scopes()) | {stream_key(1, "a")}
