"""Figures over seeds as pictures: bars by cut, and lines over the entropy bound, with error bars."""

import io
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from cli.reproduce_figure import Figure

Series = tuple[str, list[Figure]]
_INFINITY = 5.0  # where infinity is drawn on the axis of bounds, whose largest other is 4
_TICKS = {0.0: "0", 1.0: "1", 2.0: "2", 3.0: "3", 4.0: "4", _INFINITY: "∞"}
_ACCURACY = "accuracy on the test split (fraction of images)"


def plot(series: Sequence[Series], cuts: Sequence[int], title: str) -> bytes:
    """Return a PNG of accuracies by cut, a group of bars each: mean and sample standard deviation over seeds."""
    canvas = _canvas(9)
    axes = canvas.add_subplot()
    width = 0.8 / len(series)
    for place, (name, figures) in enumerate(series):
        at = [group - 0.4 + (place + 0.5) * width for group in range(len(cuts))]
        means = [figure.mean for figure in figures]
        axes.bar(at, means, width * 0.92, yerr=_deviations(figures), capsize=2.5, label=name, color=f"C{place}")
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
        for place, (label, figures) in enumerate(series):
            style = {"marker": "os^D"[place % 4], "markersize": 3, "capsize": 2, "color": f"C{place}"}
            means = [figure.mean for figure in figures]
            axes.errorbar(places, means, yerr=_deviations(figures), label=label if number == 0 else None, **style)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(list(_TICKS), list(_TICKS.values()))
        axes.set_xlabel("max_entropy (nats)")
        axes.grid(alpha=0.3)
        if number == 0:
            axes.set_ylabel(_ACCURACY)
    canvas.legend(loc="outside right center", fontsize=9, frameon=False)
    return _png(canvas, title)


def _canvas(width: float) -> Canvas:
    canvas = Canvas(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _deviations(figures: Sequence[Figure]) -> list[float] | None:
    found = [figure.deviation for figure in figures if figure.deviation is not None]
    return found or None  # of one seed there is none


def _png(canvas: Canvas, title: str) -> bytes:
    canvas.suptitle(textwrap.fill(title, 110), fontsize=9)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=150)
    return file.getvalue()
