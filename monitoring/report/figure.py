"""What a figure is, before it is drawn: panels of series on the same axes. HTML, PNG and CSV are made from the same one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Dash = Literal["solid", "dashed", "none"]  # none: markers only


@dataclass(frozen=True)
class Axis:
    """An axis. ``key`` is the name of its values in files, ``factor`` what they are multiplied by to be shown in ``unit``."""

    key: str
    label: str
    unit: str = ""
    factor: float = 1.0
    zero: bool = False  # begins at zero
    whole: bool = False  # only whole numbers
    most: float | None = None  # what no value exceeds, as shown

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Point:
    """A measured point, in the units of its file. ``marked``: one of those that its figure sets apart."""

    x: float
    y: float
    note: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Style:
    """How a series looks: a colour of the palette, a shape of the markers, filled or open."""

    colour: int
    marker: int = 0
    dash: Dash = "solid"
    open: bool = False


CROSS = -1  # the marker of what went wrong


@dataclass(frozen=True)
class Series:
    """Points under one label, in the order in which a line joins them."""

    label: str
    style: Style
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``title`` is empty where the figure's is enough."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Figure:
    """Panels with the same axes. ``name`` is for files, ``marked`` says what its filled points are where the others are open."""

    name: str
    title: str
    caption: str
    x: Axis
    y: Axis
    panels: tuple[Panel, ...]
    marked: str = ""

    def style(self, series: Series, point: Point) -> Style:
        """Return how a point looks."""
        return replace(series.style, open=not point.marked) if self.marked else series.style

    def points(self) -> Iterator[Point]:
        """Yield every point of every panel."""
        for panel in self.panels:
            for series in panel.series:
                yield from series.points

    def legend(self) -> list[tuple[str, Style]]:
        """Return each label once, with its style, in the order of first appearance."""
        return list({series.label: series.style for panel in self.panels for series in panel.series}.items())

    def coinciding(self) -> list[tuple[str, ...]]:
        """Return the labels of series that are the same in every panel: of their lines only the last one drawn is seen."""
        lines: dict[str, list[tuple[str, tuple[Point, ...]]]] = {}
        for panel in self.panels:
            for series in panel.series:
                lines.setdefault(series.label, []).append((panel.title, series.points))
        same: dict[str, list[str]] = {}
        for label, drawn in lines.items():
            same.setdefault(repr(drawn), []).append(label)
        return [tuple(labels) for labels in same.values() if len(labels) > 1]
