"""Servers of one's own: ready when the block begins, gone when it ends, whatever ends it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pika
import psutil
import pytest
import redis

from cli import private_servers
from cli.private_servers import PrivateServer, PrivateServerError, ServerNotInstalled, start_rabbitmq, start_redis

ROOT = Path(__file__).parents[2]


def listens(url: str) -> bool:
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_redis_keeps_its_data_and_port_over_kill_and_restart(redis_server: PrivateServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("key", "value")
    pid, url = redis_server.pid, redis_server.url
    redis_server.kill()
    assert not redis_server.running
    assert not psutil.pid_exists(pid)
    assert not listens(url)
    redis_server.restart()
    assert (redis_server.url, redis_server.running) == (url, True)
    assert redis_server.pid != pid
    with redis.Redis.from_url(url) as client:
        assert client.get("key") == b"value"


def test_restart_of_a_running_server_stops_it_first(redis_server: PrivateServer) -> None:
    pid = redis_server.pid
    redis_server.restart()
    assert not psutil.pid_exists(pid)
    assert listens(redis_server.url)


def test_a_paused_server_answers_nothing_until_resumed(redis_server: PrivateServer) -> None:
    with redis.Redis.from_url(redis_server.url, socket_timeout=0.1, retry=None) as client:
        redis_server.pause()
        assert redis_server.running
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis_server.resume()
        redis_server.pause()
        redis_server.stop()
        assert not redis_server.running


@pytest.mark.parametrize(
    ("appendfsync", "settings"),
    [("everysec", ("yes", "everysec")), ("always", ("yes", "always")), (None, ("no", "no"))],
)
@pytest.mark.usefixtures("redis_url")  # skips where Redis is not installed
def test_durability_is_as_asked(tmp_path: Path, appendfsync: str | None, settings: tuple[str, str]) -> None:
    with start_redis(tmp_path, appendfsync=appendfsync) as server, redis.Redis.from_url(server.url) as client:  # type: ignore[arg-type]
        config = client.config_get("append*")
        assert (config["appendonly"], config["appendfsync"]) == settings


def test_rabbitmq_keeps_confirmed_messages_over_a_kill(rabbitmq_server: PrivateServer) -> None:
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url)) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "q", b"body", pika.BasicProperties(delivery_mode=2))
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url.replace("splitee:", "guest:")))
    pid = rabbitmq_server.pid
    threading.Event().wait(3.0)  # RabbitMQ 3.10 has a queue's declaration on disk only a moment after it has answered
    rabbitmq_server.kill()
    assert not listens(rabbitmq_server.url)
    rabbitmq_server.restart()
    assert rabbitmq_server.pid != pid
    with pika.BlockingConnection(pika.URLParameters(rabbitmq_server.url)) as connection:
        channel = connection.channel()
        for _, _, body in channel.consume("q", inactivity_timeout=30.0):
            assert body == b"body"
            break


@pytest.mark.usefixtures("rabbitmq_url", "redis_url")
def test_nothing_is_left_behind_on_sigterm(tmp_path: Path) -> None:
    program = (
        "import sys, signal; from pathlib import Path; from cli.private_servers import *\n"
        "folder = Path(sys.argv[1])\n"
        "with start_redis(folder / 'redis'), start_rabbitmq(folder / 'rabbitmq'):\n"
        "    print('ready', flush=True)\n"
        "    signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        servers = psutil.Process(process.pid).children(recursive=True)
        assert {"redis-server", "beam.smp", "epmd"} <= {server.name() for server in servers}
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    _, alive = psutil.wait_procs(servers, timeout=5)
    assert alive == []


@pytest.mark.usefixtures("redis_url")
def test_nothing_is_left_behind_on_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start_redis(tmp_path) as server:
        raise KeyboardInterrupt
    assert not server.running


@pytest.mark.usefixtures("redis_url")
def test_a_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with (
        pytest.raises(PrivateServerError, match=r"Redis ended with status 1: .*redis\.log ends with: .*AOF"),
        start_redis(tmp_path),
    ):
        pass


@pytest.mark.usefixtures("rabbitmq_url")
def test_a_server_that_is_never_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_servers, "_START_SECONDS", 0.3)
    with pytest.raises(PrivateServerError, match=r"RabbitMQ was not ready on port \d+ after"), start_rabbitmq(tmp_path):
        pass
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(process.info["cmdline"] or [])]


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(private_servers, "_DEBIAN_SCRIPT", tmp_path / "missing")
    for start in (start_redis, start_rabbitmq):
        with (
            pytest.raises(
                ServerNotInstalled,
                match=r"^(redis|rabbitmq)-server is not installed; sudo apt-get install -y rabbitmq-server redis-server$",
            ),
            start(tmp_path),
        ):
            pass
