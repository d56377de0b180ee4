"""Whoever cannot go on waits within its bounds, for as long as it takes, and then everything goes on to the same bits."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from broker.events import BatchTrained, FeaturesPublished, RoundClosed, Waiting
from cli.private_servers import PrivateServer
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import PATIENCE, Deployment, Event, Node, summary
from tests.soak.measure import MIB, queues, rabbitmqctl, resident, watched

UNCONFIRMED, AHEAD, QUEUE, HELD = 1 * MIB, 2 * MIB, 4 * MIB, 4 * MIB
WAL = 64 * MIB  # raft.wal_max_size_bytes of a private RabbitMQ


@dataclass(frozen=True)
class Scale:
    """How many clients, passes over their 96 samples in a round, and seconds for which nothing goes on."""

    clients: int
    epochs: int
    stop: float

    def overrides(self) -> tuple[str, ...]:
        """Features of a batch have 256 KiB at cut 3 and 128 KiB at 4 and 5: a round has many times the budgets."""
        return (
            f"clients.count={self.clients}", f"data.train_limit={96 * self.clients}", "data.partition=iid",
            "model.width=4", "data.image_size=32", f"training.local_epochs={self.epochs}",
        )  # fmt: skip


SHORT = Scale(clients=3, epochs=6, stop=5.0)
LONG = pytest.param(Scale(clients=12, epochs=16, stop=60.0), marks=pytest.mark.soak)
BUDGETS = (
    f"transport.unconfirmed_bytes={UNCONFIRMED}", f"transport.run_ahead_bytes={AHEAD}", f"transport.queue_bytes={QUEUE}",
    f"transport.held_bytes={HELD}", "transport.lease_seconds=3", "transport.starved_seconds=1",
)  # fmt: skip
SILENCE = 5.0  # seconds: transport.heartbeat_timeout where nobody may be dropped because RabbitMQ is silent


def waits_for(what: str) -> Callable[[list[Event]], bool]:
    """Return whether a client waits for something, as the last that it said."""

    def holds(heard: list[Event]) -> bool:
        said = [event for event in heard if event["event"] in (Waiting.__name__, FeaturesPublished.__name__)]
        return bool(said) and said[-1].get("what") == what

    return holds


def await_all(clients: dict[str, Node], what: str) -> None:
    for client in clients.values():
        client.wait_until(waits_for(what), f"waited for {what}")


def backlog(server: PrivateServer, clients: dict[str, Node]) -> dict[str, int]:
    """Return the bytes in each client's queue, ready and unacknowledged: all batches of a client have one size."""
    found = {}
    for name, messages in queues(server).items():
        if ".activations." in name:
            client = name.rpartition(".")[2]
            found[client] = messages * clients[client].all(FeaturesPublished)[0]["bytes"]
    return found


def check_end(deployment: Deployment, coordinator: Node, clients: dict[str, Node], expected: dict[str, Any]) -> None:
    assert coordinator.wait() == 0, coordinator.text()
    assert [client.wait() for client in clients.values()] == [0] * len(clients)
    found = summary(deployment.output)
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert found["samples_trained"] == expected["samples_trained"]
    assert (found["refused"], found["dropouts"]) == (0, [])


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scale", [SHORT, LONG], ids=str)
def test_workers_stand_still_and_then_the_broker_takes_no_messages(
    scale: Scale, deploy: Deploy, rabbitmq_server: PrivateServer, undisturbed: Undisturbed
) -> None:
    deployment = deploy(*scale.overrides(), *BUDGETS, f"transport.heartbeat_timeout={SILENCE}")
    coordinator, servers = deployment.coordinator(), [deployment.server(), deployment.server()]
    clients = deployment.clients()
    before = resident(rabbitmq_server.pid)
    for server in servers:
        server.wait_for(BatchTrained)
        server.signal(signal.SIGSTOP)
    await_all(clients, "the servers to catch up")
    with watched({"coordinator": coordinator, **clients}) as peaks:
        time.sleep(scale.stop)
    await_all(clients, "the servers to catch up")
    held = backlog(rabbitmq_server, clients)
    grown = resident(rabbitmq_server.pid) - before
    print(f"in the queues {sorted(held.values())}, RabbitMQ grew by {grown / MIB:.0f} MiB; while waiting grew {peaks.growth}")
    assert len(held) == scale.clients
    assert all(AHEAD // 2 < size <= AHEAD for size in held.values()), held
    assert max(peaks.growth.values()) < MIB, f"grows while it waits: {peaks.growth}"
    assert grown < 3 * WAL + 2 * AHEAD * scale.clients

    rabbitmqctl(rabbitmq_server, "set_vm_memory_high_watermark", "0.00001")
    alarmed = time.monotonic()
    for server in servers:
        server.signal(signal.SIGCONT)
    while any((left := backlog(rabbitmq_server, clients)).values()):
        assert time.monotonic() - alarmed < PATIENCE, f"workers do not acknowledge what is queued: {left}"
        time.sleep(2.0)  # to ask takes a second of a core, which they need
    time.sleep(max(0.0, alarmed + 2 * SILENCE - time.monotonic()))
    assert not coordinator.all(RoundClosed)
    rabbitmqctl(rabbitmq_server, "set_vm_memory_high_watermark", "0.4")
    check_end(deployment, coordinator, clients, undisturbed(*scale.overrides()))


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_clients_whose_messages_the_broker_does_not_take(
    deploy: Deploy, rabbitmq_server: PrivateServer, undisturbed: Undisturbed
) -> None:
    scale = Scale(clients=4, epochs=32, stop=60.0)  # few: with many, rabbitmqctl gets no processor before they have published all
    what = (*scale.overrides(), "training.rounds=1")
    deployment = deploy(*what, f"transport.unconfirmed_bytes={UNCONFIRMED}", f"transport.heartbeat_timeout={SILENCE}")
    coordinator, _ = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    for client in clients.values():
        client.wait_for(FeaturesPublished)
    with watched({"coordinator": coordinator, **clients}) as peaks:
        rabbitmqctl(rabbitmq_server, "set_vm_memory_high_watermark", "0.00001")
        await_all(clients, "the broker to take what was sent")
        time.sleep(scale.stop)
    print(f"grew {peaks.growth}")
    assert max(peaks.growth.values()) < 8 * UNCONFIRMED, f"grows with what is not taken: {peaks.growth}"
    assert not coordinator.all(RoundClosed)
    rabbitmqctl(rabbitmq_server, "set_vm_memory_high_watermark", "0.4")
    check_end(deployment, coordinator, clients, undisturbed(*what))
