"""Whether there are clients enough to open a round."""

import time

from broker.events import Emit, Waiting
from coordinator.settings import ClientsSettings
from coordinator.store.records import Roster

SAY_SECONDS = 5.0  # between two words about clients that are missing


class Quorum:
    """Watches who is here. ``lacks``: what is waited for, if anything. ``why_not``: the reason to give up, once too few have been
    here for too long; else empty."""

    def __init__(self, settings: ClientsSettings, emit: Emit) -> None:
        self._settings = settings
        self._emit = emit
        self._started = time.monotonic()
        self._below: float | None = None  # since when too few are here
        self._said = 0.0
        self.why_not = ""
        self.lacks = ""

    def holds(self, roster: Roster, *, first: bool) -> bool:
        """Return whether the next round may open. first: no round has closed yet, so everybody listed is waited for a while."""
        settings, now = self._settings, time.monotonic()
        present, listed = len(roster.active()), len(settings.roster())
        everyone = present >= listed or not first
        self.why_not = ""
        if present >= settings.min_clients and (everyone or now - self._started > settings.join_timeout):
            self._below, self.lacks = None, ""
            return True
        self.lacks = f"clients: {present} of {listed or 'any number'} are here"
        if self._below is None:
            self._below = self._said = now
        if now - self._said > SAY_SECONDS:
            self._said = now
            self._emit(Waiting(role="coordinator", what=self.lacks))
        if now - self._below > settings.quorum_timeout + (settings.join_timeout if first else 0.0):
            self.why_not = f"only {present} clients for {settings.quorum_timeout:g} s, clients.min_clients = {settings.min_clients}"
        return False
