"""A run of all roles on real servers, scraped by a real Prometheus: every metric of the table moves, and there is no other."""

import json
import math
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from broker import topology
from broker.codec import decode, encode
from broker.events import DuplicatesDropped, FeaturesPublished, GapFound, MessageRefused, RoundClosed, StreamClaimed
from broker.inference_events import InferenceLate
from broker.messages import Frame, InferenceRequest, WireTensor
from broker.rabbitmq import RabbitTransport
from broker.transport import Delivery, Reopened
from cli.private_servers import PrivateServer
from monitoring.metric_table import DEFINITIONS
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import PATIENCE, Deployment, Node, one_line
from tests.end_to_end.scraping import METRICS, ROOT, address_of, asked, wait_for, with_faults
from tests.prometheus import Prometheus
from tests.proxy import Proxy, at_port, closed_port, proxied
from workers.inference_client import InferenceClient

# A client waits for the broker after every message, and for the servers after three.
PACED = ("clients.count=3", "data.train_limit=240", "data.partition=iid", "training.rounds=3", "training.evaluate_every=1")
PACED += ("transport.unconfirmed_bytes=1024", "transport.run_ahead_bytes=51000", "transport.starved_seconds=0.5")
LABELS = (  # what has to move, at least
    ("splitee_client_samples_total", "cut", {"3", "4", "5"}),
    ("splitee_client_waiting_seconds_total", "awaited", {"broker", "servers", "round"}),
    ("splitee_server_waiting_seconds_total", "awaited", {"client", "stream"}),
    ("splitee_streams_total", "change", {"claimed", "committed"}),
    ("splitee_checkpoint_bytes_total", "kind", {"checkpoint", "commit"}),
    ("splitee_reachable", "server", {"broker", "store"}),
    ("splitee_inference_samples_total", "where", {"client", "server", "degraded"}),
    ("splitee_dead_letters_total", "kind", {"malformed"}),
    ("splitee_dropouts_total", "kind", {"silent"}),
    ("splitee_reconnects_total", "role", {"coordinator", "server", "client"}),
)
STILL = {"splitee_replicas_set_back_total", "splitee_store_limit_bytes"}  # in this run; the ones with faults move them
PARTS = {"counter": ("",), "gauge": ("",), "summary": ("_sum", "_count"), "histogram": ("_sum", "_count", "_bucket")}


@pytest.fixture
def proxy(exporting_rabbitmq: PrivateServer) -> Iterator[Proxy]:
    with proxied(exporting_rabbitmq.url) as made:
        yield made


@pytest.fixture
def transport(exporting_rabbitmq: PrivateServer) -> Iterator[RabbitTransport]:
    made = RabbitTransport(exporting_rabbitmq.url)
    yield made
    made.close()


def is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def health_of(node: Node) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address_of(node)}/healthz", timeout=30) as answer:
            return answer.status, json.loads(answer.read())["reason"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["reason"]


def lint(node: Node) -> str:
    """Return what Prometheus' own tool has to say about a role's metrics."""
    promtool = shutil.which("promtool")
    assert promtool is not None
    with urllib.request.urlopen(f"http://{address_of(node)}/metrics", timeout=30) as answer:
        done = subprocess.run([promtool, "check", "metrics"], input=answer.read(), capture_output=True, check=False)
    return f"{done.returncode} {done.stdout.decode()}{done.stderr.decode()}"


def steal(transport: RabbitTransport, queue: str) -> Frame:
    """Take the first message out of a queue for good."""
    taken: SimpleQueue[Delivery | Reopened] = SimpleQueue()
    subscription = transport.subscribe(queue, 1, taken.put)
    first = taken.get(timeout=PATIENCE)
    assert isinstance(first, Delivery)
    subscription.ack([first])
    subscription.close()
    return decode(first.body, Frame)


def late_request(client: str) -> bytes:
    """Return an inference request that nobody waits for any more when it is looked at."""
    features = WireTensor(dtype="float32", shape=(1, 4, 8, 8), data=bytes(4 * 4 * 8 * 8))
    return encode(InferenceRequest(client=client, request="late", patience=1e-9, version=0, cut=3, features=features))


def disturb(
    deployment: Deployment, nodes: dict[str, Node], transport: RabbitTransport, proxy: Proxy, seen: Callable[[], bool]
) -> None:
    """Let go wrong what a metric counts; return when it has. seen: whether Prometheus knows that RabbitMQ is away."""
    server = nodes["server"]
    queue = topology.inference(deployment.run, deployment.setup.experiment().transport).name
    server.wait_for(GapFound)
    server.wait_for(MessageRefused)
    server.wait_for(DuplicatesDropped)
    transport.publish(queue, late_request("client-01"))
    server.wait_for(InferenceLate)
    proxy.cut(stay_down=True)
    for node in nodes.values():
        wait_for(lambda node=node: health_of(node)[0] == 503, node.text)
        assert health_of(node) == (503, "RabbitMQ cannot be reached")
    wait_for(seen, lambda: "Prometheus does not see that RabbitMQ is away")
    proxy.restore()
    for node in nodes.values():
        wait_for(lambda node=node: health_of(node) == (200, "running"), node.text)


def answer_as_documented(output: Path, prometheus: Prometheus) -> None:
    """Run the program of docs/metrics.md, on a run and a port of this test."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.DOTALL)
    port = closed_port()

    def answer(client: InferenceClient) -> None:
        prometheus.scrape(f"127.0.0.1:{port}")
        wait_for(lambda: prometheus.ask(f'up{{instance="127.0.0.1:{port}"}} == 1'), lambda: "it is not scraped")
        for bound in (0.0, math.inf):
            client.predict(torch.rand(4, 1, 8, 8), max_entropy=bound)
        away = at_port("amqp://nobody:here@127.0.0.1:1/", closed_port())
        with InferenceClient.open(output, broker=away, max_entropy=0.0, emit=names["metrics"]) as cut_off:
            cut_off.predict(torch.rand(4, 1, 8, 8))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as health:
            assert health.status == 200
        wait_for(lambda: prometheus.ask(asked()["alert AnswersDegraded"]), prometheus.moved)

    for theirs, ours in (("9109", str(port)), ("runs/digits", str(output)), ("        ...\n", "        answer(client)\n")):
        assert program.count(theirs) == 1
        program = program.replace(theirs, ours)
    names: dict[str, Any] = {"answer": answer}
    exec(program, names)


def test_every_metric_moves_and_none_is_unknown(
    prometheus: Prometheus, exporting_rabbitmq: PrivateServer, proxy: Proxy, transport: RabbitTransport, deploy: Deploy
) -> None:
    deployment = deploy(*PACED, "transport.heartbeat_timeout=6", broker=proxy.url)
    deployment.flags, expected = METRICS, asked()
    prometheus.scrape_rabbitmq(exporting_rabbitmq.metrics)
    nodes = {"coordinator": deployment.coordinator(), **deployment.clients()}
    for name, node in nodes.items():
        prometheus.scrape(address_of(node), name.partition("-")[0])
    queue = f"splitee.{deployment.run}.activations.client-01"
    nodes["client-01"].wait_for(FeaturesPublished, lambda event: event["sequence"] == 1)
    assert steal(transport, queue).sequence == 0
    transport.publish(queue, b"nonsense")
    server = nodes["server"] = deployment.server()
    prometheus.scrape(address_of(server), "server")
    server.wait_for(StreamClaimed)
    assert [lint(node) for node in (nodes["coordinator"], server, nodes["client-01"])] == ["0 "] * 3
    disturb(deployment, nodes, transport, proxy, lambda: bool(prometheus.ask(expected["alert BrokerGone"])))
    nodes.pop("client-03").kill()
    for node in nodes.values():
        assert node.wait() == 0, node.text()
    answer_as_documented(deployment.output, prometheus)
    table = {f"{one.name}{part}" for one in DEFINITIONS for part in PARTS[one.kind]}
    assert prometheus.names() == table, "there is what is in the table, and nothing else"
    assert table - prometheus.moved() <= STILL, "and it moves"
    assert prometheus.types() == {one.name.removesuffix("_total"): one.kind for one in DEFINITIONS}
    for name, label, values in LABELS:
        assert prometheus.moving(label, name) >= values, name
    assert with_faults() <= expected.keys()
    others = expected.keys() - with_faults() - {"alert BrokerGone", "alert AnswersDegraded"}  # these were waited for
    assert {where for where in others if not prometheus.has_given(expected[where])} == set()


def test_a_whole_run_in_processes_has_ports_side_by_side(deploy: Deploy) -> None:
    deployment = deploy("clients.count=1", "clients.cuts=[3]", "data.train_limit=64", "training.rounds=500")
    port = next(port for port in iter(closed_port, 0) if is_free(port + 1) and is_free(port + 2))
    node = deployment.train("--servers", "2", "--metrics-port", str(port))
    node.wait_for(RoundClosed)
    said = {int(found) for found in re.findall(r"metrics at http://127\.0\.0\.1:(\d+)/metrics\"", node.text())}
    assert said == {port, port + 1, port + 2}
    for at, series in ((port, "splitee_round_seconds_count"), (port + 1, 'splitee_reachable{server="store"}')):
        with urllib.request.urlopen(f"http://127.0.0.1:{at}/metrics", timeout=30) as answer:
            assert re.search(rf"^{re.escape(series)} [1-9]", answer.read().decode(), re.MULTILINE)
    node.signal(signal.SIGTERM)
    assert node.wait() != 0, "it was stopped"


def test_a_whole_run_in_one_process(command: Callable[..., Node], deploy: Deploy) -> None:
    deployment = deploy(*PACED[:3], "training.rounds=40")
    node = command("train", *deployment.setup.flags(), "--output", str(deployment.output), *METRICS, "--metrics-by-client")
    node.wait_for(RoundClosed)
    assert health_of(node) == (200, "running")
    with urllib.request.urlopen(f"http://{address_of(node)}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    for series in ('server_samples_total{cut="3"}', 'client_samples_total{client="client-01",cut="3"}', "round_seconds_count"):
        assert re.search(rf"^splitee_{re.escape(series)} [1-9]", text, re.MULTILINE), text
    one = command("train", *deployment.setup.flags(), "--output", str(deployment.output), "--metrics-port", address_of(node)[10:])
    assert "Address already in use; choose another --metrics-port" in one_line(one)
