"""One run under a plan of faults, and what is wrong with its end."""

import json
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from broker.events import RunFinished, Waiting
from cli.private_servers import PrivateServer, start_rabbitmq, start_redis
from tests.chaos.plan import COORDINATORS, LEASE_SECONDS, WORKERS, Fault, Plan
from tests.end_to_end.harness import Deployment, Node, Setup, summary
from tests.end_to_end.undisturbed import Undisturbed
from tests.proxy import Proxy

PATIENCE = 300.0  # seconds; a run that takes longer hangs. A queue that never gets a leader costs more than a minute
GOODBYE_SECONDS = 20.0
# Five batches a client and round. The clients at cut 3 may be three batches ahead, and the servers save when nothing has come
# for half a second: a run of so many rounds lasts for as long as faults are planned. The bits do not depend on any of this.
OVERRIDES = ("training.rounds=8", "training.evaluate_every=3", "data.partition=iid")
PACE = (
    "transport.run_ahead_bytes=51000",
    "transport.starved_seconds=0.5",
    f"transport.lease_seconds={LEASE_SECONDS}",
    "transport.amqp_heartbeat=4",
    "transport.heartbeat_timeout=90",  # whatever is killed comes back: nobody may be dropped
    "transport.inference_ttl=3",
    "clients.join_timeout=120",
)
COMPARED = ("parameters_sha256", "samples_trained", "accuracy")


@dataclass(frozen=True)
class Servers:
    """A RabbitMQ and a Redis that runs share. A lock is held while its server is down."""

    rabbitmq: PrivateServer
    redis: PrivateServer
    locks: dict[str, threading.Lock]

    def named(self, name: str) -> PrivateServer:
        return self.rabbitmq if name == "rabbitmq" else self.redis


@contextmanager
def started_servers(folder: Path) -> Iterator[Servers]:
    """Run both servers for the length of a block. Redis loses nothing that it has confirmed."""
    with start_rabbitmq(folder / "rabbitmq") as rabbitmq, start_redis(folder / "redis", appendfsync="always") as redis:
        yield Servers(rabbitmq, redis, {"rabbitmq": threading.Lock(), "redis": threading.Lock()})


@dataclass(frozen=True)
class Result:
    """How a run ended. differs: what is not as it should be, nothing if all is well."""

    plan: Plan
    seconds: float
    struck: int  # faults that began before the run was over
    differs: tuple[str, ...]

    def __str__(self) -> str:
        end = "; ".join(self.differs) or "ok"
        return f"{self.plan}: {self.struck} of {len(self.plan.faults)} faults struck, {self.seconds:.0f} s, {end}"

    def to_json(self) -> str:
        return json.dumps({"ok": not self.differs, **asdict(self)})


class Role:
    """One role of the run: the process that it is now, and its ways to the servers. Locked while a fault is at it."""

    def __init__(self, start: Callable[[dict[str, str]], Node], urls: dict[str, str]) -> None:
        self.proxies = {name: Proxy(url) for name, url in urls.items()}
        self.lock = threading.Lock()
        self._start = start
        self.start()

    def start(self) -> None:
        self.node = self._start({name: proxy.url for name, proxy in self.proxies.items()})

    @property
    def ended(self) -> bool:
        return self.node.process.exitcode is not None

    @property
    def gave_up_connecting(self) -> bool:
        """Whether it ended because no server answered when it began: whoever runs it starts it again."""
        did_nothing = all(event["event"] == Waiting.__name__ for event in self.node.heard)
        return self.node.process.exitcode == 1 and did_nothing and "does not answer" in self.node.text()

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()


class ChaosRun:
    """Starts the roles, does to them what the plan says, and waits for the end."""

    def __init__(self, plan: Plan, servers: Servers, folder: Path) -> None:
        self._plan = plan
        self._servers = servers
        setup = Setup.write(folder, *OVERRIDES, *plan.overrides, *PACE)
        name = f"chaos-{plan.seed}-{secrets.token_hex(3)}"
        self._deployment = Deployment(setup, name, servers.rabbitmq.url, servers.redis.url, folder)
        self._folder = folder
        self._over = threading.Event()
        self._struck = 0
        self._roles: dict[str, Role] = {}

    def run(self, expected: dict[str, Any]) -> Result:
        """Run to the end; return what was found there against what an undisturbed run gives."""
        began = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._deployment.close)
            self._start_roles()
            for role in self._roles.values():
                stack.callback(role.close)
            threads = [threading.Thread(target=self._strike, args=(fault, began)) for fault in self._plan.faults]
            for thread in threads:
                thread.start()
            try:
                wrong = self._wait(began)
            finally:
                self._over.set()
                for thread in threads:
                    thread.join()
            differs = wrong or self._differences(expected)
        return Result(self._plan, time.monotonic() - began, self._struck, tuple(differs))

    def _start_roles(self) -> None:
        deployment = self._deployment
        both = {"rabbitmq": self._servers.rabbitmq.url, "redis": self._servers.redis.url}

        def coordinator(name: str) -> Callable[[dict[str, str]], Node]:
            return lambda to: deployment.coordinator(self._folder / name, broker=to["rabbitmq"], store=to["redis"])

        for name in COORDINATORS:
            self._roles[name] = Role(coordinator(name), both)
        for name in WORKERS:
            self._roles[name] = Role(lambda to: deployment.server(broker=to["rabbitmq"], store=to["redis"]), both)
        for entry in deployment.setup.experiment().clients.roster():
            start = _client(deployment, entry.id)
            self._roles[entry.id] = Role(start, {"rabbitmq": both["rabbitmq"]})

    def _strike(self, fault: Fault, began: float) -> None:
        self._over.wait(began + fault.at - time.monotonic())
        if self._finishes():
            return
        self._struck += 1
        if fault.kind == "restart":
            with self._servers.locks[fault.target]:
                self._servers.named(fault.target).kill()
                self._over.wait(fault.seconds)
                self._servers.named(fault.target).restart()
        elif fault.kind in ("cut", "lose replies"):
            for proxy in [role.proxies[fault.target] for role in self._roles.values() if fault.target in role.proxies]:
                if fault.kind == "cut":
                    proxy.after(fault.amount, proxy.cut)
                else:
                    proxy.lose_replies(fault.amount)
        else:
            self._strike_role(fault, self._roles[fault.target])

    def _strike_role(self, fault: Fault, role: Role) -> None:
        with role.lock:
            if self._finishes() or role.ended:
                return
            if fault.kind == "kill":
                role.node.kill()
                self._over.wait(fault.seconds)
                self._start_again(role)
            elif fault.kind == "pause":
                role.node.signal(signal.SIGSTOP)
                self._over.wait(fault.seconds)
                role.node.signal(signal.SIGCONT)
            else:
                role.proxies[fault.server].cut(stay_down=True)
                self._over.wait(fault.seconds)
                role.proxies[fault.server].restore()

    def _start_again(self, role: Role) -> None:
        with self._servers.locks["rabbitmq"], self._servers.locks["redis"]:
            role.start()

    def _finishes(self) -> bool:
        """Whether the run is over or about to be: then a client that is killed has nobody left who waits for it."""
        coordinators = [node for node in self._deployment.nodes if node.log.stem.endswith("coordinator")]
        return self._over.is_set() or any(node.all(RunFinished) for node in coordinators)

    def _wait(self, began: float) -> list[str]:
        """Wait until all roles have ended; return what went wrong."""
        deadline = began + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.2)
            for name, role in self._roles.items():
                if code := self._mishap(role):
                    return [f"{name} ended with exit code {code}"]
            if all(self._has_ended_well(role) for role in self._roles.values()):
                return []
            if all(self._has_ended_well(self._roles[name]) for name in COORDINATORS):
                deadline = min(deadline, time.monotonic() + GOODBYE_SECONDS)
        late = [name for name, role in self._roles.items() if not self._has_ended_well(role)]
        for name in late:
            self._roles[name].node.signal(signal.SIGUSR1)  # has it write down where it is
        time.sleep(0.5)
        return [f"{', '.join(late)} did not end"]

    def _mishap(self, role: Role) -> int | None:
        """Return the exit code of a role that has failed by itself."""
        if not role.lock.acquire(blocking=False):
            return None
        try:
            if role.gave_up_connecting:
                self._start_again(role)
            return role.node.process.exitcode
        finally:
            role.lock.release()

    def _has_ended_well(self, role: Role) -> bool:
        return not role.lock.locked() and role.node.process.exitcode == 0

    def _differences(self, expected: dict[str, Any]) -> Iterator[str]:
        for name in COORDINATORS:
            found = summary(self._folder / name)
            for key in COMPARED:
                if found[key] != expected[key]:
                    yield f"{name}: {key} {found[key]}, not {expected[key]}"
            for key in ("refused", "divergent_replay", "dropouts"):
                if found[key]:
                    yield f"{name}: {key} {found[key]}"
        for node in self._deployment.nodes:
            if "Traceback" in node.text():
                yield f"a traceback in {node.log.name}"


def _client(deployment: Deployment, id: str) -> Callable[[dict[str, str]], Node]:
    return lambda to: deployment.client(id, to["rabbitmq"])


def run_seed(plan: Plan, servers: Servers, undisturbed: Undisturbed, folder: Path) -> Result:
    """Run a plan in a folder, which is kept if anything was wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    expected = undisturbed(*OVERRIDES, *plan.overrides)
    result = ChaosRun(plan, servers, folder).run(expected)
    if not result.differs:
        shutil.rmtree(folder)
    return result
