"""What a client has published and what of it is durable, as positions (round, sequence)."""

import time
from collections import deque

Position = tuple[int, int]


class Window:
    """Bounds how far a client runs ahead of the servers, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ahead: deque[tuple[Position, int, float]] = deque()
        self._bytes = 0
        self.durable: Position = (0, 0)  # everything before it has had its effect for good
        self.sent: Position = (0, 0)  # everything before it was published

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes more may be published; something always may."""
        return not self._ahead or self._bytes + size <= self._limit

    @property
    def fill(self) -> float:
        """Share of the limit that is published and not durable."""
        return self._bytes / self._limit

    def publish(self, position: Position, size: int) -> None:
        """Count a message that is on its way."""
        self.sent = (position[0], position[1] + 1)
        self._ahead.append((position, size, time.monotonic()))
        self._bytes += size

    def now_durable(self, position: Position) -> list[float]:
        """Everything before a position is durable; return how many seconds ago each message that now is was published."""
        self.durable = max(self.durable, position)
        waited, now = [], time.monotonic()
        while self._ahead and self._ahead[0][0] < self.durable:
            _, size, at = self._ahead.popleft()
            self._bytes -= size
            waited.append(now - at)
        return waited

    def rewind(self, durable: Position) -> None:
        """Start again from an earlier position: what was published after it is lost."""
        self._ahead.clear()
        self._bytes = 0
        self.durable = self.sent = durable
