"""Which runs an experiment has, and how their summaries become a table: without training anything."""

import json
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.reproduce_plan import CUTS, STRATEGIES, VARIANTS, ExperimentName, Request, plan
from cli.reproduce_table import mismatches, read, table_of

PAPER = ["sequential", "averaging", "centralized", "distributed", "alone"]
BEYOND = ["average-all", "interleave", "interleave-average-all"]
DTYPES = ["float32", "float16", "uint8"]


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("heterogeneous", PAPER + BEYOND),
        ("homogeneous", PAPER),
        ("threshold", ["sequential", "averaging", "distributed"]),
        ("wire", DTYPES),
    ],
)
def test_what_is_trained_by_default(experiment: ExperimentName, expected: list[str]) -> None:
    assert Request(experiment).variants == expected
    assert {*VARIANTS} == {*PAPER, *BEYOND, *DTYPES}


def test_others_are_trained_where_they_are_named(tmp_path: Path) -> None:
    assert Request("homogeneous", strategies=("interleave", "alone")).variants == ["alone", "interleave"]
    assert Request("threshold", strategies=("average-all",)).variants == ["average-all"]
    trials = plan(Request("heterogeneous", data="digits", seeds=1), tmp_path)
    settings = {trial.variant: trial.experiment.training.model_dump() for trial in trials}
    assert list(settings) == list(STRATEGIES)
    expected = {name: (name, "server", False) for name in PAPER} | {
        "average-all": ("averaging", "all", False),
        "interleave": ("sequential", "server", True),
        "interleave-average-all": ("sequential", "all", True),
    }
    assert {name: (own["strategy"], own["average"], own["interleave"]) for name, own in settings.items()} == expected
    assert {name for name, variant in STRATEGIES.items() if variant.own_clients} == {"average-all", "interleave-average-all"}


def test_wire_is_averaging_at_the_heterogeneous_cuts(tmp_path: Path) -> None:
    trials = plan(Request("wire", data="digits", seeds=2, strategies=("uint8", "float32")), tmp_path)
    assert [trial.name for trial in trials] == ["float32/seed-0", "uint8/seed-0", "float32/seed-1", "uint8/seed-1"]
    for trial in trials:
        assert (trial.experiment.transport.wire_dtype, trial.experiment.training.strategy) == (trial.variant, "averaging")
        assert [entry.cut for entry in trial.experiment.clients.roster()] == [3] * 4 + [4] * 4 + [5] * 4


@pytest.mark.parametrize("override", ["training.average=all", "training.strategy=alone", "clients.count=3", "training.seed=7"])
def test_what_a_run_is_cannot_be_overridden(tmp_path: Path, override: str) -> None:
    with pytest.raises(CommandError, match=rf"^--set {override}: what is reproduced says that itself"):
        plan(Request("heterogeneous", data="digits", overrides=("model.width=4", override)), tmp_path)
    assert plan(Request("heterogeneous", data="digits", overrides=("transport.wire_dtype=uint8",)), tmp_path)


def test_the_command_is_what_was_asked_for() -> None:
    request = Request("wire", data="imagefolder:a b", seeds=2, strategies=("uint8", "float32"), overrides=("model.width=4",))
    expected = (
        "splitee reproduce wire --data 'imagefolder:a b' --scale small --seeds 2 --strategies uint8,float32 --set model.width=4"
    )
    assert request.command == expected


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
