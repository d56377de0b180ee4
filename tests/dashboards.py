"""The dashboards and alerts as they lie in monitoring/: read from their files, for tests that look at them or run what they ask."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parents[1] / "monitoring"
FOLDER = MONITORING / "grafana" / "dashboards"
ALERTS = MONITORING / "prometheus" / "alerts.yml"
_WORDS = {"and", "or", "unless", "bool", "offset"}
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"\{([^}]*)\}")
VARIABLES = ("$__rate_interval", "$__interval", "$__range")  # of Grafana's own, those that are durations


@dataclass(frozen=True)
class Expression:
    """One PromQL expression. where: "training / Loss in training / A", "training / Alerts" (an annotation), "alert NoProgress"."""

    where: str
    promql: str


def dashboards() -> dict[str, dict[str, Any]]:
    """Return all dashboards by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    """Return all alerts as they are written."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def plain(promql: str, interval: str) -> str:
    """Return an expression of Grafana as Prometheus takes it. interval: a duration in place of Grafana's variables, "1m"."""
    for variable in VARIABLES:
        promql = promql.replace(variable, interval)
    return promql


def expressions(interval: str = "1m") -> list[Expression]:
    """Return every expression of the dashboards and alerts; interval: as of ``plain``."""
    found = []
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            found += [(f"{name} / {panel['title']} / {target['refId']}", target["expr"]) for target in panel["targets"]]
        found += [(f"{name} / {mark['name']}", mark["target"]["expr"]) for mark in dashboard["annotations"]["list"]]
    found += [(f"alert {alert['alert']}", alert["expr"]) for alert in alerts()]
    return [Expression(where, plain(promql, interval)) for where, promql in found]


def metrics_used(promql: str) -> set[str]:
    """Return the names of all metrics in an expression of Prometheus."""
    bare = re.sub(r"\[[^]]*\]|\boffset \w+", "", _GROUPING.sub("", _MATCHERS.sub("", promql)))
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - _WORDS


def labels_used(promql: str) -> set[str]:
    """Return the names of all labels by which an expression of Prometheus selects, groups or joins."""
    selected = {label for inner in _MATCHERS.findall(promql) for label in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', inner)}
    grouped = {label.strip() for inner in _GROUPING.findall(promql) for label in inner.split(",")}
    return (selected | grouped) - {""}
