"""What a coordinator hears while it leads, and not after."""

from broker import topology
from broker.codec import encode
from broker.events import ignore
from broker.mailbox import Mailbox
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import Join
from coordinator.experiment import Experiment
from coordinator.membership import Membership
from coordinator.reception import Reception
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import LEADER, RunRecord
from learning.layers import build_network
from learning.settings import ModelSettings


def test_what_came_under_a_lease_that_is_lost_is_left_to_the_next_term() -> None:
    experiment, ledger, mailbox = Experiment(), Ledger(MemoryStore()), Mailbox()
    record = RunRecord(
        name=experiment.name,
        experiment=experiment.to_json(),
        fingerprint="f",
        sample_shape=(1, 8, 8),
        classes=10,
        versions={},
    )
    ledger.create_run(record)
    transport = MemoryTransport(MemoryBroker())
    network = build_network(ModelSettings(width=4), (1, 8, 8), 10, seed=0)

    def term() -> Reception:
        lease = ledger.store.acquire(LEADER, "nonce", "coordinator", 1000.0)
        assert lease is not None
        members = Membership(ledger, experiment, record, network, lease, ignore)
        reception = Reception(record.name, experiment.transport, members, ledger, transport, mailbox, ignore)
        reception.open()
        return reception

    first = term()
    entry = experiment.clients.roster()[0]
    message = Join(client=entry.id, cut=entry.cut, incarnation=None, process="p", samples=None)
    transport.publish(topology.coordinator(record.name).name, encode(message))
    first.close()
    mailbox.handle(0)
    assert not ledger.roster().record.clients, "it was admitted by a coordinator that leads no more"
    term()
    mailbox.handle(0)
    assert list(ledger.roster().record.clients) == [entry.id]
