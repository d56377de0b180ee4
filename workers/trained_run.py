"""A finished run as its folder holds it: settings, network, and the trained layers of clients and servers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.codec import first_fault
from broker.messages import ClientId, Positive
from learning.augment import normalise
from learning.errors import LearningError
from learning.halves import ClientHalf, ServerHalf
from learning.layers import Network, build_network
from learning.sources import normalisation
from learning.strategies import averaged, is_split
from learning.tensors import State, naming, unpack
from workers.run_settings import RunSettings


class RunFolderError(LearningError):
    """A folder does not hold a finished run, or not all of it; the message names the file."""


class Member(BaseModel):
    """A client's place in a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cut: Positive
    stream: ClientId


class _Description(BaseModel):
    """The contents of run.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_shape: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)]
    classes: Annotated[int, Field(ge=2)]
    class_names: tuple[str, ...] = ()
    clients: dict[ClientId, Member]


@dataclass(frozen=True)
class TrainedRun:
    """What a finished run has left behind. ``clients``: those whose layers are there, in the order of the roster."""

    folder: Path
    settings: RunSettings
    network: Network
    class_names: tuple[str, ...]
    clients: dict[str, Member]

    @classmethod
    def open(cls, folder: Path) -> "TrainedRun":
        """Open a run's folder, on this machine's GPU if the run used one and there is one here, else on its CPU.

        What its experiment names as module:function is imported. Raises RunFolderError if it is no finished run's folder,
        LearningError if model and layers cannot be used.
        """
        settings = _on_this_machine(RunSettings.from_json(_read(folder, "experiment.json")))
        if not is_split(settings.training):
            raise RunFolderError(
                f"{folder} holds whole networks, of strategy {settings.training.strategy}: there are no clients' halves and exits"
            )
        try:
            found = _Description.model_validate_json(_read(folder, "run.json"))
        except ValidationError as error:
            raise RunFolderError(f"{folder / 'run.json'} is damaged: {first_fault(error)}") from None
        network = build_network(settings.model, found.sample_shape, found.classes, settings.training.seed)
        there = {client: member for client, member in found.clients.items() if _client_file(folder, client).exists()}
        if not there:
            raise RunFolderError(f"{folder / 'layers'} has no client's layers: did the run finish?")
        for member in there.values():
            network.check_cut(member.cut)
        return cls(folder, settings, network, found.class_names, there)

    @property
    def version(self) -> int:
        """The round whose layers these are: the last."""
        return self.settings.training.rounds

    def cuts(self) -> dict[int, list[str]]:
        """Return the clients at each cut, by growing cut."""
        found: dict[int, list[str]] = {}
        for client, member in self.clients.items():
            found.setdefault(member.cut, []).append(client)
        return dict(sorted(found.items()))

    def member(self, client: str) -> Member:
        """Return a client's place; raise RunFolderError if its layers are not there."""
        if client not in self.clients:
            some = ", ".join(list(self.clients)[:12])
            raise RunFolderError(f"{self.folder} has no layers of client {client!r}; it has those of {some}")
        return self.clients[client]

    def client_half(self, client: str) -> ClientHalf:
        """Return a client's layers and exit. Raises RunFolderError or TensorError if they are not what they should be."""
        half = ClientHalf(self.network, self.member(client).cut, self.settings.training)
        half.load_state(_state(_client_file(self.folder, client)))
        return half

    def server_half(self, client: str) -> ServerHalf:
        """Return the server layers that finish a client's features: the shared ones, or its stream's own where none are shared."""
        member = self.member(client)
        prefix = "server" if averaged(self.settings.training) else f"server-{member.stream}"
        half = ServerHalf(self.network, self._first(member), self.settings.training)
        for number in half.numbers:
            half.load_state_of(f"layer{number}", _state(self.folder / "layers" / f"{prefix}-layer{number}.safetensors"))
        return half

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (batch, channels, ...) in 0..1 as the run's training took them."""
        mean, std = normalisation(self.settings.data.name, self.network.sample_shape[0])
        return normalise(images, mean, std) if mean else images

    def _first(self, member: Member) -> int:
        """Return the first of the layers that a client's servers hold: the shared ones serve every cut of the run."""
        shared = averaged(self.settings.training)
        return 1 + (min(other.cut for other in self.clients.values()) if shared else member.cut)


def _on_this_machine(settings: RunSettings) -> RunSettings:
    if settings.training.device != "cuda" or torch.cuda.is_available():
        return settings
    return replace(settings, training=settings.training.model_copy(update={"device": "cpu", "memory_format": "contiguous"}))


def _client_file(folder: Path, client: str) -> Path:
    return folder / "layers" / f"client-{client}.safetensors"


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text()
    except FileNotFoundError:
        raise RunFolderError(f"{folder} holds no finished run: there is no {name} in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{folder / name} cannot be read: {error}") from None


def _state(path: Path) -> State:
    try:
        with naming(str(path)):
            return unpack(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from None
