"""A run in which everything goes wrong that a metric, a panel or an alert is about, scraped by a real Prometheus."""

import math
import re
import shutil
import signal
import struct
import urllib.request
from collections.abc import Iterator

import pytest
import redis

from broker import topology
from broker.codec import encode
from broker.crash_points import Between
from broker.events import BatchTrained, ClientDropped, ClientReported, MessageRefused, ReplicaSetBack, StreamClaimed, StreamLost
from broker.messages import Activations, Frame, WireTensor
from broker.rabbitmq import RabbitTransport
from cli.private_servers import PrivateServer
from tests.contract.transports import eventually_depth
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import Deployment, Event, Node
from tests.end_to_end.scraping import METRICS, address_of, asked, wait_for, with_faults
from tests.prometheus import Prometheus
from tests.proxy import Proxy, closed_port, proxied
from tests.soak.measure import rabbitmqctl

# Three clients in one stream; each may be three batches ahead. The last one stands still, and the round with it.
FAULTY = (
    *("clients.count=3", "clients.cuts=[3]", "data.train_limit=240", "data.partition=iid", "training.rounds=500"),
    *("training.strategy=sequential", "transport.run_ahead_bytes=51000", "transport.starved_seconds=0.5"),
    *("transport.poison_limit=2", "transport.lease_seconds=4", "transport.heartbeat_timeout=300"),
    *("clients.round_timeout=8", "clients.min_clients=3", "clients.quorum_timeout=3600", "transport.heartbeat_interval=1"),
)
MOVED = {
    ("splitee_dead_letters_total", "kind"): {"misplaced", "unfit", "nonfinite", "poison"},
    ("splitee_dropouts_total", "kind"): {"overdue", "replaced"},
    ("splitee_streams_total", "change"): {"claimed", "reclaimed", "lost"},
    ("splitee_store_limit_bytes", "__name__"): {"splitee_store_limit_bytes"},
}
FIRST, SECOND, LAST = "client-01", "client-02", "client-03"


class Scene:
    """A deployment that is scraped. store_of_worker, store_of_others: ways to Redis that can be cut."""

    def __init__(self, deployment: Deployment, prometheus: Prometheus, store_of_worker: Proxy, store_of_others: Proxy) -> None:
        self.deployment = deployment
        self.prometheus = prometheus
        self.store_of_worker, self.store_of_others = store_of_worker, store_of_others
        self.expressions = asked()
        self.seen: set[str] = set()  # where those expressions are that gave something when it was looked

    def scrape(self, node: Node, job: str) -> Node:
        self.prometheus.scrape(address_of(node), job)
        return node

    def see(self, *alerts: str) -> None:
        """Wait until Prometheus would fire alerts, but for how long they have to last."""
        for alert in alerts:
            self.wait_for(self.expressions[f"alert {alert}"])
            self.seen.add(f"alert {alert}")

    def wait_for(self, promql: str) -> None:
        """Wait until an expression gives something."""
        wait_for(lambda: self.prometheus.ask(promql), lambda: self._why(promql))

    def _why(self, promql: str) -> str:
        return f"never anything of {promql}; " + "\n".join(node.text()[-2000:] for node in self.deployment.nodes)


@pytest.fixture
def transport(exporting_rabbitmq: PrivateServer) -> Iterator[RabbitTransport]:
    made = RabbitTransport(exporting_rabbitmq.url)
    yield made
    made.close()


@pytest.fixture
def scene(
    prometheus: Prometheus, exporting_rabbitmq: PrivateServer, redis_server: PrivateServer, deploy: Deploy
) -> Iterator[Scene]:
    with proxied(redis_server.url) as one, proxied(redis_server.url) as other:
        deployment = deploy(*FAULTY, broker=exporting_rabbitmq.url, store=redis_server.url)
        deployment.flags = METRICS
        prometheus.scrape_rabbitmq(exporting_rabbitmq.metrics)
        yield Scene(deployment, prometheus, one, other)


def batch(client: str, sequence: int, *, channels: int = 4, value: float = 0.0) -> bytes:
    """Return a frame that takes the place of a client's batch in round 1, unless it is in another's queue."""
    shape = (2, channels, 8, 8)
    features = WireTensor(dtype="float32", shape=shape, data=struct.pack("<f", value) * math.prod(shape))
    labels = WireTensor(dtype="int64", shape=(2,), data=bytes(16))
    body = encode(Activations(cut=3, digest=bytes(32), features=features, labels=labels))
    return encode(Frame(client=client, incarnation=1, round=1, sequence=sequence, part=0, parts=1, body=body))


def publish(scene: Scene, transport: RabbitTransport, client: str, *bodies: bytes) -> str:
    """Put messages into a client's queue; return its name."""
    queue = topology.activations(scene.deployment.run, client, scene.deployment.setup.experiment().transport)
    transport.declare(queue)
    for body in bodies:
        transport.publish(queue.name, body)
    return queue.name


def start_without_workers(scene: Scene) -> dict[str, Node]:
    deployment = scene.deployment
    nodes = {"coordinator": deployment.coordinator(store=scene.store_of_others.url), **deployment.clients()}
    for name, node in nodes.items():
        scene.scrape(node, name.partition("-")[0])
    nodes["coordinator"].wait_for(ClientReported, lambda event: event["client"] == LAST and event["counts"].get("confirmed"))
    nodes[LAST].signal(signal.SIGSTOP)
    scene.see("WorkerPoolEmpty")
    return nodes


def lose_workers(scene: Scene, transport: RabbitTransport) -> None:
    """Let workers die at a message, then one be cut off from the store while it holds the stream, in which nobody else trains."""
    deployment = scene.deployment
    for _ in range(4):  # from the third on it is seen where they are lost
        victim = deployment.server(arm=(Between.STEP_AND_CHECKPOINT, 1))
        assert victim.wait() == -signal.SIGKILL, victim.text()
    worker = scene.scrape(deployment.server(store=scene.store_of_worker.url), "server")
    worker.wait_for(MessageRefused, lambda event: event["kind"] == "poison")
    worker.wait_for(BatchTrained, lambda event: event["client"] == LAST)  # then it waits for that client
    scene.wait_for('up{job="server"} == 1')  # alerts on what increases need to have seen what was there before
    publish(scene, transport, LAST, b"nonsense", *(batch(LAST, sequence, value=math.nan) for sequence in (2, 3, 4)))
    worker.wait_for(MessageRefused, lambda event: event["kind"] == "nonfinite")
    scene.store_of_worker.cut(stay_down=True)
    scene.see("DeadLetters", "NotFinite", "RoleCutOff", "NoProgress", "BacklogGrowing")
    held = worker.all(StreamClaimed)[-1]
    other = scene.scrape(deployment.server(store=scene.store_of_others.url), "server")

    def same(event: Event) -> bool:
        return (event["round"], event["stream"]) == (held["round"], held["stream"])

    other.wait_for(StreamClaimed, same)
    scene.store_of_worker.restore()
    worker.wait_for(StreamLost, same)


def pause(scene: Scene, coordinator: Node, rabbitmq: PrivateServer, store: PrivateServer) -> None:
    """While the run is paused for want of clients, let its servers be short of memory and out of reach."""
    coordinator.wait_for(ClientDropped, lambda event: event["kind"] == "overdue")
    scene.see("RunPaused", "ClientsDropping")
    own = redis.Redis.from_url(store.url)
    own.config_set("maxmemory", int(own.info("memory")["used_memory"] / 0.95))
    scene.see("StoreNearlyFull")
    own.config_set("maxmemory", 0)
    own.close()
    for proxy in (scene.store_of_worker, scene.store_of_others):
        proxy.cut(stay_down=True)
    scene.see("StoreGone")
    for proxy in (scene.store_of_worker, scene.store_of_others):
        proxy.restore()
    rabbitmqctl(rabbitmq, "set_vm_memory_high_watermark", "0.00001")
    scene.see("BrokerAlarm")
    rabbitmqctl(rabbitmq, "set_vm_memory_high_watermark", "0.4")


def test_every_fault_is_seen(
    scene: Scene, transport: RabbitTransport, exporting_rabbitmq: PrivateServer, redis_server: PrivateServer
) -> None:
    queue = publish(scene, transport, SECOND, batch(FIRST, 0), batch(SECOND, 0, channels=5))
    assert eventually_depth(transport, queue, 2) == 2
    nodes = start_without_workers(scene)
    lose_workers(scene, transport)
    pause(scene, nodes["coordinator"], exporting_rabbitmq, redis_server)
    nodes[LAST].signal(signal.SIGCONT)  # it joins again, and the run goes on
    scene.prometheus.scrape(f"127.0.0.1:{closed_port()}", "rabbitmq")
    scene.see("RoundOverdue", "QueuesUnseen")
    nodes[SECOND].kill()
    shutil.rmtree(scene.deployment.state_of(SECOND))
    scene.deployment.client(SECOND)
    nodes["coordinator"].wait_for(ClientDropped, lambda event: event["kind"] == "replaced")
    for (name, label), values in MOVED.items():
        wait_for(
            lambda name=name, label=label, values=values: scene.prometheus.moving(label, name) >= values,
            lambda name=name, label=label: (name, scene.prometheus.moving(label, name)),
        )
    nodes["coordinator"].kill()
    scene.see("CoordinatorGone")
    others = with_faults() - scene.seen
    assert {where for where in others if not scene.prometheus.has_given(scene.expressions[where])} == set()


def test_a_replica_that_is_set_back(deploy: Deploy) -> None:
    ruinous = ("training.server.name=sgd", "training.server.lr=1e10", "training.server.weight_decay=1e30")
    deployment = deploy(*ruinous, "clients.count=1", "clients.cuts=[3]", "data.train_limit=64", "training.rounds=1")
    deployment.flags = METRICS
    deployment.coordinator()
    deployment.client(FIRST)
    server = deployment.server()
    address = address_of(server)
    server.wait_for(ReplicaSetBack)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        assert re.search(r"^splitee_replicas_set_back_total 1", answer.read().decode(), re.MULTILINE)
