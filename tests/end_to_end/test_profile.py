"""`splitee profile` on tiny networks: every cut is there, figures agree, mistakes are one line. No timing is judged."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.errors import report_errors
from cli.main import app
from tests.end_to_end.harness import Node

ROOT = Path(__file__).parents[2]
MODELS = """\
import multiprocessing
import os
import signal

import torch
from torch import nn

class Child(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.work = work

    def forward(self, x):
        if self.training and multiprocessing.parent_process() is not None:
            self.work()
        return x

def three(shape, classes, work=lambda: print("in training")):
    print("when built")
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), nn.Sequential(Child(work), nn.Linear(32, 16)), nn.Linear(16, classes)]

def killed(shape, classes):
    return three(shape, classes, lambda: os.kill(os.getpid(), signal.SIGKILL))

def crashes(shape, classes):
    return three(shape, classes, lambda: os.kill(os.getpid(), signal.SIGABRT))

def too_large(shape, classes):
    return three(shape, classes, lambda: torch.empty(2**58))

def fails(shape, classes):
    return three(shape, classes, lambda: {}["absent"])
"""
SMALL = (
    "--batches 2 --set data.image_size=8 --set training.device=cpu --set training.precision=float32 --set transport.wire_dtype=auto"
)
OWN = f"{SMALL} --set data.name=digits --set model.name=models_to_profile"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models_to_profile.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("COLUMNS", "80")


def profile(arguments: str) -> None:
    """Run the command in this process."""
    app(["profile", *arguments.split()], standalone_mode=False)


def refused(arguments: str) -> str:
    """Run the command in this process and return the line of its refusal."""
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: profile(arguments))
    line = end.value.code
    assert isinstance(line, str)
    assert "\n" not in line
    return line


def test_every_cut_of_a_network_whose_data_are_not_here(capfd: pytest.CaptureFixture[str]) -> None:
    cifar = (
        "--set data.name=cifar10 --set model.width=4 --set model.granularity=stage --set clients.cuts=[9]"  # none fits the roster
    )
    profile(f"{SMALL} {cifar} --json --output figures.json")
    printed = capfd.readouterr()
    found: dict[str, Any] = json.loads(printed.out)
    assert json.loads(Path("figures.json").read_text()) == found
    cuts = found["cuts"]
    assert [row["cut"] for row in cuts] == [1, 2, 3, 4, 5]
    assert [row["layer"] for row in cuts] == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert [row["feature_shape"] for row in cuts] == [[4, 8, 8], [4, 8, 8], [8, 4, 4], [16, 2, 2], [32, 1, 1]]
    assert [row["sample_bytes"] for row in cuts] == [2 * 256 + 8, 2 * 256 + 8, 2 * 128 + 8, 2 * 64 + 8, 2 * 32 + 8]
    for row in cuts:
        assert row["upload_mbps"] == pytest.approx(row["samples_per_second"] * row["sample_bytes"] * 8e-6, rel=1e-2)
        assert row["samples_per_second"] == pytest.approx(16 / row["step_ms"] * 1000, rel=1e-2)
        assert row["memory_bytes"] > 0
        assert f"cut {row['cut']} of 5, after {row['layer']}:" in printed.err
    for name in ("parameter_bytes", "optimizer_bytes", "arithmetic_share"):
        assert [row[name] for row in cuts] == sorted({row[name] for row in cuts})
    assert (found["recommendation"], found["stopped"]) == (None, None)
    assert found["process_bytes"] > 100 * 2**20  # torch alone is more
    settings = found["settings"]
    assert (settings["threads"], settings["device"], settings["precision"], settings["wire_dtype"]) == (
        1,
        "cpu",
        "float32",
        "float16",
    )
    assert (settings["batch_size"], settings["batches"], settings["optimizer"]) == (16, 2, "adam")
    assert found["machine"]["processor"]
    assert found["machine"]["torch"]


def test_what_a_model_prints_does_not_come_between_the_figures(command: Callable[..., Node]) -> None:
    node = command("profile", *f"{OWN}:three --max-step-ms 1e9 --max-mbps 1e9 --json".split())
    assert node.wait() == 0, node.text()
    said = node.log.read_text()
    assert json.loads(node.text().removeprefix(said))["recommendation"] == 2
    assert {"when built", "in training"} <= set(said.splitlines())
    assert "models_to_profile:three: cuts 1 to 2" in said


def test_the_deepest_cut_within_a_budget_is_recommended(capfd: pytest.CaptureFixture[str]) -> None:
    profile(f"{OWN}:three --max-memory-mb 1e6")
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == "Recommended: cut 2, the deepest within --max-memory-mb 1e+06."
    assert [line.split()[:2] for line in lines if line.split()[:1] in (["1"], ["2"])] == [["1", "32"], ["2", "16"]]
    assert max(map(len, lines)) <= 80


def test_a_budget_that_no_cut_satisfies(capfd: pytest.CaptureFixture[str]) -> None:
    line = refused(f"{OWN}:three --max-step-ms 1e-6 --output figures.json")
    assert line.startswith("splitee: no cut satisfies --max-step-ms 1e-06; cut ")
    assert "infer" in capfd.readouterr().out  # the table is there all the same
    assert json.loads(Path("figures.json").read_text())["recommendation"] is None


@pytest.mark.parametrize(("model", "why"), [("killed", "its process was killed"), ("too_large", "not enough memory")])
def test_a_cut_that_memory_does_not_suffice_for_ends_the_table(model: str, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    profile(f"{OWN}:{model} --max-step-ms 1e9 --json")
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert ([row["cut"] for row in found["cuts"]], found["recommendation"]) == ([1], 1)
    assert f"cut 2 cannot be measured: {why}" in found["stopped"]
    assert found["stopped"] in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (f"{OWN}:crashes", "cut 2 cannot be measured: its process was ended by SIGABRT"),
        (f"{OWN}:fails", "cut 2 cannot be measured: KeyError: 'absent'"),
        (f"{SMALL} --set model.width=4 --set training.client.lr=1e30", "cut 1 cannot be measured: the loss is"),
    ],
)
def test_a_process_that_fails_is_one_line(arguments: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert said in refused(arguments)
    assert "Traceback" not in capfd.readouterr().err
