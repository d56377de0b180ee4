"""A picture of a dashboard's first screen, as Grafana would lay it out, drawn from what a Prometheus answers to its queries.

`python -m tests.rendering URL training picture.png --start SECONDS --end SECONDS`, Unix times.
"""

import argparse
import io
import json
import math
import re
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MultipleLocator
from PIL import Image

from tests.dashboards import dashboards, panels, plain
from tests.units import shown

SCREEN = 20  # rows of the grid that are seen first
COLUMN, ROW, HEAD, DPI = 66, 34, 46, 100  # pixels
COLOURS = {"green": "#299c46", "red": "#c4162a", "blue": "#3274d9", "yellow": "#e0b400", "orange": "#ed8128"}
LINES = ("#3274d9", "#e0752d", "#56a64b", "#8f3bb8", "#e0b400", "#37a6a6", "#c4162a", "#705da0", "#7b6f5b", "#5794f2")
POINTS = 240


@dataclass(frozen=True)
class Series:
    """What one line shows. times: seconds since the start; values may be NaN."""

    name: str
    labels: dict[str, str]
    times: list[float]
    values: list[float]

    @property
    def last(self) -> float:
        """The last value that is a number; NaN: there is none."""
        return next((value for value in reversed(self.values) if not math.isnan(value)), math.nan)


@dataclass(frozen=True)
class Window:
    """A time range of a Prometheus. scrape: seconds between its scrapes."""

    url: str
    start: float
    end: float
    scrape: float

    @property
    def step(self) -> float:
        return max(self.scrape, (self.end - self.start) / POINTS)

    def ask(self, target: dict[str, Any]) -> list[Series]:
        """Return what a panel's query gives over the range, as Grafana asks it; an instant query is of its end."""
        whole = f"{self.end - self.start:.0f}s"
        query = plain(target["expr"].replace("$__range", whole), f"{max(self.step + self.scrape, 4 * self.scrape):.0f}s")
        arguments = {"start": self.start, "end": self.end, "step": self.step}
        if target["instant"]:
            arguments = {"time": self.end}
        kind = "query" if target["instant"] else "query_range"
        with urllib.request.urlopen(f"{self.url}/api/v1/{kind}?{urllib.parse.urlencode({'query': query, **arguments})}") as answer:
            found = json.loads(answer.read())["data"]["result"]
        return [self._series(one, target["legendFormat"]) for one in found]

    def _series(self, one: dict[str, Any], legend: str) -> Series:
        name = re.sub(r"{{(\w+)}}", lambda label: one["metric"].get(label[1], ""), legend)
        known = {round(float(at), 3): float(value) for at, value in one.get("values", [one.get("value")])}
        steps = [self.start + place * self.step for place in range(int((self.end - self.start) / self.step) + 1)]
        times = steps if "values" in one else list(known)
        return Series(name, one["metric"], [at - self.start for at in times], [known.get(round(at, 3), math.nan) for at in times])


def draw(dashboard: dict[str, Any], window: Window, file: Path, rows: int = SCREEN) -> None:
    """Draw the panels of a dashboard that lie within the first rows of its grid."""
    figure = Figure(figsize=(24 * COLUMN / DPI, (rows * ROW + HEAD) / DPI), dpi=DPI, facecolor="#f4f5f5")
    FigureCanvasAgg(figure)
    height = rows * ROW + HEAD
    figure.text(0.006, 1 - 23 / height, dashboard["title"], size=15, weight="bold", va="center")
    figure.text(
        0.994, 1 - 23 / height, f"{(window.end - window.start) / 60:.0f} minutes", size=11, va="center", ha="right", color="#555"
    )
    for panel in panels(dashboard):
        place = panel["gridPos"]
        if place["y"] + place["h"] <= rows:
            _panel(figure, panel, [window.ask(target) for target in panel["targets"]], window, height)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(file, optimize=True)


def _panel(figure: Figure, panel: dict[str, Any], found: list[list[Series]], window: Window, height: int) -> None:
    place, gap = panel["gridPos"], 4
    left, top = place["x"] * COLUMN + gap, HEAD + place["y"] * ROW + gap
    wide, high = place["w"] * COLUMN - 2 * gap, place["h"] * ROW - 2 * gap
    width = 24 * COLUMN
    card = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
    card.set(xlim=(0, wide), ylim=(high, 0))
    card.axis("off")
    card.add_patch(FancyBboxPatch((0, 0), wide, high, boxstyle="square,pad=0", facecolor="white", edgecolor="#d8d9da"))
    card.text(10, 16, panel["title"], size=10.5, weight="bold", va="center")
    series = [one for some in found for one in some]
    kind = panel["type"]
    if kind == "stat":
        _stat(card, panel, series, wide, high)
    elif not series:
        card.text(wide / 2, high / 2, panel["fieldConfig"]["defaults"]["noValue"], size=13, ha="center", va="center", color="#777")
    elif kind == "table":
        _table(card, series, high)
    else:
        inner = (left + 62, top + 34, wide - 76, high - 34 - (64 if kind == "timeseries" else 30))
        axes = figure.add_axes((inner[0] / width, 1 - (inner[1] + inner[3]) / height, inner[2] / width, inner[3] / height))
        _DRAWN[kind](axes, panel, series, window)


def _stat(card: Axes, panel: dict[str, Any], series: list[Series], wide: float, high: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    texts = {float(at): one["text"] for mapping in defaults.get("mappings", []) for at, one in mapping["options"].items()}
    values = [one for one in series if not math.isnan(one.last)]
    if not values:
        card.text(wide / 2, high * 0.6, defaults["noValue"], size=12, ha="center", va="center", color="#777")
    for number, one in enumerate(values):
        colour = _colour(defaults, one.last)
        text = texts.get(one.last) or shown(one.last, defaults["unit"], defaults.get("decimals"))
        filled = panel["options"]["colorMode"] == "background"
        if filled:
            card.add_patch(FancyBboxPatch((0, 30), wide, high - 30, boxstyle="square,pad=0", facecolor=colour, edgecolor=colour))
        middle = wide * (number + 0.5) / len(values)
        named = panel["options"]["textMode"] == "value_and_name"
        size = 17 if filled else 24 if len(values) == 1 else 21
        at = high * (0.55 if named else 0.6)
        card.text(middle, at, text, size=size, weight="bold", ha="center", va="center", color="white" if filled else colour)
        if named:
            card.text(middle, high * 0.84, one.name, size=9.5, ha="center", va="center", color="#555")


def _colour(defaults: dict[str, Any], value: float) -> str:
    reached = [step["color"] for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
    return COLOURS[reached[-1]]


def _table(card: Axes, series: list[Series], high: float) -> None:
    for number, one in enumerate(series[: int((high - 40) / 20)]):
        card.text(12, 46 + 20 * number, "    ".join(one.labels.values()), size=10, va="center")


def _timeseries(axes: Axes, panel: dict[str, Any], series: list[Series], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    stairs = "steps-post" if custom["lineInterpolation"] == "stepAfter" else "default"
    base = [0.0] * len(series[0].times)
    for one, colour in zip(series, LINES * 9, strict=False):
        fixed, dashed = _overrides(panel, one.name)
        colour, upper = fixed or colour, one.values
        if custom["stacking"]["mode"] == "normal":
            upper = [below + (0 if math.isnan(value) else value) for below, value in zip(base, one.values, strict=True)]
            axes.fill_between(one.times, base, upper, color=colour, alpha=0.35, lw=0, step="post" if stairs != "default" else None)
            base = upper
        drawn = [(at, value) for at, value in zip(one.times, upper, strict=True) if not (custom["spanNulls"] and math.isnan(value))]
        line = "--" if dashed else "-"
        axes.plot(*zip(*drawn, strict=True), color=colour, lw=1.7, ls=line, drawstyle=stairs, label=_legend(one, defaults))
    if custom["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
    else:
        top = axes.get_ylim()[1]
        axes.set_ylim(defaults.get("min"), defaults.get("max", top if top > 0 else 1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit, None, short=True)))
    _time_axis(axes, window)
    axes.grid(color="#e4e5e6")
    columns = 4 if len(series) == 4 else 3
    axes.legend(loc="upper left", bbox_to_anchor=(-0.08, -0.11), ncols=columns, fontsize=8, frameon=False, handlelength=1.6)


def _overrides(panel: dict[str, Any], name: str) -> tuple[str | None, bool]:
    """Return the colour that a line is given, if it is, and whether it is dashed."""
    colour, dashed = None, False
    for override in panel["fieldConfig"]["overrides"]:
        matcher, (given,) = override["matcher"], override["properties"]
        if matcher["id"] == "byName" and matcher["options"] == name:
            colour = COLOURS[given["value"]["fixedColor"]]
        if matcher["id"] == "byRegexp" and re.search(matcher["options"].strip("/"), name):
            dashed = True
    return colour, dashed


def _legend(one: Series, defaults: dict[str, Any]) -> str:
    last = "" if math.isnan(one.last) else f"  {shown(one.last, defaults['unit'], defaults.get('decimals'))}"
    return f"{one.name}{last}"


def _bargauge(axes: Axes, panel: dict[str, Any], series: list[Series], window: Window) -> None:
    axes.barh([one.name for one in series], [one.last for one in series], color=COLOURS["blue"])


def _heatmap(axes: Axes, panel: dict[str, Any], series: list[Series], window: Window) -> None:
    rows = sorted(series, key=lambda one: float(one.labels["le"]))
    below = [[0.0] * len(rows[0].values), *[one.values for one in rows[:-1]]]
    counts = [
        [upper - lower for upper, lower in zip(one.values, under, strict=True)] for one, under in zip(rows, below, strict=True)
    ]
    axes.imshow(counts, aspect="auto", origin="lower", cmap="Blues", extent=(0, rows[0].times[-1], 0, len(rows)))
    axes.set_yticks(range(1, len(rows) + 1), [one.labels["le"] for one in rows], size=7)
    _time_axis(axes, window)


def _time_axis(axes: Axes, window: Window) -> None:
    axes.set_xlim(0, window.end - window.start)
    axes.xaxis.set_major_locator(MultipleLocator(60 * max(1, round((window.end - window.start) / 480))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value // 60:.0f}:{value % 60:02.0f}"))
    axes.tick_params(labelsize=8.5, length=0, pad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


_DRAWN = {"timeseries": _timeseries, "bargauge": _bargauge, "heatmap": _heatmap}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("dashboard", choices=sorted(dashboards()))
    parser.add_argument("file", type=Path)
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--end", type=float, required=True)
    parser.add_argument("--scrape", type=float, default=5.0)
    given = parser.parse_args()
    draw(dashboards()[given.dashboard], Window(given.url, given.start, given.end, given.scrape), given.file)
