"""Alerts: each fires and is silent where it should, says what to do, and Prometheus' own tool takes all that is asked."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.private_servers import ServerNotInstalled
from tests.dashboards import ALERTS, MONITORING, alerts, expressions, labels_used
from tests.services import installed

ROOT = MONITORING.parent
RULES = {rule["alert"]: rule for rule in alerts()}
TESTS = ALERTS.with_name("alerts_test.yml")
CONFIG = ALERTS.with_name("prometheus.yml")


@contextmanager
def found() -> Iterator[str]:
    program = shutil.which("promtool")
    if program is None:
        raise ServerNotInstalled("promtool is not installed; sudo apt-get install -y prometheus")
    yield program


@pytest.fixture
def promtool() -> Iterator[str]:
    with installed(found()) as program:
        yield program


def said(*command: str | Path) -> str:
    """Return what a command says where it fails; "": it does not."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


def cases() -> Iterator[tuple[str, bool]]:
    """Yield the alert that each case is about, and whether it fires there."""
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["promql_expr_test"]:
            (name,) = re.findall(r'^ALERTS{alertname="(\w+)"', case["expr"])
            yield name, bool(case["exp_samples"])


def test_the_alerts_fire_and_are_silent_where_they_should(promtool: str) -> None:
    assert said(promtool, "check", "rules", ALERTS) == ""
    assert said(promtool, "test", "rules", TESTS) == ""


@pytest.mark.parametrize("name", RULES)
def test_an_alert_has_a_case_of_each(name: str) -> None:
    assert (name, True) in cases(), "it fires"
    assert (name, False) in cases(), "it nearly does"


def test_no_case_is_of_an_alert_that_is_not_there() -> None:
    assert {name for name, _ in cases()} == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["labels"]["system"] == "splitee", "which dashboards ask for"
    assert "for" in rule or "increase(" in rule["expr"], "of one look at a gauge nobody is woken"
    texts = rule["annotations"]
    assert set(texts) == {"summary", "description", "runbook"}
    for template in re.findall(r"{{ (.+?) }}", texts["summary"] + texts["description"]):
        label = re.fullmatch(r"\$value(?: \| humanize\w*)?|\$labels\.(\w+)", template)
        assert label is not None, template
        assert label[1] in (None, "instance", *labels_used(rule["expr"]))
    page, _, anchor = texts["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert rule["alert"] in headings, f"{page} says what to do"


def test_prometheus_takes_every_expression(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"expression:{number}", "expr": one.promql} for number, one in enumerate(expressions())]
    file = tmp_path / "expressions.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    assert said(promtool, "check", "rules", "--lint-fatal", file) == ""


def test_prometheus_takes_its_configuration(promtool: str) -> None:
    if not CONFIG.exists():
        pytest.skip("there is no prometheus.yml")
    assert said(promtool, "check", "config", CONFIG) == ""
    configured = yaml.safe_load(CONFIG.read_text())
    assert configured["rule_files"] == [ALERTS.name]
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["jsonData"]["timeInterval"] == configured["global"]["scrape_interval"], "of which Grafana's rates are made"
