"""A client's queue from which nothing comes: other streams may go first, or what may be lost is looked for."""

import time

from broker.crash_points import Between, crash_point
from broker.events import GapFound, Waiting
from coordinator.store.records import stream_lease
from workers.context import WorkerContext
from workers.intake import Intake
from workers.replies import Replies

LONG = 5  # times starved_seconds, until a silent queue is looked into


class Silence:
    """Of one client in a stream. ``leaving``: the stream is to be given back as soon as all of it is saved."""

    def __init__(self, context: WorkerContext, replies: Replies, round: int) -> None:
        self._context = context
        self._replies = replies
        self._round = round
        self._clogged = False  # when the queue was last looked into
        self.begins()

    def begins(self) -> None:
        """From now on something is awaited."""
        self._arrived = self._asked = time.monotonic()
        self.leaving = False

    @property
    def seconds(self) -> float:
        """How long nothing has come."""
        return time.monotonic() - self._arrived

    def ends(self) -> None:
        """Something has come, or is held back here."""
        self._arrived, self.leaving = time.monotonic(), False

    def look(self, intake: Intake) -> None:
        """Do what has to be done about a queue that is silent for so long, now and then."""
        now = time.monotonic()
        if now - self._asked < LONG * self._context.settings.transport.starved_seconds:
            return
        self._asked = now
        self._replies.acknowledge(intake.client, resend=True)
        if intake.has_gap:
            self._context.emit(GapFound(client=intake.client.id, round=self._round, sequence=intake.expected))
        crash_point(Between.RESEND_AND_REOPEN)
        clogged_before, self._clogged = self._clogged, intake.clogged()
        if self._others_wait() and not self._clogged:
            self.leaving = True
            return
        what = f"client {intake.client.id}, round {self._round} sequence {intake.expected}"
        self._context.emit(Waiting(role=self._context.name, what=what))
        if clogged_before and self._clogged:  # all of it came again, and what is expected was not among it
            self.leaving = not intake.give_up_ahead()
        elif intake.subscription is not None and not self._context.dead.pending:  # letters would be written again
            intake.subscription.reopen()  # a queue that was deleted and declared again may have forgotten its consumer

    def _others_wait(self) -> bool:
        ledger = self._context.ledger
        kept = ledger.round(self._round)
        if kept is None:
            return False
        return any(ledger.store.holder(stream_lease(plan.id)) is None for plan in ledger.unfinished(kept.record))
