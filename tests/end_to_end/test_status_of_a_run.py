"""``splitee status`` beside a real run in which a client is killed: whom it waits for, then who is gone and why."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from broker.events import ClientDropped, FeaturesPublished, StreamClaimed
from cli.errors import report_errors
from cli.main import app
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import PATIENCE

# As in test_failures: the servers save when nothing comes for a while, and the client waits for that in mid-round.
SMALL = ("clients.count=3", "data.train_limit=240", "data.partition=iid", "training.rounds=2")
PACED = ("transport.run_ahead_bytes=51000", "transport.starved_seconds=2", "transport.heartbeat_timeout=60")


def test_a_client_is_killed(deploy: Deploy, rabbitmq_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = deploy(*SMALL, *PACED)

    def look(*flags: str) -> str:
        capsys.readouterr()
        report_errors(lambda: app(["status", "--run", deployment.run, "--store", redis_url, *flags], standalone_mode=False))
        return capsys.readouterr().out

    def look_until(holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while not holds(found := json.loads(look("--json", "--broker", rabbitmq_url))):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    coordinator = deployment.coordinator()
    clients = deployment.clients()
    clients["client-01"].wait_for(FeaturesPublished)
    found = look_until(lambda found: bool(found["opened_at"]))
    assert any("unclaimed: no worker" in what for what in found["waiting"]), found["waiting"]
    ready = {one["queue"]: one["ready"] for one in found["queues"]}
    assert ready[f"splitee.{deployment.run}.activations.client-01"] > 0
    clients["client-01"].kill()
    server = deployment.server()
    server.wait_for(StreamClaimed)
    found = look_until(lambda found: any(": client-01, last heard " in what for what in found["waiting"]))
    assert not coordinator.all(ClientDropped), "it was gone before anybody looked"
    assert {one["id"] for one in found["clients"] if one["last_heard"]} >= {"client-01"}
    coordinator.wait_for(ClientDropped)
    text = look("--once")
    assert "client-01 in round 1, at " in text
    assert "silent for 60 s" in text
    assert "queues: give --broker" in text
    assert coordinator.wait() == 0, coordinator.text()
    found = json.loads(look("--json"))
    assert (found["phase"], found["waiting"], found["coordinator"]) == ("finished", [], False)
    assert found["dropouts_by_reason"]["silent for 60 s"] >= 1
    assert [one["round"] for one in found["last_rounds"]] == [1, 2]
    assert found["samples"] == sum(one["samples"] for one in found["last_rounds"])
