"""`splitee report`: folders that are read, finished, unfinished and damaged, and the files that are written."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from broker.events import BatchTrained, Event, FeaturesPublished
from cli.embedded import train_embedded
from cli.errors import report_errors
from cli.prepare import prepare
from cli.report import report
from coordinator.experiment import load_experiment
from monitoring.display import Display
from monitoring.report.charts import figures
from monitoring.report.folder import read_run, read_runs
from monitoring.report.plots import draw
from tests.unit.report_reading import drawn, figure, line, parse, write_run
from tests.unit.test_report_page import LINES, SUMMARY, SWEEP, make


def fails(folder: Path) -> str:
    """Return what a report of a folder says on its one line, after checking that it is one."""
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: report(runs=[folder], output=folder / "report.html", figures=None))
    assert not (folder / "report.html").exists()
    said = str(end.value.code)
    assert said.startswith("splitee: ")
    assert "\n" not in said
    return said


class Hearing(Display):
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(event)
        super().__call__(event)


def test_a_trained_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("model.width=4", "data.image_size=8", "data.train_limit=120", "clients.count=3", "clients.cuts=[3,5]")
    short = ("training.rounds=2", "training.evaluate_every=1", "data.test_limit=50")
    with Hearing() as hearing:
        train_embedded(prepare(load_experiment(None, [*small, *short], {})), tmp_path / "run", 1, hearing)
    output = tmp_path / "page.html"
    report(runs=[tmp_path / "run"], output=output, figures=tmp_path / "figures")
    written = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    panels = drawn(figure(output.read_text(), "accuracy"))
    for cut, panel in zip(("3", "5"), panels, strict=True):
        for where, label in (("client", "clients' exits"), ("server", "servers")):
            expected = [100 * found["accuracy"][cut][where] for found in written]
            assert [y for _, y in panel[label]] == pytest.approx(expected, abs=0.3)
    losses = drawn(figure(output.read_text(), "loss"))
    members = {"3": {"client-01", "client-02"}, "5": {"client-03"}}
    for cut, panel in zip(members, losses, strict=True):
        for where, label, kind in (("client", "clients' exits", FeaturesPublished), ("server", "servers", BatchTrained)):
            steps = [event for event in hearing.heard if isinstance(event, kind) and event.client in members[cut]]
            expected = [_mean_loss(step for step in steps if step.round == number) for number in (1, 2)]
            assert [found["loss_by_cut"][cut][where] for found in written] == pytest.approx(expected)
            assert [y for _, y in panel[label]] == pytest.approx(expected, abs=0.01)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["parameters_sha256"] in output.read_text()
    said = capsys.readouterr().out
    assert f"Wrote {output}" in said
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("accuracy", "loss", "throughput", "bytes", "clients") for kind in ("png", "csv")
    }


def _mean_loss(steps: Iterable[Any]) -> float:
    weighted = [(step.loss * step.samples, step.samples) for step in steps]
    return sum(loss for loss, _ in weighted) / sum(samples for _, samples in weighted)


def test_figures_for_papers_have_the_numbers_of_the_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", sweep=SWEEP)
    report(runs=[folder], output=tmp_path / "page.html", figures=tmp_path / "figures")
    with (tmp_path / "figures" / "accuracy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["panel"], row["series"]) == ("cut 10", "servers")]
    assert [(int(row["round"]), float(row["accuracy"])) for row in rows] == [
        (found["round"], found["accuracy"]["10"]["server"]) for found in LINES
    ]
    with (tmp_path / "figures" / "sweep-bytes.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["series"] == "cut 3"]
    assert [(float(row["bytes_per_sample"]), row["note"], row["marked"]) for row in rows] == [
        (2048.0, "max_entropy 0", "1"),
        (1024.0, "max_entropy 0.4", "0"),
        (0.0, "max_entropy inf", "1"),
    ]
    image = (tmp_path / "figures" / "accuracy.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"pHYs" + (11811).to_bytes(4, "big") in image, "300 dots an inch"


def test_figures_for_papers_draw_what_the_page_draws(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", summary=SUMMARY | {"run": "_$x^{$"}, sweep=SWEEP)
    for found in figures(read_runs([folder, folder])):
        canvas = draw(found)
        assert len(canvas.axes) == len(found.panels)
        entries = [text.get_text() for text in canvas.legends[0].get_texts()]
        assert len(set(entries)) == len(entries) == len(found.legend()) + (2 if found.marked else 0)
        for panel, ax in zip(found.panels, canvas.axes, strict=True):
            assert (ax.get_xlabel(), ax.get_ylabel()) == (found.x.title, found.y.title)
            first = panel.series[0]
            assert list(ax.lines[0].get_ydata()) == pytest.approx([point.y * found.y.factor for point in first.points])
            low, high = ax.get_ylim()
            assert all(low <= point.y * found.y.factor <= high for series in panel.series for point in series.points)


def test_an_unfinished_run_is_told_as_far_as_it_is(tmp_path: Path) -> None:
    lines = [line(1), line(2, accuracy=None)]
    folder = make(tmp_path / "run", lines=lines, summary=None)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "sec')  # being written just now
    report(runs=[folder], output=tmp_path / "page.html", figures=None)
    (card,) = parse((tmp_path / "page.html").read_text()).all("article")
    assert "not finished averaging · 6 clients · 2 of 5 rounds" in card.text
    facts = dict(zip((name.text for name in card.all("dt")), (value.text for value in card.all("dd")), strict=True))
    assert (facts["samples trained"], facts["activations sent"], facts["dropouts"]) == ("203", "8.58 MiB", "-")
    assert [cell.text for cell in card.all("td")] == ["10.0 %", "15.0 %", "12.0 %", "16.0 %"], "the last that was evaluated"


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    report(runs=[make(tmp_path / "run", lines=[], summary=None)], output=tmp_path / "page.html", figures=tmp_path / "figures")
    html = (tmp_path / "page.html").read_text()
    assert ("Nothing has been evaluated yet." in html, parse(html).all("figure")) == (True, [])


def test_what_cannot_be_drawn_is_a_gap(tmp_path: Path) -> None:
    lines = [line(1), line(2, server_loss=float("nan"), client_loss=float("inf")), line(3, server_loss=1e300, seconds=0)]
    run = read_run(make(tmp_path / "run", lines=lines))
    assert [found.server_loss for found in run.lines] == [1.5, None, None]
    (loss,) = (found for found in figures([run]) if found.name == "loss")
    assert [[point.x for point in series.points] for series in loss.panels[0].series] == [[1, 3], [1]]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, two = make(tmp_path / "a"), make(tmp_path / "b")
    assert [run.name for run in read_runs([one, two])] == [f"one ({one})", f"one ({two})"]
    assert [run.name for run in read_runs([one, one])] == [f"one ({one}) #1", f"one ({one}) #2"]
    unnamed = write_run(tmp_path / "c", lines=LINES)
    assert [run.name for run in read_runs([one, unnamed])] == ["one", "c"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", '{"rounds": ', "summary.json is damaged: Invalid JSON"),
        ("summary.json", '{"accuracy": {"3": {"client": 7}}}', "summary.json is damaged: accuracy.3.client: Input should be less"),
        ("summary.json", "[]", "summary.json is damaged: "),
        ("metrics.jsonl", '{"round": 1}\n{"round": 2,}\n', "metrics.jsonl, line 2 is damaged: Invalid JSON"),
        ("metrics.jsonl", '{"round": 0}\n', "metrics.jsonl, line 1 is damaged: round"),
        ("experiment.json", "3", "experiment.json is damaged: "),
        ("inference/sweep.json", '{"cuts": {"3": 4}}', "sweep.json is damaged: cuts.3"),
        ("inference/calibration.json", "no", "calibration.json is damaged: Invalid JSON"),
    ],
)
def test_damage_is_one_line_that_names_the_file(name: str, content: str, said: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    (folder / name).write_text(content)
    assert said in fails(folder)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    assert "is no run's folder: there is no summary.json, metrics.jsonl or experiment.json in it" in fails(tmp_path)
    folder = make(tmp_path / "run")
    (folder / "summary.json").write_bytes(b"\xff\xfe")
    assert "summary.json is damaged: not UTF-8" in fails(folder)
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    assert "summary.json cannot be read: Is a directory" in fails(folder)


@pytest.mark.parametrize("output", ["missing/page.html", "run"])
def test_an_output_that_cannot_be_written_is_said(output: str, tmp_path: Path) -> None:
    folder: Any = make(tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: report(runs=[folder], output=tmp_path / output, figures=None))
    assert f"{tmp_path / output}: cannot be written: " in str(end.value.code)
