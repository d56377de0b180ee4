"""The picture of a sweep: accuracy and adoption over the bound, accuracy over the bytes that are offloaded."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from learning.sweep import ALL, Point

# Okabe and Ito's colours, told apart whatever colours an eye sees; markers and lines say the same again.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_INFINITY = 5.0  # where infinity is drawn on the axis of bounds, whose largest other is 4
_TICKS = {0.0: "0", 0.1: "0.1", 0.5: "0.5", 1.0: "1", 2.0: "2", 3.0: "3", 4.0: "4", _INFINITY: "∞"}
_KIB = 1024


def plot(points: Mapping[str, Sequence[Point]], title: str, classes: int) -> bytes:
    """Return the picture as PNG bytes; points by cut, and of all clients ("all")."""
    figure = Figure(figsize=(16, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    accuracy, adoption, front = figure.subplots(1, 3)
    for (name, own), style in zip(points.items(), _styles(points), strict=True):
        label = "all clients" if name == ALL else f"cut {name}"
        bounds = [min(point.max_entropy, _INFINITY) for point in own]
        accuracy.plot(bounds, [point.accuracy for point in own], label=label, **style)
        adoption.plot(bounds, [point.adoption for point in own], label=label, **style)
        _draw_front(front, own, style)
    for axes, quantity in ((accuracy, "accuracy"), (adoption, "samples answered by clients")):
        _name_bounds(axes, classes)
        axes.set_ylabel(f"{quantity} (%)")
    front.set_xlabel("features offloaded (KiB a sample)")
    front.set_ylabel("accuracy (%)")
    for axes in (accuracy, adoption, front):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axes.grid(alpha=0.3)
    front.set_title("large marks: Pareto points", fontsize="medium")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=10)
    figure.suptitle(title)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _styles(points: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """Return how each line looks; that of all clients is black and thick."""
    looks = zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_LINES), strict=False)
    found: list[dict[str, Any]] = []
    for name in points:
        if name == ALL:
            found.append({"color": "black", "linewidth": 2.2, "marker": "*", "markersize": 4})
        else:
            colour, marker, line = next(looks)
            found.append({"color": colour, "linestyle": line, "linewidth": 1.4, "marker": marker, "markersize": 3})
    return found


def _draw_front(axes: Axes, points: Sequence[Point], style: Mapping[str, Any]) -> None:
    axes.plot([point.bytes_per_sample / _KIB for point in points], [point.accuracy for point in points], **{**style, "alpha": 0.5})
    best = [point for point in points if point.pareto]
    look = {**style, "linestyle": "none", "markersize": 7}
    axes.plot([point.bytes_per_sample / _KIB for point in best], [point.accuracy for point in best], **look)


def _name_bounds(axes: Axes, classes: int) -> None:
    """Spread small bounds, of which many are tried, by a square root; show the largest entropy that there is."""
    axes.set_xscale("function", functions=(lambda bound: abs(bound) ** 0.5, lambda place: place**2))
    axes.set_xlim(0, _INFINITY * 1.05)
    axes.set_xticks(list(_TICKS), list(_TICKS.values()))
    axes.set_xlabel("max_entropy (nats): clients answer below it")
    if math.log(classes) < _INFINITY:
        axes.axvline(math.log(classes), color="grey", linestyle=":", label=f"ln {classes}: the largest entropy")
