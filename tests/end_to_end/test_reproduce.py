"""The paper's experiments from one command, at tiny size: every run an ordinary one, none trained twice, and their table."""

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.errors import report_errors
from cli.main import app
from cli.reproduce_plan import CUTS, STRATEGIES, Request, plan
from cli.reproduce_table import mismatches, read, table_of
from tests.end_to_end.harness import Node, one_line

TINY = (
    "model.width=4", "data.image_size=8", "data.train_limit=36", "training.batch_size=2", "training.precision=float32",
    "transport.wire_dtype=float32",
)  # fmt: skip
FLAGS = ["--data", "digits", "--rounds", "1", *(flag for override in TINY for flag in ("--set", override))]
Results = dict[str, Any]


def results(folder: Path) -> Results:
    return dict(json.loads((folder / "results.json").read_text()))


def reproduce(*arguments: str) -> None:
    report_errors(lambda: app(["reproduce", *arguments], standalone_mode=False))


def refused(*arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: app(["reproduce", *arguments]))
    assert isinstance(end.value.code, str)
    assert "\n" not in end.value.code
    return end.value.code


@pytest.fixture(scope="module")
def heterogeneous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole heterogeneous experiment of two seeds."""
    folder = tmp_path_factory.mktemp("reproduce")
    reproduce("heterogeneous", *FLAGS, "--seeds", "2", "--output", str(folder))
    return folder / "heterogeneous"


def test_the_table_has_the_figures_of_the_summaries(heterogeneous: Path) -> None:
    found = results(heterogeneous)
    assert list(found["table"]) == list(STRATEGIES)
    summaries = {
        variant: [json.loads((heterogeneous / variant / f"seed-{seed}" / "summary.json").read_text()) for seed in (0, 1)]
        for variant in STRATEGIES
    }
    text = (heterogeneous / "table.md").read_text()
    for variant, (first, second) in summaries.items():
        for cut in map(str, CUTS):
            own = "all" if variant == "centralized" else cut
            for where, cell in found["table"][variant][cut].items():
                a, b = first["accuracy"][own][where], second["accuracy"][own][where]
                assert cell["values"] == [a, b]
                assert cell["mean"] == pytest.approx((a + b) / 2)
                assert cell["deviation"] == pytest.approx(abs(a - b) / 2**0.5), "of a sample of two"
                assert f"{(a + b) / 2:.3f} ± {statistics.stdev([a, b]):.3f}" in next(
                    row for row in text.splitlines() if row.startswith(f"| {variant} ")
                )
    assert found["table"]["alone"]["3"].keys() == {"network"}
    assert found["mismatches"] == []
    assert "the same, bit for bit, under sequential, averaging, distributed, interleave:" in text
    assert (heterogeneous / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert len(found["runs"]) == 16
    assert {run["seed"] for run in found["runs"]} == {0, 1}
    assert all(run["settings"]["training"]["seed"] == run["seed"] and run["seconds"] > 0 for run in found["runs"])


def test_what_is_finished_is_not_trained_again(heterogeneous: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in heterogeneous.rglob("summary.json")}
    figures = results(heterogeneous)["table"]
    reproduce("heterogeneous", *FLAGS, "--seeds", "2", "--output", str(heterogeneous.parent), "--json")
    assert json.loads(capsys.readouterr().out)["table"] == figures
    assert {path: path.stat().st_mtime_ns for path in heterogeneous.rglob("summary.json")} == before
    assert len(before) == 16


def test_a_mismatch_of_the_clients_is_reported(heterogeneous: Path, tmp_path: Path) -> None:
    folder = tmp_path / "heterogeneous"
    shutil.copytree(heterogeneous, folder)
    path = folder / "averaging" / "seed-1" / "summary.json"
    summary = json.loads(path.read_text())
    summary["accuracy_by_client"]["client-07"]["client"] += 0.25
    path.write_text(json.dumps(summary))
    reproduce("heterogeneous", *FLAGS, "--seeds", "2", "--output", str(tmp_path))
    found = results(folder)["mismatches"]
    assert len(found) == 1
    assert found[0].startswith("seed 1, client-07 at cut 3/4/5: ")
    text = (folder / "table.md").read_text()
    assert "differ between strategies, which must not be" in text
    assert "bit for bit" not in text


def test_threshold_is_the_sweep_of_the_heterogeneous_runs(heterogeneous: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in heterogeneous.rglob("summary.json")}
    arguments = ("--seeds", "2", "--strategies", "averaging,distributed", "--output", str(heterogeneous.parent))
    reproduce("threshold", *FLAGS, *arguments)
    assert {path: path.stat().st_mtime_ns for path in heterogeneous.rglob("summary.json")} == before
    folder = heterogeneous.parent / "threshold"
    table = results(folder)["table"]
    assert list(table) == ["averaging", "distributed"]
    for variant, groups in table.items():
        runs = [heterogeneous / variant / f"seed-{seed}" for seed in (0, 1)]
        sweeps = [json.loads((run / "inference" / "sweep.json").read_text())["cuts"] for run in runs]
        assert list(groups) == ["3", "4", "5", "all"]
        for group, points in groups.items():
            for place, point in enumerate(points):
                own = [sweep[group][place] for sweep in sweeps]
                assert [one["max_entropy"] for one in own] == [point["max_entropy"]] * 2
                assert point["accuracy"]["values"] == [one["accuracy"] for one in own]
                assert point["adoption"]["mean"] == pytest.approx((own[0]["adoption"] + own[1]["adoption"]) / 2)
        for cut in map(str, CUTS):
            ends = {point["max_entropy"]: point["accuracy"]["values"] for point in groups[cut]}
            accuracy = [json.loads((run / "summary.json").read_text())["accuracy"][cut] for run in runs]
            assert ends["inf"] == pytest.approx([one["client"] for one in accuracy]), "nothing is offloaded"
            assert ends[0.0] == pytest.approx([one["server"] for one in accuracy]), "everything is"
    text = (folder / "table.md").read_text()
    assert text.count("\n| averaging |") == text.count("\n| distributed |") == 8
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_homogeneous_trains_what_cuts_do_not_matter_to_once(tmp_path: Path) -> None:
    request = Request("homogeneous", data="digits", seeds=2)
    trials = plan(request, tmp_path)
    assert sorted(trial.name for trial in trials if trial.seed == 0) == sorted(
        [f"{name}-cut-{cut}/seed-0" for name in ("sequential", "averaging", "distributed") for cut in CUTS]
        + ["centralized/seed-0", "alone/seed-0"]
    )
    assert len({trial.folder for trial in trials}) == len(trials) == 22
    for trial in trials:
        cuts = {entry.cut for entry in trial.experiment.clients.roster()}
        assert (len(trial.experiment.clients.roster()), cuts) == (12, set(trial.cuts))
    accuracies = {"alone": {"3": {"network": 0.5}}, "centralized": {"all": {"network": 0.75}}}
    for index, trial in enumerate(trials):
        split = {str(trial.cuts[0]): {"client": 0.1 * trial.cuts[0], "server": 0.001 * index}}
        by_client = {"client-01": next(iter(split.values()))}
        trial.folder.mkdir(parents=True)
        summary = {"accuracy": accuracies.get(trial.variant, split), "accuracy_by_client": by_client}
        (trial.folder / "summary.json").write_text(json.dumps(summary))
    done = read(trials)
    table = table_of(done)
    assert [table["centralized"][cut]["network"].values for cut in CUTS] == [(0.75, 0.75)] * 3
    assert [table["alone"][cut]["network"].mean for cut in CUTS] == [0.5] * 3
    at = [index for index, trial in enumerate(trials) if (trial.variant, trial.cuts) == ("averaging", (4,))]
    assert table["averaging"][4]["server"].values == tuple(0.001 * index for index in at)
    assert table["averaging"][5]["client"].mean == pytest.approx(0.5)
    assert mismatches(done) == []


def test_an_interrupted_one_goes_on(tmp_path: Path, heterogeneous: Path) -> None:
    """As if it had been stopped while the last network of the last run was trained."""
    folder = tmp_path / "heterogeneous"
    shutil.copytree(heterogeneous, folder)
    expected = results(heterogeneous)["table"]["alone"]
    left = folder / "alone" / "seed-1"
    (left / "summary.json").unlink()
    rounds = left / "state" / "rounds.json"
    rounds.unlink()
    (left / "state" / "networks" / "client-12.safetensors").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (left / "state" / "networks").iterdir()}
    reproduce("heterogeneous", *FLAGS, "--seeds", "2", "--output", str(tmp_path))
    assert results(folder)["table"]["alone"] == expected
    after = {path.name: path.stat().st_mtime_ns for path in (left / "state" / "networks").iterdir()}
    assert {name for name in after if after[name] != kept.get(name)} == {"client-12.safetensors"}


def test_a_run_that_fails_is_named(tmp_path: Path, command: Callable[..., Node]) -> None:
    wild = ("--set", "training.server.name=sgd", "--set", "training.server.lr=1e30")
    node = command(
        "reproduce", "heterogeneous", *FLAGS, *wild, "--strategies", "centralized", "--seeds", "1", "--output", str(tmp_path)
    )
    line = one_line(node)
    assert f"{tmp_path}/heterogeneous/centralized/seed-0: network all diverges in round 1" in line
    assert not (tmp_path / "heterogeneous" / "results.json").exists()


def test_mistakes_are_one_line(tmp_path: Path, heterogeneous: Path) -> None:
    where = ("--output", str(tmp_path))
    assert "--data cifar: there are cifar10, cifar100" in refused("heterogeneous", "--data", "cifar", *where)
    assert "--strategies averging: for homogeneous there are sequential, averaging" in refused(
        "homogeneous", "--strategies", "averging", *where
    )
    line = refused("threshold", "--strategies", "averaging,alone", *where)
    assert "--strategies alone: for threshold there are sequential, averaging, distributed, average-all, interleave," in line
    assert "there is no folder" in refused("heterogeneous", "--data", f"imagefolder:{tmp_path}/none", *where)
    assert "training.round is no key" in refused("heterogeneous", "--set", "training.round=1", *where)
    assert not list(tmp_path.rglob("summary.json"))
    line = refused("heterogeneous", *FLAGS, "--set", "training.client.lr=0.5", "--output", str(heterogeneous.parent))
    assert "seed-0 holds a run with other settings; name another folder with --output" in line


def test_a_dry_run_trains_nothing(tmp_path: Path, heterogeneous: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce("heterogeneous", *FLAGS, "--seeds", "3", "--output", str(heterogeneous.parent), "--dry-run", "--json")
    states = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert len(states) == 24
    assert {name: state for name, state in states.items() if state != "finished"} == {
        f"{variant}/seed-2": "new" for variant in STRATEGIES
    }
    reproduce("homogeneous", "--output", str(tmp_path / "none"), "--dry-run")
    assert "33 runs, 0 of them finished" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "none").exists()
