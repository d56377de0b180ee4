"""What a client trains on, and what it may import: names from its own command line, never from a message."""

import threading
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from broker.messages import Welcome
from learning.data import ClientData, Dataset, load_dataset
from learning.errors import DataError, SettingsError
from learning.partition import partition
from learning.settings import DataSettings
from workers.run_settings import RunSettings

_loading = threading.Lock()


@dataclass(frozen=True)
class LocalNames:
    """What a client's own command line names; None: what the run says, if that needs no import and no path."""

    data: str | None = None
    model: str | None = None
    exit: str | None = None
    root: str | None = None


def local_settings(settings: RunSettings, names: LocalNames) -> RunSettings:
    """Return a run's settings as this client may use them; raise SettingsError if it must name something itself."""
    for option, said, own in (("model", settings.model.name, names.model), ("exit", settings.model.exit, names.exit)):
        if ":" in said and own != said:
            raise SettingsError(f"the run's {option} is {said}: name it on this client's command line too, --{option} {said}")
    if ":" in settings.data.name and names.data is None:
        raise SettingsError(f"the run's data is {settings.data.name}: say where this client's own is with --data")
    changes = {key: value for key, value in (("name", names.data), ("root", names.root)) if value is not None}
    return replace(settings, data=settings.data.model_copy(update=changes))


def load_client_data(settings: RunSettings, welcome: Welcome) -> tuple[Dataset, ClientData]:
    """Return the data set and the client's part of it: all of it where it brings its own.

    Raises DataError if it is not of the run's shape or classes.
    """
    dataset, parts = open_data(settings, welcome.parts, tuple(welcome.sample_shape), welcome.classes)
    indices = parts[welcome.part] if parts else torch.arange(len(dataset.train))
    return dataset, ClientData(dataset, indices, settings.data, settings.training, welcome.client)


def open_data(settings: RunSettings, parts: int, sample_shape: tuple[int, ...], classes: int) -> tuple[Dataset, list[torch.Tensor]]:
    """Return a run's data set and the indices of each of its parts; none where parts is 0: clients bring their own.

    Raises DataError if data or parts cannot be had, or are not of the run's shape and classes.
    """
    with _loading:
        dataset = _load(settings.data, settings.training.seed)
        indices = _parts(settings.data, settings.training.seed, parts) if parts else []
    if tuple(dataset.sample_shape) != sample_shape or dataset.classes != classes:
        raise DataError(
            f"{settings.data.name} has {dataset.classes} classes and samples of shape {tuple(dataset.sample_shape)}; "
            f"the run has {classes} and {sample_shape}"
        )
    return dataset, indices


@lru_cache(maxsize=1)
def _load(data: DataSettings, seed: int) -> Dataset:
    """Clients in one process share what they load."""
    return load_dataset(data, seed)


@lru_cache(maxsize=1)
def _parts(data: DataSettings, seed: int, parts: int) -> list[torch.Tensor]:
    return partition(_load(data, seed).train.labels, parts, data, seed)
