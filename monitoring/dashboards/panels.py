"""What a dashboard is made of, as data, and the JSON that Grafana 11 and later read."""

from dataclasses import dataclass
from typing import Any, Literal

SOURCE = {"type": "prometheus", "uid": "prometheus"}  # as in provisioning/datasources
Kind = Literal["timeseries", "stat", "bargauge", "heatmap", "table"]
Step = tuple[float | None, str]  # from this value on (None: from the lowest) it has this colour


@dataclass(frozen=True)
class Query:
    """One PromQL expression. legend: of each of its series, with labels in double braces."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    what, normal, otherwise: its description: what it shows, what is normal, and what to do when it is not. unit: one of Grafana's.
    width: of 24 columns. low, high: ends of its axis. steps: colours by value. texts: shown in place of values. empty: shown in
    place of no value. stairs: values hold until the next one. joined: lines go on over times without a value. colours: of lines, by
    legend. dashed: a regular expression of legends. link: name of a dashboard that says more.
    """

    title: str
    what: str
    normal: str
    otherwise: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    decimals: int | None = None
    low: float | None = 0
    high: float | None = None
    steps: tuple[Step, ...] = ()
    texts: tuple[tuple[float, str], ...] = ()
    empty: str = "no data"
    stacked: bool = False
    stairs: bool = False
    bars: bool = False
    logarithmic: bool = False
    joined: bool = False
    colours: tuple[tuple[str, str], ...] = ()
    dashed: str = ""
    link: str = ""

    def to_json(self, id: int, x: int, y: int, height: int) -> dict[str, Any]:
        """Return the panel at a place of the grid, in columns and rows of it."""
        panel: dict[str, Any] = {
            "id": id,
            "type": self.kind,
            "title": self.title,
            "description": f"{self.what}\n\n**Normal:** {self.normal}\n\n**Otherwise:** {self.otherwise}",
            "datasource": SOURCE,
            "gridPos": {"h": height, "w": self.width, "x": x, "y": y},
            "targets": [self._target(chr(ord("A") + place), query) for place, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self._defaults(), "overrides": self._overrides()},
            "options": _OPTIONS[self.kind](self),
        }
        if self.link:
            panel["links"] = [{"title": f"More: {self.link}", "url": f"/d/splitee-{self.link}?${{__url_time_range}}"}]
        if self.kind == "table":
            panel["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]
        return panel

    def _target(self, reference: str, query: Query) -> dict[str, Any]:
        now = self.kind in ("stat", "bargauge", "table")  # not what was last seen, perhaps of a run that is over
        return {
            "refId": reference,
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": now,
            "range": not now,
            "format": self.kind if self.kind in ("heatmap", "table") else "time_series",
        }

    def _defaults(self) -> dict[str, Any]:
        steps = self.steps or ((None, "blue"),)
        found: dict[str, Any] = {
            "unit": self.unit,
            "decimals": self.decimals,
            "min": self.low if self.kind in ("timeseries", "bargauge") else None,
            "max": self.high,
            "noValue": self.empty,
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
            "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]},
            "mappings": [_text(value, text) for value, text in self.texts],
        }
        if self.kind == "timeseries":
            found["custom"] = self._drawing()
        return {key: value for key, value in found.items() if value not in (None, [])}

    def _overrides(self) -> list[dict[str, Any]]:
        found = [_override("byName", name, "color", {"mode": "fixed", "fixedColor": colour}) for name, colour in self.colours]
        if self.dashed:
            found.append(_override("byRegexp", f"/{self.dashed}/", "custom.lineStyle", {"fill": "dash", "dash": [8, 6]}))
        return found

    def _drawing(self) -> dict[str, Any]:
        return {
            "drawStyle": "bars" if self.bars else "line",
            "lineInterpolation": "stepAfter" if self.stairs else "linear",
            "lineWidth": 2,
            "fillOpacity": 30 if self.stacked or self.bars else 0,
            "showPoints": "auto",
            "spanNulls": self.joined,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if self.logarithmic else {"type": "linear"},
            "thresholdsStyle": {"mode": "line" if self.steps else "off"},
        }


def _override(matcher: str, which: str, key: str, value: Any) -> dict[str, Any]:
    return {"matcher": {"id": matcher, "options": which}, "properties": [{"id": key, "value": value}]}


def _text(value: float, text: str) -> dict[str, Any]:
    return {"type": "value", "options": {f"{value:g}": {"text": text, "index": 0}}}


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _stat(panel: Panel) -> dict[str, Any]:
    return {
        "reduceOptions": _LAST,
        "textMode": "value_and_name" if len(panel.queries) > 1 or "{{" in panel.queries[0].legend else "value",
        "colorMode": "background" if panel.texts else "value",
        "graphMode": "none",
        "orientation": "auto",
        "justifyMode": "center",
    }


def _bargauge(_: Panel) -> dict[str, Any]:
    return {"reduceOptions": _LAST, "orientation": "horizontal", "displayMode": "basic", "valueMode": "text", "showUnfilled": True}


def _timeseries(_: Panel) -> dict[str, Any]:
    return {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _heatmap(panel: Panel) -> dict[str, Any]:
    return {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64, "fill": "blue", "scale": "exponential", "exponent": 0.5},
        "cellGap": 1,
        "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
        "rowsFrame": {"layout": "auto"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True},
        "filterValues": {"le": 1e-9},
    }


def _table(_: Panel) -> dict[str, Any]:
    return {"showHeader": True, "cellHeight": "sm"}


_OPTIONS = {"stat": _stat, "bargauge": _bargauge, "timeseries": _timeseries, "heatmap": _heatmap, "table": _table}
