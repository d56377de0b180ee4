"""The report as one HTML file: no script, nothing from elsewhere, and every text out of a file is escaped."""

from collections.abc import Sequence
from html import escape
from importlib import resources

from monitoring.report import cards, svg, tables
from monitoring.report.charts import figures
from monitoring.report.figure import Figure
from monitoring.report.folder import Run

# What a browser may load or run: nothing. The second line of defence behind the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_COLUMNS = {1: "one", 2: "two", 4: "two"}


def page(runs: Sequence[Run]) -> str:
    """Return the HTML file of a report."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    names = ", ".join(run.name for run in runs)
    style = resources.files("monitoring.report").joinpath("page.css").read_text(encoding="utf-8")
    drawn = {figure.name: figure for figure in figures(runs)}
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="generator" content="splitee report">',
            f"<title>{escape(names)} | Hetero-SplitEE</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            f'<header><p class="kind">Hetero-SplitEE training report</p><h1>{escape(title)}</h1>',
            '<p class="lead">One network, split between clients, which train its first layers behind an exit of their own, and '
            "servers, which train the rest (Hetero-SplitEE).</p></header>",
            "<main>",
            cards.cards(runs),
            _section("Accuracy", drawn, ("accuracy",)),
            _section(
                "Inference: bounds on the exit's entropy",
                drawn,
                ("sweep-adoption", "sweep-bytes"),
                tables.outdated(runs),
                tables.pareto(runs),
                tables.calibration(runs),
            ),
            _section("Training", drawn, ("loss", "throughput", "bytes", "clients"), tables.dropouts(runs)),
            tables.settings(runs),
            tables.accuracy_by_client(runs),
            "</main>",
            "<footer><p>Written by <code>splitee report</code> from the files of "
            + ", ".join(f"<code>{escape(str(run.folder))}</code>" for run in runs)
            + ".</p></footer>",
            "</body>",
            "</html>",
            "",
        )
    )


def _section(title: str, drawn: dict[str, Figure], names: tuple[str, ...], *more: str) -> str:
    chosen = [drawn[name] for name in names if name in drawn]
    if not chosen and not any(more):
        return ""
    thirds = " thirds" if sum(len(figure.panels) == 1 for figure in chosen) % 3 == 0 else ""  # leaves no gap
    row = f'<div class="row{thirds}">{"".join(map(_figure, chosen))}</div>' if chosen else ""
    return f"<section><h2>{escape(title)}</h2>{row}{''.join(more)}</section>"


def _figure(figure: Figure) -> str:
    entries = [f"<li>{svg.swatch(style)}{escape(label)}</li>" for label, style in figure.legend()]
    if figure.marked:
        entries += [f"<li>{svg.mark(True)}{escape(figure.marked)}</li>", f"<li>{svg.mark(False)}other</li>"]
    same = " ".join(f"These lines coincide: {' = '.join(labels)}." for labels in figure.coinciding())
    count = len(figure.panels)
    return (
        f'<figure id="{figure.name}"{" class=whole" if count > 1 else ""}><h3>{escape(figure.title)}</h3>'
        f'<ul class="legend">{"".join(entries)}</ul>'
        f'<div class="panels {_COLUMNS.get(count, "three")}">'
        + "".join(f'<div class="panel">{drawing}</div>' for drawing in svg.panels(figure))
        + f"</div><figcaption>{escape(f'{figure.caption} {same}'.strip())}</figcaption></figure>"
    )
