"""The stack of docker-compose.yml as local processes: it becomes healthy, is scraped and trains; a client is only itself."""

import json
import re
import signal
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker, ProbableAuthenticationError

from broker.events import RoundClosed
from tests.compose import ROOT
from tests.end_to_end.harness import Node, one_line, summary
from tests.end_to_end.scraping import wait_for
from tests.end_to_end.stack import Stack
from tests.services import installed

SMALL = {  # beside what the file says
    "SPLITEE_EXPERIMENT__MODEL__WIDTH": "4",
    "SPLITEE_EXPERIMENT__DATA__IMAGE_SIZE": "8",
    "SPLITEE_EXPERIMENT__DATA__TRAIN_LIMIT": "200",
    "SPLITEE_EXPERIMENT__DATA__TEST_LIMIT": "20",
    "SPLITEE_EXPERIMENT__TRAINING__ROUNDS": "1",
}
ACCESS_REFUSED = 403
QUEUE = "splitee.digits.activations.client-02"
TARGETS = {"coordinator": 1, "client": 12, "rabbitmq": 1, "rabbitmq-queues": 1}


@pytest.fixture
def stack(forkserver: None, tmp_path: Path) -> Iterator[Stack]:
    with installed(Stack(tmp_path)) as made:
        yield made


def asked(stack: Stack, promql: str) -> list[dict[str, Any]]:
    """Return what Prometheus answers now."""
    (address,) = stack.address("prometheus", 9090)
    query = urllib.parse.urlencode({"query": promql})
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=30) as answer:
        return list(json.loads(answer.read())["data"]["result"])


def up(stack: Stack) -> dict[str, int]:
    """Return how many targets of each job are up."""
    return dict(Counter(one["metric"]["job"] for one in asked(stack, "up == 1")))


def start_healthy(stack: Stack, name: str, **extra: str) -> None:
    """Start a service; it is not healthy before, and is afterwards."""
    for instance in stack.instances[name]:
        assert not stack.is_healthy(instance), f"the health check of {name} passes where nothing runs"
    for instance in stack.start(name, **extra):
        stack.wait_until_healthy(instance)


def may(url: str, do: Callable[[Any], object]) -> bool:
    """Return whether RabbitMQ lets a user do something on a channel; confirms are on."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            do(channel)
        except ChannelClosedByBroker as error:
            if error.reply_code != ACCESS_REFUSED:
                raise
            return False
    return True


def check_a_client_is_itself(stack: Stack) -> None:
    """It publishes as itself and reads its own inbox; all else is refused. Nobody has a default password."""
    (instance,) = stack.instances["client-01"]
    url = stack.environment(instance)["SPLITEE_BROKER_URL"]
    own, inbox = QUEUE.replace("02", "01"), "splitee.digits.inbox.client-01"
    assert may(url, lambda channel: channel.queue_declare(inbox, passive=True))
    assert may(url, lambda channel: channel.basic_get("splitee.digits.inbox.client-01"))
    assert may(url, lambda channel: channel.basic_publish("splitee", own, b"", pika.BasicProperties(user_id="client-01")))
    wrong: list[Callable[[Any], object]] = [
        lambda channel: channel.basic_publish("splitee", QUEUE, b""),
        lambda channel: channel.basic_publish("", QUEUE, b""),
        lambda channel: channel.basic_publish("splitee", "splitee.digits.inbox.client-02", b""),
        lambda channel: channel.basic_publish("splitee", "splitee.digits.offers", b""),
        lambda channel: channel.basic_get(QUEUE),
        lambda channel: channel.basic_get(own),
        lambda channel: channel.basic_get("splitee.digits.inbox.client-02"),
        lambda channel: channel.basic_get("splitee.digits.dead"),
        lambda channel: channel.queue_bind(inbox, "splitee", QUEUE),
        lambda channel: channel.queue_bind(inbox, "splitee", "#"),
        lambda channel: channel.queue_declare("splitee.digits.inbox.client-02", durable=True),
        lambda channel: channel.queue_declare("mine"),
        lambda channel: channel.queue_delete(QUEUE),
        lambda channel: channel.exchange_declare("mine"),
    ]
    assert [number for number, do in enumerate(wrong) if may(url, do)] == []
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(url.replace(url.partition("@")[0], "amqp://guest:guest")))


def check_status(stack: Stack, folder: Path) -> None:
    """The README's command in a container of a server."""
    (words,) = re.findall(r"^docker compose exec server splitee (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    node = Node(words.split(), folder / "status.log", **stack.environment(stack.instances["server"][0]))
    assert node.wait() == 0, node.text()
    assert "run digits: finished" in node.text()


def check_a_port_in_use_is_said(stack: Stack, folder: Path) -> None:
    """A role whose metrics port another one has."""
    environment = stack.environment(stack.instances["server"][0])
    said = one_line(Node(stack.services["server"].command, folder / "second.log", **environment))
    port = environment["SPLITEE_METRICS_PORT"]
    assert said.startswith(
        f"splitee: cannot serve metrics at 0.0.0.0:{port}: Address already in use; choose another --metrics-port"
    )


@pytest.mark.timeout(900)  # fifteen processes of its own, and three servers
def test_the_stack(stack: Stack, tmp_path: Path) -> None:
    start_healthy(stack, "rabbitmq")
    start_healthy(stack, "redis")
    (redis,) = stack.instances["redis"]
    assert not stack.is_healthy(redis, REDISCLI_AUTH="wrong")
    start_healthy(stack, "prometheus")
    start_healthy(stack, "coordinator", **SMALL)
    clients = [name for name in stack.services if name.startswith("client-")]
    for name in clients:
        stack.start(name)
    for name in clients:
        stack.wait_until_healthy(*stack.instances[name])
    wait_for(lambda: up(stack) == TARGETS, lambda: asked(stack, "up"))
    check_a_client_is_itself(stack)
    start_healthy(stack, "server")  # the run has waited for them
    (coordinator,) = (stack.node(one) for one in stack.instances["coordinator"])
    coordinator.wait_for(RoundClosed)
    assert coordinator.wait() == 0, coordinator.text()
    for name in clients:
        for instance in stack.instances[name]:
            assert stack.node(instance).wait() == 0, stack.node(instance).text()
    found = summary(tmp_path / "volumes" / "runs" / "digits")
    assert (found["clients"], found["rounds"], found["dropouts"]) == (12, 1, [])
    assert found["refused"] == 1, "the empty one that a client was let publish"
    wait_for(lambda: up(stack).get("server") == 2, lambda: asked(stack, "up"))
    wait_for(
        lambda: bool(asked(stack, "sum(splitee_server_samples_total) > 0")), lambda: asked(stack, "splitee_server_samples_total")
    )
    assert {one["metric"]["cut"] for one in asked(stack, 'max_over_time(splitee_client_samples_total{job="client"}[1h]) > 0')} >= {
        "3"
    }
    assert asked(stack, 'rabbitmq_detailed_queue_consumers{queue="splitee.digits.inference"} == 2')
    check_status(stack, tmp_path)
    check_a_port_in_use_is_said(stack, tmp_path)
    for instance in stack.instances["server"]:
        stack.node(instance).signal(signal.SIGTERM)
        assert stack.node(instance).wait() == 0
