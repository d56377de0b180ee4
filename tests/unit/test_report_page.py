"""The HTML report: what is drawn is what the files say, and the page is whole, safe and readable by itself."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.report import plots
from monitoring.report.figure import Axis
from monitoring.report.folder import read_runs
from monitoring.report.page import page
from monitoring.report.scale import scale
from tests.unit.report_reading import Node, drawn, figure, line, parse, write_run

EXPERIMENT = {"name": "one", "training": {"strategy": "averaging", "rounds": 5, "seed": 0}, "data": {"name": "digits"}}
SUMMARY = {
    "run": "one",
    "strategy": "averaging",
    "rounds": 5,
    "clients": 6,
    "samples_trained": 515,
    "seconds": 30.0,
    "samples_per_second": 17.17,
    "bytes_published": 45_000_000,
    "parameters_sha256": "ab" * 32,
    "accuracy": {"3": {"client": 0.5, "server": 0.75}, "10": {"client": 0.6, "server": 0.8}},
    "accuracy_by_client": {"client-01": {"client": 0.5, "server": 0.75}},
    "dropouts": [{"client": "client-02", "round": 3, "reason": "silent for 30 s", "batches_kept": 2, "at": "2026-01-01"}],
    "duplicates_dropped": 0,
    "refused": 7,
    "versions": {"torch": "2.4"},
}
LINES = [line(number) for number in range(1, 6)]
SWEEP = {
    "samples": 360,
    "cuts": {
        "3": [
            {"max_entropy": 0.0, "accuracy": 0.9, "adoption": 0.0, "bytes_per_sample": 2048.0, "pareto": True},
            {"max_entropy": 0.4, "accuracy": 0.85, "adoption": 0.5, "bytes_per_sample": 1024.0, "pareto": False},
            {"max_entropy": "inf", "accuracy": 0.8, "adoption": 1.0, "bytes_per_sample": 0.0, "pareto": True},
        ],
        "all": [{"max_entropy": 0.0, "accuracy": 0.95, "adoption": 0.1, "bytes_per_sample": 10.0, "pareto": None}],
    },
}


def make(folder: Path, **changes: Any) -> Path:
    return write_run(folder, **({"lines": LINES, "summary": SUMMARY, "experiment": EXPERIMENT} | changes))


def report(*folders: Path) -> str:
    return page(read_runs(folders))


def near(points: list[tuple[float, float]]) -> Any:
    return [pytest.approx(point, rel=1e-2, abs=0.02 * max(abs(value) for value in point)) for point in points]


def test_lines_are_where_the_files_say(tmp_path: Path) -> None:
    html = report(make(tmp_path / "run", sweep=SWEEP))
    cut3, cut10 = drawn(figure(html, "accuracy"))
    assert cut3["servers"] == near([(n, 15.0 * n) for n in range(1, 6)])
    assert cut10["clients' exits"] == near([(n, 12.0 * n) for n in range(1, 6)])
    (loss,) = drawn(figure(html, "loss"))
    assert loss["clients' exits"] == near([(n, 2.0 / n) for n in range(1, 6)])
    assert loss["servers"] == near([(n, 1.5 / n) for n in range(1, 6)])
    assert drawn(figure(html, "bytes"))[0]["activations"] == near([(n, 3_000_000 * n / 2**20) for n in range(1, 6)])
    assert drawn(figure(html, "throughput"))[0]["samples"] == near([(n, (100 + n) / (2 * n)) for n in range(1, 6)])
    (clients,) = drawn(figure(html, "clients"))
    assert clients["clients"] == near([(n, 6) for n in range(1, 6)])
    assert clients["dropouts"] == near([(3, 6)])
    (adoption,), (traffic,) = drawn(figure(html, "sweep-adoption")), drawn(figure(html, "sweep-bytes"))
    assert adoption["cut 3"] == near([(0, 90), (50, 85), (100, 80)])
    assert traffic["cut 3"] == near([(2, 90), (1, 85), (0, 80)])
    assert (len(adoption["all cuts"]), "max_entropy inf" in html) == (1, True)


def test_pareto_points_are_filled_and_others_are_open(tmp_path: Path) -> None:
    found = figure(report(make(tmp_path / "run", sweep=SWEEP)), "sweep-adoption")
    kinds = {mark.all("title")[0].text.split("; ")[1]: mark for mark in found.all("svg", "chart")[0].all("g") if mark.all("title")
             and mark.all("title")[0].text.startswith("cut 3") and mark.attributes.get("transform")}  # fmt: skip
    opened = {note: bool(mark.all("path", "open")) for note, mark in kinds.items()}
    assert opened == {"max_entropy 0": False, "max_entropy 0.4": True, "max_entropy inf": False}
    assert [entry.text for entry in found.all("li")] == ["cut 3", "all cuts", "Pareto-optimal", "other"]


def check_charts(figures: list[Node]) -> None:
    for found in figures:
        labels = {label for chart in drawn(found) for label in chart}
        assert labels <= {entry.text for entry in found.all("li")}, "each series has its entry in the legend"
        swatches = [repr(entry.all("svg")[0]) for entry in found.all("li")]
        assert len(set(swatches)) == len(swatches), "no two entries look the same"
        assert found.all("h3")[0].text
        assert len(found.all("figcaption")[0].text) > 30
        for chart in found.all("svg", "chart"):
            assert chart.attributes["role"] == "img"
            assert found.all("h3")[0].text in chart.attributes["aria-label"]


def test_every_chart_says_what_it_shows(tmp_path: Path) -> None:
    one, two = make(tmp_path / "a", sweep=SWEEP), make(tmp_path / "b", sweep=SWEEP)
    figures = parse(report(one, two)).all("figure")
    check_charts(figures)
    check_charts(parse(report(one)).all("figure"))
    titles = {
        found.attributes["id"]: [text.text for text in found.all("svg", "chart")[0].all("text", "axis-title")] for found in figures
    }
    assert titles == {
        "accuracy": ["accuracy (%)", "round"],
        "sweep-adoption": ["accuracy (%)", "samples answered by the client (%)"],
        "sweep-bytes": ["accuracy (%)", "sent to the servers per sample (KiB)"],
        "loss": ["mean loss (nats)", "round"],
        "throughput": ["throughput (samples/s)", "round"],
        "bytes": ["activations (MiB)", "round"],
        "clients": ["clients", "round"],
    }


def test_key_figures_are_on_top(tmp_path: Path) -> None:
    (card,) = parse(report(make(tmp_path / "run"))).all("article")
    rows = [[cell.text for cell in row.children] for row in card.all("tr")]
    assert rows[1:] == [["cut 3", "50.0 %", "75.0 %"], ["cut 10", "60.0 %", "80.0 %"]]
    facts = dict(zip((name.text for name in card.all("dt")), (value.text for value in card.all("dd")), strict=True))
    assert facts == {
        "throughput": "17.2 samples/s",
        "duration of the rounds": "30 s",
        "samples trained": "515",
        "activations sent": "42.9 MiB",
        "dropouts": "1",
        "messages refused": "7",
        "duplicates dropped": "0",
        "versions": "torch 2.4",
        "parameters_sha256": "ab" * 32,
    }


def test_several_runs_have_the_same_axes_and_a_colour_each(tmp_path: Path) -> None:
    other = EXPERIMENT | {"name": "two", "training": EXPERIMENT["training"] | {"strategy": "sequential", "batch": 8}}
    lines = [line(number, client_loss=9.0, server_loss=0.5, accuracy={"3": {"client": 0.5}}) for number in range(1, 9)]
    html = report(make(tmp_path / "a"), make(tmp_path / "b", lines=lines, summary=SUMMARY | {"run": "two"}, experiment=other))
    (loss,) = drawn(figure(html, "loss"))
    assert loss["one, servers"] == near([(n, 1.5 / n) for n in range(1, 6)])
    assert loss["two, clients' exits"] == near([(n, 9.0) for n in range(1, 9)])
    for found in parse(html).all("figure"):
        charts = found.all("svg", "chart")
        assert len({tuple((t.text, t.attributes["x"], t.attributes["y"]) for t in c.all("text", "tick")) for c in charts}) == 1
        colours = {entry.text.split(",")[0]: entry.all("svg")[0].attributes["class"].split()[1] for entry in found.all("li")}
        assert colours == {"one": "c0", "two": "c1"}
    differing = next(
        table for table in parse(html).all("div", "scroll") if table.attributes["aria-label"] == "settings that differ"
    )
    rows = [[cell.text for cell in row.children] for row in differing.all("tr")]
    assert rows == [["setting", "one", "two"], ["training.batch", "-", "8"], ["training.strategy", "averaging", "sequential"]]
    assert "These lines coincide: one = two." not in figure(html, "clients").text, "the second run is longer"


def test_lines_that_coincide_are_named(tmp_path: Path) -> None:
    html = report(make(tmp_path / "a"), make(tmp_path / "b", summary=SUMMARY | {"run": "two", "dropouts": []}))
    assert "These lines coincide: one = two." in figure(html, "clients").all("figcaption")[0].text


def test_baselines_without_servers_are_drawn_beside_the_others(tmp_path: Path) -> None:
    def lines(by_cut: dict[str, float]) -> list[dict[str, Any]]:
        accuracy = {cut: {"network": share} for cut, share in by_cut.items()}
        return [line(number, accuracy=accuracy, client_loss=None, bytes=None, streams=None) for number in (1, 2)]

    def summary(name: str) -> dict[str, Any]:
        return {"run": name, "strategy": name, "accuracy": {}, "bytes_published": None, "refused": None, "dropouts": []}

    html = report(
        make(tmp_path / "a"),
        make(tmp_path / "b", lines=lines({"3": 0.3, "10": 0.4}), summary=summary("alone")),
        make(tmp_path / "c", lines=lines({"all": 0.5}), summary=summary("centralized")),
    )
    cut3, cut10 = drawn(figure(html, "accuracy"))
    assert (cut3["alone, whole network"], cut10["alone, whole network"]) == (near([(1, 30), (2, 30)]), near([(1, 40), (2, 40)]))
    assert cut3["centralized, whole network"] == cut10["centralized, whole network"] == near([(1, 50), (2, 50)])
    (loss,) = drawn(figure(html, "loss"))
    assert loss["alone, whole network"] == near([(1, 1.5), (2, 0.75)])
    assert drawn(figure(html, "bytes"))[0].keys() == {"one"}
    alone = report(tmp_path / "c")
    assert drawn(figure(alone, "accuracy"))[0]["whole network"] == near([(1, 50), (2, 50)])


def test_loss_by_cut_is_drawn_where_a_run_has_it(tmp_path: Path) -> None:
    lines = [line(n, loss_by_cut={"3": {"client": 1.0 * n, "server": 2.0}, "4": {"client": 3.0, "server": None}}) for n in (1, 2)]
    cut3, cut4 = drawn(figure(report(make(tmp_path / "run", lines=lines)), "loss"))
    assert (cut3["clients' exits"], cut3["servers"]) == (near([(1, 1), (2, 2)]), near([(1, 2), (2, 2)]))
    assert cut4.keys() == {"clients' exits"}


HOSTILE = '<script>alert("1")</script>&\'"--></style></svg><img src=x onerror=alert(1)>'


def test_text_out_of_a_file_stays_text(tmp_path: Path) -> None:
    accuracy = {HOSTILE: {"client": 0.5, "server": 0.5}}
    summary = {
        "run": HOSTILE,
        "strategy": HOSTILE,
        "rounds": 1,
        "parameters_sha256": HOSTILE,
        "accuracy": accuracy,
        "accuracy_by_client": accuracy,
        "dropouts": [{"client": HOSTILE, "round": 1, "reason": HOSTILE, "at": HOSTILE}],
        "versions": {HOSTILE: HOSTILE},
    }
    calibration = {
        "target": HOSTILE,
        "max_entropy": {HOSTILE: 1.0},
        "estimated": {HOSTILE: {HOSTILE: 0.5}},
        "parameters_sha256": HOSTILE,
    }
    sweep = {"cuts": {HOSTILE: SWEEP["cuts"]["3"]}, "parameters_sha256": "other"}  # type: ignore[index]
    folders = [
        make(
            tmp_path / name,
            lines=[line(1, accuracy=accuracy, loss_by_cut=accuracy)],
            summary=summary,
            experiment={"name": HOSTILE, HOSTILE: name + HOSTILE, "same": {HOSTILE: HOSTILE}},
            sweep=sweep,
            calibration=calibration,
        )
        for name in ("a", "<b>")
    ]
    for html in (report(folders[0]), report(*folders)):
        tags = {node.tag for node in _everything(parse(html))}
        assert tags.isdisjoint({"script", "img", "b"})
        assert html.count("<style>") == html.count("</style>") == 1
        assert HOSTILE in parse(html).text
        assert "is of other layers than the run's" in parse(html).text


def _everything(node: Node) -> list[Node]:
    return [node, *(found for child in node.children for found in _everything(child))]


def test_the_page_is_whole_without_a_network(tmp_path: Path) -> None:
    html = report(make(tmp_path / "a", sweep=SWEEP), make(tmp_path / "b"))
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|expression\(", style)
    for node in _everything(parse(html)):
        assert not {"src", "href", "srcset", "data", "action", "poster", "background"} & node.attributes.keys(), node.tag
        assert not any(name.startswith("on") for name in node.attributes), node.tag
        assert "url(" not in node.attributes.get("style", "")
        assert node.tag not in {"script", "link", "iframe", "object", "base", "form"}
    assert "default-src 'none'" in html[: html.index("<style>")], "a browser is told so, too"
    assert parse(html).all("html")[0].attributes["lang"] == "en"


def test_a_long_run_keeps_its_extremes_and_stays_small(tmp_path: Path) -> None:
    losses = [1.0 + 0.001 * (number % 7) for number in range(4_000)]
    losses[2_345], losses[1_321] = 5.0, 0.25
    lines = [line(number + 1, server_loss=loss, accuracy=None) for number, loss in enumerate(losses)]
    html = report(*(make(tmp_path / str(copy), lines=lines) for copy in range(3)))
    assert len(html.encode()) < 3_000_000
    (found,) = drawn(figure(html, "loss"))
    points = next(points for label, points in found.items() if "(" in label and label.endswith("servers"))
    assert len(points) <= 400
    values = [value for _, value in points]
    assert (min(values), max(values)) == (pytest.approx(0.25, abs=0.02), pytest.approx(5.0, abs=0.02))
    assert (points[0][0], points[-1][0]) == (pytest.approx(1, abs=10), pytest.approx(4_000, abs=10))


@given(
    st.lists(st.floats(-1e29, 1e29) | st.floats(0, 1) | st.integers(0, 10**9), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_ticks_are_few_round_and_true(values: list[float], zero: bool, whole: bool, widen: bool) -> None:
    axis = Axis("x", "x", factor=1.0 if whole else 0.5, zero=zero, whole=whole)
    values = [round(value) for value in values] if whole else values
    found = scale(axis, values, 5, widen)
    room = 1e-6 * max(abs(found.low), abs(found.high))
    assert all(found.low - room <= value <= found.high + room for value in values)
    assert 1 <= len(found.ticks) <= 13
    assert len(set(found.labels)) == len(found.labels)
    assert all(found.low - room <= tick <= found.high + room for tick in found.ticks)
    steps = {round((b - a) / (found.ticks[1] - found.ticks[0]), 3) for a, b in zip(found.ticks, found.ticks[1:], strict=False)}
    assert steps <= {1.0}
    for tick, label in zip(found.ticks, found.labels, strict=True):
        shown = float(label.removesuffix("k")) * (1000 if label.endswith("k") else 1)
        assert shown == pytest.approx(tick * axis.factor, rel=0.01, abs=1e-9 + 1e-3 * abs(found.high - found.low))


def test_colours_stand_out_from_both_backgrounds() -> None:
    css = resources.files("monitoring.report").joinpath("page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", part)) for part in css.split("@media screen", 1))
    for theme in (light, dark):
        for name in [f"c{number}" for number in range(7)]:
            assert _contrast(theme[name], theme["surface"]) >= 3.0, name
        for text, background in (("ink", "surface"), ("soft", "surface"), ("soft", "page"), ("ink", "wash")):
            assert _contrast(theme[text], theme[background]) >= 4.5, (text, background)
    assert tuple(light[f"c{number}"] for number in range(7)) == plots.COLOURS, "figures for papers have the page's colours"


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_keys_that_are_all_null_break_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", experiment=None)
    (folder / "summary.json").write_text(json.dumps(dict.fromkeys(SUMMARY)))
    (folder / "metrics.jsonl").write_text(json.dumps(dict.fromkeys(LINES[0]) | {"round": 1}) + "\n")
    html = report(folder)
    assert (parse(html).all("figure"), "Nothing has been evaluated yet." in html) == ([], True)
