"""The rounds of a run, as a state machine over the store: open -> frozen -> closed -> the next one.

Each step is one transaction under the coordinator's lease and depends only on what is in the store, so that a stand-by can
go on wherever another coordinator stopped.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from broker.crash_points import Between, crash_point
from coordinator.client_averages import ClientAverages
from coordinator.errors import RunFailed
from coordinator.experiment import Experiment
from coordinator.store.interface import BlobRef, Lease
from coordinator.store.ledger import Kept, Ledger, named_layer
from coordinator.store.records import (
    ClientRecord,
    Roster,
    RoundRecord,
    RunState,
    StreamClient,
    StreamPlan,
    StreamRecord,
    Tallies,
    VersionRecord,
    round_key,
    round_of,
    stream_key,
    tallies_by_cut,
    version_key,
)
from learning.averaging import Trained, layer_weight, weighted_mean
from learning.layers import Network
from learning.strategies import averaged, group
from learning.tensors import State, check_state, naming, pack, unpack


@dataclass(frozen=True)
class Rounds:
    """Opens, freezes, averages and closes rounds as the coordinator that holds ``leader``."""

    ledger: Ledger
    experiment: Experiment
    network: Network
    leader: Lease

    def initialise(self) -> None:
        """Publish version 0, the initialisation of the layers that servers may train, unless it is there."""
        if self.ledger.state().record.closed or self.ledger.version(0):
            return
        entries = self.experiment.clients.roster()
        first = min((entry.cut for entry in entries), default=1) + 1
        numbers = range(first, self.network.depth + 1)
        values = [pack(self.network.build_layer(number).state_dict()) for number in numbers]
        refs = self.ledger.store.put_blobs(version_key(0), values)
        crash_point(Between.INITIAL_BLOBS_AND_VERSION)
        record = VersionRecord(round=0, layers=dict(zip(numbers, refs, strict=True)))
        self.ledger.lead(self.leader, [Kept(version_key(0), record, None).change(record)])

    def open(self, state: Kept[RunState], roster: Kept[Roster]) -> RoundRecord | None:
        """Open the next round for all active clients; None if a document changed meanwhile."""
        number = state.record.closed + 1
        clients = {client.index: client for client in roster.record.active() if client.first_round <= number}
        streams = group([(index, client.id) for index, client in clients.items()], self.experiment.training)
        by_id = {client.id: client for client in clients.values()}
        record = RoundRecord(
            round=number,
            streams=[
                StreamPlan(id=name, clients=[_place(by_id[member]) for member in members]) for name, members in streams.items()
            ],
            opened_at=time.time(),
        )
        writes = [
            Kept(round_key(number), record, None).change(record),
            state.change(state.record.model_copy(update={"phase": "training", "round": number})),
            roster.change(roster.record),
        ]
        return record if self.ledger.lead(self.leader, writes) else None

    def close(self, state: Kept[RunState], kept: Kept[RoundRecord]) -> RoundRecord | None:
        """Average a frozen round and publish its version; None if a document changed meanwhile.

        May be repeated: it reads only what the freeze fixed.
        """
        number = kept.record.round
        previous = self.ledger.version(number - 1)
        if previous is None and Ledger(self.ledger.store).state() != state:  # the store was started again meanwhile, and lost both
            return None
        if previous is None:
            raise RunFailed(f"version {number - 1} of the layers is gone from the store; round {number} cannot be averaged")
        roster = self.ledger.roster()
        streams = self.ledger.streams(kept.record)
        frozen = [streams[name].record for name in kept.record.frozen]
        tallies = sum((stream.tallies() for stream in frozen), Tallies())
        seconds = time.time() - kept.record.opened_at
        gone = {departure.client for departure in roster.record.departures if departure.round == number}
        closings = [stream.closing(client) for stream in frozen for client in stream.clients if client in gone]
        by_cut = tallies_by_cut(frozen)
        changes = {"phase": "closed", "tallies": tallies, "by_cut": by_cut, "seconds": seconds, "closings": closings}
        closed = kept.record.model_copy(update=changes)
        version = self._version(number, previous.record, frozen, roster.record)
        outdated = self.ledger.version(number - 2) if number >= 2 else None
        writes = [
            Kept(version_key(number), version, None).change(version),
            kept.change(closed),
            roster.change(roster.record.without_leavers()),
            state.change(state.record.model_copy(update={"closed": number})),
            *(stream.delete() for stream in streams.values()),
            *([outdated.delete()] if outdated else []),
        ]
        crash_point(Between.AVERAGE_AND_PUBLISH)
        if not self.ledger.lead(self.leader, writes):
            return None
        crash_point(Between.PUBLISH_AND_SWEEP)
        self._drop_unneeded(version, previous.record)
        return closed

    def sweep(self) -> None:
        """Drop what another coordinator that closed a round had no time to drop."""
        closed = self.ledger.state().record.closed
        version, previous = self.ledger.version(closed), self.ledger.version(max(closed - 1, 0))
        if version and previous:
            self._drop_unneeded(version.record, previous.record)

    def _version(self, number: int, previous: VersionRecord, frozen: list[StreamRecord], roster: Roster) -> VersionRecord:
        trained = [stream for stream in frozen if stream.tallies().samples > 0]
        optimizers = {stream.stream: stream.optimizer for stream in trained if stream.optimizer}
        training = self.experiment.training
        keep, share = training.optimizer_state == "keep", averaged(training)
        version = VersionRecord(
            round=number,
            layers=self._average(number, previous.layers, trained) if share else previous.layers,
            replicas={} if share else {**previous.replicas, **{stream.stream: stream.layers for stream in trained}},
            optimizers={**previous.optimizers, **optimizers} if keep else {},
            client_layers=previous.client_layers,
            exits=previous.exits,
        )
        if training.average == "all":
            crash_point(Between.LAYERS_AND_HALVES)
            return ClientAverages(self.ledger.store, self.network, training).add_to(version, frozen, roster)
        halves = {client: ref for stream in frozen for client, ref in stream.halves.items()}
        return version.model_copy(update={"halves": {**previous.halves, **halves}})

    def _average(self, number: int, layers: dict[int, BlobRef], streams: list[StreamRecord]) -> dict[int, BlobRef]:
        """Return the layers after a round: each the mean over the replicas that trained it, or what it was."""
        averages = dict(layers)
        for layer in layers:
            weights = [(stream, self._weight(layer, stream)) for stream in streams]
            contributing = [(stream, weight) for stream, weight in weights if weight > 0]
            if contributing:
                mean = weighted_mean(self._states(layer, contributing))
                averages[layer] = self.ledger.store.put_blobs(version_key(number), [pack(mean)])[0]
        return averages

    def _weight(self, layer: int, stream: StreamRecord) -> int:
        clients = [Trained(progress.cut, progress.tallies.samples) for progress in stream.clients.values()]
        return layer_weight(layer, clients, self.experiment.training.weighting)

    def _states(self, layer: int, contributing: list[tuple[StreamRecord, int]]) -> Iterator[tuple[State, int]]:
        expected = self.network.build_layer(layer).state_dict()
        for stream, weight in contributing:
            ref = named_layer(stream.layers, layer, stream_key(stream.round, stream.stream))
            with naming(f"layer {layer} of {ref.scope} in the store"):
                state = unpack(self.ledger.store.get_blob(ref))
                check_state(state, expected)
            yield state, weight

    def _drop_unneeded(self, version: VersionRecord, previous: VersionRecord) -> None:
        """Drop the blobs of closed rounds that no kept version points to."""
        needed = version.scopes() | previous.scopes()
        for scope in self.ledger.store.scopes():
            of = round_of(scope)
            if of is not None and of <= version.round and scope not in needed:
                self.ledger.store.drop_scope(scope, fence=self.leader)


def _place(client: ClientRecord) -> StreamClient:
    return StreamClient(id=client.id, incarnation=client.incarnation, cut=client.cut)
