"""A stream's replica and position between store and memory: when they are saved, and when the store cannot lose them."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from coordinator.store.interface import BlobRef
from coordinator.store.ledger import Claim
from coordinator.store.records import StreamRecord, Suspect, VersionRecord, stream_key
from learning.halves import ServerHalf
from workers.context import WorkerContext
from workers.intake import Intake
from workers.position import Position
from workers.replica import Saver, load_replica

SAVING_SHARE = 0.03  # of the time may go into checkpoints that only silence asks for


class Checkpoints:
    """The checkpoints of one stream: one at a time, written while training goes on.

    start: the version that the round starts from.
    """

    def __init__(self, context: WorkerContext, position: Position, claim: Claim, start: VersionRecord) -> None:
        self._context = context
        self._position = position
        self._start = start
        self._saver = Saver(context.ledger, claim, context.cache, context.emit)
        self._largest = context.settings.largest_message(context.network)
        self._started = time.monotonic()
        self._attached: dict[BlobRef, bytes] = {}  # that go into the store with the next one
        self._settling: deque[tuple[float, StreamRecord]] = deque()  # in the store, and from when on it lasts there
        if self._window:  # of what is taken up, the last may have been written just now
            self._settling.append((self._started + self._window, position.record()))
        else:
            position.now_durable(position.record())
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._saver.busy

    @property
    def record(self) -> StreamRecord:
        """The stream as it was last written."""
        return self._saver.record

    @property
    def _window(self) -> float:
        return self._context.settings.transport.store_loss_window

    def load(self) -> ServerHalf:
        """Return the replica as of the last checkpoint, or as the round starts. Raises what ``load_replica`` raises."""
        return self._load(self._position.record())

    def mark(self, half: ServerHalf) -> None:
        """Keep the replica as what a client's round may be undone to; it is written with the next checkpoint."""
        self._saver.mark(half)

    def undo(self) -> ServerHalf:
        """Return the replica as it was marked last, or as the round starts. Raises what ``load_replica`` raises."""
        marked = self._saver.marked
        if marked is not None:
            return marked.replica(self._context.network, self._context.settings.training, self.record.round)
        point = self.record.savepoint
        replica = {"layers": point.layers, "optimizer": point.optimizer} if point else {"layers": {}, "optimizer": None}
        return self._load(self._position.record().model_copy(update=replica))

    def attach(self, blob: bytes) -> BlobRef:
        """Let the next checkpoint put a blob into the store too; return its name there."""
        ref = BlobRef.of(stream_key(self.record.round, self.record.stream), blob)
        self._attached[ref] = blob
        return ref

    def is_due(self, intakes: Sequence[Intake], silent: float, *, wanted: bool) -> bool:
        """Return whether to start one now. silent: seconds since an awaited batch came. wanted: somebody waits for it."""
        settings = self._context.settings.transport
        if self._saver.busy or not self._position.unsaved:
            return False
        most = settings.run_ahead_bytes - self._largest  # beyond, the client itself has to wait
        since = time.monotonic() - self._started
        return (
            wanted
            or self.is_full
            or sum(intake.unsettled_bytes for intake in intakes) > settings.held_bytes // 2
            or any(intake.unsettled_bytes > most or intake.unsettled >= intake.prefetch // 2 for intake in intakes)
            or any(intake.unsettled and intake.clogged() for intake in intakes)
            or since >= settings.checkpoint_seconds
            or (silent >= settings.starved_seconds and since * SAVING_SHARE >= self._saver.seconds)
        )

    @property
    def is_full(self) -> bool:
        """Whether so much is attached that it has to be written."""
        return sum(map(len, self._attached.values())) > self._context.settings.transport.held_bytes // 2

    def start(self, half: ServerHalf) -> None:
        """Begin to write the position and the replica."""
        self._write(half, self._position.record())

    def note(self, client: str, sequence: int) -> None:
        """Begin to write that a message is about to be taken, when all before it is written and nothing is being written."""
        known = self.record.suspect
        before = known.workers if known and (known.client, known.sequence) == (client, sequence) else 0
        there = {name: getattr(self.record, name) for name in ("layers", "optimizer", "savepoint")}
        suspect = Suspect(client=client, sequence=sequence, workers=before + 1)
        self._saver.note(self._position.record().model_copy(update={**there, "suspect": suspect}), self._done)

    def commit(self, half: ServerHalf) -> None:
        """Begin to write the last one, when none is being written."""
        self._write(half, self._position.record(status="committed"))

    def settled(self) -> Iterator[StreamRecord]:
        """Yield what has been in the store for so long that the store cannot lose it, and is there still."""
        while self._settling and self._settling[0][0] <= self._safe_until():
            record = self._settling.popleft()[1]
            self._position.now_durable(record)
            yield record

    def committed(self) -> bool:
        """Return whether the commit is written and lasts; the store is asked again when it is time."""
        for record in self.settled():
            if record.status == "committed":
                return True
        if self._settling and time.monotonic() >= self._settling[0][0]:
            self._context.keeper.look()
        return False

    def close(self) -> None:
        """Wait for what is under way."""
        self._closed = True
        self._saver.close()

    def _load(self, record: StreamRecord) -> ServerHalf:
        context = self._context
        return load_replica(context.network, context.settings.training, context.ledger, self._start, record, context.cache)

    def _write(self, half: ServerHalf, record: StreamRecord) -> None:
        self._position.unsaved = False
        self._started = time.monotonic()
        attached, self._attached = self._attached, {}
        self._saver.start(half, record, list(attached.values()), self._done)

    def _done(self, future: "Future[StreamRecord]") -> None:
        self._context.mailbox.post(lambda: self._saved(future))

    def _saved(self, future: "Future[StreamRecord]") -> None:
        if self._closed:  # the saver ended after the stream did
            return
        record = self._saver.finish(future)
        self._settling.append((time.monotonic() + self._window, record))

    def _safe_until(self) -> float:
        """Return up to when nothing is lost; the lease, held still, says that the store was not started again."""
        return self._context.keeper.confirmed if self._window else time.monotonic()
