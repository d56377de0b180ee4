"""A run of many rounds leaves nothing behind that grows with them, but what its results need."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from broker.events import BatchTrained, RoundClosed
from cli.private_servers import PrivateServer
from coordinator.store.ledger import Ledger
from coordinator.store.memory import MemoryStore
from coordinator.store.records import round_key, scores_key, version_key
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import Deployment, summary, tiny, train
from tests.soak.measure import MIB, Footprint, queues

SMALL = ("clients.count=2", "clients.cuts=[3, 5]", "data.train_limit=64", "data.partition=iid")  # two batches a client and round
ROUND_BYTES = 4096  # of the store that a closed round may keep


@dataclass(frozen=True)
class Scale:
    """How many rounds, after which of them memory is looked at first and last, and how often clients evaluate."""

    rounds: int
    first: int
    last: int
    evaluate_every: int


SCALES = [Scale(60, 25, 58, 20), pytest.param(Scale(500, 50, 495, 25), marks=pytest.mark.soak)]


def documents(rounds: int, evaluate_every: int) -> set[str]:
    """Return the keys of the documents that a finished run keeps."""
    evaluated = {*range(evaluate_every, rounds + 1, evaluate_every), rounds}
    return {
        "run", "state", "roster", "sight", version_key(rounds - 1), version_key(rounds),
        *(round_key(number) for number in range(1, rounds + 1)), *(scores_key(number) for number in evaluated),
    }  # fmt: skip


def scopes(ledger: Ledger, rounds: int) -> set[str]:
    """Return the scopes of the blobs that a finished run keeps: what its last two versions name."""
    versions = [ledger.version(number) for number in (rounds - 1, rounds)]
    return {scope for version in versions if version is not None for scope in version.record.scopes()}


def redis_keys(deployment: Deployment, url: str) -> set[str]:
    prefix = f"splitee:{{{deployment.run}}}:"
    keys = {key.decode() for key in redis.Redis.from_url(url).keys("*")}
    assert all(key.startswith(prefix) for key in keys), keys
    return {key.removeprefix(prefix) for key in keys}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: f"{scale.rounds} rounds")
def test_nothing_grows_with_the_rounds(
    scale: Scale, deploy: Deploy, rabbitmq_server: PrivateServer, redis_server: PrivateServer
) -> None:
    deployment = deploy(*SMALL, f"training.rounds={scale.rounds}", f"training.evaluate_every={scale.evaluate_every}")
    nodes = {"coordinator": deployment.coordinator(), "server": deployment.server(), **deployment.clients()}
    coordinator = nodes["coordinator"]
    found: list[tuple[dict[str, Footprint], int]] = []
    for number in range(1, scale.last + 1):  # one after the other: patience is for the next round, not for all
        coordinator.wait_for(RoundClosed, lambda event, number=number: event["round"] == number)  # type: ignore[misc]
        if number in (scale.first, scale.last):
            found.append(({name: Footprint.of(node) for name, node in nodes.items()}, deployment.ledger.store.usage().used))
    assert coordinator.wait() == 0, coordinator.text()
    report(deployment, found, len(nodes["server"].all(BatchTrained)))

    (before, store_before), (after, store_after) = found
    for name in nodes:
        assert after[name].resident < 1.02 * before[name].resident, f"{name}: {before[name]} -> {after[name]}"
        assert after[name].threads <= before[name].threads + 1, f"{name}: {before[name]} -> {after[name]}"
        assert after[name].files <= before[name].files + 1, f"{name}: {before[name]} -> {after[name]}"
    assert store_after - store_before < MIB + ROUND_BYTES * (scale.last - scale.first)

    kept = scopes(deployment.ledger, scale.rounds)
    assert set(deployment.ledger.store.keys("")) == documents(scale.rounds, scale.evaluate_every)
    assert set(deployment.ledger.store.scopes()) == kept
    leases = {"lease:leader", "lease:stream/client-01", "lease:stream/client-02"}
    assert redis_keys(deployment, redis_server.url) == {
        "documents", "versions", "scopes", *leases, *(f"blobs:{scope}" for scope in kept)
    }  # fmt: skip
    left = ("offers", "inference", "coordinator", "dead", "inbox.client-01", "inbox.client-02")
    assert queues(rabbitmq_server).keys() == {f"splitee.{deployment.run}.{queue}" for queue in left}


def report(deployment: Deployment, found: list[tuple[dict[str, Footprint], int]], batches: int) -> None:
    """Print what was measured; pytest shows it with -s."""
    (before, store_before), (after, store_after) = found
    for name in before:
        print(f"{name}: {before[name]} -> {after[name]}, {after[name].resident / before[name].resident - 1:+.2%}")
    lines = [json.loads(line) for line in (deployment.output / "metrics.jsonl").read_text().splitlines()]
    seconds = sorted(line["seconds"] for line in lines)
    print(f"store: {store_before} -> {store_after} bytes; {len(lines)} rounds, {batches} batches in all")
    print(f"a round: median {seconds[len(seconds) // 2] * 1000:.0f} ms, all {sum(seconds):.1f} s")
    print(f"parameters {summary(deployment.output)['parameters_sha256'][:12]}")


def test_a_run_in_one_process_keeps_two_versions(tmp_path: Path) -> None:
    rounds = 12
    train(tiny(tmp_path, *SMALL, f"training.rounds={rounds}"), tmp_path / "output")
    folder = tmp_path / "output" / "state" / "store"
    store = MemoryStore(folder)
    kept = scopes(Ledger(store), rounds)
    assert set(store.keys("")) == documents(rounds, 10)
    assert set(store.scopes()) == kept
    refs = {ref.digest for ref in store._blobs}
    assert {file.name for file in (folder / "blobs").iterdir()} == refs
