"""A stream's replica between store and memory: load it, and save it without standing still."""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from broker.crash_points import Between, crash_point
from broker.events import CheckpointSaved, Emit
from coordinator.store.interface import BlobRef
from coordinator.store.ledger import Claim, Ledger, named_layer
from coordinator.store.records import Layers, Savepoint, StreamRecord, VersionRecord, stream_key, version_key
from learning.halves import ServerHalf
from learning.layers import Network
from learning.settings import TrainingSettings
from learning.tensors import State, naming, pack, unpack


def load_version(network: Network, training: TrainingSettings, ledger: Ledger, version: VersionRecord, stream: str) -> ServerHalf:
    """Return the layers after a round as a stream has them, for inference. Raises what ``load_replica`` raises."""
    layers = version.layers_of(stream)
    half = ServerHalf(network, min([*layers, network.depth]), training)
    _load_layers(half, layers, version_key(version.round), lambda _, ref: unpack(ledger.store.get_blob(ref)))
    return half


class ReplicaCache:
    """What a worker is likely to load next, so that it need not be read again: the layers that the streams of a round start
    from, and the optimizer states of the streams that it committed last. Bounded by the network, not by the clients.
    """

    def __init__(self, streams: int = 2) -> None:
        self._layers: dict[int, tuple[BlobRef, State]] = {}
        self._optimizers: OrderedDict[str, tuple[BlobRef, State]] = OrderedDict()
        self._streams = streams

    def layer(self, ledger: Ledger, number: int, ref: BlobRef) -> State:
        """Return a layer's state; the caller must not change it."""
        known = self._layers.get(number)
        if known is None or known[0] != ref:
            known = self._layers[number] = (ref, unpack(ledger.store.get_blob(ref)))
        return known[1]

    def optimizer(self, ledger: Ledger, stream: str, ref: BlobRef) -> State:
        """Return a stream's optimizer state; the caller must not change it."""
        known = self._optimizers.pop(stream, None)
        return known[1] if known and known[0] == ref else unpack(ledger.store.get_blob(ref))

    def keep(self, stream: str, ref: BlobRef, state: State) -> None:
        """Remember the optimizer state that a stream was committed with."""
        self._optimizers[stream] = ref, state
        while len(self._optimizers) > self._streams:
            self._optimizers.popitem(last=False)

    def __contains__(self, stream: str) -> bool:
        return stream in self._optimizers


def load_replica(
    network: Network, training: TrainingSettings, ledger: Ledger, start: VersionRecord, record: StreamRecord, cache: ReplicaCache
) -> ServerHalf:
    """Return a stream's replica as of its last checkpoint, or as the round starts.

    Raises LearningError, MissingBlob or DamagedDocument if something in the store is not what it should be.
    """
    cuts = [progress.cut for progress in record.clients.values()]
    for cut in cuts:
        network.check_cut(cut)
    half = ServerHalf(network, min(cuts) + 1, training)
    key = stream_key(record.round, record.stream) if record.layers else version_key(start.round)
    _load_layers(half, record.layers or start.layers_of(record.stream), key, lambda number, ref: cache.layer(ledger, number, ref))
    optimizer = record.optimizer if record.layers else start.optimizers.get(record.stream)
    if optimizer is not None:
        here = tuple(f"layer{number}." for number in half.numbers)  # a client with more of the layers may have left the stream
        with naming(f"optimizer of {optimizer.scope} in the store"):
            state = cache.optimizer(ledger, record.stream, optimizer)
            half.load_optimizer_state({name: tensor for name, tensor in state.items() if name.startswith(here)})
    half.begin_round(record.round)
    return half


def _load_layers(half: ServerHalf, layers: Layers, key: str, read: Callable[[int, BlobRef], State]) -> None:
    for number in half.numbers:
        ref = named_layer(layers, number, key)
        with naming(f"layer {number} of {ref.scope} in the store"):
            half.load_state_of(f"layer{number}", read(number, ref))


@dataclass(frozen=True)
class Clone:
    """A replica and its optimizer's state as they were; training goes on without changing it."""

    layers: dict[int, State]
    optimizer: State

    @classmethod
    def of(cls, half: ServerHalf) -> "Clone":
        """Return a copy of a half."""
        layers = {number: _copy(half.state_of(f"layer{number}")) for number in half.numbers}
        return cls(layers, _copy(half.optimizer_state()))

    def replica(self, network: Network, training: TrainingSettings, round: int) -> ServerHalf:
        """Return a half that goes on from here."""
        half = ServerHalf(network, min(self.layers), training)
        for number, state in self.layers.items():
            half.load_state_of(f"layer{number}", state)
        half.load_optimizer_state(self.optimizer)
        half.begin_round(round)
        return half

    def packed(self) -> list[bytes]:
        """Return the blobs of its layers, in order, and of its optimizer's state."""
        return [*map(pack, self.layers.values()), pack(self.optimizer)]

    def savepoint(self, refs: list[BlobRef]) -> Savepoint:
        """Return what names the blobs that ``packed`` has returned."""
        return Savepoint(layers=dict(zip(self.layers, refs[:-1], strict=True)), optimizer=refs[-1])


class Saver:
    """Writes checkpoints from clones on its own thread, one at a time, and the commit at the end."""

    def __init__(self, ledger: Ledger, claim: Claim, cache: ReplicaCache, emit: Emit) -> None:
        self.claim = claim
        self._ledger = ledger
        self._cache = cache
        self._emit = emit
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._future: Future[StreamRecord] | None = None
        self._saving: Clone | None = None  # of what is marked, what is being written
        self.marked: Clone | None = None  # what a client's round may be undone to, as long as it is not written
        self.seconds = 0.0  # that the last checkpoint took

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._future is not None

    @property
    def record(self) -> StreamRecord:
        """The stream as it was last written."""
        return self.claim.kept.record

    def mark(self, half: ServerHalf) -> None:
        """Keep a replica as the savepoint, until it is written with the next checkpoint."""
        self.marked = Clone.of(half)

    def note(self, record: StreamRecord, done: Callable[["Future[StreamRecord]"], None]) -> None:
        """Begin to write a record of what is in the store already. ``done`` is called on the saver's thread."""
        self._submit(lambda: self._point_to(record), done)

    def start(
        self, half: ServerHalf, record: StreamRecord, attached: list[bytes], done: Callable[["Future[StreamRecord]"], None]
    ) -> None:
        """Begin to save a replica with its position, and the blobs that the record names beside it.

        ``done`` is called on the saver's thread.
        """
        clone, marked = Clone.of(half), self.marked
        self._saving = marked
        self._submit(lambda: self._save(clone, record, attached, marked), done)

    def finish(self, future: "Future[StreamRecord]") -> StreamRecord:
        """Take the outcome of a checkpoint; raise what it raised, LeaseLost or another StoreError."""
        if future is self._future:
            self._future = None
        error = future.exception()
        if error is not None:
            raise error.with_traceback(None)  # whose frames hold the replica, for as long as the future is held
        if self.marked is self._saving:
            self.marked = None
        self._saving = None
        return future.result()

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(wait=True)

    def _submit(self, write: Callable[[], StreamRecord], done: Callable[["Future[StreamRecord]"], None]) -> None:
        self._future = self._pool.submit(write)
        self._future.add_done_callback(done)

    def _save(self, clone: Clone, record: StreamRecord, attached: list[bytes], marked: Clone | None) -> StreamRecord:
        began = time.monotonic()
        commits = record.status == "committed"
        replica, point = clone.packed(), marked.packed() if marked and not commits else []
        refs = self._ledger.store.put_blobs(stream_key(record.round, record.stream), [*replica, *point, *attached])
        crash_point(Between.COMMIT_BLOBS_AND_POINTER if commits else Between.CHECKPOINT_BLOBS_AND_POINTER)
        saved = record.model_copy(
            update={
                **dict(clone.savepoint(refs[: len(replica)])),
                "savepoint": None if commits else self._savepoint(marked, refs[len(replica) :][: len(point)]),
            }
        )
        self._point_to(saved)
        if commits and saved.optimizer is not None:
            self._cache.keep(saved.stream, saved.optimizer, clone.optimizer)
        self.seconds = time.monotonic() - began
        size = sum(map(len, (*replica, *point, *attached)))
        self._emit(CheckpointSaved(round=record.round, stream=record.stream, bytes=size, seconds=self.seconds, commits=commits))
        return saved

    def _point_to(self, record: StreamRecord) -> StreamRecord:
        superseded = self.record.blobs() - record.blobs()
        self.claim = self._ledger.advance(self.claim, record)
        crash_point(Between.POINTER_AND_SWEEP)
        self._ledger.store.drop_blobs(superseded, fence=self.claim.lease)
        return record

    def _savepoint(self, marked: Clone | None, refs: list[BlobRef]) -> Savepoint | None:
        return marked.savepoint(refs) if marked else self.record.savepoint


def _copy(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
