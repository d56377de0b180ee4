"""Processes that die in the middle of a run, and what becomes of it."""

import signal

import pytest

from broker.events import (
    BatchTrained,
    CheckpointSaved,
    ClientDropped,
    FeaturesPublished,
    RoundClosed,
    RunStarted,
    StreamClaimed,
    StreamCommitted,
)
from coordinator.store.records import stream_lease
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Event, final_layers, summary

SMALL = ("clients.count=3", "data.train_limit=240", "data.partition=iid")  # five batches a client and round
# The client at cut 3 may be three batches ahead, and the servers save when nothing has come for two seconds: it waits for
# that in mid-round, with two batches and the marker still to come. The bits do not depend on any of this.
PACED = ("transport.run_ahead_bytes=51000", "transport.starved_seconds=2", "transport.lease_seconds=3")


def trained_beyond_a_checkpoint(heard: list[Event]) -> bool:
    """Return whether the last that a worker did was a step on a stream of which it has saved an earlier part."""
    kinds = [kind.__name__ for kind in (StreamClaimed, CheckpointSaved, StreamCommitted, BatchTrained)]
    done = [event["event"] for event in heard if event["event"] in kinds]
    claimed = max((at for at, kind in enumerate(done) if kind == StreamClaimed.__name__), default=0)
    return CheckpointSaved.__name__ in done[claimed:] and done[-1] == BatchTrained.__name__


STRATEGIES = {
    "averaging": (),
    "sequential": ("training.strategy=sequential",),
    "interleaved": ("training.strategy=sequential", "training.interleave=true"),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_server_worker_killed_in_mid_round(strategy: str, deploy: Deploy, undisturbed: Undisturbed) -> None:
    overrides = (*SMALL, *STRATEGIES[strategy])
    deployment = deploy(*overrides, *PACED)
    coordinator, victim = deployment.coordinator(), deployment.server()
    deployment.clients()
    victim.wait_for(StreamClaimed)
    other = deployment.server()
    victim.wait_until(trained_beyond_a_checkpoint, "trained a batch after a checkpoint in mid-round")
    victim.kill()
    assert trained_beyond_a_checkpoint(victim.heard), f"the kill came too late: {victim.heard[-3:]}"
    claimed, last = victim.all(StreamClaimed)[-1], victim.all(BatchTrained)[-1]
    place = (claimed["round"], claimed["stream"])
    saved = deployment.ledger.stream(*place).record
    held = deployment.ledger.store.holder(stream_lease(claimed["stream"]))
    lost = last["sequence"] + 1 - saved.clients[last["client"]].sequence
    assert (saved.status, held.epoch, lost > 0) == ("training", claimed["epoch"], True), "nothing was lost with the worker"

    def after(event: Event) -> bool:
        return (event["round"], event["stream"]) == place and event["epoch"] > claimed["epoch"]

    taken = other.wait_for(StreamClaimed, after)
    assert (claimed["again"], taken["again"]) == (False, True)
    assert taken["trained"] == sum(progress.sequence for progress in saved.clients.values()) > 0
    assert coordinator.wait() == 0, coordinator.text()
    found = summary(deployment.output)
    assert found["parameters_sha256"] == undisturbed(*overrides)["parameters_sha256"]
    assert found["samples_trained"] == undisturbed(*overrides)["samples_trained"]
    assert (found["refused"], found["divergent_replay"], found["dropouts"]) == (0, 0, [])


def test_a_client_killed_for_good(deploy: Deploy) -> None:
    deployment = deploy(*SMALL, *PACED, "transport.heartbeat_timeout=5")
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    clients["client-01"].wait_for(FeaturesPublished, lambda event: event["sequence"] == 2)
    clients["client-01"].kill()
    dropped = coordinator.wait_for(ClientDropped)
    assert (dropped["client"], dropped["round"]) == ("client-01", 1)
    assert coordinator.wait() == 0, coordinator.text()
    assert [clients["client-02"].wait(), clients["client-03"].wait(), server.wait()] == [0, 0, 0]
    found = summary(deployment.output)
    (dropout,) = found["dropouts"]
    assert dropout.pop("at") > "2026-"
    assert dropout.pop("batches_kept") <= 3
    assert dropout == {"client": "client-01", "cut": 3, "incarnation": 1, "round": 1, "reason": "silent for 5 s"}
    assert found["accuracy"].keys() == {"4", "5"}, "scores of the clients that stayed, and of no other"
    assert 4 * 80 <= found["samples_trained"] <= 4 * 80 + 48, "what it had published counts, the others' whole rounds too"
    assert {file for file in final_layers(deployment.output) if "client" in file} == {"client-client-02", "client-client-03"}


def test_a_client_killed_and_back_in_time(deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy(*SMALL, *PACED)
    coordinator = deployment.coordinator()
    deployment.server()
    clients = deployment.clients()
    clients["client-01"].wait_for(FeaturesPublished, lambda event: (event["round"], event["sequence"]) == (2, 1))
    coordinator.wait_for(RoundClosed, lambda event: event["round"] == 1)  # the servers may lag behind the clients
    clients["client-01"].kill()
    back = deployment.client("client-01")
    assert coordinator.wait() == 0, coordinator.text()
    assert back.wait() == 0, back.text()
    assert min(event["round"] for event in back.all(FeaturesPublished)) == 2, "it trains closed rounds again"
    found = summary(deployment.output)
    assert found["parameters_sha256"] == undisturbed(*SMALL)["parameters_sha256"]
    assert (found["divergent_replay"], found["dropouts"]) == (0, [])


def test_a_coordinator_stopped_and_killed(deploy: Deploy, undisturbed: Undisturbed) -> None:
    overrides = (*SMALL, "training.rounds=3")
    deployment = deploy(*overrides, *PACED)
    first, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    server.wait_for(CheckpointSaved)  # in mid-round
    first.signal(signal.SIGTERM)
    assert first.wait() == 0, first.text()
    assert not first.all(RoundClosed)

    second = deployment.coordinator()
    assert second.wait_for(RunStarted)["resumed_at"] == 1
    second.wait_for(RoundClosed)
    second.kill()

    third = deployment.coordinator()
    assert third.wait_for(RunStarted)["resumed_at"] > 1
    assert third.wait() == 0, third.text()
    for node in (server, *clients.values()):
        assert node.wait() == 0, node.text()
    found = summary(deployment.output)
    assert found["parameters_sha256"] == undisturbed(*overrides)["parameters_sha256"]
    assert found["dropouts"] == []
    lines = (deployment.output / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3, "a line for every round, whoever closed it"
