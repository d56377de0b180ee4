"""``splitee clean``: removes all that a run has left in broker and store."""

from contextlib import ExitStack

from cli.errors import CommandError
from cli.servers import check_name, connect
from coordinator.errors import ExperimentError, StoreError, StoreUnavailable
from coordinator.removal import clients_of, holders_of, remove_run
from coordinator.store.ledger import Ledger
from coordinator.store.open import open_store


def clean(*, run: str, broker: str, store: str, force: bool) -> None:
    """Remove a run and say what was there. Raises CommandError if a role still works on it and force is not given."""
    check_name("--run", run)
    with ExitStack() as stack:
        opened = open_store(store, run)
        stack.callback(opened.close)
        ledger = Ledger(opened)
        clients = _clients(ledger, run, force)
        transport = connect(broker)
        stack.callback(transport.close)
        removed = remove_run(run, clients, opened, transport)
    if not removed:
        print(f"There is nothing of run {run!r}")
        return
    messages = f" with {removed.messages} messages in them" if removed.messages else ""
    print(f"Removed run {run!r}: {len(removed.queues)} queues{messages}, {removed.keys} keys in the store")


def _clients(ledger: Ledger, run: str, force: bool) -> list[str]:
    """Return the clients whose queues are to be removed."""
    try:
        holders = {} if force else holders_of(ledger)
        clients = clients_of(ledger)
    except StoreUnavailable:
        raise
    except (StoreError, ExperimentError) as error:
        if force:
            return []
        raise CommandError(f"{error}; --force removes run {run!r} all the same, but not the queues of its clients") from None
    if holders:
        held = "; ".join(f"{what} is held by {holder}" for what, holder in holders.items())
        raise CommandError(f"run {run!r} is being worked on: {held}. Stop its processes, or remove it from under them with --force")
    return clients
