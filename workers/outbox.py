"""A client's way out: in order, bounded, and again from the first hole when the broker did not take something."""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from broker.crash_points import Between, crash_point
from broker.mailbox import Mailbox
from broker.transport import Settled, Transport

RETRY_SECONDS = 0.2
RETRY_SECONDS_MOST = 5.0
DISCARDED = -1  # an attempt that no answer belongs to


@dataclass
class _Entry:
    """One frame on its way. ``settled`` None: the broker has not answered yet."""

    body: bytes
    round: int
    sequence: int
    at: float  # time.monotonic at which it was sent first
    attempt: int = 0
    settled: Settled | None = None


class Outbox:
    """Publishes frames to one queue. Belongs to one thread; confirms come in through its mailbox.

    After a failed publish nothing more is sent until all in flight are settled; then everything from the first hole on
    is published again, in order. on_confirmed: called with the seconds that each frame took to be confirmed.
    """

    def __init__(
        self,
        transport: Transport,
        queue: str,
        limit: int,
        mailbox: Mailbox,
        on_confirmed: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._queue = queue
        self._limit = limit
        self._mailbox = mailbox
        self._on_confirmed = on_confirmed
        self._entries: deque[_Entry] = deque()
        self._failed = False
        self._retry_at = 0.0
        self._retries = 0
        self._sleep: Callable[[], float] = random.Random(queue).random  # jitter only: clients do not retry in step
        self.unconfirmed_bytes = 0
        self.confirmed = (0, 0)  # round and number of sequences of it that the broker has

    @property
    def full(self) -> bool:
        """Whether another frame has to wait."""
        return self.unconfirmed_bytes >= self._limit

    @property
    def empty(self) -> bool:
        """Whether the broker has everything."""
        return not self._entries

    def send(self, round: int, sequence: int, body: bytes) -> None:
        """Publish a frame after all earlier ones."""
        entry = _Entry(body, round, sequence, time.monotonic())
        self._entries.append(entry)
        self.unconfirmed_bytes += len(body)
        if not self._failed:
            self._publish(entry)

    def _in_flight(self) -> bool:
        return any(entry.attempt > 0 and entry.settled is None for entry in self._entries)

    def discard(self) -> None:
        """Forget what is not confirmed: the client starts again from an earlier point."""
        for entry in self._entries:
            entry.attempt = DISCARDED
        self._entries.clear()
        self.unconfirmed_bytes = 0
        self._failed = False

    def turn(self) -> None:
        """Publish again what has to be, when it is time."""
        if not self._failed or time.monotonic() < self._retry_at or self._in_flight():
            return
        if not self._transport.wait_connected(0):
            return
        self._failed = False
        for entry in self._entries:
            self._publish(entry)

    def _publish(self, entry: _Entry) -> None:
        entry.attempt += 1
        entry.settled = None
        attempt = entry.attempt
        self._transport.publish(
            self._queue, entry.body, lambda outcome: self._mailbox.post(lambda: self._settle(entry, attempt, outcome))
        )

    def _settle(self, entry: _Entry, attempt: int, outcome: Settled) -> None:
        if attempt != entry.attempt:
            return
        entry.settled = outcome
        if outcome is not Settled.CONFIRMED:
            if not self._failed:
                self._failed = True
                self._retries += 1
                wait = min(RETRY_SECONDS_MOST, RETRY_SECONDS * 2 ** min(self._retries, 5))
                self._retry_at = time.monotonic() + wait * (0.5 + self._sleep())
            return
        crash_point(Between.CONFIRM_AND_COUNT)
        while self._entries and self._entries[0].settled is Settled.CONFIRMED:
            done = self._entries.popleft()
            self.unconfirmed_bytes -= len(done.body)
            self.confirmed = (done.round, done.sequence + 1)
            self._retries = 0
            self._on_confirmed(time.monotonic() - done.at)
