"""What a role's metrics port answers."""

import json
import re
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from broker import events
from monitoring import exporter as exporter_module
from monitoring.errors import ExporterError
from monitoring.exporter import Exporter, Health
from monitoring.metrics import Metrics


def get(url: str, accept: str = "") -> tuple[int, str, str]:
    """Return status, content type and text."""
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_in_both_formats() -> None:
    metrics = Metrics("server")
    metrics(events.GapFound(client="a", round=1, sequence=2))
    with Exporter("127.0.0.1", 0, metrics.registry, Health("server")) as exporter:
        status, kind, text = get(exporter.url)
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert "splitee_gaps_total 1.0\n" in text
        assert "_created" not in text
        status, kind, text = get(exporter.url, "application/openmetrics-text; version=1.0.0")
        assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
        assert text.endswith("# EOF\n")
        assert get(exporter.url.replace("/metrics", "/other"))[0] == 404


def health_of(exporter: Exporter) -> tuple[int, dict[str, object]]:
    status, _, text = get(exporter.url.replace("/metrics", "/healthz"))
    assert text.count("\n") == 1, "one line"
    return status, json.loads(text)


def test_health_follows_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    health, turned, reachable = Health("server"), time.monotonic(), {"broker": True, "store": True}

    def answers(name: str) -> Callable[[], bool]:
        return lambda: reachable[name]

    def of_gauge() -> set[str]:
        return set(re.findall(r"^splitee_reachable(.*)\.0$", get(exporter.url)[2], re.MULTILINE))

    with Exporter("127.0.0.1", 0, Metrics("server", reachable=health.reachable).registry, health) as exporter:
        assert of_gauge() == set()
        assert health_of(exporter) == (503, {"role": "server", "healthy": False, "reason": "starting"})
        health.watch(lambda: turned, {name: answers(name) for name in reachable})
        assert health_of(exporter) == (200, {"role": "server", "healthy": True, "reason": "running"})
        assert of_gauge() == {'{server="broker"} 1', '{server="store"} 1'}
        reachable["store"] = False
        assert health_of(exporter) == (503, {"role": "server", "healthy": False, "reason": "Redis cannot be reached"})
        assert of_gauge() == {'{server="broker"} 1', '{server="store"} 0'}
        reachable["broker"] = False
        assert health_of(exporter)[1]["reason"] == "RabbitMQ and Redis cannot be reached"
        reachable.update(broker=True, store=True)
        turned -= exporter_module.TURN_SECONDS + 1
        status, found = health_of(exporter)
        assert (status, str(found["reason"]).startswith("no turn for 12")) == (503, True)
        turned = time.monotonic()
        assert health_of(exporter)[0] == 200
        health.end()
        assert health_of(exporter) == (503, {"role": "server", "healthy": False, "reason": "ended"})
        assert of_gauge() == set()


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ExporterError) as caught:
            Exporter("127.0.0.1", port, CollectorRegistry(), Health("client"))
    assert str(caught.value) == (
        f"cannot serve metrics at 127.0.0.1:{port}: Address already in use; choose another --metrics-port (0: any free one), "
        "or --metrics-address"
    )


@pytest.mark.parametrize("address", ["no.such.host.invalid", "192.0.2.1", "::ffff:1:2:3"])
def test_an_address_that_is_not_here_is_one_line(address: str) -> None:
    with pytest.raises(ExporterError, match=r"cannot serve metrics at .*:0: ") as caught:
        Exporter(address, 0, CollectorRegistry(), Health("client"))
    assert "\n" not in str(caught.value)


def test_who_goes_away_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics("train")
    for cut in range(2000):  # more than a socket takes at once
        metrics(events.ClientReported(client="a", cut=cut, counts={"samples": 1}))
    with Exporter("127.0.0.1", 0, metrics.registry, Health("train")) as exporter:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", exporter.port)) as asking:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # gone, not closed in order
                asking.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert get(exporter.url)[0] == 200
    assert capsys.readouterr().err == ""
