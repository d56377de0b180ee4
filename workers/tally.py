"""A listener between a client and all others: it adds up what heartbeats carry, and passes every event on."""

import threading

from broker.client_counts import ClientCounts, counted
from broker.events import Emit, Event


class Tally:
    """Sums of one client's events. May be called from any thread."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            for name, value in counted(event).items():
                self._sums[name] = self._sums.get(name, 0) + value
        self._emit(event)

    def counts(self) -> ClientCounts:
        """Return the sums so far."""
        with self._lock:
            return ClientCounts.model_validate(self._sums)
