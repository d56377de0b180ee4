"""RabbitMQ and Redis servers of one's own: on free loopback ports, in a folder, as the current user, ended with a block.

For tests, benchmarks and trials on one machine; they share nothing with servers that run there already.
"""

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

HOST = "127.0.0.1"
_DEBIAN_SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in PATH there only works for root and rabbitmq
_PORTS = range(20000, 32000)  # below the range of outgoing connections, which could take a port during a restart
_START_SECONDS = 90.0
_GRACE_SECONDS = 20.0
_ATTEMPT_SECONDS = 0.1

# Erlang's terms: a rabbitmq.conf would be translated into them at each start, which takes a quarter of it.
_RABBITMQ_CONFIG = """\
[{{rabbit, [{{default_user, <<"{user}">>}}, {{default_pass, <<"{password}">>}}, {{disk_free_limit, 50000000}}]}},
 {{ra, [{{wal_max_size_bytes, 67108864}}]}},
 {{rabbitmq_prometheus, [{{tcp_config, [{{ip, "{host}"}}, {{port, {exporter}}}]}}]}}].
"""


class PrivateServerError(Exception):
    """A private server did not start; the text names its log."""


class ServerNotInstalled(PrivateServerError):
    """A server's program is not on this machine; the text says how to install it."""


@dataclass(frozen=True)
class Launch:
    """How a server is started, and how it is seen to be ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    port: int
    greeting: bytes  # sent to ask whether the server is ready,
    answer: bytes  # which it is when its answer begins with this


class PrivateServer:
    """A server process that can be killed, paused and started again on the same port and data.

    url: where clients connect. environment: variables under which the server's own tools (rabbitmqctl) find it. metrics: HOST:PORT
    of its own exporter for Prometheus, if it has one.
    """

    def __init__(self, url: str, launch: Launch, metrics: str = "") -> None:
        self.url = url
        self.metrics = metrics
        self.environment = launch.environment
        self._launch = launch
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process id; another one after a restart."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """Stop the process without ending it (SIGSTOP): it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the process in an orderly way, by force if that takes too long."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Start the process again, stopping it first if it is running; return when it is ready."""
        self.stop()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        launch = self._launch
        with launch.log.open("ab") as log:
            process = subprocess.Popen(
                launch.command,
                env=launch.environment,
                cwd=launch.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own: to be signalled as one, and not by the terminal's Ctrl-C
            )
        try:
            self._wait_until_ready(process)
        except BaseException:
            _signal_group(process, signal.SIGKILL)
            process.wait()
            raise
        return process

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if _answers(self._launch):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_ATTEMPT_SECONDS)
                raise PrivateServerError(f"{self._launch.name} ended with status {status}: {_tail(self._launch.log)}")
        raise PrivateServerError(
            f"{self._launch.name} was not ready on port {self._launch.port} after {_START_SECONDS:.0f} s: {_tail(self._launch.log)}"
        )

    def _signal(self, number: signal.Signals) -> None:
        _signal_group(self._process, number)


@contextlib.contextmanager
def start_redis(folder: Path, *, appendfsync: Literal["everysec", "always"] | None = "everysec") -> Iterator[PrivateServer]:
    """Run a Redis server for the length of a block.

    folder: of its data and log, which it continues from. appendfsync: when its append-only file reaches the disk; None keeps
    nothing over a restart. Raises ServerNotInstalled or PrivateServerError.
    """
    folder = _prepared(folder)
    (port,) = free_ports(1)
    command = [
        _program("redis-server"), "--bind", HOST, "--port", str(port), "--dir", str(folder), "--save", "",
        "--appendonly", "yes" if appendfsync else "no", "--appendfsync", appendfsync or "no",
        # Checkpoints replace most of the data all the time: rewriting the file at 64 MiB, compressed, cost more than all else.
        "--auto-aof-rewrite-min-size", "4gb", "--rdbcompression", "no",
    ]  # fmt: skip
    launch = Launch("Redis", command, dict(os.environ), folder / "redis.log", port, b"PING\r\n", b"+PONG")
    with ended_on_sigterm():
        server = PrivateServer(f"redis://{HOST}:{port}", launch)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def start_rabbitmq(folder: Path, *, exporter: bool = False) -> Iterator[PrivateServer]:
    """Run a RabbitMQ node for the length of a block, with a user and a password of its own.

    folder: of its data and log, for this node alone. exporter: with rabbitmq_prometheus. Raises ServerNotInstalled or
    PrivateServerError.
    """
    folder = _prepared(folder)
    script = str(_DEBIAN_SCRIPT) if _DEBIAN_SCRIPT.exists() else _program("rabbitmq-server")
    user, password = "splitee", secrets.token_hex(16)
    port, nodes_port, names_port, metrics_port = free_ports(4)
    config = folder / "advanced.config"
    config.write_text(_RABBITMQ_CONFIG.format(user=user, password=password, host=HOST, exporter=metrics_port))
    (folder / "rabbitmq-env.conf").touch()
    (folder / "enabled_plugins").write_text("[rabbitmq_prometheus]." if exporter else "[].")
    environment = rabbitmq_environment(folder, port, nodes_port, names_port)
    environment |= {"RABBITMQ_CONFIG_FILE": str(folder / "none.conf"), "RABBITMQ_ADVANCED_CONFIG_FILE": str(config)}
    launch = Launch("RabbitMQ", [script], environment, folder / "rabbitmq.log", port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")
    with ended_on_sigterm(), names_daemon(environment, names_port):
        server = PrivateServer(f"amqp://{user}:{password}@{HOST}:{port}/", launch, f"{HOST}:{metrics_port}" if exporter else "")
        try:
            yield server
        finally:
            server.stop()


def rabbitmq_environment(folder: Path, port: int, nodes_port: int, names_port: int) -> dict[str, str]:
    """Return the variables of a RabbitMQ node of this user, with its data and log in a folder; not where its configuration is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
    return inherited | {
        "HOME": str(folder),  # of the Erlang cookie
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_NODENAME": "splitee@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": HOST,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(nodes_port),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
        "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the node instead of watching over it: one process to signal
    }


@contextlib.contextmanager
def names_daemon(environment: Mapping[str, str], port: int) -> Iterator[None]:
    """Run Erlang's name server on a port of its own; a node would start one and leave it behind."""
    command = [_program("epmd", "erlang-base"), "-port", str(port), "-address", HOST]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    try:
        yield
    finally:
        _signal_group(process, signal.SIGKILL)  # it keeps nothing
        process.wait()


@contextlib.contextmanager
def ended_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind this block, where it would end the process and leave its servers behind."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _prepared(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _program(name: str, package: str = "") -> str:
    path = shutil.which(name)
    if path is None:
        packages = f"rabbitmq-server redis-server {package}".strip()
        raise ServerNotInstalled(f"{name} is not installed; sudo apt-get install -y {packages}")
    return path


def free_ports(count: int) -> list[int]:
    """Return so many different ports of this machine that nobody listens on; raise PrivateServerError if there are none."""
    free: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            free.append(port)
        if len(free) == count:
            return free
    raise PrivateServerError(f"no {count} free ports among 200 tried in {_PORTS.start}..{_PORTS.stop - 1}")


def _answers(launch: Launch) -> bool:
    try:
        with socket.create_connection((HOST, launch.port), timeout=5.0) as connection:
            connection.sendall(launch.greeting)
            return connection.recv(len(launch.answer)) == launch.answer
    except OSError:
        return False


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{log} ends with: {' | '.join(lines[-8:])[-1500:]}"


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)
