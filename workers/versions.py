"""Which server layers finish a client's features: those of a round, shared or its replica's own."""

import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol

from coordinator.store.ledger import Kept, Ledger
from coordinator.store.records import VersionRecord
from learning.halves import ServerHalf
from learning.layers import Network
from learning.settings import TrainingSettings
from learning.strategies import averaged
from workers.replica import load_version
from workers.trained_run import RunFolderError, TrainedRun

HELD = 2  # server halves in memory
SURE_SECONDS = 1.0  # for which a version that was there is taken to be there still, where that will do


class NotThere(Exception):
    """The version that is asked for is not there. gone: it was, else a store that lost its last writes has gone back behind it."""

    def __init__(self, *, gone: bool) -> None:
        super().__init__()
        self.gone = gone


class Versions(Protocol):
    """Server layers by round and client."""

    def key(self, version: int, client: str) -> Hashable:
        """Return what is equal for requests that the same layers answer."""

    def has(self, version: int, client: str) -> bool:
        """Return whether the layers are in memory."""

    def half(self, version: int, client: str, *, sure: bool) -> ServerHalf:
        """Return the layers after a round for a client's features.

        sure: they are what the store has at this moment. Raises NotThere, and LearningError or StoreError if they cannot be used.
        """


class StoreVersions:
    """The versions in the store of a run; holds the last few that were asked for."""

    def __init__(self, network: Network, training: TrainingSettings, ledger: Ledger) -> None:
        self._network = network
        self._training = training
        self._ledger = ledger
        self._halves: OrderedDict[Hashable, tuple[str | None, ServerHalf]] = OrderedDict()
        self._looked: dict[int, tuple[float, Kept[VersionRecord]]] = {}

    def key(self, version: int, client: str) -> tuple[int, str]:
        """Return the version, with the client where its replica is its own."""
        return version, "" if averaged(self._training) else client

    def has(self, version: int, client: str) -> bool:
        """Return whether the layers are in memory."""
        return self.key(version, client) in self._halves

    def half(self, version: int, client: str, *, sure: bool) -> ServerHalf:
        """Return the layers after a round for a client's features."""
        kept, key = self._look(version, sure=sure), self.key(version, client)
        if key not in self._halves or self._halves[key][0] != kept.version:  # a store that lost a version is given another
            self._halves[key] = kept.version, load_version(self._network, self._training, self._ledger, kept.record, key[1])
        self._halves.move_to_end(key)
        while len(self._halves) > HELD:
            self._halves.popitem(last=False)
        return self._halves[key][1]

    def _look(self, version: int, *, sure: bool) -> Kept[VersionRecord]:
        now = time.monotonic()
        looked = self._looked.get(version)
        if looked is not None and not sure and now - looked[0] < SURE_SECONDS:
            return looked[1]
        kept = self._ledger.version(version)
        if kept is None:
            raise NotThere(gone=version <= self._ledger.state().record.closed)
        self._looked = {version: (now, kept)}
        return kept


class FolderVersions:
    """The one version in a finished run's folder."""

    def __init__(self, run: TrainedRun) -> None:
        self._run = run
        self._halves: OrderedDict[Hashable, ServerHalf] = OrderedDict()

    def key(self, version: int, client: str) -> tuple[int, str]:
        """Return the version, with the client where its replica is its own."""
        return version, "" if averaged(self._run.settings.training) else client

    def has(self, version: int, client: str) -> bool:
        """Return whether the layers are in memory."""
        return self.key(version, client) in self._halves

    def half(self, version: int, client: str, *, sure: bool) -> ServerHalf:  # noqa: ARG002  the folder does not change
        """Return the layers for a client's features."""
        if version != self._run.version:
            raise RunFolderError(f"{self._run.folder} has the layers after round {self._run.version}, not {version}")
        key = self.key(version, client)
        if key not in self._halves:
            self._halves[key] = self._run.server_half(client)
        self._halves.move_to_end(key)
        while len(self._halves) > HELD:
            self._halves.popitem(last=False)
        return self._halves[key]
