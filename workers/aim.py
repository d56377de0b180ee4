"""What a client was told last of where the run is."""

from broker.messages import Target


class Aim:
    """Takes targets as they come in, in whatever order; ``target`` is the one that counts.

    A run goes forward, so one that is behind was said earlier: unless it answers a heartbeat sent after all that was heard
    before. Then the store has lost its last writes, and the run with it.
    """

    def __init__(self, heartbeats: int = 0) -> None:
        self.target: Target | None = None
        self._heartbeats = heartbeats  # sent when the target last moved

    def take(self, target: Target, heartbeats: int) -> bool:
        """Take a target or pass it over; return whether the run went back. heartbeats: how many were sent so far."""
        old = self.target
        behind = old is not None and _place(target) < _place(old)
        if behind and target.answers <= self._heartbeats:
            return False
        if old is None or _place(target) != _place(old):
            self._heartbeats = heartbeats
        self.target = target
        return behind


def _place(target: Target) -> tuple[int, int]:
    return target.closed, target.round
