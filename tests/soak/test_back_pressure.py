"""Whoever cannot go on waits within its bounds, for as long as it takes, and then everything goes on to the same bits."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from broker.events import BatchTrained, ClientDropped, FeaturesPublished, RoundClosed, Waiting
from cli.private_servers import PrivateServer
from tests.end_to_end.harness import Event, Node, summary
from tests.soak.conftest import Deploy
from tests.soak.measure import MIB, queue_bytes, rabbitmqctl, resident, watched

Undisturbed = Callable[..., dict[str, Any]]
UNCONFIRMED, AHEAD, QUEUE, HELD = 1 * MIB, 2 * MIB, 4 * MIB, 4 * MIB
WAL = 64 * MIB  # raft.wal_max_size_bytes of a private RabbitMQ


@dataclass(frozen=True)
class Scale:
    """How many clients, passes over their 100 samples in a round, and seconds for which nothing goes on."""

    clients: int
    epochs: int
    stop: float

    def overrides(self) -> tuple[str, ...]:
        """Features of a batch have 256 KiB at cut 3 and 128 KiB at 4 and 5: a round has many times the budgets."""
        return (
            f"clients.count={self.clients}", f"data.train_limit={100 * self.clients}", "data.partition=iid",
            "model.width=16", "data.image_size=16", f"training.local_epochs={self.epochs}",
        )  # fmt: skip


SCALES = [Scale(clients=4, epochs=8, stop=8.0), pytest.param(Scale(clients=12, epochs=16, stop=60.0), marks=pytest.mark.soak)]
BUDGETS = (
    f"transport.unconfirmed_bytes={UNCONFIRMED}", f"transport.run_ahead_bytes={AHEAD}", f"transport.queue_bytes={QUEUE}",
    f"transport.held_bytes={HELD}", "transport.lease_seconds=3", "transport.starved_seconds=1",
)  # fmt: skip


def waits_for(what: str) -> Callable[[list[Event]], bool]:
    """Return whether a client waits for something, as the last that it said."""

    def holds(heard: list[Event]) -> bool:
        said = [event for event in heard if event["event"] in (Waiting.__name__, FeaturesPublished.__name__)]
        return bool(said) and said[-1].get("what") == what

    return holds


def await_all(clients: dict[str, Node], what: str) -> None:
    for client in clients.values():
        client.wait_until(waits_for(what), f"waited for {what}")


def check_end(coordinator: Node, clients: dict[str, Node], found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [client.wait() for client in clients.values()] == [0] * len(clients)
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert found["samples_trained"] == expected["samples_trained"]
    assert (found["refused"], found["dropouts"]) == (0, [])
    assert not coordinator.all(ClientDropped)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scale.clients} clients, {scale.stop:g} s")
def test_workers_that_stand_still(scale: Scale, deploy: Deploy, rabbitmq_server: PrivateServer, undisturbed: Undisturbed) -> None:
    deployment = deploy(*scale.overrides(), *BUDGETS)
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
    held = {name: size for name, size in queue_bytes(rabbitmq_server).items() if ".activations." in name}
    print(f"in the queues {sorted(held.values())}, grown while waiting {peaks.growth}")
    assert len(held) == scale.clients
    assert all(AHEAD // 2 < size <= AHEAD for size in held.values()), held
    assert max(peaks.growth.values()) < MIB, f"grows while it waits: {peaks.growth}"
    grown = resident(rabbitmq_server.pid) - before
    print(f"RabbitMQ grew by {grown / MIB:.0f} MiB")
    assert grown < 3 * WAL + 2 * AHEAD * scale.clients

    for server in servers:
        server.signal(signal.SIGCONT)
    assert coordinator.wait() == 0, coordinator.text()
    check_end(coordinator, clients, summary(deployment.output), undisturbed(*scale.overrides()))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scale.clients} clients, {scale.stop:g} s")
def test_a_broker_that_takes_no_messages(
    scale: Scale, deploy: Deploy, rabbitmq_server: PrivateServer, undisturbed: Undisturbed
) -> None:
    deployment = deploy(*scale.overrides(), f"transport.unconfirmed_bytes={UNCONFIRMED}", "transport.heartbeat_timeout=5")
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    for client in clients.values():
        client.wait_for(FeaturesPublished)
    server.wait_for(BatchTrained)
    rabbitmqctl(rabbitmq_server, "set_vm_memory_high_watermark", "0.00001")
    with watched({"coordinator": coordinator, "server": server, **clients}) as peaks:
        await_all(clients, "the broker to take what was sent")
        time.sleep(scale.stop)
    print(f"grown {peaks.growth}")
    assert max(peaks.growth[client] for client in clients) < 8 * UNCONFIRMED, f"grows with what is not taken: {peaks.growth}"
    assert not coordinator.all(RoundClosed)
    rabbitmqctl(rabbitmq_server, "set_vm_memory_high_watermark", "0.4")
    assert coordinator.wait() == 0, coordinator.text()
    check_end(coordinator, clients, summary(deployment.output), undisturbed(*scale.overrides()))
