"""docker-compose.yml without Docker: its services as local processes.

Command, environment, ports, health check and mounted files come from the file. What the container engine would do is done here:
names of services become 127.0.0.1 with a free port each, mounts become paths in a folder of the service, and nothing is there that
is not mounted. A name that no common network knows, a port that nobody listens on and a path where nothing is mounted are errors.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli import private_servers
from cli.compose import write_secrets
from cli.private_servers import ServerNotInstalled
from tests import compose
from tests.compose import ROOT, Service
from tests.end_to_end.harness import PATIENCE, Node

RABBITMQ = Path("/usr/lib/rabbitmq/bin")  # scripts that do not ask for a user
COPIED = ("docker-compose.yml", "deploy", "experiments", "monitoring/prometheus", "monitoring/grafana")
LISTENS = {"rabbitmq": (5672, 15692, 25672, 4369), "redis": (6379,), "prom/prometheus": (9090,), "grafana/grafana": (3000,)}
_HOST = re.compile(r"(?<=[@/])([a-z0-9][a-z0-9.-]*):(\d+)(?![\w.])")
_PATH = re.compile(r"(?<![\w:/.-])/[\w][\w./-]*")


@dataclass(frozen=True)
class Instance:
    """One container of a service. root: what it sees as /. ports: its own to those here."""

    service: Service
    root: Path
    ports: dict[int, int]

    def path(self, path: str) -> str:
        """Return where a path of the container is here."""
        tops = [mount.target for mount in self.service.mounts] + self.service.raw.get("tmpfs", [])
        assert any(path == top or path.startswith(f"{top}/") for top in tops), f"{self.service.name}: nothing is mounted at {path}"
        return f"{self.root}{path}"


class Stack:
    """All services; ``start`` starts some.

    folder: of everything that they write. faults: what to replace, as (file, text, another one).
    """

    def __init__(self, folder: Path, *faults: tuple[str, str, str]) -> None:
        self.project = folder / "project"
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, self.project / name)
        for name, old, new in faults:
            text = (self.project / name).read_text()
            assert old in text, old
            (self.project / name).write_text(text.replace(old, new))
        write_secrets(self.project, force=True)
        self.variables = compose.environment_file((self.project / ".env").read_text())
        self.services = {n: s for n, s in compose.services(self.project, self.variables).items() if not s.profiles}
        self.instances: dict[str, list[Instance]] = {}
        self.running: dict[Path, Node | private_servers.PrivateServer] = {}
        self._folder = folder
        self._exit = ExitStack()
        self._healthy: set[Path] = set()
        for service in self.services.values():
            roots = [folder / f"{service.name}-{number}" for number in range(service.replicas)]
            self.instances[service.name] = [Instance(service, root, _ports(service)) for root in roots]

    def __enter__(self) -> "Stack":
        self._exit.enter_context(private_servers.ended_on_sigterm())
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            if isinstance(process, Node):
                process.kill()
        self._exit.close()

    def address(self, service: str, port: int, seen_from: str | None = None) -> list[str]:
        """Return where a port of a service's containers is here. seen_from: a service that has to share a network with it."""
        found = [
            instance
            for instances in self.instances.values()
            for instance in instances
            for network, names in instance.service.networks.items()
            if service in names and (seen_from is None or network in self.services[seen_from].networks)
        ]
        assert found, f"{seen_from}: no network of it has a {service}"
        for instance in found:
            assert port in instance.ports, f"{seen_from}: {service} does not listen on {port}"
        return list(dict.fromkeys(f"127.0.0.1:{instance.ports[port]}" for instance in found))

    def here(self, text: str, instance: Instance) -> str:
        """Return a text of a container with addresses and paths as they are here."""

        def address(match: re.Match[str]) -> str:
            host, port = match.group(1), int(match.group(2))
            if host in ("127.0.0.1", "localhost"):
                return f"127.0.0.1:{instance.ports[port]}"
            return self.address(host, port, instance.service.name)[0]

        return _PATH.sub(lambda match: instance.path(match.group()), _HOST.sub(address, text))

    def environment(self, instance: Instance) -> dict[str, str]:
        """Return a container's own variables."""
        found = {name: self.here(value, instance) for name, value in instance.service.environment.items()}
        if instance.service.is_role:
            found["SPLITEE_METRICS_PORT"] = str(*instance.ports.values())
        return found

    def is_healthy(self, instance: Instance, **changed: str) -> bool:
        """Run a health check once. changed: variables of it that are others."""
        words = [self.here(word, instance) for word in instance.service.healthcheck]
        if instance.service.image.startswith("rabbitmq:"):
            words[0] = str(RABBITMQ / words[0])
            environment = self._rabbitmq_environment(instance)
        else:
            words[0] = sys.executable if words[0] == "python" else words[0]
            environment = {"PATH": os.environ["PATH"], **self.environment(instance)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            return subprocess.run(words, env=environment | changed, cwd=ROOT, timeout=60, check=False, **quiet).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def start(self, name: str, **extra: str) -> list[Instance]:
        """Start all containers of a service, as soon as those that it depends on are ready. extra: more variables."""
        for other, condition in self.services[name].depends_on.items():
            assert condition == "service_healthy"
            for instance in self.instances[other]:
                self.wait_until_healthy(instance)
        for instance in self.instances[name]:
            self.mount(instance)
            if instance.service.is_role:
                words = [self.here(word, instance) for word in instance.service.command]
                log = self._folder / f"{instance.root.name}.log"
                self.running[instance.root] = Node(words, log, **self.environment(instance), **extra)
            else:
                self.running[instance.root] = self._exit.enter_context(self._server(instance))
        return self.instances[name]

    def mount(self, instance: Instance) -> None:
        """Lay out what a container sees."""
        for mount in instance.service.mounts:
            target = Path(f"{instance.root}{mount.target}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if mount.kind == "volume":
                (self._folder / "volumes" / mount.source).mkdir(parents=True, exist_ok=True)
                target.symlink_to(self._folder / "volumes" / mount.source)
                continue
            source = self.project / mount.source
            assert (mount.kind, mount.read_only) == ("bind", True), mount
            assert source.exists(), f"{mount.source} is mounted and is not there"
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        for file in instance.root.rglob("*.conf"):
            file.write_text("".join(_conf_here(self, instance, line) for line in file.read_text().splitlines(keepends=True)))
        for file in instance.root.glob("etc/prometheus/prometheus.yml"):
            file.write_text(yaml.safe_dump(_scraping_here(self, yaml.safe_load(file.read_text()))))
        if instance.service.image.startswith("rabbitmq:"):
            with Path(instance.path("/etc/rabbitmq/rabbitmq.conf")).open("a") as conf:
                conf.write(f"\nprometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {instance.ports[15692]}\n")

    def node(self, instance: Instance) -> Node:
        """Return the process of a role."""
        found = self.running[instance.root]
        assert isinstance(found, Node)
        return found

    def wait_until_healthy(self, instance: Instance) -> None:
        """Wait for a container as ``condition: service_healthy`` does; once is enough."""
        if instance.root in self._healthy:
            return
        deadline = time.monotonic() + PATIENCE
        while not self.is_healthy(instance):
            found = self.running.get(instance.root)
            assert time.monotonic() < deadline, f"{instance.root.name} never becomes healthy: {found and _said(found)}"
            assert not isinstance(found, Node) or found.process.exitcode is None, _said(found)
            time.sleep(0.2)
        self._healthy.add(instance.root)

    @contextmanager
    def _server(self, instance: Instance) -> Iterator[private_servers.PrivateServer]:
        image = instance.service.image.rpartition(":")[0]
        words = [self.here(word, instance) for word in instance.service.command]
        environment = {"PATH": os.environ["PATH"], "HOME": str(instance.root), **self.environment(instance)}
        port = next(iter(instance.ports.values()))
        greeting, answer = b"", b""
        with ExitStack() as stack:
            if image == "rabbitmq":
                assert not words, "the image has its command"
                words, environment = [str(RABBITMQ / "rabbitmq-server")], self._rabbitmq_environment(instance)
                stack.enter_context(private_servers.names_daemon(environment, int(environment["ERL_EPMD_PORT"])))
                greeting, answer = b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00"
            elif image == "redis":
                words += ["--port", str(port), "--bind", "127.0.0.1"]
            elif image == "prom/prometheus":  # the image's entrypoint
                words = ["prometheus", *words, f"--web.listen-address=127.0.0.1:{port}"]
            if shutil.which(words[0]) is None:
                raise ServerNotInstalled(f"{words[0]} is not installed")
            log = self._folder / f"{instance.root.name}.log"
            launch = private_servers.Launch(image, words, environment, log, port, greeting, answer)
            server = private_servers.PrivateServer(f"127.0.0.1:{port}", launch)
            stack.callback(server.stop)
            yield server

    def _rabbitmq_environment(self, instance: Instance) -> dict[str, str]:
        folder = instance.root / "own"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rabbitmq-env.conf").touch()
        port, _, nodes_port, names_port = instance.ports.values()
        made = private_servers.rabbitmq_environment(folder, port, nodes_port, names_port)
        return made | {
            "RABBITMQ_CONFIG_FILE": instance.path("/etc/rabbitmq/rabbitmq.conf"),  # where the image looks
            "RABBITMQ_ENABLED_PLUGINS_FILE": instance.path("/etc/rabbitmq/enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": instance.path("/var/lib/rabbitmq/mnesia"),
            "ERL_FLAGS": "-start_epmd false",  # it would outlive the health check
        }


def _ports(service: Service) -> dict[int, int]:
    listens = LISTENS.get(service.image.rpartition(":")[0]) or (int(service.environment["SPLITEE_METRICS_PORT"]),)
    return dict(zip(listens, private_servers.free_ports(len(listens)), strict=True))


def _said(process: object) -> str:
    return process.text()[-3000:] if isinstance(process, Node) else str(process)


def _conf_here(stack: Stack, instance: Instance, line: str) -> str:
    return line if line.startswith("#") else stack.here(line, instance)


def _scraping_here(stack: Stack, config: dict[str, Any]) -> dict[str, Any]:
    """Return Prometheus' configuration with addresses where it looks names up."""
    for job in config["scrape_configs"]:
        (found,) = job.pop("dns_sd_configs")
        assert found["type"] == "A"
        targets = [target for name in found["names"] for target in stack.address(name, found["port"], "prometheus")]
        job["static_configs"] = [{"targets": targets}]
    return config
