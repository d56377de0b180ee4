"""What is said about an open round, now and then. Nothing here decides anything."""

import time
from collections import Counter
from contextlib import suppress

from broker.crash_points import Between, crash_point
from broker.events import ClientsCounted, Emit, Progress
from broker.store_events import StoreUsed
from coordinator.errors import StoreFull
from coordinator.membership import Membership
from coordinator.reception import Reception
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.records import SIGHT, RoundRecord, Sight, Tallies

OFFER_SECONDS = 5.0  # between two nudges about the same round
PROGRESS_SECONDS = 1.0
SIGHT_SECONDS = 5.0  # between two writes of what is seen, while it stays the same
QUIET_BEATS = 3  # heartbeats that a client may miss unremarked


class Reporter:
    """Nudges idle workers and tells listeners how far the round is."""

    def __init__(self, ledger: Ledger, members: Membership, reception: Reception, emit: Emit) -> None:
        self._ledger = ledger
        self._members = members
        self._reception = reception
        self._emit = emit
        self._round = 0
        self._offered = self._reported = self._looked = 0.0
        self._states: dict[str, int] = {}
        self._seen = Sight(at=0.0)

    def look(self, lacks: str) -> None:
        """Say what the store uses, and how many clients are in which state where that has changed; write down what is seen.

        All that when it is due. lacks: what is needed to open a round. Raises LeaseLost if another coordinator leads now.
        """
        now = time.monotonic()
        if now - self._looked < PROGRESS_SECONDS:
            return
        self._looked = now
        usage = self._ledger.store.usage()
        self._emit(StoreUsed(used=usage.used, limit=usage.limit))
        self._write_down(lacks)
        states = dict(Counter(str(client.state) for client in self._ledger.roster().record.clients.values()))
        if states != self._states:
            self._states = states
            self._emit(ClientsCounted(states=states))

    def _write_down(self, lacks: str) -> None:
        quiet = self._members.quiet(QUIET_BEATS * self._members.experiment.transport.heartbeat_interval)
        seen, before = Sight(at=time.time(), silent=quiet, lacks=lacks), self._seen
        changed = (seen.silent.keys(), seen.lacks) != (before.silent.keys(), before.lacks)
        if changed or seen.at - before.at > SIGHT_SECONDS:
            kept = self._ledger.sight() or Kept(SIGHT, seen, None)
            with suppress(StoreFull):  # not for this
                self._ledger.lead(self._members.leader, [kept.change(seen)])
            self._seen = seen
            crash_point(Between.SIGHT_AND_STEP)

    def turn(self, record: RoundRecord) -> None:
        """Say what is due; workers are nudged at once when a round is new."""
        now = time.monotonic()
        if record.round != self._round or now - self._offered > OFFER_SECONDS:
            self._round, self._offered = record.round, now
            self._reception.offer(record.round, len(record.streams), OFFER_SECONDS)
        if now - self._reported > PROGRESS_SECONDS:
            self._reported = now
            self._emit(self._progress(record))

    def _progress(self, record: RoundRecord) -> Progress:
        streams = self._ledger.streams(record)
        tallies = sum((stream.record.tallies() for stream in streams.values()), Tallies())
        return Progress(
            round=record.round,
            opened_at=record.opened_at,
            clients=sum(len(plan.clients) for plan in record.streams),
            streams=len(record.streams),
            streams_committed=sum(stream.record.status == "committed" for stream in streams.values()),
            client_samples=self._members.heard_samples(),
            server_samples=tallies.samples,
            client_loss=self._members.heard_loss(record.round),
            server_loss=tallies.server_loss,
        )
