"""`splitee sweep` and `calibrate` on a trained run: their figures are the run's own, and what is wrong is said in a line."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.errors import report_errors
from cli.main import app
from learning.data import evaluation_batches, load_dataset
from learning.sweep import BOUNDS
from learning.tensors import notes_of, pack, unpack
from tests.end_to_end.conftest import Undisturbed
from workers.calibrated import calibrated_bounds
from workers.recorded import Recorded, recorded
from workers.trained_run import RunFolderError, TrainedRun

SAMPLES = 360  # of digits' test split
Copy = Callable[..., Path]


@pytest.fixture
def copy(undisturbed: Undisturbed, tmp_path: Path) -> Copy:
    """Return a function that copies the folder of the tiny experiment with overrides, trained."""

    def make(*overrides: str) -> Path:
        shutil.copytree(undisturbed(*overrides)["folder"], tmp_path / "run", ignore=shutil.ignore_patterns("state", "inference"))
        return tmp_path / "run"

    return make


def splitee(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: app([str(argument) for argument in arguments]))
    assert end.value.code == 0, end.value.code


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: app([str(argument) for argument in arguments]))
    line = end.value.code
    assert isinstance(line, str)
    assert line.startswith("splitee: ")
    assert "\n" not in line
    return line


def finite_json(text: str) -> dict[str, Any]:
    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return dict(json.loads(text, parse_constant=fail))


def answers(folder: Path, limit: int | None = None) -> Recorded:
    return recorded(TrainedRun.open(folder), limit, lambda text: pytest.fail(text), lambda done, of: None)


@pytest.mark.parametrize("overrides", [(), ("training.strategy=distributed",)])
def test_the_ends_of_a_sweep_are_the_scores_of_the_run(
    overrides: tuple[str, ...], undisturbed: Undisturbed, copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = copy(*overrides), undisturbed(*overrides)
    splitee("sweep", folder, "--json")
    found = finite_json(capsys.readouterr().out)
    assert found == finite_json((folder / "inference" / "sweep.json").read_text())
    assert (found["run"], found["split"], found["samples"], found["classes"]) == ("tiny", "test", SAMPLES, 10)
    assert found["wire_dtype"] == "float32"
    assert list(found["cuts"]) == ["3", "4", "5", "all"]
    for cut, expected in summary["accuracy"].items():
        points = found["cuts"][cut]
        assert [point["max_entropy"] for point in points] == [*BOUNDS[:-1], "inf"]
        assert points[0]["accuracy"] == pytest.approx(expected["server"], abs=1e-12)
        assert points[-1]["accuracy"] == pytest.approx(expected["client"], abs=1e-12)
        features = TrainedRun.open(folder).network.feature_shape(int(cut))
        assert points[0]["bytes_per_sample"] == math.prod(features) * 4
        assert (points[0]["adoption"], points[-1]["adoption"], points[-1]["bytes_per_sample"]) == (0, 1, 0)
        assert points[0]["seconds_per_sample"] > points[-1]["seconds_per_sample"] > 0
    kept = answers(folder).records
    for row, (client, expected) in enumerate(summary["accuracy_by_client"].items()):
        assert list(TrainedRun.open(folder).clients)[row] == client
        assert int(kept.client_correct()[row].sum()) / SAMPLES == expected["client"]
        assert int(kept.server_correct()[row].sum()) / SAMPLES == expected["server"]


def test_a_sweep_writes_table_and_picture(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy()
    splitee("sweep", folder, "--limit", 50)
    said = capsys.readouterr()
    assert "tiny: 50 samples of the test split" in " ".join(said.out.split())
    assert said.err == ""
    found = finite_json((folder / "inference" / "sweep.json").read_text())
    with (folder / "inference" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = [(cut, point) for cut, own in found["cuts"].items() for point in own]
    assert len(rows) == len(points) == 4 * len(BOUNDS)
    for row, (cut, point) in zip(rows, points, strict=True):
        assert row.pop("cut") == cut
        assert {name: float(value) for name, value in row.items()} == {name: float(value) for name, value in point.items()}
    assert (folder / "inference" / "sweep.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_answers_are_recorded_once_and_again_only_for_other_layers_or_more_samples(copy: Copy) -> None:
    folder = copy()
    file = folder / "inference" / "records.safetensors"
    part = answers(folder, 50)
    assert len(part.records) == 50
    assert set(answers(folder, 20).records.samples.tolist()) < set(part.records.samples.tolist())
    assert len(unpack(file.read_bytes())["samples"]) == 50
    whole = answers(folder)
    assert torch.equal(whole.records.samples, torch.arange(SAMPLES))
    notes = notes_of(file.read_bytes())
    assert (notes["samples"], notes["split_samples"]) == (SAMPLES, SAMPLES)
    layer = folder / "layers" / "server-layer7.safetensors"
    data = layer.read_bytes()
    layer.unlink()  # whoever asks the servers fails now
    again = answers(folder, 50)
    assert again.costs == whole.costs
    assert torch.equal(again.records.samples, part.records.samples)
    assert torch.equal(again.records.labels, part.records.labels)
    assert torch.allclose(again.records.entropy, part.records.entropy, atol=1e-5)
    summary = folder / "summary.json"
    digest = json.loads(summary.read_text())["parameters_sha256"]
    summary.write_text(summary.read_text().replace(digest, "0" * 64))
    assert "server-layer7.safetensors cannot be read" in refused("sweep", folder)
    layer.write_bytes(data)
    assert answers(folder).parameters_sha256 == "0" * 64


def test_servers_answer_features_as_the_wire_carries_them(copy: Copy) -> None:
    folder = copy()
    in_full = answers(folder)
    experiment = json.loads((folder / "experiment.json").read_text())
    experiment["transport"]["wire_dtype"] = "bfloat16"
    (folder / "experiment.json").write_text(json.dumps(experiment))
    found = answers(folder)  # those of the other dtype are not taken
    run = TrainedRun.open(folder)
    dataset = load_dataset(run.settings.data, run.settings.training.seed)
    expected = []
    for client, member in run.clients.items():
        half, server = run.client_half(client), run.server_half(client)
        features = [half.evaluate(images)[1] for images, _ in evaluation_batches(dataset, run.settings.data, 0, 100, whole=True)]
        rounded = [part.to(torch.bfloat16).float() for part in features]
        expected.append(torch.cat([server.predict(part, member.cut).argmax(dim=1) for part in rounded]))
    assert torch.equal(found.records.server_predicted, torch.stack(expected))
    assert not torch.equal(found.records.server_predicted, in_full.records.server_predicted)
    assert torch.equal(found.records.entropy, in_full.records.entropy)
    assert found.costs[3].bytes * 2 == in_full.costs[3].bytes


def test_damaged_records_are_made_anew_and_that_is_said(copy: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy()
    file = folder / "inference" / "records.safetensors"
    first = answers(folder, 50)
    whole = file.read_bytes()
    state, notes = unpack(whole), notes_of(whole)
    wrong = {
        "not safetensors": whole[:-10],
        "origin: Field required": pack(state),
        "client_predicted are": pack({**state, "client_predicted": state["client_predicted"] + 10}, notes),
        "its notes do not fit its tensors": pack(state, {**notes, "samples": 49}),
    }
    for said, data in wrong.items():
        file.write_bytes(data)
        splitee("calibrate", folder, "--max-offload", "0.5", "--limit", 50)
        line = " ".join(capsys.readouterr().err.split("\n")[0].split())
        assert line.startswith(f"{file} is damaged, its records are made anew: {said}")
        assert torch.equal(answers(folder, 50).records.client_predicted, first.records.client_predicted)


@pytest.mark.parametrize(
    ("flags", "target", "value"),
    [
        (("--max-accuracy-loss", "0.1", "--confidence", "0.8"), "max_accuracy_loss", 0.1),
        (("--max-offload", "0.9"), "max_offload", 0.9),
    ],
)
def test_calibration_is_kept_and_read_back(
    flags: tuple[str, ...], target: str, value: float, copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy()
    assert calibrated_bounds(folder) is None
    splitee("calibrate", folder, *flags, "--json")
    found = finite_json(capsys.readouterr().out)
    assert found == finite_json((folder / "inference" / "calibration.json").read_text())
    assert (found["target"], found["value"], found["samples"]) == (target, value, SAMPLES)
    assert found["confidence"] == (0.8 if target == "max_accuracy_loss" else 0.95)
    bounds = calibrated_bounds(folder)
    assert bounds == {int(cut): float(bound) for cut, bound in found["max_entropy"].items()}
    assert bounds.keys() == {3, 4, 5}
    kept = answers(folder).records.by_cut()
    for cut, bound in bounds.items():
        own, estimated = kept[cut], found["estimated"][str(cut)]
        assert estimated["offload"] == pytest.approx(1 - float(own.answered(bound).double().mean()))
        loss = own.server_correct().double() - own.correct(own.answered(bound)).double()
        assert estimated["accuracy_loss"] == pytest.approx(float(loss.mean()))
        assert estimated["accuracy_loss" if target == "max_accuracy_loss" else "offload"] < value
    assert any(0 < bound < math.inf for bound in bounds.values()) or target == "max_accuracy_loss"


def test_where_only_the_safe_end_can_be_promised_it_is_taken_and_that_is_said(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy()
    splitee("calibrate", folder, "--max-accuracy-loss", "0.001")
    said = capsys.readouterr()
    assert calibrated_bounds(folder) == {3: 0.0, 4: 0.0, 5: 0.0}
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["cut 3", "cut 4", "cut 5"]
    assert "360 samples are not enough to promise any other bound than 0, which offloads everything" in said.err
    splitee("calibrate", folder, "--max-offload", "0.001")
    assert "infinity, which offloads nothing" in capsys.readouterr().err
    assert calibrated_bounds(folder) == {3: math.inf, 4: math.inf, 5: math.inf}


def test_a_calibration_that_is_damaged_or_of_other_layers_is_refused(copy: Copy) -> None:
    folder = copy()
    splitee("calibrate", folder, "--max-offload", "0.5", "--limit", 50)
    file = folder / "inference" / "calibration.json"
    good = json.loads(file.read_text())
    for wrong, said in (
        ("{", "Invalid JSON"),
        (json.dumps({**good, "max_entropy": {"3": -0.5}}), "greater than or equal to 0"),
        (json.dumps({**good, "max_entropy": {"3": math.nan}}), "greater than or equal to 0"),
        (json.dumps({**good, "max_entropy": {}}), "max_entropy"),
        (json.dumps({**good, "max_entropy": {"three": 0.5}}), "valid integer"),
        (json.dumps({**good, "parameters_sha256": "0" * 64}), "is of other layers than this run's: calibrate again"),
    ):
        file.write_text(wrong)
        with pytest.raises(RunFolderError, match=r"calibration\.json is") as refusal:
            calibrated_bounds(folder)
        assert said in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_mistakes_are_one_line(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for flags, said in (
        ((), "neither of --max-accuracy-loss and --max-offload is given: give exactly one"),
        (("--max-offload", "0.3", "--max-accuracy-loss", "0.1"), "both of --max-accuracy-loss and --max-offload"),
        (("--max-offload", "1"), "--max-offload 1: it must be above 0 and below 1"),
        (("--max-accuracy-loss", "0"), "--max-accuracy-loss 0: it must be above 0 and below 1"),
        (("--max-accuracy-loss", "nan"), "--max-accuracy-loss nan: it must be above 0 and below 1"),
        (("--max-offload", "0.3", "--confidence", "95"), "--confidence 95: it must be above 0 and below 1"),
    ):
        assert said in refused("calibrate", folder, *flags)
    assert "nowhere holds no finished run: there is no experiment.json in it" in refused("sweep", "nowhere")
    assert sorted(tmp_path.rglob("*")) == before
    summary = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text("{}")
    assert "summary.json is damaged: parameters_sha256: Field required" in refused("sweep", folder)
    (folder / "summary.json").unlink()
    assert "run holds no finished run: there is no summary.json in it" in refused("sweep", folder)
    (folder / "summary.json").write_text(summary)
    (folder / "inference").write_text("in the way")
    assert "records.safetensors cannot be read: Not a directory" in refused("sweep", folder)
    (folder / "inference").unlink()
    experiment = json.loads((folder / "experiment.json").read_text())
    for name, said in (
        ("cifar10", "cifar10 is missing"),
        ("untested_data:untested", "has no test split to choose an entropy bound on"),
        ("untested_data:coloured", "the run has 10 and (1, 8, 8)"),
    ):
        (folder / "experiment.json").write_text(json.dumps({**experiment, "data": {**experiment["data"], "name": name}}))
        (tmp_path / "untested_data.py").write_text(DATA)
        assert said in refused("sweep", folder)


DATA = """\
import torch

def untested():
    return (torch.zeros(40, 1, 8, 8), torch.arange(40) % 10), None

def coloured():
    return (torch.zeros(40, 3, 8, 8), torch.arange(40) % 10), None
"""
