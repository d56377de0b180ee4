"""What a run leaves in broker and store, and how it is removed."""

from collections.abc import Iterable
from dataclasses import dataclass

from broker import topology
from broker.errors import UnknownQueue
from broker.transport import Transport
from coordinator.experiment import Experiment
from coordinator.store.interface import Store
from coordinator.store.ledger import Ledger
from coordinator.store.records import LEADER, stream_lease


@dataclass(frozen=True)
class Removed:
    """Queues by name, messages that were ready in them, and keys of the store."""

    queues: list[str]
    messages: int
    keys: int

    def __bool__(self) -> bool:
        return bool(self.queues or self.keys)


def clients_of(ledger: Ledger) -> list[str]:
    """Return every client that was admitted to a run or may have asked to be; raise StoreError or ExperimentError."""
    record = ledger.run()
    listed = [entry.id for entry in Experiment.from_json(record.experiment).clients.roster()] if record else []
    return sorted({*listed, *ledger.roster().record.clients})


def holders_of(ledger: Ledger) -> dict[str, str]:
    """Return who holds the run and its open streams, by what they hold; raise StoreError."""
    state = ledger.state().record
    kept = ledger.round(state.round) if state.round else None
    names = {"the run": LEADER} | {f"stream {plan.id}": stream_lease(plan.id) for plan in (kept.record.streams if kept else ())}
    found = {what: ledger.store.holder(name) for what, name in names.items()}
    return {what: f"{holder.holder}, for {holder.remaining:.0f} s more" for what, holder in found.items() if holder is not None}


def remove_run(run: str, clients: Iterable[str], store: Store, transport: Transport) -> Removed:
    """Delete all that a run has left; the store comes last, because it alone knows the clients.

    Raises BrokerError and StoreError; may be repeated.
    """
    queues, messages = [], 0
    for name in topology.names(run, clients):
        try:
            messages += transport.depth(name)
        except UnknownQueue:
            continue
        transport.delete(name)
        queues.append(name)
    return Removed(queues, messages, store.wipe())
