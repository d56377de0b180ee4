"""Dashboards: current, complete, laid out without overlaps, understandable, and of metrics that exist."""

import re
from collections import Counter
from itertools import product
from typing import Any

import pytest
import yaml

from monitoring.dashboards.__main__ import files
from monitoring.dashboards.dashboard import COLUMNS
from tests.dashboards import FOLDER, MONITORING, Expression, dashboards, expressions, labels_used, metrics_used, panels
from tests.metric_labels import LABELS
from tests.units import UNITS, shown

PROVISIONING = MONITORING / "grafana" / "provisioning"
DASHBOARDS = dashboards()
PANELS = {f"{name} / {panel['title']}": panel for name, dashboard in DASHBOARDS.items() for panel in panels(dashboard)}
EXPRESSIONS = {one.where: one for one in expressions()}


def provisioned(kind: str) -> dict[str, Any]:
    """Return what all files of a kind provision, by the one key beside the version."""
    found = {}
    for path in (PROVISIONING / kind).glob("*.yml"):
        content = yaml.safe_load(path.read_text())
        assert content.pop("apiVersion") == 1
        found |= content
    return found


def cells(panel: dict[str, Any]) -> list[tuple[int, int]]:
    place = panel["gridPos"]
    return list(product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])))


def test_the_files_are_what_the_tables_say() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == files(), "run `make docs`"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_fill_the_grid_once(name: str) -> None:
    taken = Counter(cell for panel in DASHBOARDS[name]["panels"] for cell in cells(panel))
    bottom = max(y for _, y in taken) + 1
    assert taken == Counter(product(range(COLUMNS), range(bottom)))


def test_nothing_is_there_twice() -> None:
    assert len({one["uid"] for one in DASHBOARDS.values()}) == len({one["title"] for one in DASHBOARDS.values()}) == len(DASHBOARDS)
    for name, dashboard in DASHBOARDS.items():
        assert dashboard["uid"] == f"splitee-{name}"
        ids = [panel["id"] for panel in dashboard["panels"]]
        titles = [panel["title"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        assert len(set(titles)) == len(titles)
        for panel in panels(dashboard):
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)


@pytest.mark.parametrize("where", PANELS)
def test_a_panel_says_what_it_is(where: str) -> None:
    panel = PANELS[where]
    what, normal, otherwise = panel["description"].split("\n\n")
    assert what.endswith(".")
    assert normal.startswith("**Normal:** ")
    assert otherwise.startswith("**Otherwise:** ")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["noValue"]
    assert defaults["unit"] in UNITS or defaults["unit"].startswith("suffix: ")
    assert shown(1.5, defaults["unit"], defaults.get("decimals"))
    assert panel["type"] == "table" or all(target["legendFormat"] for target in panel["targets"])
    steps = [step["value"] for step in defaults["thresholds"]["steps"]]
    assert steps == [None, *sorted(steps[1:])]
    titles = {other["title"] for dashboard in DASHBOARDS.values() for other in dashboard["panels"]}
    assert set(re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", panel["description"])) <= titles


def test_links_lead_to_dashboards() -> None:
    uids = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    led_to = {link["url"].removeprefix("/d/").partition("?")[0] for panel in PANELS.values() for link in panel.get("links", [])}
    assert led_to
    assert led_to <= uids
    for dashboard in DASHBOARDS.values():
        (link,) = dashboard["links"]
        assert all(set(link["tags"]) <= set(other["tags"]) for other in DASHBOARDS.values())
        assert link["keepTime"]


def test_the_data_source_is_the_one_that_is_provisioned() -> None:
    (source,) = provisioned("datasources")["datasources"]
    named = {"type": source["type"], "uid": source["uid"]}
    assert named == {"type": "prometheus", "uid": "prometheus"}
    for dashboard in DASHBOARDS.values():
        asked = [*dashboard["annotations"]["list"], *panels(dashboard)]
        asked += [target for panel in panels(dashboard) for target in panel["targets"]]
        assert all(one["datasource"] == named for one in asked)


def test_every_variable_is_defined_and_used() -> None:
    for name, dashboard in DASHBOARDS.items():
        defined = {variable["name"] for variable in dashboard["templating"]["list"]}
        used = {
            variable
            for one in EXPRESSIONS.values()
            if one.where.startswith(name)
            for variable in re.findall(r"\$(\w+)", one.promql)
        }
        assert used == defined, "Grafana's own are replaced by `expressions`"


def test_the_dashboards_lie_where_grafana_looks() -> None:
    (provider,) = provisioned("dashboards")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards", "where the container has monitoring/grafana/dashboards"


@pytest.mark.parametrize("one", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_an_expression_is_of_metrics_and_labels_that_exist(one: Expression) -> None:
    names = metrics_used(one.promql)
    assert names
    assert names <= set(LABELS)
    known = set().union(*(LABELS[name] for name in names))
    assert labels_used(one.promql) <= known
