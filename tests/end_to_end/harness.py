"""What end-to-end tests run: a tiny experiment, in this process or as real processes, and what they watch it with."""

import dataclasses
import faulthandler
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console

from broker import crash_points, events, topology
from cli import embedded, servers
from cli.main import main
from cli.prepare import prepare
from coordinator.experiment import Experiment, load_experiment
from coordinator.store.ledger import Ledger
from coordinator.store.open import open_store
from learning.tensors import State, unpack
from monitoring.display import Display
from monitoring.logs import Log

# A RabbitMQ that was killed may need more than a minute for a queue.
PATIENCE = 180.0  # seconds after which what a test waits for has failed to happen
TINY = """\
name = "tiny"
[model]
width = 4
[data]
image_size = 8
train_limit = 200
test_limit = 20
partition = "dirichlet"
alpha = 1.0
[clients]
count = 6
cuts = [3, 4, 5]
[training]
rounds = 2
precision = "float32"
evaluate_every = 10
[transport]
wire_dtype = "float32"
heartbeat_interval = 1.0
"""

Event = dict[str, Any]
Arm = tuple[crash_points.Between, int]  # where a process kills itself, and at which passage
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.end_to_end.preloaded"])


@dataclasses.dataclass(frozen=True)
class Setup:
    """A file with the tiny experiment, and what is overridden."""

    file: Path
    overrides: tuple[str, ...]

    @classmethod
    def write(cls, folder: Path, *overrides: str) -> "Setup":
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "tiny.toml"
        file.write_text(TINY)
        return cls(file, overrides)

    def experiment(self) -> Experiment:
        return load_experiment(self.file, self.overrides, {})

    def flags(self) -> list[str]:
        return [str(self.file), *(part for override in self.overrides for part in ("--set", override))]


def tiny(folder: Path, *overrides: str) -> Experiment:
    """Return the tiny experiment with "section.key=value" overrides."""
    return Setup.write(folder, *overrides).experiment()


def train(experiment: Experiment, output: Path, servers: int = 2) -> dict[str, Any]:
    """Train in this process; return the summary."""
    embedded.train_embedded(prepare(experiment), output, servers, Display(Console(quiet=True)))
    return summary(output)


def summary(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "summary.json").read_text()))


def final_layers(output: Path) -> dict[str, State]:
    """Return the tensors of every file that a run left in its folder of layers."""
    return {path.stem: unpack(path.read_bytes()) for path in sorted((output / "layers").iterdir())}


class Node:
    """A ``splitee`` command as a process of its own. Everything that its roles say is heard here as it is said.

    arm: the crash point at which it kills itself. log: file of its stderr, JSON of roles. environment: variables of its own.
    It works in the folder that this process works in now.
    """

    def __init__(self, arguments: list[str], log: Path, arm: Arm | None = None, **environment: str) -> None:
        self.log = log
        self.heard: list[Event] = []
        self.times: list[float] = []  # time.monotonic at which each was heard
        self._changed = threading.Condition()
        self._ended = False
        receiving, sending = _context.Pipe(duplex=False)
        how = (arguments, str(log), sending, arm, Path.cwd(), environment)
        self.process = _context.Process(target=_splitee, args=how, daemon=False)
        self.process.start()
        sending.close()
        threading.Thread(target=self._listen, args=(receiving,), daemon=True).start()

    def wait_for(self, kind: type[events.Event], matches: Callable[[Event], bool] = lambda _: True) -> Event:
        """Wait for an event of a kind; fail with the process's log if it ends without."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._find(kind, matches), PATIENCE)
            found = self._find(kind, matches)
        assert found, f"no {kind.__name__} came from this process (exit code {self.process.exitcode}); its log:\n{self.text()}"
        return found[0]

    def wait_until(self, holds: Callable[[list[Event]], bool], what: str) -> None:
        """Wait until something holds of all that was heard; fail if the process ends without."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or holds(self.heard), PATIENCE)
            held = holds(self.heard)
        assert held, f"never {what} (exit code {self.process.exitcode}); last heard: {self.heard[-5:]}; its log:\n{self.text()}"

    def all(self, kind: type[events.Event]) -> list[Event]:
        """Return what was heard of a kind, so far; all of it when the process has ended and was waited for."""
        with self._changed:
            return self._find(kind, lambda _: True)

    def signal(self, number: signal.Signals) -> None:
        if self.process.pid is not None and self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End the process at once, wherever it is, and wait until all that it said is here."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for the process to end; return its exit code."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"the process does not end; its log:\n{self.text()}"
        with self._changed:
            self._changed.wait_for(lambda: self._ended, PATIENCE)
        return self.process.exitcode

    def died_at(self, point: crash_points.Between) -> bool:
        """Whether the process killed itself at a crash point that it was armed with."""
        return self.process.exitcode == -signal.SIGKILL and f"killed at {point.name}\n" in self.text()

    def text(self) -> str:
        """Return its stderr, then its stdout."""
        return "".join(path.read_text() for path in (self.log, _stdout_of(self.log)) if path.exists())

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of its log; fail if one of them is not JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def _find(self, kind: type[events.Event], matches: Callable[[Event], bool]) -> list[Event]:
        return [event for event in self.heard if event["event"] == kind.__name__ and matches(event)]

    def _listen(self, channel: Connection) -> None:
        with suppress(EOFError, OSError):
            while True:
                event = json.loads(channel.recv_bytes())
                with self._changed:
                    self.heard.append(event)
                    self.times.append(time.monotonic())
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def one_line(node: Node) -> str:
    """Return the error that a command ended with: one line on stderr, which is one of its log if it has one; exit code 1."""
    assert node.wait() == 1, node.text()
    lines = node.log.read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    said = [line for line in lines if line.startswith("splitee: ")]
    said += [f"splitee: {one['event']}" for one in logged if one["level"] == "error"]
    assert len(said) == 1, node.text()
    assert "Traceback" not in node.text()
    return said[0]


def _stdout_of(log: Path) -> Path:
    return log.with_suffix(".out")


class Deployment:
    """Roles of one run as processes against RabbitMQ and Redis; a role may be given other URLs that lead there.

    flags: given to every role that is started.
    """

    def __init__(self, setup: Setup, run: str, broker: str, store: str, folder: Path) -> None:
        self.setup = dataclasses.replace(setup, overrides=(*setup.overrides, f"name={run}"))
        self.run = run
        self.output = folder / "output"
        self.ledger = Ledger(open_store(store, run))
        self.nodes: list[Node] = []
        self.flags: tuple[str, ...] = ()
        self._broker, self._store, self._folder = broker, store, folder

    def coordinator(self, output: Path | None = None, *, arm: Arm | None = None, **servers: str) -> Node:
        flags = (*self.setup.flags(), *self._servers(**servers), "--output", str(output or self.output))
        return self._start("coordinator", *flags, arm=arm)

    def server(self, *, arm: Arm | None = None, **servers: str) -> Node:
        return self._start("server", "--run", self.run, *self._servers(**servers), arm=arm)

    def client(self, id: str, broker: str | None = None, *, data: str | None = None, arm: Arm | None = None) -> Node:
        entry = next(entry for entry in self.setup.experiment().clients.roster() if entry.id == id)
        where = ["--state", str(self.state_of(id)), "--broker", broker or self._broker, *(["--data", data] if data else [])]
        return self._start("client", "--run", self.run, "--id", id, "--cut", str(entry.cut), *where, arm=arm)

    def state_of(self, id: str) -> Path:
        """Return the folder that lets a client go on after a restart."""
        return self._folder / "clients" / id

    def clients(self) -> dict[str, Node]:
        return {entry.id: self.client(entry.id) for entry in self.setup.experiment().clients.roster()}

    def train(self, *flags: str) -> Node:
        return self._start("train", *self.setup.flags(), *self._servers(), "--output", str(self.output), *flags)

    def close(self) -> None:
        """End what still runs and leave nothing on the servers; fail if a line of a log is no JSON, or does not say whose it is."""
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            node.kill()
        transport = servers.connect(self._broker)
        names = [f"splitee.{self.run}.{kind}" for kind in ("offers", "inference", "coordinator", "dead")]
        for entry in self.setup.experiment().clients.roster():
            names += [f"splitee.{self.run}.activations.{entry.id}", topology.inbox(self.run, entry.id).name]
        for name in names:
            transport.delete(name)
        transport.close()
        self.ledger.store.wipe()
        self.ledger.store.close()
        for node in self.nodes:
            for line in node.lines():
                assert (line.get("run"), bool(line.get("role"))) == (self.run, True), line

    def _servers(self, broker: str | None = None, store: str | None = None) -> list[str]:
        return ["--broker", broker or self._broker, "--store", store or self._store]

    def _start(self, *arguments: str, arm: Arm | None = None) -> Node:
        self._folder.mkdir(parents=True, exist_ok=True)
        node = Node([*arguments, *self.flags], self._folder / f"{len(self.nodes):02}-{arguments[0]}.log", arm)
        self.nodes.append(node)
        return node


class _Killer:
    """Kills this process at a crash point."""

    def __init__(self, point: crash_points.Between, passage: int) -> None:
        self._point = point
        self._passage = passage
        self._passages = itertools.count(1)

    def __call__(self, point: crash_points.Between) -> None:
        if point is self._point and next(self._passages) == self._passage:
            os.write(1, f"killed at {point.name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def _splitee(arguments: list[str], log: str, channel: Connection, arm: Arm | None, cwd: Path, environment: dict[str, str]) -> None:
    """Be the ``splitee`` command, with its output in a file and its roles' events on a channel too."""
    os.environ.update(environment)
    os.chdir(cwd)
    with Path(log).open("ab") as err, _stdout_of(Path(log)).open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests that were started in the background inherit ignored
    faulthandler.register(signal.SIGUSR1, file=1)  # for a process that hangs: where each of its threads is goes into its log
    lock = threading.Lock()

    def say(event: events.Event) -> None:
        with lock, suppress(OSError):
            channel.send_bytes(json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}).encode())

    write = Log.__call__

    def heard(log: Log, event: events.Event) -> None:
        say(event)
        write(log, event)

    Log.__call__ = heard  # type: ignore[method-assign]
    if arm is not None:
        crash_points.arm(_Killer(*arm))
    sys.argv = ["splitee", *arguments]
    main()
