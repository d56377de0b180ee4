"""What soak tests measure: memory, threads and files of a process, and what RabbitMQ holds."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.private_servers import PrivateServer
from tests.end_to_end.harness import PATIENCE, Node

MIB = 2**20
SAMPLE_SECONDS = 0.1
_DEBIAN_RABBITMQCTL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")  # the one in PATH there only works for root and rabbitmq


@dataclass(frozen=True)
class Footprint:
    """What a process has at one moment. resident: bytes of memory; own: of these, what is in no file (RssAnon)."""

    resident: int
    own: int
    threads: int
    files: int

    @classmethod
    def of(cls, node: Node) -> "Footprint":
        pid = node.process.pid
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        resident, own = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))
        return cls(resident, own, int(status["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Peaks:
    """The most bytes of its own that each process has had since ``watched`` began."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self._nodes = nodes
        self.before = {name: Footprint.of(node).own for name, node in nodes.items()}
        self.most = dict(self.before)

    def look(self) -> None:
        for name, node in self._nodes.items():
            self.most[name] = max(self.most[name], Footprint.of(node).own)

    @property
    def growth(self) -> dict[str, int]:
        return {name: self.most[name] - self.before[name] for name in self.most}


@contextmanager
def watched(nodes: dict[str, Node]) -> Iterator[Peaks]:
    """Sample processes, all of which must live as long as the block."""
    peaks, over = Peaks(nodes), threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            peaks.look()

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def rabbitmqctl(server: PrivateServer, *arguments: str) -> str:
    """Return what RabbitMQ's own tool prints."""
    program = str(_DEBIAN_RABBITMQCTL) if _DEBIAN_RABBITMQCTL.exists() else shutil.which("rabbitmqctl")
    assert program is not None, "rabbitmqctl is not installed"
    command = [program, "--quiet", *arguments]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stderr or done.stdout}"
    return done.stdout


def queues(server: PrivateServer) -> dict[str, int]:
    """Return the number of messages in every queue, ready and unacknowledged."""
    lines = rabbitmqctl(server, "list_queues", "--no-table-headers", "name", "messages").splitlines()
    return {name: int(number) for name, number in (line.split() for line in lines)}


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
