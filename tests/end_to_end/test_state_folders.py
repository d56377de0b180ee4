"""A client killed in mid-round and started again on a state folder that is not its own any more, or on other data."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.crash_points import Between
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Arm, Deployment, Node, one_line, summary
from workers.client_state import ClientState, Identity

Harm = Callable[[Path], object]

# Five batches a client and round. Nobody is given up while the wrong folders are tried.
THREE = ("clients.count=3", "data.train_limit=240", "data.partition=iid", "transport.heartbeat_timeout=120")
# When a batch is published all that came before it is durable.
ONE_BY_ONE = ("training.rounds=1", "transport.run_ahead_bytes=20000", "transport.starved_seconds=0.3")
WHO, OTHER, SNAPSHOT = "client-01", "client-02", "round-000002.snapshot"
IN_ROUND_2 = (Between.STEP_AND_PUBLISH, 9)
BEFORE_THE_FOURTH_BATCH = (Between.STEP_AND_PUBLISH, 4)
AFTER_ALL_BATCHES = (Between.LAST_BATCH_AND_MARKER, 1)


def flip(folder: Path) -> None:
    data = bytearray((folder / SNAPSHOT).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / SNAPSHOT).write_bytes(data)


def edit(folder: Path) -> None:
    file = folder / "client.json"
    text = file.read_text()
    assert '"incarnation": 1' in text
    file.write_text(text.replace('"incarnation": 1', '"incarnation": 2'))


def make_anothers(folder: Path, **changes: object) -> None:
    """Let a folder be the state of a client as it is, but for some of its identity."""
    state = ClientState(folder)
    mine = state.identity()
    state.close()
    assert mine is not None
    shutil.rmtree(folder)
    state = ClientState(folder)
    state.claim(Identity(**{**mine.__dict__, **changes}))  # type: ignore[arg-type]
    state.close()


HARM: dict[str, tuple[Harm, str]] = {
    "a byte is flipped": (flip, f"{SNAPSHOT} is damaged: its bytes do not match their digest; remove the folder"),
    "cut short": (
        lambda folder: (folder / SNAPSHOT).write_bytes((folder / SNAPSHOT).read_bytes()[:-9]),
        f"{SNAPSHOT} is damaged: its bytes do not match their digest; remove the folder",
    ),
    "swapped with another round's": (
        lambda folder: shutil.copy(folder / "round-000001.snapshot", folder / SNAPSHOT),
        f"{SNAPSHOT} is of another round, client or run than its place says; remove the folder",
    ),
    "the identity was edited": (edit, "client.json is damaged: its bytes do not match their digest; remove the folder"),
    "another client's": (
        lambda folder: (shutil.rmtree(folder), shutil.copytree(folder.with_name(OTHER), folder)),
        f"is the state of client {OTHER} at cut 4 in run",
    ),
    "another run's": (lambda folder: make_anothers(folder, run="other"), "in run 'other', of another run, client"),
    "an earlier run's of the same name": (
        lambda folder: make_anothers(folder, run_id="0" * 16, incarnation=7),
        "its state is of an earlier run of that name; use another --state folder",
    ),
}  # fmt: skip


def killed(deployment: Deployment, arm: Arm) -> tuple[dict[str, Node], Path]:
    """Start a run and let one client kill itself; return the processes that go on, and the state that it left."""
    others = {"coordinator": deployment.coordinator(), "server": deployment.server(), OTHER: deployment.client(OTHER)}
    others["client-03"] = deployment.client("client-03")
    victim = deployment.client(WHO, arm=arm)
    victim.wait()
    assert victim.died_at(arm[0]), victim.text()
    return others, deployment.state_of(WHO)


def test_folders_that_are_not_its_own(deploy: Deploy, undisturbed: Undisturbed, tmp_path: Path) -> None:
    deployment = deploy(*THREE)
    others, folder = killed(deployment, IN_ROUND_2)
    others[OTHER].wait_until(lambda _: (deployment.state_of(OTHER) / SNAPSHOT).exists(), "in round 2")
    own = shutil.copytree(folder, tmp_path / "own")
    for harm, (do, said) in HARM.items():
        do(folder)
        line = one_line(deployment.client(WHO))
        assert said in line, f"{harm}: {line}"
        shutil.rmtree(folder)
        shutil.copytree(own, folder)
    assert [name for name, node in others.items() if node.process.exitcode is not None] == []
    for node in (deployment.client(WHO), *others.values()):
        assert node.wait() == 0, node.text()
    found, expected = summary(deployment.output), undisturbed(*THREE)
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert (found["samples_trained"], found["divergent_replay"]) == (expected["samples_trained"], 0)
    assert found["dropouts"] == []


def come_back_with(deployment: Deployment, arm: Arm, data: str) -> dict[str, Any]:
    """Let a client die and start again on other data; return the summary of the run, which goes on."""
    others, _ = killed(deployment, arm)
    again = deployment.client(WHO, data=f"tests.end_to_end.other_data:{data}")
    for node in (again, *others.values()):
        assert node.wait() == 0, node.text()
    found = summary(deployment.output)
    assert found["divergent_replay"] >= 1
    assert found["dropouts"] == []
    return found


def test_other_data_behind_the_same_name(deploy: Deploy) -> None:
    found = come_back_with(deploy(*THREE, *ONE_BY_ONE), BEFORE_THE_FOURTH_BATCH, "mirrored")
    assert found["samples_trained"] == 3 * 80


def test_so_few_samples_left_that_the_round_is_longer_than_they_make_it(deploy: Deploy) -> None:
    found = come_back_with(deploy(*THREE, *ONE_BY_ONE), AFTER_ALL_BATCHES, "fewer")
    assert found["samples_trained"] in (3 * 80, 3 * 80 - 16)  # the last batch may have died with the client
