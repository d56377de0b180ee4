"""Processes that kill themselves between two effects, and come back: the same bits at every crash point."""

import ast
import dataclasses
import inspect
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

import broker
import coordinator
import workers
from broker import topology
from broker.codec import encode
from broker.crash_points import Between
from broker.errors import UnknownQueue
from broker.events import FeaturesPublished
from broker.messages import Frame
from broker.rabbitmq import RabbitTransport
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import PATIENCE, Arm, Deployment, Node, summary

TINY = ("clients.count=3", "data.train_limit=144", "data.partition=iid")  # three batches a client and round
QUICK = ("transport.lease_seconds=1.5", "transport.starved_seconds=0.5")
ROOM_FOR_ONE = ("transport.run_ahead_bytes=20000",)  # a client waits for a checkpoint after every batch
SMALL_MESSAGES = ("transport.message_limit=8192",)  # client-01's batches travel in three parts


@dataclasses.dataclass(frozen=True)
class Crashes:
    """Where the processes of one run kill themselves, one crash of a process after the other.

    server, coordinator, client: the crash points of the only worker, the only coordinator and of client-01, and at which
    passage; each process that comes back is armed with the next one.
    """

    server: tuple[Arm, ...] = ()
    coordinator: tuple[Arm, ...] = ()
    client: tuple[Arm, ...] = ()
    strategy: str = "averaging"
    average: str = "server"
    settings: tuple[str, ...] = ()

    def points(self) -> list[Between]:
        return [point for point, _ in (*self.server, *self.coordinator, *self.client)]

    def __str__(self) -> str:
        return "+".join(point.name.lower() for point in self.points())


class Victims:
    """The processes of one run, each started again when it has killed itself."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._starts: dict[str, Callable[..., Node]] = {}
        self._arms: dict[str, list[Arm]] = {}
        self.nodes: dict[str, Node] = {}

    def start(self, name: str, arms: tuple[Arm, ...] = ()) -> Node:
        """Start a process: "coordinator", "server" or a client's id."""
        deployment = self._deployment
        roles = {"coordinator": deployment.coordinator, "server": deployment.server}
        self._starts[name] = roles.get(name, lambda *, arm: deployment.client(name, arm=arm))
        self._arms[name] = list(arms)
        return self._start(name)

    def start_all(self, crashes: Crashes) -> None:
        self.start("coordinator", crashes.coordinator)
        self.start("server", crashes.server)
        self.start("client-01", crashes.client)
        for client in ("client-02", "client-03"):
            self.start(client)

    def outlive(self) -> None:
        """Start again what kills itself until no crash is left, and wait until all have ended well."""
        while waiting := {name: self.nodes[name] for name, arms in self._arms.items() if arms}:
            ended = wait([node.process.sentinel for node in waiting.values()], PATIENCE)
            assert ended, f"nobody came to {self._arms}; logs: {[node.text() for node in waiting.values()]}"
            for name, node in waiting.items():
                if node.process.sentinel in ended:
                    self.die_and_return(name)
        for node in self.nodes.values():
            assert node.wait() == 0, node.text()

    def die_and_return(self, name: str) -> Node:
        """Wait until a process has killed itself where it should; start it again."""
        node, (point, passage) = self.nodes[name], self._arms[name].pop(0)
        node.wait()
        assert node.died_at(point), f"{name} did not come to passage {passage} of {point.name}:\n{node.text()}"
        return self._start(name)

    def _start(self, name: str) -> Node:
        self.nodes[name] = self._starts[name](arm=next(iter(self._arms[name]), None))
        return self.nodes[name]


B = Between
TOGETHER = [  # in one run, one process of each role is killed
    Crashes(((B.CLAIM_AND_LOAD, 1),), ((B.RUN_AND_LEASE, 1),), ((B.WELCOME_AND_IDENTITY, 1),)),
    Crashes(((B.STEP_AND_CHECKPOINT, 5),), ((B.INITIAL_BLOBS_AND_VERSION, 1),), ((B.IDENTITY_AND_DATA, 1),)),
    Crashes(((B.COMMIT_BLOBS_AND_POINTER, 2),), ((B.VERSION_AND_QUEUES, 1), (B.SIGHT_AND_STEP, 1)), ((B.FILE_AND_RENAME, 3),)),
    Crashes(((B.COMMIT_AND_ACKNOWLEDGEMENT, 4),), ((B.MESSAGE_ACK_AND_ANSWER, 2),), ((B.SNAPSHOT_AND_STEP, 2),)),
    Crashes(((B.ACKNOWLEDGEMENT_AND_NOTICE, 3),), ((B.ROSTER_AND_QUEUE, 2),), ((B.STEP_AND_PUBLISH, 4),)),
    Crashes(((B.NOTICE_AND_ACKS, 6),), ((B.QUEUE_AND_WELCOME, 3),), ((B.PUBLISH_AND_CONFIRM, 2),)),
    Crashes(((B.STREAM_AND_RELEASE, 2),), ((B.ROUND_AND_OFFERS, 2),), ((B.CONFIRM_AND_COUNT, 5),)),
    Crashes(((B.COMMIT_BLOBS_AND_POINTER, 2),), ((B.FREEZE_AND_AVERAGE, 1),), ((B.LAST_BATCH_AND_MARKER, 1),)),
    Crashes(((B.PREDICTION_AND_ACK, 3),), ((B.AVERAGE_AND_PUBLISH, 2),), ((B.MARKER_AND_NEXT_ROUND, 1),)),
    Crashes(((B.CHUNK_AND_CHUNK, 3),), ((B.PUBLISH_AND_SWEEP, 2),), ((B.FORGET_AND_FORGET, 1),)),
    Crashes(
        ((B.CHECKPOINT_BLOBS_AND_POINTER, 2), (B.POINTER_AND_SWEEP, 3)),
        ((B.CLOSE_AND_TARGETS, 1), (B.SCORES_AND_ANSWER, 2)),
        ((B.PART_AND_PART, 4),),
        settings=(*ROOM_FOR_ONE, *SMALL_MESSAGES),
    ),
    Crashes(
        ((B.CHECKPOINT_AND_ACKS, 2), (B.ACKS_AND_ACKNOWLEDGEMENT, 2)),
        ((B.FINISH_AND_RESULTS, 1), (B.LAYERS_AND_SUMMARY, 1)),
        ((B.SCORE_AND_REPORT, 1),),
        settings=ROOM_FOR_ONE,
    ),
    Crashes(
        ((B.CLIENT_AND_NEXT_CLIENT, 1),),
        ((B.RESULTS_AND_TARGETS, 1), (B.TARGETS_AND_REMOVAL, 1), (B.REMOVAL_AND_REMOVAL, 2), (B.REMOVAL_AND_OVER, 1)),
        ((B.END_AND_LEAVE, 1),),
        strategy="sequential",
    ),
    Crashes(
        (),
        ((B.FREEZE_AND_AVERAGE, 1), (B.LAYERS_AND_HALVES, 1), (B.ANSWER_AND_ANSWER, 2)),
        ((B.HALF_AND_LOAD, 1), (B.LOAD_AND_SNAPSHOT, 1), (B.STEP_AND_PUBLISH, 5)),
        average="all",
        settings=("transport.message_limit=3000",),  # halves travel in parts, both ways
    ),
]
REFUSALS = Crashes(((B.REFUSAL_AND_LETTER, 1), (B.LETTER_AND_CONFIRM, 2), (B.CONFIRM_AND_REFUSAL_ACK, 2)))
LOST_QUEUE = Crashes(server=((B.RESEND_AND_REOPEN, 1),), client=((B.DISCARD_AND_RESTORE, 1),))
DEPARTURE = Crashes(coordinator=((B.DEPARTURE_AND_CLOSING, 1),), client=((B.REFUSAL_AND_REJOIN, 1), (B.WELCOME_AND_IDENTITY, 1)))
FAILURE = Crashes(coordinator=((B.FAILURE_AND_TARGETS, 1),))


@pytest.fixture
def transport(rabbitmq_url: str) -> Iterator[RabbitTransport]:
    transport = RabbitTransport(rabbitmq_url)
    yield transport
    transport.close()


def check(deployment: Deployment, expected: dict[str, Any], refused: int = 0) -> None:
    found = summary(deployment.output)
    for key in ("parameters_sha256", "samples_trained", "samples_dropped", "accuracy_by_client"):
        assert found[key] == expected[key], key
    assert (found["refused"], found["divergent_replay"], found["dropouts"]) == (refused, 0, [])
    rounds = (deployment.output / "metrics.jsonl").read_text().splitlines()
    assert len(rounds) == found["rounds"] == 2
    assert [scope.split("/")[0] for scope in deployment.ledger.store.scopes()].count("stream") <= 6, "blobs are left behind"


@pytest.mark.parametrize("crashes", TOGETHER, ids=str)
def test_the_same_bits(crashes: Crashes, deploy: Deploy, undisturbed: Undisturbed) -> None:
    training = (*TINY, f"training.strategy={crashes.strategy}", f"training.average={crashes.average}")
    deployment = deploy(*training, *QUICK, *crashes.settings)
    victims = Victims(deployment)
    victims.start_all(crashes)
    victims.outlive()
    check(deployment, undisturbed(*training))


def test_a_refusal(deploy: Deploy, transport: RabbitTransport, undisturbed: Undisturbed) -> None:
    """The first message in client-01's queue has no place in its stream, the second takes the place of its first batch."""
    digests = set()
    for crashes in (Crashes(), REFUSALS):
        deployment = deploy(*TINY, *QUICK, suffix=f"-{len(crashes.server)}")
        queue = topology.activations(deployment.run, "client-01", deployment.setup.experiment().transport)
        transport.declare(queue)
        transport.publish(queue.name, b"no message")
        taken = Frame(client="client-01", incarnation=1, round=1, sequence=0, part=0, parts=1, body=b"no batch")
        transport.publish(queue.name, encode(taken))
        victims = Victims(deployment)
        victims.start_all(crashes)
        victims.outlive()
        found = summary(deployment.output)
        assert (found["refused"], found["samples_trained"]) == (2, undisturbed(*TINY)["samples_trained"] - 16)
        digests.add(found["parameters_sha256"])
    assert len(digests) == 1


def test_a_queue_is_lost(deploy: Deploy, transport: RabbitTransport, undisturbed: Undisturbed) -> None:
    deployment = deploy(*TINY, *QUICK)
    victims = Victims(deployment)
    victims.start("coordinator")
    victims.start("client-01", LOST_QUEUE.client)
    queue = topology.activations(deployment.run, "client-01", deployment.setup.experiment().transport)
    for client in ("client-02", "client-03"):
        victims.start(client)
    wait_for_depth(transport, queue.name, 2 * 4)  # both rounds' batches and markers
    transport.delete(queue.name)
    transport.declare(queue)
    victims.start("server", LOST_QUEUE.server)
    victims.outlive()
    check(deployment, undisturbed(*TINY))


def test_a_client_is_given_up(deploy: Deploy) -> None:
    deployment = deploy(*TINY, *QUICK, *ROOM_FOR_ONE, "transport.heartbeat_timeout=5")
    victims = Victims(deployment)
    victims.start_all(DEPARTURE)
    paused = victims.nodes["client-01"]
    paused.wait_for(FeaturesPublished)
    paused.signal(signal.SIGSTOP)
    victims.die_and_return("coordinator")
    roster = deployment.ledger.roster().record
    assert [departure.client for departure in roster.departures] == ["client-01"]
    paused.signal(signal.SIGCONT)
    victims.outlive()
    found = summary(deployment.output)
    assert [(departure["client"], departure["incarnation"]) for departure in found["dropouts"]] == [("client-01", 1)]
    again = deployment.ledger.roster().record.clients["client-01"]
    of_its_own = 16 * (found["dropouts"][0]["batches_kept"] or 0) + 48 * (again.incarnation > 1 and again.first_round <= 2)
    assert found["samples_trained"] == 4 * 48 + of_its_own, "the others' samples all count"


def test_a_run_fails(deploy: Deploy, transport: RabbitTransport, undisturbed: Undisturbed) -> None:
    deployment = deploy(*TINY, *QUICK, "clients.min_clients=3", "clients.join_timeout=1", "clients.quorum_timeout=1")
    victims = Victims(deployment)
    victims.start("client-01")
    victims.start("client-02")
    coordinator = victims.start("coordinator", FAILURE.coordinator)
    coordinator.wait()
    victims.start("client-03")
    wait_for_depth(transport, topology.inbox(deployment.run, "client-03").name, 0)  # it has asked to join
    victims.die_and_return("coordinator")
    victims.start("server")
    victims.outlive()
    check(deployment, undisturbed(*TINY))


def test_every_point_is_hit_and_stands_in_one_place() -> None:
    hit = Counter(point for crashes in (*TOGETHER, REFUSALS, LOST_QUEUE, DEPARTURE, FAILURE) for point in crashes.points())
    assert set(hit) == set(Between)
    places: Counter[str] = Counter()
    for package in (broker, coordinator, workers):
        for file in Path(inspect.getfile(package)).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "crash_point":
                    places.update(name.attr for name in ast.walk(node.args[0]) if isinstance(name, ast.Attribute))
    assert places == Counter(point.name for point in Between)


def wait_for_depth(transport: RabbitTransport, queue: str, depth: int) -> None:
    """Wait until a queue is there and holds so many messages."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(UnknownQueue):
            if transport.depth(queue) >= depth:
                return
        time.sleep(0.05)
    pytest.fail(f"{queue} never held {depth} messages")
