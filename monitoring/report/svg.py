"""Figures as inline SVG. Colours are classes and font sizes are the page's, so that they follow its theme and width."""

from collections.abc import Sequence
from html import escape

from monitoring.report.figure import CROSS, Axis, Figure, Panel, Point, Series, Style
from monitoring.report.scale import Scale, scales

COLOURS = 7
WIDTH, HEIGHT = 480, 310
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 36, 54  # margins of the plot: room for the largest letters that the page gives it
MOST_POINTS = 400  # of a line; more than the pixels it is drawn on
MOST_MARKERS = 25

# Around (0, 0); a series is told from another without its colour.
_SHAPES = (
    "M-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
    "M-3.8 -3.8h7.6v7.6h-7.6z",
    "M0 -4.8L4.6 3.4H-4.6z",
    "M0 -5.2L5.2 0L0 5.2L-5.2 0z",
    "M0 4.8L4.6 -3.4H-4.6z",
    "M-1.7 -4.8h3.4v3.1h3.1v3.4h-3.1v3.1h-3.4v-3.1h-3.1v-3.4h3.1z",
    "M0 -5L4.8 -1.5L2.9 4.1H-2.9L-4.8 -1.5z",
)
_CROSS = "M-5 -5L5 5M-5 5L5 -5"


def panels(figure: Figure) -> list[str]:
    """Return an <svg> for each panel, all on the same scales."""
    x, y = scales(figure)
    return [_panel(figure, panel, x, y) for panel in figure.panels]


def swatch(style: Style) -> str:
    """Return the sign of a series in a legend."""
    line = "" if style.dash == "none" else '<path class="line" d="M1 8H33"/>'
    return f'<svg class="swatch {_classes(style)}" viewBox="0 0 34 16" aria-hidden="true">{line}{_marker(style, 17, 8)}</svg>'


def mark(filled: bool) -> str:
    """Return the sign of marked points in a legend, or of those that are not, in no series' colour."""
    sign = _marker(Style(0, open=not filled), 17, 8, small=not filled)
    return f'<svg class="swatch neutral" viewBox="0 0 34 16" aria-hidden="true">{sign}</svg>'


def _panel(figure: Figure, panel: Panel, x: Scale, y: Scale) -> str:
    label = f"{figure.title}{', ' + panel.title if panel.title else ''}. {described(figure, panel)}"
    title = f'<text class="panel-title" x="{WIDTH - RIGHT}" y="18" text-anchor="end">{escape(panel.title)}</text>'
    return "".join(
        (
            f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{escape(label)}">',
            title if panel.title else "",
            _axes(figure, x, y),
            *(_series(figure, series, x, y) for series in panel.series),
            "</svg>",
        )
    )


def _axes(figure: Figure, x: Scale, y: Scale) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<text class="axis-title" x="2" y="18">{escape(figure.y.title)}</text>']
    for value, text in zip(y.ticks, y.labels, strict=True):
        at = y.place(value, bottom, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at:.1f}" dy="0.35em" text-anchor="end">{escape(text)}</text>')
    for value, text in zip(x.ticks, x.labels, strict=True):
        at = x.place(value, LEFT, right)
        parts.append(f'<path class="axis" d="M{at:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 11}" dy="0.8em" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="axis-title" x="{middle:g}" y="{HEIGHT - 5}" text-anchor="middle">{escape(figure.x.title)}</text>')
    return "".join(parts)


def _series(figure: Figure, series: Series, x: Scale, y: Scale) -> str:
    def at(point: Point) -> tuple[float, float]:
        return x.place(point.x, LEFT, WIDTH - RIGHT), y.place(point.y, HEIGHT - BOTTOM, TOP)

    line = ""
    if series.style.dash != "none" and len(series.points) > 1:
        places = [at(point) for point in thinned(series.points)]
        line = f'<path class="line" d="M{"L".join(f"{left:.2f} {down:.2f}" for left, down in places)}"/>'
    marks = []
    for point in sorted(_spread(series.points), key=lambda point: point.marked):  # what is marked lies on top
        hint = "; ".join(part for part in (series.label, point.note, _reading(figure, point)) if part)
        marks.append(_marker(figure.style(series, point), *at(point), hint, small=bool(figure.marked) and not point.marked))
    return f'<g class="{_classes(series.style)}">{line}{"".join(marks)}</g>'


def _marker(style: Style, left: float, down: float, hint: str = "", small: bool = False) -> str:
    shape = _CROSS if style.marker == CROSS else _SHAPES[style.marker % len(_SHAPES)]
    kind = "cross" if style.marker == CROSS else "mark open" if style.open else "mark"
    title = f"<title>{escape(hint)}</title>" if hint else ""
    path = f'<path class="{kind}" d="{shape}"/>'
    size = " scale(0.7)" if small else ""
    return f'<g transform="translate({left:.2f} {down:.2f}){size}">{title}{path}</g>'


def _classes(style: Style) -> str:
    return f"c{style.colour % COLOURS}{' dashed' if style.dash == 'dashed' else ''}"


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most this many points of a line: of each stretch the lowest and the highest, and both ends."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2 - 1
    kept = {0, len(points) - 1}
    for number in range(stretches):
        stretch = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        kept |= {min(stretch, key=lambda index: points[index].y), max(stretch, key=lambda index: points[index].y)}
    return [points[index] for index in sorted(kept)]


def _spread(points: Sequence[Point]) -> list[Point]:
    """Return the points that get a marker: all, or of many those that are marked and some at even distances."""
    if len(points) <= MOST_MARKERS:
        return list(points)
    even = {round(index * (len(points) - 1) / (MOST_MARKERS - 1)) for index in range(MOST_MARKERS)}
    return [point for index, point in enumerate(points) if index in even or point.marked or point.note]


def described(figure: Figure, panel: Panel) -> str:
    """Return in words where each line of a panel begins and ends."""
    said = []
    for series in panel.series:
        first, last = series.points[0], series.points[-1]
        path = f"from {_reading(figure, first)} to {_reading(figure, last)}" if first != last else f"at {_reading(figure, last)}"
        said.append(f"{series.label}: {path}.")
    return " ".join(said)


def _reading(figure: Figure, point: Point) -> str:
    return f"{_value(figure.y, point.y)}, {_value(figure.x, point.x)}"


def _value(axis: Axis, value: float) -> str:
    shown = value * axis.factor
    digits = f"{shown:,.0f}" if axis.whole or abs(shown) >= 1000 else f"{shown:.4g}"
    return f"{axis.label} {digits}{' ' + axis.unit if axis.unit else ''}"
