"""What clients have counted of themselves, as it is told to listeners: differences, which never go backwards."""

from broker.client_counts import ClientCounts
from broker.events import ClientReported, Emit
from broker.messages import Heartbeat
from coordinator.store.ledger import Ledger


class ClientReports:
    """Compares each heartbeat with the ones before it of the same process.

    The first that is heard of a process says nothing: an earlier coordinator may have heard what it counts. A client sends one
    before it trains anything.
    """

    def __init__(self, ledger: Ledger, emit: Emit) -> None:
        self._ledger = ledger
        self._emit = emit
        self._heard: dict[str, tuple[str, int, ClientCounts]] = {}  # by client: its process, its cut, and the most it has counted

    def take(self, message: Heartbeat) -> None:
        """Take a heartbeat of a client that takes part; those of an earlier version count nothing."""
        now = message.counts
        if now is None:
            return
        known = self._heard.get(message.client)
        if known is None or known[0] != message.process:
            cut = self._ledger.roster().record.clients[message.client].cut
            self._heard[message.client] = message.process, cut, now
            return
        _, cut, before = known
        most = {name: max(value, getattr(before, name)) for name, value in now}
        more = {name: value - getattr(before, name) for name, value in most.items() if value > getattr(before, name)}
        self._heard[message.client] = message.process, cut, ClientCounts.model_construct(**most)
        if more:
            self._emit(ClientReported(client=message.client, cut=cut, counts=more))
