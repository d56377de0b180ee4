"""What an interrupted baseline goes on from: each network as it was after its last round, and the rounds that all have ended."""

import json
import os
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, ValidationError

from broker.codec import first_fault
from broker.messages import Count, Positive
from coordinator.errors import RunConflict, StoreError
from coordinator.store.records import Record, Tallies
from learning.errors import TensorError
from learning.halves import ServerHalf
from learning.tensors import State, fingerprint, notes_of, pack, unpack

_ROUNDS, _NETWORKS, _LOCK, _PARTIAL = "rounds.json", "networks", "lock", ".partial"
_LAYERS, _OPTIMIZER = "layers/", "optimizer/"


class Trained(Record):
    """What a round of one network amounted to. right: of the ``tested`` test samples, where the round is evaluated."""

    round: Positive
    seconds: float = 0.0
    tallies: Tallies = Tallies()
    tested: Count = 0
    right: Count = 0


class ClosedRound(Record):
    """A round that all networks have ended. accuracy: by network, empty where the round is not evaluated."""

    round: Positive
    seconds: float
    tallies: Tallies
    by_cut: dict[str, Tallies] = Field(default_factory=dict)  # the same for each cut; "all": of one network for all clients
    accuracy: dict[str, float]


class _Rounds(Record):
    """The contents of rounds.json."""

    run: str
    fingerprint: str
    rounds: tuple[ClosedRound, ...] = ()


class _Notes(Record):
    """What stands in the header of a network's file."""

    model_config = ConfigDict(strict=True)

    trained: Trained
    digest: str


class BaselineState:
    """A folder of one run's networks. Each file is replaced as a whole; a network's is one of ``safetensors``.

    Holds no network itself. Raises StoreError if the folder cannot be used, RunConflict if it is another run's or in use.
    """

    def __init__(self, folder: Path, run: str, experiment: str) -> None:
        """Open a folder, for a run and the fingerprint of its experiment."""
        self._folder = folder
        self._lock = FileLock(folder / _LOCK)
        try:
            (folder / _NETWORKS).mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunConflict(f"{folder} is in use by another process") from None
        except OSError as error:
            raise StoreError(f"{folder} cannot be used: {error.strerror}") from None
        try:
            self._rounds = self._read_rounds(_Rounds(run=run, fingerprint=experiment))
        except BaseException:
            self.close()
            raise

    @property
    def rounds(self) -> tuple[ClosedRound, ...]:
        """The rounds that are closed, in order."""
        return self._rounds.rounds

    def trained(self, network: str) -> Trained | None:
        """Return what a network's last round amounted to, None if it has had none; reads no tensors."""
        path = self._path(network)
        try:
            with path.open("rb") as file:
                size = file.read(8)
                header = size + file.read(min(int.from_bytes(size, "little"), path.stat().st_size))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        return self._notes(path, header).trained

    def load(self, network: str, half: ServerHalf, *, optimizer: bool) -> None:
        """Give a half the layers that a network had after its last round, and the optimizer's state if wanted; none before."""
        path = self._path(network)
        if not path.exists():
            return
        try:
            data = path.read_bytes()
            tensors = unpack(data)
            if fingerprint([("", tensors)]) != self._notes(path, data).digest:
                raise TensorError("its tensors do not match their digest")
            for number in half.numbers:
                half.load_state_of(f"layer{number}", _below(f"{_LAYERS}layer{number}.", tensors))
            if optimizer:
                half.load_optimizer_state(_below(_OPTIMIZER, tensors))
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        except TensorError as error:
            raise _damaged(path, str(error)) from None

    def layers(self, network: str, half: ServerHalf) -> State:
        """Return a network's layers after its last round, named "layer<l>.<tensor>"; ``half`` is used to check them."""
        self.load(network, half, optimizer=False)
        return {name: tensor.clone() for name, tensor in half.modules.state_dict().items()}

    def save(self, network: str, half: ServerHalf, trained: Trained) -> None:
        """Replace what is kept of a network."""
        tensors = {f"{_LAYERS}{name}": tensor for name, tensor in half.modules.state_dict().items()}
        tensors |= {f"{_OPTIMIZER}{name}": tensor for name, tensor in half.optimizer_state().items()}
        notes = _Notes(trained=trained, digest=fingerprint([("", tensors)]))
        self._replace(self._path(network), pack(tensors, notes.model_dump()))

    def close_round(self, round: ClosedRound) -> None:
        """Add a round that all networks have ended."""
        self._rounds = self._rounds.model_copy(update={"rounds": (*self.rounds, round)})
        self._replace(self._folder / _ROUNDS, self._rounds.model_dump_json().encode())

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def _path(self, network: str) -> Path:
        return self._folder / _NETWORKS / f"{network}.safetensors"

    def _read_rounds(self, expected: _Rounds) -> _Rounds:
        path = self._folder / _ROUNDS
        try:
            found = _Rounds.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return expected
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise _damaged(path, first_fault(error)) from None
        if (found.run, found.fingerprint) != (expected.run, expected.fingerprint):
            raise RunConflict(f"{self._folder} is the state of run {found.run!r}, or of another experiment; name another --output")
        if [closed.round for closed in found.rounds] != list(range(1, len(found.rounds) + 1)):
            raise _damaged(path, "its rounds are not in order")
        return found

    def _notes(self, path: Path, data: bytes) -> _Notes:
        try:
            return _Notes.model_validate_json(json.dumps(notes_of(data)))
        except ValidationError as error:
            raise _damaged(path, first_fault(error)) from None
        except TensorError as error:
            raise _damaged(path, str(error)) from None

    def _replace(self, path: Path, data: bytes) -> None:
        part = path.with_name(path.name + _PARTIAL)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from None


def _below(prefix: str, tensors: State) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} is damaged: {why}; delete the run's folder to train it anew")
