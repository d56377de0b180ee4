"""Dead letters are listed, shown, dropped and requeued, and a run is cleaned away, by the commands that users give."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import redis
import torch

from broker import events, topology
from broker.errors import UnknownQueue
from broker.rabbitmq import RabbitTransport
from cli import roles
from cli.errors import report_errors
from cli.main import app
from coordinator.store.records import ClientProgress
from learning.errors import TensorError
from tests.contract.transports import eventually_depth
from tests.end_to_end import harness
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import PATIENCE, summary
from workers import effects

BATCH = 8
ONE_CLIENT = (
    "clients.count=1",
    "clients.cuts=[3]",
    f"training.batch_size={BATCH}",
    "training.rounds=1",
    "transport.starved_seconds=1",  # times five is longer than a store may lose its last writes
    "transport.run_ahead_bytes=50000",  # of 100,000: the client waits for the servers in the midst of its round
    "data.train_limit=96",
)


def older_server(run: str, broker: str, store: str, refused: int) -> None:
    """A server worker that does not understand the first batches that it sees, whenever they come."""
    unknown: list[bytes] = []
    check = effects.check_activations

    def check_as_an_older_version(message: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if len(unknown) < refused and message.features.data not in unknown:
            unknown.append(message.features.data)
        if message.features.data in unknown:
            raise TensorError("written by a newer version")
        return check(message, *arguments)

    effects.check_activations = check_as_an_older_version
    report_errors(lambda: roles.server(run=run, broker=broker, store=store))


@pytest.fixture
def transport(rabbitmq_url: str) -> Iterator[RabbitTransport]:
    transport = RabbitTransport(rabbitmq_url)
    yield transport
    transport.close()


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()


@pytest.fixture
def splitee(
    rabbitmq_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs a command in this process and returns what it says, with its one line if it is refused."""
    monkeypatch.setenv("SPLITEE_BROKER_URL", rabbitmq_url)
    monkeypatch.setenv("SPLITEE_STORE_URL", redis_url)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        try:
            report_errors(lambda: app(list(arguments)))
        except SystemExit as end:
            refusal = "" if end.code in (0, None) else str(end.code)
        said = capsys.readouterr()
        return said.out + said.err + refusal

    return run


def eventually(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.05)
    return value


def test_a_run_with_dead_letters(
    deploy: Deploy,
    splitee: Callable[..., str],
    transport: RabbitTransport,
    undisturbed: Callable[..., dict[str, Any]],
    processes: list[BaseProcess],
    rabbitmq_url: str,
    redis_url: str,
) -> None:
    deployment = deploy(*ONE_CLIENT)
    run, settings = deployment.run, deployment.setup.experiment().transport
    named = ["--run", run]
    coordinator, client = deployment.coordinator(), deployment.client("client-01")
    queue = topology.activations(run, "client-01", settings).name
    client.wait_for(events.Waiting, lambda event: "servers" in event["what"])
    eventually(lambda: transport.depth(queue) >= 4, "four batches in the queue")
    client.signal(signal.SIGSTOP)  # the round stays open
    transport.publish(topology.coordinator(run).name, b"\x1b[2Jno message\nat all")

    older = harness._context.Process(target=older_server, args=(run, rabbitmq_url, redis_url, 2))
    older.start()
    processes.append(older)

    def progress() -> ClientProgress:
        kept = deployment.ledger.round(1)
        found = deployment.ledger.stream(1, kept.record.streams[0].id) if kept else None
        return found.record.clients["client-01"] if found else ClientProgress(incarnation=1, cut=3)

    def listed() -> list[dict[str, Any]]:
        return list(json.loads(splitee("dead", "list", *named, "--json")))

    def letter(sequence: int | None, reason: str = "") -> dict[str, Any]:
        return next((one for one in listed() if one["sequence"] == sequence and reason in one["reason"]), {})

    eventually(lambda: len(progress().holes) == 2 and progress().sequence >= 4, "both refusals and what came after them durable")
    first, second, junk = letter(0), letter(1), letter(None)
    assert len(listed()) == len(listed()) == 3, "looking removes nothing"
    assert (first["client"], first["round"], first["queue"], first["number"]) == ("client-01", 1, queue, 1)
    assert first["sender"] == "splitee"
    assert first["size"] > BATCH * 4 * 8 * 8 * 4
    table = splitee("dead", "list", *named).splitlines()
    assert len(table) == 4
    assert f"{first['id'][:8]}  activations.client-01, client-01 round 1 sequence 0, from splitee" in "\n".join(table)
    assert "newer version" in "\n".join(table)

    shown = splitee("dead", "show", *named, first["id"][:8])
    assert "message  Frame: client client-01, incarnation 1, round 1, sequence 0" in shown
    assert f"features float32 ({BATCH}, 4, 8, 8), labels int64 ({BATCH},)" in shown
    shown = splitee("dead", "show", *named, junk["id"])
    assert "body     not msgpack" in shown
    assert "begins 1b 5b 32 4a 6e 6f 20 6d" in shown

    assert "has no dead letter 'abc'; give 4 digits or more" in splitee("dead", "drop", *named, "abc")
    assert "has no dead letter 'wxyz'; see splitee dead list" in splitee("dead", "requeue", *named, "wxyz", second["id"])
    assert "not both" in splitee("dead", "drop", *named, "--all", first["id"])
    assert "by their ids, or give --all" in splitee("dead", "requeue", *named)
    assert "is being worked on: the run is held by coordinator" in splitee("clean", *named)
    assert len(listed()) == 3

    said = splitee("dead", "requeue", *named, "--all")
    assert f"Requeued {first['id']}: client-01, round 1, sequence 0" in said
    assert f"dead letter {junk['id']} stays: it is no data message of a client: not msgpack" in said
    refused = eventually(lambda: letter(1, "requeued: written by a newer version"), "refused again by the older worker")
    eventually(lambda: letter(0, "requeued"), "refused again by the older worker")
    assert refused["id"] != second["id"]
    assert len(listed()) == 3
    eventually(lambda: all("requeued" in hole.reason for hole in progress().holes), "holes with their new reasons")
    older.terminate()
    older.join(PATIENCE)

    deployment.server()
    assert f"Requeued {letter(0)['id']}" in splitee("dead", "requeue", *named, letter(0)["id"][:6])
    eventually(lambda: [hole.sequence for hole in progress().holes] == [1], "the hole filled and durable")
    assert "Dropped 1 dead letters; 1 are left" in splitee("dead", "drop", *named, junk["id"][:4])
    client.signal(signal.SIGCONT)
    for node in (coordinator, client, deployment.nodes[-1]):
        assert node.wait() == 0, node.text()
        assert "Traceback" not in node.text()
    found = summary(deployment.output)
    assert found["samples_trained"] == undisturbed(*ONE_CLIENT)["samples_trained"] - BATCH
    assert (found["refused"], found["divergent_replay"]) == (1, 0)

    assert f"dead letter {refused['id']} stays: round 1 is closed" in splitee("dead", "requeue", *named, refused["id"])
    assert [one["id"] for one in listed()] == [refused["id"]]
    assert_cleaned(splitee, transport, run, redis_url)


def assert_cleaned(splitee: Callable[..., str], transport: RabbitTransport, run: str, redis_url: str) -> None:
    """Clean a run away, and look that nothing is left."""
    assert eventually_depth(transport, topology.dead(run).name, 1) == 1
    said = splitee("clean", "--run", run)
    assert said.startswith(f"Removed run {run!r}: ")
    assert " keys in the store" in said
    for name in topology.names(run, ["client-01"]):
        with pytest.raises(UnknownQueue):
            transport.depth(name)
    assert not list(redis.Redis.from_url(redis_url).scan_iter(f"*{run}*"))
    assert splitee("clean", "--run", run) == f"There is nothing of run {run!r}\n"


def test_a_run_that_the_store_does_not_know(splitee: Callable[..., str], transport: RabbitTransport, run_name: str) -> None:
    assert f"there is no run {run_name!r} on this broker" in splitee("dead", "list", "--run", run_name)
    transport.declare(topology.dead(run_name))
    transport.publish(topology.dead(run_name).name, b"junk")
    assert eventually_depth(transport, topology.dead(run_name).name, 1) == 1
    assert "no dead letter: not msgpack" in splitee("dead", "list", "--run", run_name)
    assert f"there is no run {run_name!r} in this store" in splitee("dead", "requeue", "--run", run_name, "--all")
    assert (
        splitee("clean", "--run", run_name) == f"Removed run {run_name!r}: 1 queues with 1 messages in them, 0 keys in the store\n"
    )
    assert splitee("clean", "--run", run_name) == f"There is nothing of run {run_name!r}\n"
