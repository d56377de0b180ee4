"""Figures for papers: each as a PNG, and its numbers beside it as CSV so that it can be drawn again."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from monitoring.report.figure import CROSS, Figure, Series, Style
from monitoring.report.scale import scales

DPI = 300
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8619a", "#a87400", "#2f8fc4", "#5b5b5b")  # the page's, on white
_MARKERS = ("o", "s", "^", "D", "v", "P", "p")
_LINES = {"solid": "-", "dashed": "--", "none": ""}
_INK = "#57606d"
_PANEL = (3.6, 2.6)  # inches
_LONGEST = 60  # letters of a name


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write NAME.png and NAME.csv of each figure into a folder, which is made; return the files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        written += [folder / f"{figure.name}.png", folder / f"{figure.name}.csv"]
        with rc_context({"text.parse_math": False}):  # a name may have a dollar in it
            FigureCanvasAgg(draw(figure)).figure.savefig(written[-2], dpi=DPI, facecolor="white")
        _write_numbers(figure, written[-1])
    return written


def draw(figure: Figure) -> Canvas:
    """Return a figure as matplotlib draws it."""
    columns = {1: 1, 2: 2, 4: 2}.get(len(figure.panels), 3)
    rows = -(-len(figure.panels) // columns)
    legend = _legend(figure)
    width = columns * _PANEL[0] if columns > 1 else 1.25 * _PANEL[0]
    longest = max(len(str(handle.get_label())) for handle in legend)
    per_row = max(1, min(len(legend), int(width * 15) // (longest + 7)))
    height = rows * _PANEL[1] + 0.35 + 0.2 * -(-len(legend) // per_row)
    canvas = Canvas(figsize=(width, height), layout="constrained")
    axes = list(canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel, ax in zip(figure.panels, axes, strict=False):
        for series in panel.series:
            _plot(ax, figure, series)
        ax.set_title(_short(panel.title), fontsize=9)
        ax.set_xlabel(figure.x.title, fontsize=9)
        ax.set_ylabel(figure.y.title, fontsize=9)
        _dress(ax, figure)
    for ax in axes[len(figure.panels) :]:
        ax.remove()
    canvas.suptitle(_short(figure.title), fontsize=10)
    canvas.legend(handles=legend, loc="outside lower center", ncols=per_row, fontsize=8, frameon=False)
    return canvas


def _plot(ax: Any, figure: Figure, series: Series) -> None:
    x = [point.x * figure.x.factor for point in series.points]
    y = [point.y * figure.y.factor for point in series.points]
    if not figure.marked:
        ax.plot(x, y, **_look(series.style), markevery=max(1, len(x) // 25))
        return
    ax.plot(x, y, **{**_look(series.style), "marker": ""})
    for marked in (False, True):  # what is marked lies on top
        chosen = [index for index, point in enumerate(series.points) if point.marked == marked]
        look = {**_look(replace(series.style, open=not marked)), "linestyle": "", "markersize": 4 if marked else 3}
        ax.plot([x[index] for index in chosen], [y[index] for index in chosen], **look)


def _look(style: Style) -> dict[str, Any]:
    colour = COLOURS[style.colour % len(COLOURS)]
    if style.marker == CROSS:
        return {"color": colour, "linestyle": "", "marker": "x", "markersize": 7, "markeredgewidth": 2}
    return {
        "color": colour,
        "linestyle": _LINES[style.dash],
        "linewidth": 1.4,
        "marker": _MARKERS[style.marker % len(_MARKERS)],
        "markersize": 4,
        "markerfacecolor": "white" if style.open else colour,
    }


def _legend(figure: Figure) -> list[Line2D]:
    handles = [Line2D([], [], label=_short(label), **_look(style)) for label, style in figure.legend()]
    for label, face in ((figure.marked, _INK), ("other", "white")) if figure.marked else ():
        sign = Line2D(
            [], [], label=label, linestyle="", marker="o", markersize=4 if face == _INK else 3, color=_INK, markerfacecolor=face
        )
        handles.append(sign)
    return handles


def _dress(ax: Any, figure: Figure) -> None:
    ax.grid(axis="y", color="#e2e6eb", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8, labelbottom=True, labelleft=True)
    for side, axis, scale in zip((ax.xaxis, ax.yaxis), (figure.x, figure.y), scales(figure), strict=True):
        low, high = scale.low * axis.factor, scale.high * axis.factor
        side.set_ticks([tick * axis.factor for tick in scale.ticks], scale.labels)
        side.axes.set(**{f"{side.axis_name}lim": (low - 0.02 * (high - low), high + 0.02 * (high - low))})


def _short(text: str) -> str:
    """Return a name that fits: long ones differ at their ends, too."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def _write_numbers(figure: Figure, path: Path) -> None:
    """Write every point as the runs' files have it: shares from 0 to 1, bytes, seconds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("panel", "series", figure.x.key, figure.y.key, "note", "marked"))
        for panel in figure.panels:
            for series in panel.series:
                writer.writerows(
                    (panel.title, series.label, repr(point.x), repr(point.y), point.note, int(point.marked))
                    for point in series.points
                )
