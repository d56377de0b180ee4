"""When a stream's position and replica are saved, and when the store cannot lose them any more."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

from coordinator.store.ledger import Claim
from coordinator.store.records import StreamRecord
from learning.halves import ServerHalf
from workers.context import WorkerContext
from workers.intake import Intake
from workers.position import Position
from workers.replica import Saver

SAVING_SHARE = 0.03  # of the time may go into checkpoints that only silence asks for


class Checkpoints:
    """The checkpoints of one stream: one at a time, written while training goes on."""

    def __init__(self, context: WorkerContext, position: Position, claim: Claim) -> None:
        self._context = context
        self._position = position
        self._saver = Saver(context.ledger, claim, context.cache, context.emit)
        self._prefetch = context.settings.prefetch(context.network)
        self._largest = context.settings.largest_message(context.network)
        self._started = time.monotonic()
        self._settling: deque[tuple[float, StreamRecord]] = deque()  # in the store, and from when on it lasts there
        window = context.settings.transport.store_loss_window
        if window:  # of what is taken up, the last may have been written just now
            self._settling.append((self._started + window, position.record()))
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._saver.busy

    @property
    def record(self) -> StreamRecord:
        """The stream as it was last written."""
        return self._saver.record

    def is_due(self, intake: Intake, silent: float, *, wanted: bool) -> bool:
        """Return whether to start one now. silent: seconds since a batch came. wanted: somebody waits for it."""
        settings = self._context.settings.transport
        if self._saver.busy or not self._position.unsaved:
            return False
        most = min(settings.held_bytes // 2, settings.run_ahead_bytes - self._largest)  # beyond, the client itself has to wait
        since = time.monotonic() - self._started
        return (
            wanted
            or intake.unsettled_bytes > most
            or intake.unsettled >= self._prefetch // 2
            or since >= settings.checkpoint_seconds
            or (silent >= settings.starved_seconds and since * SAVING_SHARE >= self._saver.seconds)
        )

    def start(self, half: ServerHalf, *, savepoint: bool = False) -> None:
        """Begin to write the position and the replica. savepoint: it is also what a client's round may be undone to."""
        record = self._position.record()
        self._position.unsaved = False
        self._started = time.monotonic()

        def done(future: "Future[StreamRecord]") -> None:
            self._context.mailbox.post(lambda: self._saved(future))

        self._saver.start(half, record, done, savepoint=savepoint)

    def settled(self) -> Iterator[StreamRecord]:
        """Yield what has been in the store for so long that the store cannot lose it, and is there still."""
        while self._settling and self._settling[0][0] <= self._safe_until():
            record = self._settling.popleft()[1]
            self._position.now_durable(record)
            yield record

    def commit(self, half: ServerHalf) -> float:
        """Write the last one and wait for that; return the time of ``time.monotonic`` from which on it may last."""
        self._saver.commit(half, self._position.record(status="committed"))
        return time.monotonic() + self._context.settings.transport.store_loss_window

    def lasts(self, due: float) -> bool:
        """Return whether a commit lasts; the store is asked again when it is time."""
        if self._safe_until() >= due:
            self._position.now_durable(self.record)
            return True
        if time.monotonic() >= due:
            self._context.keeper.look()
        return False

    def close(self) -> None:
        """Wait for what is under way."""
        self._closed = True
        self._saver.close()

    def _saved(self, future: "Future[StreamRecord]") -> None:
        if self._closed:  # the saver ended after the stream did
            return
        record = self._saver.finish(future)
        self._settling.append((time.monotonic() + self._context.settings.transport.store_loss_window, record))

    def _safe_until(self) -> float:
        """Return up to when nothing is lost; the lease, held still, says that the store was not started again."""
        return self._context.keeper.confirmed if self._context.settings.transport.store_loss_window else time.monotonic()
