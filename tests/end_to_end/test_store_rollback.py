"""A Redis with ``appendfsync everysec`` that crashes and loses its last writes, while the run goes on."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.crash_points import Between
from broker.events import (
    BatchTrained,
    CheckpointSaved,
    FeaturesPublished,
    RoundClosed,
    RunFinished,
    StreamClaimed,
    StreamCommitted,
    Waiting,
)
from broker.store_events import StoreWentBack
from cli.private_servers import PrivateServer, start_redis
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Deployment, Node, one_line, summary

TWO = ("clients.count=2", "clients.cuts=[3, 4]", "data.train_limit=160", "data.partition=iid")  # five batches a client and round
FAST = ("transport.lease_seconds=2", "transport.starved_seconds=0.5")
WITHIN = (*FAST, "transport.store_loss_window=2")
BEYOND = (*FAST, "transport.store_loss_window=0")  # as if the store lost nothing: whatever it loses is beyond that
PACED = ("transport.run_ahead_bytes=51000",)  # the client at cut 3 is at most three batches ahead of what is durable


class Losing:
    """A Redis whose last writes can be lost."""

    def __init__(self, server: PrivateServer, folder: Path) -> None:
        self.url = server.url
        self._server = server
        self._folder = folder

    @property
    def written(self) -> int:
        """Bytes of the append-only file, which has everything that Redis has confirmed."""
        return self._file().stat().st_size

    def lose(self, since: int) -> None:
        """Crash, lose what was written after that many bytes, and start again."""
        self._server.kill()
        with self._file().open("r+b") as file:
            file.truncate(since)
        self._server.restart()

    def _file(self) -> Path:
        (file,) = [*self._folder.glob("appendonlydir/*.incr.aof"), *self._folder.glob("appendonly.aof")]
        return file


@pytest.fixture
def losing(tmp_path: Path) -> Iterator[Losing]:
    with start_redis(tmp_path / "redis", appendfsync="everysec") as server:
        yield Losing(server, tmp_path / "redis")


@pytest.fixture
def redis_url(losing: Losing) -> str:
    """Return the URL of the store that deployments of this module use."""
    return losing.url


def published(client: Node) -> Counter[tuple[int, int]]:
    """Return how often a client computed each batch, by round and sequence."""
    return Counter((event["round"], event["sequence"]) for event in client.all(FeaturesPublished))


def end(coordinator: Node, others: list[Node], deployment: Deployment) -> dict[str, Any]:
    """Wait until all roles have ended well; return the summary."""
    assert coordinator.wait() == 0, coordinator.text()
    for node in others:
        assert node.wait() == 0, node.text()
    return summary(deployment.output)


def same_as(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    kept = ("parameters_sha256", "samples_trained", "accuracy", "refused", "divergent_replay", "dropouts")
    return [found[name] for name in kept] == [expected[name] for name in kept]


def test_within_the_window_a_closed_round_is_lost(deploy: Deploy, losing: Losing, undisturbed: Undisturbed) -> None:
    """The last commit of the round, its average and the next round's start are lost; no client is asked for anything."""
    deployment = deploy(*TWO, *WITHIN)
    coordinator, server, clients = deployment.coordinator(), deployment.server(), deployment.clients()
    server.wait_until(lambda heard: len({e["stream"] for e in heard if e["event"] == BatchTrained.__name__}) == 2, "trained both")
    kept = losing.written
    coordinator.wait_for(RoundClosed)
    losing.lose(kept)
    assert len(server.all(StreamCommitted)) == 1, "the crash came too late: the last commit is older than the window"
    assert deployment.ledger.state().record.closed == 0, "nothing was lost"

    found = end(coordinator, [server, *clients.values()], deployment)
    assert same_as(found, undisturbed(*TWO))
    assert found["store_rollbacks"] == [{"from_closed": 1, "to_closed": 0}]
    assert len(coordinator.all(StoreWentBack)) == 1
    for client in clients.values():
        assert set(published(client).values()) == {1}, "something was missing: a client had to compute it again"


def test_within_the_window_the_end_is_lost(deploy: Deploy, losing: Losing, undisturbed: Undisturbed) -> None:
    """Scores and the end of the run are lost: nobody has gone yet, and the scores are said again."""
    overrides = (*TWO, "training.rounds=1", "training.strategy=sequential")
    deployment = deploy(*overrides, *WITHIN)
    coordinator, server, clients = deployment.coordinator(), deployment.server(), deployment.clients()
    coordinator.wait_for(RoundClosed)
    kept = losing.written
    while deployment.ledger.state().record.phase != "finished":
        assert coordinator.process.exitcode is None, coordinator.text()
    losing.lose(kept)
    assert not coordinator.all(RunFinished), "the crash came too late: the end is older than the window"
    state = deployment.ledger.state().record
    assert (state.closed, len(deployment.ledger.scores(1).record.clients)) == (1, 0), "the wrong part was lost"
    assert same_as(end(coordinator, [server, *clients.values()], deployment), undisturbed(*overrides))


def test_within_the_window_a_checkpoint_is_lost_that_another_worker_went_on_from(
    deploy: Deploy, losing: Losing, undisturbed: Undisturbed
) -> None:
    overrides = (*TWO, "training.strategy=sequential", "training.rounds=1")
    deployment = deploy(*overrides, *FAST, *PACED, "transport.store_loss_window=8")
    coordinator = deployment.coordinator()
    victim = deployment.server(arm=(Between.POINTER_AND_SWEEP, 1))
    clients = deployment.clients()
    victim.wait_for(BatchTrained)
    kept = losing.written
    assert victim.wait() == -signal.SIGKILL
    saved = time.monotonic()
    other = deployment.server()
    assert other.wait_for(StreamClaimed)["trained"] > 0, "it does not go on from the checkpoint"
    time.sleep(1)  # what the checkpoint holds is delivered again, at once: that must not be acknowledged yet
    losing.lose(kept)
    assert time.monotonic() - saved < 8, "the crash came too late: the checkpoint is older than the window"
    assert other.wait_for(StreamClaimed, lambda event: event["trained"] == 0), "nothing was lost"

    found = end(coordinator, [other, *clients.values()], deployment)
    assert same_as(found, undisturbed(*overrides))
    for client in clients.values():
        assert set(published(client).values()) == {1}, "something was missing: a client had to compute it again"


@pytest.mark.parametrize("lost", ["part of a round", "a closed round"])
def test_beyond_the_window_clients_compute_it_again(lost: str, deploy: Deploy, losing: Losing, undisturbed: Undisturbed) -> None:
    deployment = deploy(*TWO, *BEYOND, *PACED)
    coordinator, server, clients = deployment.coordinator(), deployment.server(), deployment.clients()
    first = server.wait_for(BatchTrained)["client"]
    kept = losing.written
    if lost == "part of a round":
        server.wait_for(CheckpointSaved)
        clients["client-01"].wait_for(FeaturesPublished, lambda event: event["sequence"] == 3)  # acknowledged: there was room again
    else:
        coordinator.wait_for(RoundClosed)
        clients[first].wait_for(FeaturesPublished, lambda event: event["round"] == 2)
    losing.lose(kept)
    assert not deployment.ledger.store.keys("version/000001"), "nothing was lost"

    found = end(coordinator, [server, *clients.values()], deployment)
    assert same_as(found, undisturbed(*TWO))
    again = [batch for client in clients.values() for batch, times in published(client).items() if times > 1]
    assert (1, 0) in again, "what is lost and acknowledged can only come from a client"
    assert bool(found["store_rollbacks"]) == (lost == "a closed round")


def test_beyond_what_clients_keep_the_round_is_closed_by_policy(deploy: Deploy, losing: Losing) -> None:
    settings = ("training.rounds=3", "training.evaluate_every=1", "clients.min_clients=2")  # nobody is ahead of what is closed
    deployment = deploy(*TWO, *BEYOND, *settings)
    coordinator, server, clients = deployment.coordinator(), deployment.server(), deployment.clients()
    server.wait_for(BatchTrained)
    kept = losing.written
    coordinator.wait_for(RoundClosed, lambda event: event["round"] == 2)
    for client in clients.values():  # has heard that, and has nothing of round 1 any more
        client.wait_for(FeaturesPublished, lambda event: event["round"] == 3)
    losing.lose(kept)
    state = deployment.ledger.state().record
    assert (state.round, state.closed) == (1, 0)

    found = end(coordinator, [server, *clients.values()], deployment)
    reason = "its state does not reach back to round 1"
    assert {(gone["client"], gone["incarnation"], gone["round"]) for gone in found["dropouts"] if gone["reason"] == reason} == {
        ("client-01", 1, 1),
        ("client-02", 1, 1),
    }
    assert len(found["dropouts"]) == 2
    assert all(client.wait_for(Waiting, lambda event: reason in event["what"]) for client in clients.values())
    assert [rollback["to_closed"] for rollback in found["store_rollbacks"]] == [0]
    lines = [json.loads(line) for line in (deployment.output / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert lines[0]["samples"] < 160, "round 1 says that it was trained whole"
    assert lines[2]["samples"] == 160
    assert found["samples_trained"] == sum(line["samples"] for line in lines)
    assert found["divergent_replay"] == 0


def test_a_store_that_lost_everything_ends_the_run(deploy: Deploy, losing: Losing) -> None:
    deployment = deploy(*TWO, *BEYOND, *PACED)
    coordinator, server = deployment.coordinator(), deployment.server()
    deployment.clients()
    server.wait_for(BatchTrained)
    losing.lose(0)
    for node in (coordinator, server):
        assert f"'{deployment.run}' is gone from the store" in one_line(node)
    assert deployment.ledger.store.keys("") == [], "a new run was begun without a word"
