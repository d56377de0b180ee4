"""A dashboard: rows of panels, laid out from left to right and from top to bottom."""

from dataclasses import dataclass
from typing import Any

from monitoring.dashboards.panels import SOURCE, Panel

COLUMNS = 24


@dataclass(frozen=True)
class Row:
    """Panels side by side, which fill the width. title: above them; "": none. height: in rows of the grid, 30 pixels each."""

    title: str
    height: int
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A dashboard. name: of its file, and the end of its uid."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what Grafana reads."""
        return {
            "uid": f"splitee-{self.name}",
            "title": self.title,
            "description": self.description,
            "tags": ["splitee"],
            "schemaVersion": 39,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "time": {"from": "now-1h", "to": "now"},
            "refresh": "10s",
            "timezone": "browser",
            "annotations": {"list": [_ALERTS]},
            "templating": {"list": []},
            "links": [_LINKS],
            "panels": self._panels(),
        }

    def _panels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        y = 0
        for row in self.rows:
            if row.title:
                place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
                found.append(
                    {"id": len(found) + 1, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
                )
                y += 1
            x = 0
            for panel in row.panels:
                found.append(panel.to_json(len(found) + 1, x, y, row.height))
                x += panel.width
            y += row.height
        return found


_LINKS = {
    "type": "dashboards",
    "title": "Splitee",
    "tags": ["splitee"],
    "asDropdown": False,
    "includeVars": False,
    "keepTime": True,
    "targetBlank": False,
}
_ALERTS = {
    "name": "Alerts",
    "datasource": SOURCE,
    "enable": True,
    "iconColor": "red",
    "target": {"refId": "Anno", "expr": 'ALERTS{alertstate="firing", system="splitee"}', "interval": "30s"},
    "titleFormat": "{{alertname}}",
    "textFormat": "{{severity}}",
}
