"""Keeps a worker's leases while it makes progress, and tells it what the coordinator has decided meanwhile."""

import threading
import time

from coordinator.errors import LeaseLost, StoreError, StoreUnavailable
from coordinator.store.interface import Lease
from coordinator.store.ledger import Ledger

LOOK_SECONDS = 2.0  # at most this long until a worker learns that a client is being closed
STALL_SECONDS = 600.0  # a training step may be long; a loop that has not turned for this long is stuck


class LeaseKeeper:
    """Renews one lease at a time on its own thread; a store's connections are as many as its threads.

    Stops when the worker's loop stops turning, so that a stuck worker loses its stream. When the store has not confirmed
    the lease within its ttl, by this machine's clock, the lease counts as lost whatever the store says later.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lease: Lease | None = None
        self._confirmed = 0.0
        self._turned = 0.0
        self._lost: tuple[Lease, str] | None = None  # which one, and why
        self._closing: frozenset[tuple[str, int]] = frozenset()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()

    def keep(self, lease: Lease, acquired: float) -> None:
        """Begin to renew a lease that was acquired at a time of ``time.monotonic``."""
        self._confirmed, self._turned = acquired, time.monotonic()
        self._lease = lease
        self._wake.set()

    def let_go(self) -> None:
        """Stop renewing."""
        self._lease = None

    @property
    def confirmed(self) -> float:
        """Time of ``time.monotonic`` at which the lease was held for certain, and so nothing written under it was lost."""
        return self._confirmed

    def look(self) -> None:
        """Renew the lease now instead of when it is due."""
        self._wake.set()

    def turn(self) -> None:
        """The worker's loop turns; raise LeaseLost if its lease is lost."""
        self._turned = time.monotonic()
        lease, lost = self._lease, self._lost
        if lease is not None and (lost is None or lost[0] is not lease) and self._turned - self._confirmed > lease.ttl:
            lost = self._lost = lease, f"could not renew {lease.name} within {lease.ttl:g} s"
        if lost is not None and lost[0] is lease:
            raise LeaseLost(lost[1])

    def closing(self, client: str, incarnation: int) -> bool:
        """Return whether the coordinator is giving a client up."""
        return (client, incarnation) in self._closing

    def close(self) -> None:
        """Stop the thread."""
        self._stopped = True
        self._lease = None
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped:
            lease = self._lease
            if lease is None:
                self._wake.wait()
            else:
                self._attempt(lease)
                self._wake.wait(min(LOOK_SECONDS, lease.ttl / 4))
            self._wake.clear()

    def _attempt(self, lease: Lease) -> None:
        try:
            self._renew(lease)
        except StoreUnavailable:
            return  # the lease passes by the clock if this goes on
        except StoreError as error:
            self._lost = lease, str(error)

    def _renew(self, lease: Lease) -> None:
        if time.monotonic() - self._turned > STALL_SECONDS:
            return
        asked = time.monotonic()
        held = self._ledger.store.renew(lease)
        if not held:
            self._lost = lease, f"{lease.name} passed to another holder"
        if not held or self._lease is not lease:
            return
        self._confirmed = asked
        roster = self._ledger.roster().record
        self._closing = frozenset((c.id, c.incarnation) for c in roster.clients.values() if c.state != "active")
