"""What roles do with a run's documents: create, claim, checkpoint, commit, freeze. The same over every store."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pydantic import ValidationError

from broker.codec import first_fault
from coordinator.errors import DamagedDocument, LeaseLost, RunConflict, StoreError
from coordinator.store.interface import BlobRef, Document, Lease, Outcome, Store, Write
from coordinator.store.records import (
    ROSTER,
    RUN,
    SIGHT,
    STATE,
    Layers,
    Record,
    Roster,
    RoundRecord,
    RunRecord,
    RunState,
    Scores,
    Sight,
    StreamPlan,
    StreamRecord,
    VersionRecord,
    round_key,
    scores_key,
    stream_key,
    stream_lease,
    version_key,
)

R = TypeVar("R", bound=Record)
MOST_DOCUMENT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Kept(Generic[R]):
    """A document as it was read: its record and the version that a change of it must name. version None: not there."""

    key: str
    record: R
    version: str | None

    def change(self, record: Record) -> Write:
        """Return the write that replaces what was read."""
        return Write(self.key, record.model_dump_json().encode(), self.version, secrets.token_hex(8))

    def delete(self) -> Write:
        """Return the write that deletes what was read."""
        return Write(self.key, None, self.version, secrets.token_hex(8))


@dataclass(frozen=True)
class Claim:
    """A stream held by a worker: its lease and the document as last written under it."""

    lease: Lease
    kept: Kept[StreamRecord]


class Ledger:
    """Typed access to one run's documents. Raises DamagedDocument where one is not what is written there."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def run(self) -> RunRecord | None:
        """Return what the run is, None if there is none of that name."""
        kept = self._find(RUN, RunRecord)
        return kept.record if kept else None

    def create_run(self, record: RunRecord) -> RunRecord:
        """Create the run or return the one there is; raise RunConflict if that is of a different experiment."""
        self.store.transact([Write(RUN, record.model_dump_json().encode(), None, secrets.token_hex(8))])
        there = self.run()
        if there is None:
            raise StoreError(f"run {record.name!r} was removed while it was being created")
        if there.fingerprint != record.fingerprint:
            raise RunConflict(
                f"run {record.name!r} exists with a different experiment; "
                "give this one another name (--set name=...) or remove the old run"
            )
        if there.experiment != record.experiment:
            raise DamagedDocument(f"document {RUN} in the store is damaged: its experiment is not the one of its fingerprint")
        return there

    def state(self) -> Kept[RunState]:
        """Return where the run is."""
        return self._find(STATE, RunState) or Kept(STATE, RunState(), None)

    def roster(self) -> Kept[Roster]:
        """Return the clients."""
        return self._find(ROSTER, Roster) or Kept(ROSTER, Roster(), None)

    def round(self, round: int) -> Kept[RoundRecord] | None:
        """Return a round, None if it was never opened."""
        return self._find(round_key(round), RoundRecord, round=round)

    def version(self, round: int) -> Kept[VersionRecord] | None:
        """Return the layers after a round, None if it is not closed yet or no longer kept."""
        return self._find(version_key(round), VersionRecord, round=round)

    def scores(self, round: int) -> Kept[Scores]:
        """Return the scores of a round."""
        return self._find(scores_key(round), Scores, round=round) or Kept(scores_key(round), Scores(round=round), None)

    def sight(self) -> Kept[Sight] | None:
        """Return what a coordinator has last seen, None if none has looked yet."""
        return self._find(SIGHT, Sight)

    def stream(self, round: int, stream: str) -> Kept[StreamRecord] | None:
        """Return one stream of a round, None if it was never checkpointed."""
        return self._find(stream_key(round, stream), StreamRecord, round=round, stream=stream)

    def streams(self, round: RoundRecord) -> dict[str, Kept[StreamRecord]]:
        """Return the streams of a round that have been checkpointed or committed."""
        keys = [stream_key(round.round, plan.id) for plan in round.streams]
        documents = self._read(keys)
        return {
            plan.id: Kept(key, self._parse(StreamRecord, key, document, round=round.round, stream=plan.id), document.version)
            for plan, key, document in zip(round.streams, keys, documents, strict=True)
            if document
        }

    def unfinished(self, round: RoundRecord) -> list[StreamPlan]:
        """Return the streams of a round that are not committed, in order."""
        streams = self.streams(round)
        return [plan for plan in round.streams if plan.id not in streams or streams[plan.id].record.status != "committed"]

    def claim(self, round: int, stream: str, worker: str, ttl: float) -> Claim | None:
        """Take a stream that nobody holds and that is not committed; None if there is nothing to take."""
        key = stream_key(round, stream)
        lease = self.store.acquire(stream_lease(stream), secrets.token_hex(8), worker, ttl)
        if lease is None:
            return None
        kept = self.stream(round, stream) or Kept(key, StreamRecord(round=round, stream=stream, worker=worker), None)
        open_round = self.round(round)
        if kept.record.status == "committed" or open_round is None or open_round.record.phase != "open":
            self.store.release(lease)
            return None
        return Claim(lease, kept)

    def advance(self, claim: Claim, record: StreamRecord) -> Claim:
        """Write a checkpoint or commit under the claim's lease, after the one before it.

        All that the record holds becomes visible together. Raises LeaseLost if the stream is another's now.
        """
        write = claim.kept.change(record)
        outcome = self.store.transact([write], fence=claim.lease)
        if outcome not in (Outcome.DONE, Outcome.ALREADY_DONE):
            raise LeaseLost(f"{claim.kept.key} passed to another holder ({outcome.value})")
        return replace(claim, kept=Kept(claim.kept.key, record, write.version))

    def lead(self, leader: Lease, writes: Sequence[Write], bump: Sequence[str] = ()) -> bool:
        """Write as the coordinator that holds the lease; False if a document has changed since it was read.

        bump: streams' leases that are taken from whoever holds them. Raises LeaseLost if another coordinator leads now.
        """
        outcome = self.store.transact(writes, fence=leader, bump=bump)
        if outcome is Outcome.FENCED:
            raise LeaseLost("another coordinator leads this run now")
        return outcome is not Outcome.CONFLICT

    def freeze(self, leader: Lease, kept: Kept[RoundRecord]) -> bool:
        """End a round: record the streams that are committed and fence all others; False if somebody was faster."""
        streams = self.streams(kept.record)
        committed = [
            plan.id for plan in kept.record.streams if plan.id in streams and streams[plan.id].record.status == "committed"
        ]
        unfinished = [stream_lease(plan.id) for plan in kept.record.streams if plan.id not in committed]
        frozen = kept.record.model_copy(update={"phase": "frozen", "frozen": committed})
        return self.lead(leader, [kept.change(frozen)], bump=unfinished)

    def _find(self, key: str, kind: type[R], **place: object) -> Kept[R] | None:
        (document,) = self._read([key])
        return Kept(key, self._parse(kind, key, document, **place), document.version) if document else None

    def _read(self, keys: Sequence[str]) -> list[Document | None]:
        return self.store.read(keys)

    def _parse(self, kind: type[R], key: str, document: Document, **place: object) -> R:
        """Return the record in a document. place: fields that follow from its key."""
        try:
            if len(document.value) > MOST_DOCUMENT_BYTES:
                raise DamagedDocument(
                    f"document {key} in the store is damaged: {len(document.value)} bytes, at most {MOST_DOCUMENT_BYTES}"
                )
            record = kind.model_validate_json(document.value)
        except ValidationError as error:
            raise DamagedDocument(f"document {key} in the store is damaged: {first_fault(error)}") from None
        for name, own in place.items():
            if getattr(record, name) != own:
                raise DamagedDocument(
                    f"document {key} in the store is damaged: {name}: {getattr(record, name)} does not belong there"
                )
        return record


def named_layer(layers: Layers, number: int, key: str) -> BlobRef:
    """Return the blob of a layer; raise DamagedDocument if the document with that key names none."""
    if number not in layers:
        raise DamagedDocument(f"document {key} in the store is damaged: it names no layer {number}")
    return layers[number]
