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
from cli.reproduce_table import read, series, table_of
from tests.end_to_end.harness import Node, one_line

TINY = (
    "model.width=4", "data.image_size=8", "data.train_limit=36", "training.batch_size=2", "training.precision=float32",
    "transport.wire_dtype=float32",
)  # fmt: skip
FLAGS = ["--data", "digits", "--rounds", "1", *(flag for override in TINY for flag in ("--set", override))]
Results = dict[str, Any]


def results(folder: Path) -> Results:
    return dict(json.loads((folder / "results.json").read_text()))


def row_of(text: str, variant: str) -> str:
    """Return a variant's row of the first table in Markdown."""
    return next(row for row in text.splitlines() if row.startswith(f"| {variant} "))


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
                assert f"{(a + b) / 2:.3f} ± {statistics.stdev([a, b]):.3f}" in row_of(text, variant)
        mean = found["table"][variant]["mean of cuts"]
        ((where, cell),) = mean.items()
        assert where == ("network" if variant in ("alone", "centralized") else "server")
        cuts = [found["table"][variant][str(cut)][where]["values"] for cut in CUTS]
        assert cell["values"] == pytest.approx([sum(values) / 3 for values in zip(*cuts, strict=True)])
        assert row_of(text, variant).endswith(f" {cell['mean']:.3f} ± {cell['deviation']:.3f} |")
    assert found["table"]["alone"]["3"].keys() == {"network"}
    assert found["mismatches"] == []
    assert "Under average-all and interleave-average-all the clients' halves are averaged too" in text
    assert "the same, bit for bit, under sequential, averaging, distributed, interleave:" in text
    assert (heterogeneous / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert len(found["runs"]) == 16
    assert {run["seed"] for run in found["runs"]} == {0, 1}
    assert all(run["settings"]["training"]["seed"] == run["seed"] and run["seconds"] > 0 for run in found["runs"])


def test_claims_are_tested_on_the_runs(heterogeneous: Path) -> None:
    found = results(heterogeneous)
    text = (heterogeneous / "table.md").read_text()
    assert [claim["margin"] for claim in found["claims"]] == [0.0, 0.05, 0.0]
    for claim in found["claims"]:
        assert f"Claim '{claim['claim']}' ({claim['statement']}): {claim['verdict'].upper()}: " in text
        for one in claim["comparisons"]:
            for cut in CUTS:
                mine, other = (found["table"][one[side]][str(cut)] for side in ("strategy", "against"))
                its = other.get("network", other.get("server"))["values"]
                expected = [a - b for a, b in zip(mine["server"]["values"], its, strict=True)]
                assert one["differences"][f"cut {cut}"]["values"] == pytest.approx(expected)
    assert "1 degree of freedom" in text


def test_time_and_machine_are_those_of_the_runs(heterogeneous: Path) -> None:
    found = results(heterogeneous)
    times = {variant: [run["time"] for run in found["runs"] if run["variant"] == variant] for variant in STRATEGIES}
    text = (heterogeneous / "table.md").read_text()
    (line,) = [line for line in text.splitlines() if "mean wall time of a run" in line]
    assert line.startswith(
        f"On {found['machine']['processor']}, {found['machine']['cores']} cores, torch {found['machine']['torch']}, "
    )
    for variant, (first, second) in times.items():
        assert f" {variant} {statistics.mean([first['seconds'], second['seconds']]):.0f} s (" in line
        assert first["cpu_seconds"] > 0
    assert f"Command: {found['command']}" in text
    assert found["command"].startswith(
        "splitee reproduce heterogeneous --data digits --scale small --seeds 2 --rounds 1 --set model.width=4"
    )


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


def test_clients_that_are_averaged_have_figures_of_their_own(heterogeneous: Path, tmp_path: Path) -> None:
    folder = tmp_path / "heterogeneous"
    shutil.copytree(heterogeneous, folder)
    path = folder / "average-all" / "seed-1" / "summary.json"
    summary = json.loads(path.read_text())
    summary["accuracy_by_client"]["client-07"]["client"] += 0.25
    path.write_text(json.dumps(summary))
    reproduce("heterogeneous", *FLAGS, "--seeds", "2", "--output", str(tmp_path))
    assert results(folder)["mismatches"] == []
    names = [one.name for one in series(table_of(read(plan(Request("heterogeneous", seeds=2), folder))), [])]
    assert [name for name in names if "client" in name] == ["client exits", "average-all, client", "interleave-average-all, client"]
    assert len(names) == len(set(names)) == 11


def test_wire_compares_dtypes_and_takes_what_is_trained_already(heterogeneous: Path) -> None:
    """Float32 is what the heterogeneous runs of these tests travel as."""
    before = {path: path.stat().st_mtime_ns for path in heterogeneous.rglob("summary.json")}
    arguments = ("--seeds", "2", "--strategies", "uint8,float32", "--output", str(heterogeneous.parent))
    reproduce("wire", *FLAGS, *arguments)
    folder = heterogeneous.parent / "wire"
    assert {path: path.stat().st_mtime_ns for path in heterogeneous.rglob("summary.json")} == before
    assert sorted(path.parts[-3] for path in folder.rglob("summary.json")) == ["uint8", "uint8"]
    found, text = results(folder), (folder / "table.md").read_text()
    assert list(found["table"]) == ["float32", "uint8"]
    assert found["table"]["float32"] == results(heterogeneous)["table"]["averaging"]
    assert found["mismatches"] == []
    runs = {(run["variant"], run["seed"]): run for run in found["runs"]}
    assert {run["settings"]["transport"]["wire_dtype"] for (name, _), run in runs.items() if name == "uint8"} == {"uint8"}
    assert list(found["difference_to_float32"]) == ["uint8"]
    for place, cell in found["difference_to_float32"]["uint8"].items():
        mine, its = (found["table"][name][place.removeprefix("cut ")]["server"]["values"] for name in ("uint8", "float32"))
        assert cell["values"] == pytest.approx([a - b for a, b in zip(mine, its, strict=True)])
        assert f"{cell['mean']:+.4f} ± {cell['deviation']:.4f}" in text
    sent = found["bytes_per_sample"]
    values = {"cut 3": 4 * 8 * 8, "cut 4": 8 * 4 * 4, "cut 5": 8 * 4 * 4}  # features of one sample
    for place, count in values.items():
        assert sent["float32"][place]["mean"] == 4 * count + 8
        assert sent["uint8"][place]["mean"] == count + 8
    for name in ("float32", "uint8"):
        summaries = [json.loads((Path(runs[name, seed]["folder"]) / "summary.json").read_text()) for seed in (0, 1)]
        published = sent[name]["mean of cuts, messages as published"]["values"]
        assert published == [summary["bytes_published"] / summary["samples_trained"] for summary in summaries]
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


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
    line = refused("wire", "--strategies", "float64", *where)
    assert line.endswith("--strategies float64: for wire there are float32, float16, uint8")
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
    reproduce("wire", *FLAGS, "--seeds", "3", "--output", str(heterogeneous.parent), "--dry-run", "--json")
    states = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert {name: states[name] for name in ("averaging/seed-0", "averaging/seed-1", "float32/seed-2", "float16/seed-0")} == {
        "averaging/seed-0": "finished", "averaging/seed-1": "finished", "float32/seed-2": "new", "float16/seed-0": "new",
    }  # fmt: skip
    reproduce("homogeneous", "--output", str(tmp_path / "none"), "--dry-run")
    assert "33 runs, 0 of them finished" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "none").exists()
