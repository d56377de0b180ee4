"""The report as a browser draws it: on a desk and on a phone, light and dark, and with nothing from elsewhere."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.report import report
from tests.browser import Browser, Scheme, start_browser
from tests.end_to_end.conftest import Undisturbed
from tests.services import installed
from tests.unit.report_reading import line
from tests.unit.test_report_page import EXPERIMENT, SUMMARY, make

DESK, PHONE = 1280, 390
FAULTS = (Path(__file__).parent / "page_faults.js").read_text()
OPENED = "document.querySelectorAll('details').forEach(details => { details.open = true })"
CUTS = ("3", "4", "5", "8", "all")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with installed(start_browser(tmp_path_factory.mktemp("browser"))) as started:
        yield started


def trained(undisturbed: Undisturbed) -> Path:
    folder: Path = undisturbed("training.rounds=3", "training.evaluate_every=1")["folder"]
    return folder


def crowded(folder: Path) -> Path:
    """Write a long run with bounds of inference and all that rarely happens."""
    lines = [
        line(number, seconds=40.0 + number % 7, samples=50_000 - number, clients=12 - number // 50, bytes=3_000_000_000 + number,
             accuracy={cut: {"client": 0.002 * number, "server": 0.004 * number + 0.1} for cut in CUTS[:-1]},
             loss_by_cut={cut: {"client": 4.0 / number, "server": 3.0 / number} for cut in CUTS[:-1]})
        for number in range(1, 121)
    ]  # fmt: skip
    bounds = [
        {"max_entropy": n / 20, "adoption": n / 47, "bytes_per_sample": 52_000 * (1 - n / 47), "pareto": n % 3 == 0}
        for n in range(48)
    ]
    cuts = {
        cut: [bound | {"accuracy": 0.99 - 0.01 * k - 0.002 * n} for n, bound in enumerate(bounds)] for k, cut in enumerate(CUTS)
    }
    gone = [
        {"client": f"client-{n:02}-in-the-attic", "round": 30 * n, "reason": "silent for 30 s", "batches_kept": 2}
        for n in (1, 2, 3)
    ]
    return make(
        folder,
        lines=lines,
        summary=SUMMARY
        | {
            "rounds": 120,
            "clients": 12,
            "run": "a-run-with-a-name-as-long-as-names-of-runs-can-be-without-a-space",
            "dropouts": gone,
        },
        experiment=EXPERIMENT | {"clients": {"cuts": list(range(3, 40)), "note": "word " * 40}},
        sweep={"samples": 360, "cuts": cuts},
        calibration={
            "target": "max_accuracy_loss",
            "value": 0.01,
            "confidence": 0.95,
            "samples": 360,
            "max_entropy": {"3": 0.4},
            "estimated": {"3": {"adoption": 0.5}},
        },
    )


@pytest.fixture(params=["trained", "crowded", "side by side"])
def page(request: pytest.FixtureRequest, undisturbed: Undisturbed, tmp_path: Path) -> Path:
    runs = {"trained": [trained], "crowded": [crowded], "side by side": [trained, crowded]}[request.param]
    folders = [trained(undisturbed) if run is trained else crowded(tmp_path / "run") for run in runs]
    report(runs=folders, output=tmp_path / "report.html", figures=None)
    return tmp_path / "report.html"


def test_a_report_in_a_browser(page: Path, browser: Browser, tmp_path: Path) -> None:
    assert page.stat().st_size < 3_000_000
    schemes: tuple[Scheme, ...] = ("light", "dark")
    for width, scheme in itertools.product((DESK, PHONE), schemes):
        browser.open(page, width, scheme)
        browser.shoot(tmp_path / f"{width}-{scheme}.png")
        browser.run(OPENED)
        found = browser.run(FAULTS, width)
        assert found["faults"] == [], f"{width} {scheme}"
        assert found["charts"] >= 7
        assert found["texts"] > 100
        bright = [found[ground] for ground in ("page", "card")]
        assert min(bright) > 0.8 if scheme == "light" else max(bright) < 0.05, f"{width} {scheme}: luminance {bright}"
        assert browser.said() == []
        assert browser.asked_for() == [page.as_uri()], "it loads nothing else"
