"""Logs of real roles over RabbitMQ and Redis: every line is JSON and says whose it is, and no password is ever in one."""

import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest
import redis

from broker.events import BatchTrained, RoundClosed, Waiting
from cli.private_servers import PrivateServer
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import Node
from tests.proxy import Proxy, proxied

SMALL = ("clients.count=2", "data.train_limit=160", "data.partition=iid", "training.rounds=2")
STORE_PASSWORD = "s3cr:t/of@redis"


@pytest.fixture
def locked_store(redis_server: PrivateServer) -> str:
    """The URL of a Redis that asks for a password."""
    redis.Redis.from_url(redis_server.url).config_set("requirepass", STORE_PASSWORD)
    return redis_server.url.replace("://", f"://:{quote(STORE_PASSWORD, safe='')}@")


@pytest.fixture
def proxy(rabbitmq_url: str) -> Iterator[Proxy]:
    with proxied(rabbitmq_url) as made:
        yield made


def check(node: Node, broker: str, role: str, run: str) -> None:
    """Fail if a line is not JSON, does not say whose it is, or if a password is anywhere in what a process has written."""
    assert node.lines(), "it has said nothing"
    for line in node.lines():
        assert (line["role"], line["run"]) == (role, run), line
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
        assert line["level"] in ("debug", "info", "warning", "error")
        assert line["event"]
    for password in (urlsplit(broker).password, STORE_PASSWORD, quote(STORE_PASSWORD, safe="")):
        assert password
        assert password not in node.text()


def test_a_run_in_json(proxy: Proxy, locked_store: str, deploy: Deploy) -> None:
    deployment = deploy(*SMALL, broker=proxy.url, store=locked_store)
    deployment.flags = ("--log-level", "debug")
    nodes = {"coordinator": deployment.coordinator(), "server": deployment.server(), **deployment.clients()}
    nodes["server"].wait_for(BatchTrained)
    proxy.cut()
    for node in nodes.values():
        assert node.wait() == 0, node.text()
    for name, node in nodes.items():
        role = "client" if name.startswith("client") else name
        check(node, proxy.url, role, deployment.run)
        lines = node.lines()
        assert {line.get("client") for line in lines if role == "client"} <= {name}
        if role == "server":
            assert len({line["worker"] for line in lines}) == 1
        assert any("trying again" in line["event"] and line["level"] == "warning" for line in lines), "the cut connection"
        assert any(line.get("round") == 2 for line in lines)
    for kind, node in ((RoundClosed, nodes["coordinator"]), (BatchTrained, nodes["server"])):
        heard = [(event["round"], event.get("stream")) for event in node.all(kind)]
        assert [(line["round"], line.get("stream")) for line in node.lines() if line.get("type") == kind.__name__] == heard


def test_connecting_in_vain(locked_store: str, rabbitmq_url: str, deploy: Deploy) -> None:
    """With a password that is wrong, and with an address where nobody is."""
    wrong = rabbitmq_url.replace("@", "0@")
    deployment = deploy(*SMALL, store=locked_store)
    nowhere = f"redis://:{quote(STORE_PASSWORD, safe='')}@127.0.0.1:1"
    failing = {
        "refused: ACCESS_REFUSED": [deployment.client("client-01", wrong), deployment.server(broker=wrong)],
        "does not answer": [deployment.server(store=nowhere), deployment.coordinator(store=nowhere)],
        "refuses the password": [deployment.server(store=locked_store.replace("%40", "%41"))],
    }
    for said, nodes in failing.items():
        for node in nodes:
            assert node.wait() == 1, node.text()
            *_, last = node.lines()
            assert last["level"] == "error"
            assert said in last["event"], last
            check(node, wrong, last["role"], deployment.run)


def test_text_where_it_is_asked_for(deploy: Deploy) -> None:
    deployment = deploy(*SMALL)
    deployment.flags = ("--log-format", "text")
    node = deployment.server()
    node.wait_for(Waiting)
    node.signal(signal.SIGTERM)
    assert node.wait() == 0, node.text()
    assert f" warning server {deployment.run} server-" in node.text()
    assert "{" not in node.text()
    deployment.nodes.clear()  # whose lines would have to be JSON
