"""What every part of a server worker shares."""

import threading
from dataclasses import dataclass

from broker.dead_letters import DeadLetters
from broker.events import Emit
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


@dataclass(frozen=True)
class WorkerContext:
    """A server worker's connections, settings and listeners."""

    name: str
    settings: RunSettings
    network: Network
    ledger: Ledger
    transport: Transport  # what is consumed comes over it
    control: Transport  # what is said goes over it: a broker that takes no messages reads no acknowledgements behind them
    mailbox: Mailbox
    keeper: LeaseKeeper
    dead: DeadLetters
    cache: ReplicaCache
    emit: Emit
    stop: threading.Event
