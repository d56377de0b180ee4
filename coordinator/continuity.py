"""Notices a store that has lost its last writes, or everything, while the run went on."""

from broker.events import Emit
from broker.store_events import StoreWentBack
from coordinator.errors import RunFailed
from coordinator.store.interface import Lease
from coordinator.store.ledger import Ledger
from coordinator.store.records import Rollback, RunRecord, RunState


class Continuity:
    """Remembers how far the run was, as this process has seen it, and compares when a lease had to be taken anew."""

    def __init__(self, ledger: Ledger, emit: Emit) -> None:
        self._ledger = ledger
        self._emit = emit
        self._seen = RunState()

    def see(self, state: RunState) -> None:
        """Take note of the run's state."""
        if _place(state) > _place(self._seen):
            self._seen = state

    def check(self, record: RunRecord, leader: Lease) -> None:
        """Record that rounds which were closed are so no more; they are trained again.

        Raises RunFailed if the run itself is gone, or another is in its place.
        """
        there = self._ledger.run()
        if there is None and self._seen == RunState():  # nothing was trained
            there = self._ledger.create_run(record)
        if there is None or there.id != record.id:
            raise RunFailed(
                f"run {record.name!r} is gone from the store: it was emptied or replaced while the run went on; "
                "what was trained is lost, start anew under another name (--set name=...)"
            )
        state = self._ledger.state()
        if _place(state.record)[:2] < _place(self._seen)[:2]:
            lost = Rollback(from_closed=self._seen.closed, to_closed=state.record.closed)
            self._seen = state.record.model_copy(update={"rollbacks": [*state.record.rollbacks, lost]})
            self._ledger.lead(leader, [state.change(self._seen)])
            self._emit(StoreWentBack(from_closed=lost.from_closed, to_closed=lost.to_closed))


def _place(state: RunState) -> tuple[int, int, int]:
    return len(state.rollbacks), state.closed, state.round
