"""A run in one process, interrupted and started again; and names that are taken."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.events import FeaturesPublished, RoundClosed, RunStarted
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Node, Setup, one_line, summary

Command = Callable[..., Node]
ROUNDS = ("training.rounds=4",)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on(number: signal.Signals, tmp_path: Path, command: Command, undisturbed: Undisturbed) -> None:
    setup, output = Setup.write(tmp_path, *ROUNDS), tmp_path / "output"
    arguments = ["train", *setup.flags(), "--output", str(output)]
    first = command(*arguments)
    first.wait_for(RoundClosed)
    first.signal(number)
    first.wait()
    assert not (output / "summary.json").exists(), "the run was over before it was interrupted"
    closed = len(first.all(RoundClosed))

    again = command(*arguments)
    assert again.wait() == 0, again.text()
    resumed = again.all(RunStarted)[0]["resumed_at"]
    assert closed + 1 <= resumed <= closed + 2, "it does not go on after its last completed round"
    assert min(event["round"] for event in again.all(FeaturesPublished)) >= resumed, "clients train closed rounds again"
    found, expected = summary(output), undisturbed(*ROUNDS)
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert (found["accuracy"], found["samples_trained"]) == (expected["accuracy"], expected["samples_trained"])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4]


def test_a_run_over_servers_stopped_and_started_again(deploy: Deploy, undisturbed: Undisturbed) -> None:
    deployment = deploy(*ROUNDS)
    first = deployment.train("--servers", "1")
    first.wait_for(RoundClosed)
    first.signal(signal.SIGTERM)
    first.wait()
    assert "Traceback" not in first.text(), first.text()
    assert not (deployment.output / "summary.json").exists(), "the run was over before it was stopped"

    again = deployment.train("--servers", "1")
    assert again.wait() == 0, again.text()
    assert again.all(RunStarted)[0]["resumed_at"] > 1
    assert summary(deployment.output)["parameters_sha256"] == undisturbed(*ROUNDS)["parameters_sha256"]


def test_another_experiment_of_the_same_name_is_refused(tmp_path: Path, command: Command) -> None:
    output = tmp_path / "output"
    first = command("train", *Setup.write(tmp_path, "training.rounds=1").flags(), "--output", str(output))
    assert first.wait() == 0, first.text()
    left = (output / "summary.json").read_bytes()
    other = Setup.write(tmp_path, "training.rounds=1", "training.client.lr=0.01")
    error = one_line(command("train", *other.flags(), "--output", str(output)))
    assert "another experiment" in error
    assert "name=" in error, "it does not say what to do"
    assert (output / "summary.json").read_bytes() == left


def test_another_experiment_of_the_same_name_is_refused_at_redis(deploy: Deploy, tmp_path: Path) -> None:
    deployment = deploy()
    first = deployment.coordinator()
    first.wait_for(RunStarted)
    other = deploy("training.client.lr=0.01")
    other.output = tmp_path / "other"
    error = one_line(other.coordinator())
    assert f"'{deployment.run}' exists with a different experiment" in error
    assert first.process.exitcode is None
