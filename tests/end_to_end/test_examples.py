"""The examples and experiment files do what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.experiment import load_experiment

ROOT = Path(__file__).parents[2]


def test_a_model_and_data_of_ones_own(tmp_path: Path) -> None:
    assert len((ROOT / "examples" / "own_model.py").read_text().splitlines()) < 40
    splitee = [sys.executable, "-m", "cli.main", "train", "examples/own.toml", "--output", str(tmp_path)]
    done = subprocess.run(splitee, cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"] == 10
    assert summary["accuracy"].keys() == {"1", "2", "3"}
    for cut, accuracy in summary["accuracy"].items():
        assert min(accuracy.values()) > 0.85, f"cut {cut}: {accuracy}; guessing the larger class gives 0.63"


@pytest.mark.parametrize("file", [*ROOT.glob("experiments/*.toml"), *ROOT.glob("examples/*.toml")], ids=lambda file: file.name)
def test_every_file_is_an_experiment_under_its_own_name(file: Path) -> None:
    assert load_experiment(file, environ={}).name == file.stem
