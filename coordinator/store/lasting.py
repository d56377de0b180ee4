"""Tells when what was read cannot be lost any more, where a store may lose its last seconds."""

import time


class Lasting:
    """Watches one document. ``window``: seconds that the store may lose when it crashes.

    What cannot be taken back (letting clients go, deleting queues) waits until the document that decides it lasts.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._version: str | None = None
        self._since = 0.0

    def lasts(self, version: str | None) -> bool:
        """Return whether the document, whose version was just read, has been in the store for the whole window."""
        if version != self._version:
            self._version, self._since = version, time.monotonic()
        return time.monotonic() - self._since >= self._window
