"""How far a stream is: in memory, where training is, and durably, where the store is."""

from typing import Literal

from broker.messages import EndOfRound
from coordinator.store.interface import BlobRef
from coordinator.store.records import ClientProgress, Hole, StreamPlan, StreamRecord, Tallies
from learning.halves import Step
from workers.features import FIRST_DIGEST


class Position:
    """A stream's progress by client; ``record`` is what a checkpoint writes of it."""

    def __init__(self, plan: StreamPlan, record: StreamRecord) -> None:
        """Take the stream up from a record; it counts as durable from ``now_durable`` on, as another may just have written it."""
        self._record = record
        self._clients = {
            client.id: record.clients.get(client.id) or ClientProgress(incarnation=client.incarnation, cut=client.cut)
            for client in plan.clients
        }
        self._durable = dict.fromkeys(self._clients, 0)
        self._halves = dict(record.halves)
        self.unsaved = False

    def of(self, client: str) -> ClientProgress:
        """Return one client's progress."""
        return self._clients[client]

    def durable(self, client: str) -> int:
        """Return the sequence before which everything of a client is in the store and cannot be lost there."""
        return self._durable[client]

    def now_durable(self, record: StreamRecord) -> None:
        """A record is in the store, which cannot lose it any more."""
        self._durable = {client: progress.sequence for client, progress in record.clients.items()}

    def record(self, status: Literal["training", "committed"] = "training") -> StreamRecord:
        """Return the document that holds this position; the saver adds the replica's blobs."""
        own = {"status": status, "clients": dict(self._clients), "halves": dict(self._halves), "suspect": None}
        return self._record.model_copy(update=own)

    def trained(self, client: str, step: Step, size: int, said: bytes, digest: bytes) -> None:
        """One batch has been trained.

        said: the digest of its predecessors that it carried; one that differs from what was trained tells that the client
        recomputed something differently. digest: over it and its predecessors.
        """
        self._move(
            client,
            Tallies(
                samples=step.samples,
                loss_sum=step.loss * step.samples,
                correct=step.correct,
                bytes=size,
                divergent=int(self._diverges(client, said)),
            ),
            digest=digest.hex(),
        )

    def end(self, client: str, message: EndOfRound) -> None:
        """The client's marker has arrived in its place."""
        divergent = Tallies(divergent=int(self._diverges(client, message.digest)))
        self._move(client, _said_by(message) + divergent, ended=True)

    def close(self, client: str, reason: str) -> None:
        """The client's round ends here, before its marker; what came before counts."""
        self.unsaved = True
        self._update(client, ended=True, closed=f"{reason} before sequence {self.of(client).sequence}")

    def discard(self, client: str, reason: str) -> None:
        """The client's round ends here, and nothing of it counts: the replica is what it was before."""
        self.close(client, reason)
        done = self.of(client).tallies
        left = Tallies(refused=done.refused, duplicates=done.duplicates, divergent=done.divergent, discarded_samples=done.samples)
        self._update(client, discarded=True, tallies=left)

    def refused(self, client: str, sequence: int, reason: str) -> None:
        """One sequence cannot be trained: it leaves a hole, and the position goes on."""
        self._move(client, Tallies(refused=1), holes=[*self.of(client).holes, Hole(sequence=sequence, reason=reason)], digest="")

    def count_refused(self, client: str) -> int:
        """Something that has no place in the sequence was refused; return how many there were of that kind."""
        progress = self.of(client)
        self.unsaved = True
        self._update(client, tallies=progress.tallies + Tallies(refused=1), unplaced=progress.unplaced + 1)
        return progress.unplaced + 1

    def hole(self, client: str, sequence: int) -> str | None:
        """Return why a sequence was refused, None if it was not."""
        return next((hole.reason for hole in self.of(client).holes if hole.sequence == sequence), None)

    def trained_late(self, client: str, sequence: int, step: Step, size: int) -> None:
        """A batch that had been refused has been trained after all, behind later ones: its hole is filled."""
        self._fill(
            client, sequence, Tallies(samples=step.samples, loss_sum=step.loss * step.samples, correct=step.correct, bytes=size)
        )

    def ended_late(self, client: str, sequence: int, message: EndOfRound) -> None:
        """A marker that had been refused has been taken after all: its hole is filled, and the client's round ends."""
        self._fill(client, sequence, _said_by(message), ended=True)

    def refused_again(self, client: str, sequence: int, reason: str) -> None:
        """A hole stays one, for another reason."""
        holes = [Hole(sequence=sequence, reason=reason) if hole.sequence == sequence else hole for hole in self.of(client).holes]
        self.unsaved = True
        self._update(client, holes=holes)

    def add_duplicates(self, client: str, count: int) -> None:
        """Duplicates were recognised and dropped."""
        if count:
            self._update(client, tallies=self.of(client).tallies + Tallies(duplicates=count))

    def keep_half(self, client: str, ref: BlobRef) -> None:
        """The client's half came with its marker."""
        self._halves[client] = ref

    def _diverges(self, client: str, said: bytes) -> bool:
        progress = self.of(client)
        known = bytes.fromhex(progress.digest) if progress.digest else (FIRST_DIGEST if progress.sequence == 0 else None)
        return known is not None and known != said

    def _move(self, client: str, tallies: Tallies, **changes: object) -> None:
        progress = self.of(client)
        self.unsaved = True
        self._update(client, sequence=progress.sequence + 1, tallies=progress.tallies + tallies, **changes)

    def _fill(self, client: str, sequence: int, tallies: Tallies, **changes: object) -> None:
        progress = self.of(client)
        holes = [hole for hole in progress.holes if hole.sequence != sequence]
        self.unsaved = True
        self._update(client, holes=holes, tallies=progress.tallies + tallies + Tallies(refused=-1), **changes)

    def _update(self, client: str, **changes: object) -> None:
        self._clients[client] = self.of(client).model_copy(update=changes)


def _said_by(message: EndOfRound) -> Tallies:
    return Tallies(
        dropped_samples=message.dropped_samples,
        client_samples=message.samples,
        client_loss_sum=message.loss * message.samples,
    )
