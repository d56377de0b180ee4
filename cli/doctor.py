"""`splitee doctor`: what this machine has, what it lacks, and how to get it."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from broker.errors import BrokerError
from coordinator.errors import StoreError

DISTRIBUTION = "hetero-splitee"
_REINSTALL = "pip install --force-reinstall torch torchvision, both from one index: they must be of one build"
_PROGRAM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin")  # often not in PATH
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One thing looked at. found: what is there, or what went wrong; advice: how to get it, where it is missing."""

    name: str
    ok: bool
    found: str
    necessary: bool = True
    advice: str = ""

    @property
    def failed(self) -> bool:
        """Whether the program cannot work like this."""
        return self.necessary and not self.ok


def examine(broker: str | None, store: str | None) -> list[Check]:
    """Return all checks; broker and store are URLs that are tried where given."""
    checks = [_python(), *_libraries(), *_torch(), _program("rabbitmq-server", "RabbitMQ"), _program("redis-server", "Redis")]
    if broker:
        checks.append(_broker(broker))
    if store:
        checks.append(_store(store))
    return checks


def print_checks(checks: list[Check], as_json: bool) -> None:
    """Print checks as lines, or as a JSON list."""
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
        return
    for check in checks:
        state = "ok" if check.ok else "missing" if check.necessary else "absent"
        typer.echo(f"{state:8} {check.name:20} {check.found}")
        if not check.ok and check.advice:
            typer.echo(f"{'':8} {'':20} -> {check.advice}")


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), platform.python_version(), advice="install Python 3.11 or later")


def _libraries() -> Iterator[Check]:
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check(DISTRIBUTION, False, "not installed", advice="make setup, or pip install . in the checkout")
        return
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if "extra ==" in requirement:
            continue
        try:
            yield Check(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, False, "not installed", advice=f"make setup, or pip install '{requirement}'")


def _torch() -> Iterator[Check]:
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # a compiled operator: fails where the builds differ
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        yield Check("torch + torchvision", False, " ".join(f"do not work together: {error!s:.200}".split()), advice=_REINSTALL)
        return
    yield Check("torch + torchvision", True, "of one build")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", True, f"{cpus} usable, torch takes {torch.get_num_threads()} threads")
    cuda = torch.cuda.is_available()
    found = torch.cuda.get_device_name() if cuda else "none; steps run on the CPU"
    yield Check("cuda", cuda, found, necessary=False)


def _program(program: str, name: str) -> Check:
    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(_PROGRAM_FOLDERS))
    advice = f"only for runs over several processes, and the tests: make services, or apt-get install {program}"
    return Check(name, path is not None, str(Path(path)) if path else "not found here", necessary=False, advice=advice)


def _broker(url: str) -> Check:
    from broker.rabbitmq import RabbitTransport

    try:
        RabbitTransport(url, timeout=_CONNECT_SECONDS).close()
    except BrokerError as error:
        return Check("broker", False, str(error))
    return Check("broker", True, "reachable")


def _store(url: str) -> Check:
    from coordinator.store.open import open_store

    try:
        store = open_store(url, "doctor", timeout=_CONNECT_SECONDS)
        try:
            usage = store.usage()
        finally:
            store.close()
    except StoreError as error:
        return Check("store", False, str(error))
    limit = f" of {usage.limit / 2**20:.0f} MiB" if usage.limit else ""
    return Check("store", True, f"reachable, {usage.used / 2**20:.1f} MiB{limit} in use")
