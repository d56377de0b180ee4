"""Roles that stand still or are cut off, a stand-by that takes over, and servers that are killed and started again."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from broker.crash_points import Between
from broker.events import (
    BatchTrained,
    CheckpointSaved,
    MessageRefused,
    RoundClosed,
    RunStarted,
    StreamClaimed,
    StreamCommitted,
    StreamLost,
    Waiting,
)
from cli.private_servers import PrivateServer
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Deployment, Event, Node, summary
from tests.proxy import proxied

SMALL = ("clients.count=3", "data.train_limit=240", "data.partition=iid")  # five batches a client and round
# A client at cut 3 may be three batches ahead: then it waits for a checkpoint, which comes after two silent seconds.
PACED = (
    "transport.run_ahead_bytes=51000",
    "transport.starved_seconds=2",
    "transport.lease_seconds=2",
    "transport.amqp_heartbeat=2",
)


def has_trained(batches: int) -> Callable[[list[Event]], bool]:
    return lambda heard: sum(event["event"] == BatchTrained.__name__ for event in heard) >= batches


def same_stream(claimed: Event) -> Callable[[Event], bool]:
    return lambda event: (event["round"], event["stream"]) == (claimed["round"], claimed["stream"])


def check_end(deployment: Deployment, expected: dict[str, Any]) -> None:
    """Fail unless every role ended well, and with what the undisturbed run ended with; killed ones aside."""
    for node in deployment.nodes:
        assert node.wait() in (0, -signal.SIGKILL), node.text()
        assert "Traceback" not in node.text(), node.text()
    found = summary(deployment.output)
    for name in ("parameters_sha256", "samples_trained", "accuracy"):
        assert found[name] == expected[name], name
    assert (found["refused"], found["divergent_replay"], found["dropouts"]) == (0, 0, [])


def start_with_one_worker(deployment: Deployment, **servers: str) -> tuple[Node, Node]:
    coordinator, server = deployment.coordinator(), deployment.server(**servers)
    deployment.clients()
    return coordinator, server


def test_a_worker_that_stands_still_for_longer_than_its_lease(deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy(*SMALL, *PACED)
    _, victim = start_with_one_worker(deployment)
    victim.wait_until(has_trained(3), "trained the batches that its client may be ahead")
    victim.signal(signal.SIGSTOP)
    claimed = victim.all(StreamClaimed)[-1]
    other = deployment.server()
    taken = other.wait_for(StreamClaimed, same_stream(claimed))
    assert taken["epoch"] > claimed["epoch"]
    other.wait_for(BatchTrained, same_stream(claimed))  # the broker has given it the queue of the one that stands still
    victim.signal(signal.SIGCONT)
    victim.wait_for(StreamLost, same_stream(claimed))
    kinds = (StreamLost.__name__, StreamCommitted.__name__)
    ends = [event["event"] for event in victim.heard if event["event"] in kinds and same_stream(claimed)(event)]
    assert ends[0] == StreamLost.__name__
    check_end(deployment, undisturbed(*SMALL))


def test_a_worker_cut_off_from_the_store_only(deploy: Deploy, undisturbed: Undisturbed, redis_url: str) -> None:
    deployment = deploy(*SMALL, *PACED)
    with proxied(redis_url) as proxy:
        _, victim = start_with_one_worker(deployment, store=proxy.url)
        victim.wait_until(has_trained(3), "trained the batches that its client may be ahead")
        proxy.cut(stay_down=True)
        claimed = victim.all(StreamClaimed)[-1]
        other = deployment.server()
        other.wait_for(StreamClaimed, same_stream(claimed))
        other.wait_for(BatchTrained, same_stream(claimed))  # the one cut off has closed its channel, or nothing would come
        proxy.restore()
        victim.wait_for(StreamLost, same_stream(claimed))
        check_end(deployment, undisturbed(*SMALL))


def test_a_stand_by_takes_over(deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy(*SMALL, *PACED)
    leader, server = start_with_one_worker(deployment)
    leader.wait_for(RunStarted)
    stand_by = deployment.coordinator()
    stand_by.wait_for(Waiting, lambda event: "leads this run" in event["what"])
    server.wait_for(CheckpointSaved)  # in mid-round
    leader.kill()
    assert not leader.all(RoundClosed)
    assert stand_by.wait_for(RunStarted)["resumed_at"] == 1
    assert len([event for event in stand_by.all(Waiting) if "leads this run" in event["what"]]) == 1
    check_end(deployment, undisturbed(*SMALL))


@pytest.fixture(params=["rabbitmq", "redis"])
def killable(request: pytest.FixtureRequest) -> tuple[str, PrivateServer]:
    return "broker" if request.param == "rabbitmq" else "store", request.getfixturevalue(f"{request.param}_server")


def test_a_server_killed_and_started_again_in_mid_round(
    killable: tuple[str, PrivateServer], deploy: Deploy, undisturbed: Undisturbed
) -> None:
    role, server = killable
    deployment = deploy(*SMALL, *PACED, **{role: server.url})
    coordinator, worker = start_with_one_worker(deployment)
    worker.wait_for(BatchTrained, lambda event: event["round"] == 2)  # its queues are old enough to be sure of a leader
    server.kill()
    assert all(event["round"] == 1 for event in coordinator.all(RoundClosed))
    server.restart()
    check_end(deployment, undisturbed(*SMALL))


def test_a_message_that_no_worker_survives_is_refused(deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy(*SMALL, *PACED, "training.strategy=sequential", "transport.poison_limit=2")
    deployment.coordinator()
    deployment.clients()
    for _ in range(4):  # from the third on it is seen where they are lost
        victim = deployment.server(arm=(Between.STEP_AND_CHECKPOINT, 1))
        assert victim.wait() == -signal.SIGKILL, victim.text()
    deployment.server()
    for node in deployment.nodes:
        assert node.wait() in (0, -signal.SIGKILL), node.text()
        assert "Traceback" not in node.text(), node.text()
    found, whole = summary(deployment.output), undisturbed(*SMALL)["samples_trained"]
    assert (found["refused"], found["samples_trained"]) == (1, whole - deployment.setup.experiment().training.batch_size)
    reasons = {event["reason"] for node in deployment.nodes for event in node.all(MessageRefused)}
    assert ["server workers were lost at it" in reason for reason in reasons] == [True]
