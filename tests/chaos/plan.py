"""What goes wrong in a run, and when: a pure function of a seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "pause", "restart", "isolate", "cut", "lose replies"]
LEASE_SECONDS = 2.0
SPAN_SECONDS = 16.0  # of a run, in which faults begin
SERVERS = ("rabbitmq", "redis")
COORDINATORS = ("coordinator-1", "coordinator-2")  # whichever is first leads, the other stands by
WORKERS = ("server-1", "server-2")
STRATEGIES = {
    "averaging": ("training.strategy=averaging",),
    "sequential": ("training.strategy=sequential",),
    "averaging of all": ("training.strategy=averaging", "training.average=all"),
    "interleaved": ("training.strategy=sequential", "training.interleave=true"),
}
BEYOND_THE_PAPER = 100  # from this seed on the last two in turn, before it the first two


@dataclass(frozen=True)
class Fault:
    """One fault of one target: a role, a server, or all connections to a server.

    kill: SIGKILL, started again after ``seconds``. pause: SIGSTOP, SIGCONT after ``seconds``, which are longer than a lease.
    restart: SIGKILL of a server, started again after ``seconds``. isolate: a role has no way to a server for ``seconds``.
    cut: every connection to a server breaks in mid-message, ``amount`` bytes later. lose replies: so many requests to a server
    reach it, and their connections break before the answer.
    """

    at: float  # seconds after the first process was started
    kind: Kind
    target: str
    server: str = ""  # that a target is cut off from
    seconds: float = 0.0
    amount: int = 0

    def __str__(self) -> str:
        lasts = f" {self.seconds:.1f}s" if self.seconds else ""
        amount = f" {self.amount}" if self.amount else ""
        return f"{self.at:.1f} {self.kind} {self.target}{f' from {self.server}' if self.server else ''}{lasts}{amount}"


@dataclass(frozen=True)
class Plan:
    """A run and its faults, in order."""

    seed: int
    strategy: str
    clients: int
    faults: tuple[Fault, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """What decides the run's bits."""
        return (*STRATEGIES[self.strategy], f"clients.count={self.clients}", f"data.train_limit={self.clients * 80}")

    def __str__(self) -> str:
        return f"seed {self.seed} ({self.strategy}, {self.clients} clients): {'; '.join(map(str, self.faults))}"


def make_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    rng = random.Random(f"chaos {seed}")
    clients = rng.choice((3, 4))
    faults = sorted(_faults(rng, clients), key=lambda fault: fault.at)
    strategy = list(STRATEGIES)[seed % 2 + 2 * (seed >= BEYOND_THE_PAPER)]
    return Plan(seed, strategy, clients, tuple(faults))


def _faults(rng: random.Random, clients: int) -> Iterator[Fault]:
    """Yield a kill or pause of each role of some kinds, and some of what can happen to servers and connections.

    A RabbitMQ needs seconds to start again: a run has one restart at most.
    """
    names = [f"client-{number + 1:02}" for number in range(clients)]
    for roles, most in ((WORKERS, 2), (COORDINATORS, 2), (names, 2)):
        for _ in range(rng.randint(0, most)):
            yield _of_a_role(rng, rng.choice(roles))
    for server, chance in (("rabbitmq", 0.5), ("redis", 0.6)):
        if rng.random() < chance:
            yield Fault(_time(rng), "restart", server, seconds=rng.choice((0.0, 1.0)))
        if rng.random() < 0.5:
            yield Fault(_time(rng), "cut", server, amount=rng.randint(1, 40_000))
        if rng.random() < 0.5:
            yield Fault(_time(rng), "lose replies", server, amount=rng.randint(1, 4))
    if rng.random() < 0.4:
        roles = rng.choice((WORKERS, COORDINATORS))
        yield Fault(_time(rng), "isolate", rng.choice(roles), rng.choice(SERVERS), seconds=_longer_than_a_lease(rng))


def _of_a_role(rng: random.Random, role: str) -> Fault:
    if rng.random() < 0.6:
        return Fault(_time(rng), "kill", role, seconds=rng.uniform(0.0, 3.0))
    return Fault(_time(rng), "pause", role, seconds=_longer_than_a_lease(rng))


def _longer_than_a_lease(rng: random.Random) -> float:
    return rng.uniform(1.2, 2.5) * LEASE_SECONDS


def _time(rng: random.Random) -> float:
    return rng.uniform(0.5, SPAN_SECONDS)
