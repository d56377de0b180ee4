"""Figures over seeds as pictures: bars by cut, and lines over the entropy bound, with error bars."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from cli.reproduce_figure import Figure

_INFINITY = 5.0  # where infinity is drawn on the axis of bounds, whose largest other is 4
_TICKS = {0.0: "0", 1.0: "1", 2.0: "2", 3.0: "3", 4.0: "4", _INFINITY: "∞"}
_COLORS = [f"C{number}" for number in range(10) if number != 7]  # C7 is grey, which is of nobody
_ACCURACY = "accuracy on the test split (fraction of images)"


@dataclass(frozen=True)
class Series:
    """Figures under one name. color: a number, the same for what belongs together; None: of nobody."""

    name: str
    figures: Sequence[Figure]
    color: int | None
    hatched: bool = False


def plot(series: Sequence[Series], cuts: Sequence[int], title: str) -> bytes:
    """Return a PNG of accuracies by cut, a group of bars each: mean and sample standard deviation over seeds."""
    canvas = _canvas(9 if len(series) < 8 else 12)
    axes = canvas.add_subplot()
    width = 0.8 / len(series)
    for place, one in enumerate(series):
        at = [group - 0.4 + (place + 0.5) * width for group in range(len(cuts))]
        means = [figure.mean for figure in one.figures]
        color = _color(one)
        style: dict[str, Any] = {"facecolor": "white", "edgecolor": color, "hatch": "////"} if one.hatched else {"color": color}
        axes.bar(at, means, width * 0.88, yerr=_deviations(one.figures), capsize=2, label=one.name, **style)
    axes.set_xticks(range(len(cuts)), [str(cut) for cut in cuts])
    axes.set_xlabel("cut (number of layers on the client)")
    axes.set_ylabel(_ACCURACY)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    canvas.legend(loc="outside right center", fontsize=9, frameon=False)
    return _png(canvas, title)


def plot_bounds(panels: Mapping[str, Sequence[Series]], bounds: Sequence[float], title: str) -> bytes:
    """Return a PNG of accuracies over the entropy bound, a panel a cut: mean and sample standard deviation over seeds."""
    canvas = _canvas(13)
    places = [min(bound, _INFINITY) for bound in bounds]
    for number, (axes, (name, series)) in enumerate(zip(canvas.subplots(1, len(panels), sharey=True), panels.items(), strict=True)):
        for one in series:
            style = {"marker": "os^D"[(one.color or 0) % 4], "markersize": 3, "capsize": 2, "color": _color(one)}
            means = [figure.mean for figure in one.figures]
            axes.errorbar(places, means, yerr=_deviations(one.figures), label=one.name if number == 0 else None, **style)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(list(_TICKS), list(_TICKS.values()))
        axes.set_xlabel("max_entropy (nats)")
        axes.grid(alpha=0.3)
        if number == 0:
            axes.set_ylabel(_ACCURACY)
    canvas.legend(loc="outside right center", fontsize=9, frameon=False)
    return _png(canvas, title)


def _color(series: Series) -> str:
    return "0.6" if series.color is None else _COLORS[series.color % len(_COLORS)]


def _canvas(width: float) -> Canvas:
    canvas = Canvas(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _deviations(figures: Sequence[Figure]) -> list[float] | None:
    found = [figure.deviation for figure in figures if figure.deviation is not None]
    return found or None  # of one seed there is none


def _png(canvas: Canvas, title: str) -> bytes:
    canvas.suptitle(textwrap.fill(title, int(canvas.get_figwidth() * 12)), fontsize=9)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=150)
    return file.getvalue()
