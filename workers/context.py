"""What every part of a server worker shares."""

import threading
import time
from dataclasses import dataclass

from broker.dead_letters import DeadLetters
from broker.events import Awaited, Emit, Waited
from broker.mailbox import Mailbox
from broker.transport import Transport
from coordinator.store.lease_keeper import LeaseKeeper
from coordinator.store.ledger import Ledger
from learning.layers import Network
from workers.replica import ReplicaCache
from workers.run_settings import RunSettings


class Stopped(Exception):
    """The role was asked to stop."""


class Released(Exception):
    """A stream is given back because nothing comes for it while others are not being trained."""


@dataclass(frozen=True, kw_only=True)
class ServiceContext:
    """The connections, settings and listeners of whoever answers inference requests."""

    name: str
    settings: RunSettings
    network: Network
    transport: Transport  # what is consumed comes over it
    control: Transport  # what is said goes over it: a broker that takes no messages reads no acknowledgements behind them
    mailbox: Mailbox
    dead: DeadLetters
    emit: Emit

    def wait(self, timeout: float, awaited: Awaited) -> None:
        """Make the calls that are here; if there are none, wait up to timeout seconds for one, and say for how long that was."""
        began = time.monotonic()
        self.mailbox.handle(timeout)
        if timeout > 0:
            self.emit(Waited(role=self.name, awaited=awaited, seconds=time.monotonic() - began))


@dataclass(frozen=True, kw_only=True)
class WorkerContext(ServiceContext):
    """What every part of a server worker shares."""

    ledger: Ledger
    keeper: LeaseKeeper
    cache: ReplicaCache
    stop: threading.Event
