"""Clients that leave in mid-round for good, or hold it up: what counts of them, and that the network is what the record says."""

import signal
from typing import Any

import pytest

from broker.events import BatchTrained, ClientDropped, FeaturesPublished, RoundClosed
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import Deployment, final_layers, summary
from tests.end_to_end.reference import assert_equal, train_reference

THREE = ("clients.count=3", "clients.cuts=[4, 3, 5]", "data.train_limit=240", "data.partition=iid", "training.rounds=3")
# Five batches a client and round; the one at cut 3 may be two ahead of what is durable.
PACED = ("transport.run_ahead_bytes=34000", "transport.starved_seconds=1", "transport.lease_seconds=3")
GONE = "client-02"  # in the middle of a sequential stream


def left(deployment: Deployment) -> dict[str, Any]:
    """Return the one dropout of a run that is over, after checking it against its samples and its layers."""
    found = summary(deployment.output)
    (dropout,) = found["dropouts"]
    experiment = deployment.setup.experiment()
    gone = {dropout["client"]: (dropout["round"], dropout["batches_kept"])}
    assert_equal(final_layers(deployment.output), train_reference(experiment, gone))
    whole = 80  # samples of a client and round
    kept = min(dropout["batches_kept"] * experiment.training.batch_size, whole)
    rounds = experiment.training.rounds
    assert found["samples_trained"] == 2 * rounds * whole + (dropout["round"] - 1) * whole + kept
    return dict(dropout)


@pytest.mark.parametrize("strategy", ["averaging", "sequential"])
@pytest.mark.parametrize("policy", ["keep", "discard"])
def test_a_client_that_is_gone(policy: str, strategy: str, deploy: Deploy) -> None:
    own = (f"clients.on_dropout={policy}", f"training.strategy={strategy}", "transport.heartbeat_timeout=4")
    deployment = deploy(*THREE, *PACED, *own)
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    server.wait_for(BatchTrained, lambda event: (event["round"], event["client"], event["sequence"]) == (2, GONE, 1))
    clients[GONE].kill()
    dropped = coordinator.wait_for(ClientDropped)
    for node in (coordinator, server, *(node for name, node in clients.items() if name != GONE)):
        assert node.wait() == 0, node.text()
    dropout = left(deployment)
    assert (dropout["client"], dropout["round"], dropout["reason"]) == (GONE, 2, "silent for 4 s")
    assert dropped["round"] == 2
    discarded = summary(deployment.output)["samples_discarded"]
    if policy == "keep":
        assert (dropout["batches_kept"] >= 2, discarded) == (True, 0)
    else:
        assert (dropout["batches_kept"], discarded >= 32) == (0, True)


def test_a_client_that_holds_the_round_up(deploy: Deploy) -> None:
    deployment = deploy(*THREE, *PACED, "clients.round_timeout=8")
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    clients[GONE].wait_for(FeaturesPublished, lambda event: (event["round"], event["sequence"]) == (1, 1))
    clients[GONE].signal(signal.SIGSTOP)
    dropped = coordinator.wait_for(ClientDropped)
    assert (dropped["client"], dropped["reason"]) == (GONE, "held up round 1 for 8 s")
    coordinator.wait_for(RoundClosed)
    for node in (coordinator, server, clients["client-01"], clients["client-03"]):
        assert node.wait() == 0, node.text()
    assert left(deployment)["round"] == 1


def test_a_client_that_takes_long_to_read_its_data_is_waited_for(deploy: Deploy) -> None:
    deployment = deploy(*THREE[:4], "training.rounds=1", "transport.heartbeat_timeout=4")
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = {name: deployment.client(name) for name in ("client-01", "client-03")}
    clients[GONE] = deployment.client(GONE, data="tests.end_to_end.other_data:slow")  # twice the timeout
    for node in (coordinator, server, *clients.values()):
        assert node.wait() == 0, node.text()
    assert summary(deployment.output)["dropouts"] == []


def test_a_client_given_up_takes_part_again(deploy: Deploy) -> None:
    deployment = deploy(*THREE[:4], "training.rounds=12", *PACED, "transport.heartbeat_timeout=5")
    coordinator, server = deployment.coordinator(), deployment.server()
    clients = deployment.clients()
    clients[GONE].wait_for(FeaturesPublished, lambda event: (event["round"], event["sequence"]) == (1, 1))
    clients[GONE].signal(signal.SIGSTOP)
    dropped = coordinator.wait_for(ClientDropped)
    clients[GONE].signal(signal.SIGCONT)
    clients[GONE].wait_for(FeaturesPublished, lambda event: event["round"] > dropped["round"])
    for node in (coordinator, server, *clients.values()):
        assert node.wait() == 0, node.text()
    found = summary(deployment.output)
    assert [(gone["client"], gone["incarnation"]) for gone in found["dropouts"]] == [(GONE, 1)]
    assert found["accuracy"].keys() == {"3", "4", "5"}
    assert f"client-{GONE}" in final_layers(deployment.output)
    first, whole = found["dropouts"][0]["round"], 80
    back = min(event["round"] for event in server.all(BatchTrained) if event["client"] == GONE and event["round"] > first)
    kept = min(found["dropouts"][0]["batches_kept"] * 16, whole)
    assert found["samples_trained"] == 2 * 12 * whole + (first - 1) * whole + kept + (12 - back + 1) * whole
