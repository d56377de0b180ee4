"""The walk of docs/operations.md, from nothing to seeing a client drop out, as it stands there, in a smaller size."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.harness import PATIENCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
WALK = PAGE[PAGE.index("## A walk") :].partition("\n## ")[0]
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", WALK, re.DOTALL | re.MULTILINE) for line in block.splitlines()]
SMALL = "--set model.width=4 --set data.image_size=8 --set data.train_limit=300"
PATIENT = "transport.heartbeat_timeout=20"
STATUS = "splitee status --run walk --once"
SEEN = [  # what each look is to show, after a moment, in this order
    ("curl -s http://127.0.0.1:9101/metrics | grep splitee_clients", r'^splitee_clients\{state="active"\} 3\.0$'),
    (STATUS, r"run walk: training, round \d+ open for .*, [1-9]\d* of 1000 rounds closed"),
    (STATUS, r"waiting for round \d+, open for .*: client-03, last heard \d+ (s|min) ago"),
    ("curl -s http://127.0.0.1:9101/metrics | grep dropouts", r'^splitee_dropouts_total\{kind="silent"\} [1-9]'),
    (STATUS, r"client-03 in round \d+, at .*: silent for 90 s"),
    ("grep client-03 walk/coordinator.log", r"client client-03 is given up in round \d+: silent for 90 s"),
]


class Shell:
    """One bash, in which commands are run one after the other."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        program = folder / "bin" / "splitee"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cli.main "$@"\n')
        program.chmod(0o755)
        (folder / "experiments").symlink_to(ROOT / "experiments")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPLITEE_")}
        environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        self._bash = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self._bash.pid

    def run(self, command: str) -> str:
        """Run a command and return what it prints; one that ends in & goes on."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        end = f"--- {time.monotonic()}"
        self._bash.stdin.write(f"{command}\necho '{end}'\n")
        self._bash.stdin.flush()
        return "".join(iter(lambda: self._line(end), ""))

    def run_until(self, command: str, pattern: str) -> None:
        """Run a command, again and again, until it prints what it should."""
        deadline = time.monotonic() + 2 * PATIENCE  # five processes begin with imports
        while not re.search(pattern, said := self.run(command), re.MULTILINE):
            assert time.monotonic() < deadline, f"{command}: no {pattern} in\n{said}"
            time.sleep(0.5)

    def close(self) -> None:
        self.run("kill $(jobs -p); wait")
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait()

    def _line(self, end: str) -> str:
        assert self._bash.stdout is not None
        line = self._bash.stdout.readline()
        assert line, "bash has ended"
        return "" if line == f"{end}\n" else line


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.close()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def small(command: str) -> str:
    """Return a command in a smaller size. A status takes seconds, many on a busy machine: silence is longer than that."""
    if not command.startswith("splitee coordinator"):
        return command
    assert PATIENT in command
    return command.replace(PATIENT, f"transport.heartbeat_timeout=90 {SMALL}")


def test_every_look_is_tested() -> None:
    looks = [command for command in COMMANDS if command.startswith(("curl", "grep", "splitee status"))]
    assert looks == [command for command, _ in SEEN]


@pytest.mark.timeout(900)
def test_the_walk(shell: Shell, rabbitmq_url: str, redis_url: str, tmp_path: Path) -> None:
    addresses = {"amqp://guest:guest@127.0.0.1:5672/": rabbitmq_url, "redis://127.0.0.1:6379/0": redis_url}
    ports = {"9101": free_port(), "9102": free_port()}
    replaced = addresses | ports
    looks = iter(SEEN)
    for command in COMMANDS:
        here = re.sub("|".join(map(re.escape, replaced)), lambda found: replaced[found[0]], small(command))
        if command.startswith(("curl", "grep", "splitee status")):
            shell.run_until(here, next(looks)[1])
        else:
            said = shell.run(here)
            if command.startswith("splitee clean"):
                assert "Removed run 'walk'" in said
    assert not (tmp_path / "walk").exists()
