"""The health check of a container: passes where the role beside it is well, and nowhere else."""

import socket
import subprocess
import sys
import time

import pytest
from prometheus_client import CollectorRegistry

from monitoring.exporter import Exporter, Health
from tests.compose import ROOT


def probe(port: str) -> tuple[int, str]:
    """Return exit code and what was said, in one line."""
    command, environment = [sys.executable, "-m", "monitoring.probe"], {"SPLITEE_METRICS_PORT": port}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr).count("\n") == 1
    return done.returncode, (done.stdout + done.stderr).strip()


def test_it_follows_the_role() -> None:
    health, reachable = Health("server"), [True]
    with Exporter("127.0.0.1", 0, CollectorRegistry(), health) as exporter:
        port = str(exporter.port)
        assert probe(port) == (1, "starting")
        health.watch(time.monotonic, {"broker": lambda: reachable[0]})
        assert probe(port) == (0, "running")
        reachable[0] = False
        assert probe(port) == (1, "RabbitMQ cannot be reached")
        health.end()
        assert probe(port) == (1, "ended")
    assert probe(port)[0] == 1, "nobody is there"


def test_another_server_at_the_port_is_no_healthy_role() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        command = [sys.executable, "-m", "monitoring.probe"]
        environment = {"SPLITEE_METRICS_PORT": str(server.getsockname()[1])}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        _, said = process.communicate(timeout=30)
        connection.close()
    assert process.returncode == 1
    assert said.startswith("nobody tells of a role's health at port ")


@pytest.mark.parametrize("port", ["", "0", "65536", "nine", "-1", "²"])
def test_a_wrong_port_is_said(port: str) -> None:
    assert probe(port) == (1, f"SPLITEE_METRICS_PORT is {port!r}: give the port of the role's metrics, 1 to 65535")
