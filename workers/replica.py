"""A stream's replica between store and memory: load it, and save it without standing still."""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

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


class Saver:
    """Writes checkpoints from clones on its own thread, one at a time, and the commit at the end."""

    def __init__(self, ledger: Ledger, claim: Claim, cache: ReplicaCache, emit: Emit) -> None:
        self.claim = claim
        self._ledger = ledger
        self._cache = cache
        self._emit = emit
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._future: Future[StreamRecord] | None = None
        self.seconds = 0.0  # that the last checkpoint took

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._future is not None

    @property
    def record(self) -> StreamRecord:
        """The stream as it was last written."""
        return self.claim.kept.record

    def start(
        self, half: ServerHalf, record: StreamRecord, done: Callable[["Future[StreamRecord]"], None], *, savepoint: bool = False
    ) -> None:
        """Begin to save a replica with its position. ``done`` is called on the saver's thread.

        savepoint: later checkpoints keep this one too, until the next savepoint or the commit.
        """
        layers, optimizer = _clone(half)
        self._future = self._pool.submit(self._save, layers, optimizer, record, savepoint)
        self._future.add_done_callback(done)

    def finish(self, future: "Future[StreamRecord]") -> StreamRecord:
        """Take the outcome of a checkpoint; raise what it raised, LeaseLost or another StoreError."""
        if future is self._future:
            self._future = None
        error = future.exception()
        if error is not None:
            raise error.with_traceback(None)  # whose frames hold the replica, for as long as the future is held
        return future.result()

    def commit(self, half: ServerHalf, record: StreamRecord) -> StreamRecord:
        """Save the replica and wait; return the record as written. Raises what ``start`` and ``finish`` raise."""
        if self._future is not None:
            self.finish(self._future)
        layers, optimizer = _clone(half)
        saved = self._save(layers, optimizer, record)
        if saved.optimizer is not None:
            self._cache.keep(saved.stream, saved.optimizer, optimizer)
        return saved

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(wait=True)

    def _save(self, layers: dict[int, State], optimizer: State, record: StreamRecord, savepoint: bool = False) -> StreamRecord:
        began = time.monotonic()
        values = [pack(state) for state in layers.values()]
        values.append(pack(optimizer))
        scope = stream_key(record.round, record.stream)
        refs = self._ledger.store.put_blobs(scope, values)
        commits = record.status == "committed"
        crash_point(Between.COMMIT_BLOBS_AND_POINTER if commits else Between.CHECKPOINT_BLOBS_AND_POINTER)
        replica = Savepoint(layers=dict(zip(layers, refs[:-1], strict=True)), optimizer=refs[-1])
        point = replica if savepoint else self.record.savepoint
        saved = record.model_copy(
            update={
                "layers": replica.layers,
                "optimizer": replica.optimizer,
                "savepoint": None if record.status == "committed" else point,
            }
        )
        superseded = self.claim.kept.record.blobs() - saved.blobs()
        self.claim = self._ledger.advance(self.claim, saved)
        crash_point(Between.POINTER_AND_SWEEP)
        self._ledger.store.drop_blobs(superseded, fence=self.claim.lease)
        size = sum(map(len, values))
        self.seconds = time.monotonic() - began
        self._emit(CheckpointSaved(round=record.round, stream=record.stream, bytes=size, seconds=self.seconds))
        return saved


def _clone(half: ServerHalf) -> tuple[dict[int, State], State]:
    layers = {number: _copy(half.state_of(f"layer{number}")) for number in half.numbers}
    return layers, _copy(half.optimizer_state())


def _copy(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
