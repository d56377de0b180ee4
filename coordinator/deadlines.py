"""How long each client has held up the open round."""

import time
from collections.abc import Callable, Iterator

from coordinator.store.ledger import Ledger
from coordinator.store.records import RoundRecord

LOOK_SECONDS = 1.0
GAP_SECONDS = 2 * LOOK_SECONDS  # more than this between two looks was the coordinator's own delay, not the clients'


class Deadlines:
    """Clocks of the clients in a round. One runs only while its client, not the servers, is behind: while all that the broker
    has of it is trained and durable.

    limit: seconds after which a client is overdue, None: never. confirmed: tells up to which sequence of a round the broker has a
    client's messages, as far as heard.
    """

    def __init__(self, ledger: Ledger, limit: float | None, confirmed: Callable[[str, int], int]) -> None:
        self._ledger = ledger
        self._limit = limit
        self._confirmed = confirmed
        self._round = 0
        self._looked = 0.0
        self._behind: dict[str, float] = {}

    def overdue(self, round: RoundRecord) -> list[str]:
        """Return the clients that have held the round up for longer than the limit."""
        now = time.monotonic()
        if self._limit is None or now - self._looked < LOOK_SECONDS:
            return []
        passed, self._looked = min(now - self._looked, GAP_SECONDS), now
        if round.round != self._round:
            self._round, self._behind = round.round, {}
            return []
        for client in self._behind_now(round):
            self._behind[client] = self._behind.get(client, 0.0) + passed
        return [client for client, seconds in self._behind.items() if seconds > self._limit]

    def _behind_now(self, round: RoundRecord) -> Iterator[str]:
        streams = self._ledger.streams(round)
        for plan in round.streams:
            kept = streams.get(plan.id)
            if kept is not None and kept.record.status == "committed":
                continue
            for client in plan.clients:
                progress = kept.record.clients.get(client.id) if kept else None
                position, ended = (progress.sequence, progress.ended) if progress else (0, False)
                if not ended and self._confirmed(client.id, round.round) <= position:
                    yield client.id
