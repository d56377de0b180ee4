"""Clients' halves averaged at the end of a round: each layer over the clients that have it, each exit over those at its cut."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coordinator.errors import DamagedDocument
from coordinator.store.interface import BlobRef, Store
from coordinator.store.records import Roster, StreamRecord, VersionRecord, stream_key, version_key
from learning.averaging import WeightedMean
from learning.halves import by_module, client_modules
from learning.layers import Network
from learning.settings import TrainingSettings
from learning.tensors import State, check_state, naming, pack, unpack


@dataclass(frozen=True)
class _Half:
    """A client's half as its end of the round brought it."""

    index: int  # of the client in the roster
    client: str
    cut: int
    samples: int  # that it was trained on in the round
    ref: BlobRef


class ClientAverages:
    """Averages the halves of a round's frozen streams, in the order of the roster. It may be repeated."""

    def __init__(self, store: Store, network: Network, training: TrainingSettings) -> None:
        self._store = store
        self._network = network
        self._training = training
        self._expected: dict[int, State] = {}  # by cut

    def add_to(self, version: VersionRecord, frozen: Iterable[StreamRecord], roster: Roster) -> VersionRecord:
        """Return a version, which has its predecessor's clients' layers and exits, with those of its round; after the last round
        with each client's half too.

        What nobody trained stays what it was. Raises DamagedDocument, MissingBlob or TensorError if something in the store is not
        what it should be.
        """
        given = sorted(_given(frozen, roster), key=lambda half: half.index)
        means: dict[tuple[str, int], WeightedMean] = defaultdict(WeightedMean)
        for half in given:
            if half.samples > 0:
                weight = 1 if self._training.weighting == "uniform" else half.samples
                for module, state in by_module(self._state(half)).items():
                    means[_place(module, half.cut)].add(state, weight)
        layers, exits = dict(version.client_layers), dict(version.exits)
        for (kind, number), mean in sorted(means.items()):
            (layers if kind == "layer" else exits)[number] = self._put(version, mean.value())
        averaged = version.model_copy(update={"client_layers": layers, "exits": exits})
        if version.round < self._training.rounds:
            return averaged
        return averaged.model_copy(update={"halves": {half.client: self._final(averaged, half) for half in given}})

    def _final(self, version: VersionRecord, half: _Half) -> BlobRef:
        """Store a client's half as the client has it after the last round."""
        state = {**self._state(half), **half_state(self._store, version, half.cut)}
        with naming(f"averaged half at cut {half.cut} in {version_key(version.round)} in the store"):
            check_state(state, self._of_cut(half.cut))
        return self._put(version, state)

    def _state(self, half: _Half) -> State:
        with naming(f"half of client {half.client} in {half.ref.scope} in the store"):
            state = unpack(self._store.get_blob(half.ref))
            check_state(state, self._of_cut(half.cut))
        return state

    def _of_cut(self, cut: int) -> State:
        if cut not in self._expected:
            self._expected[cut] = dict(client_modules(self._network, cut).state_dict())
        return self._expected[cut]

    def _put(self, version: VersionRecord, state: State) -> BlobRef:
        return self._store.put_blobs(version_key(version.round), [pack(state)])[0]


def half_state(store: Store, version: VersionRecord, cut: int) -> State:
    """Return what clients at a cut start from after a round, named as in their halves, as far as anybody trained it.

    Raises MissingBlob or TensorError if something in the store is not what it should be.
    """
    return {
        f"{module}.{name}": tensor
        for module, ref in version.half_of(cut).items()
        for name, tensor in unpack(store.get_blob(ref)).items()
    }


def _given(frozen: Iterable[StreamRecord], roster: Roster) -> Iterator[_Half]:
    for stream in frozen:
        for client, ref in stream.halves.items():
            progress, known = stream.clients.get(client), roster.clients.get(client)
            if progress is None or known is None:
                key = stream_key(stream.round, stream.stream)
                raise DamagedDocument(f"document {key} in the store is damaged: it has a half of {client}, which is not in it")
            yield _Half(known.index, client, progress.cut, progress.tallies.client_samples, ref)


def _place(module: str, cut: int) -> tuple[str, int]:
    return ("exit", cut) if module == "exit" else ("layer", int(module.removeprefix("layer")))
