"""Every query of the dashboards, asked of a Prometheus in which all metrics move: it answers, with the labels of its legend."""

import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from monitoring.exporter import Exporter, Health
from monitoring.metric_table import DEFINITIONS
from monitoring.series import Series
from tests.dashboards import dashboards, expressions, panels
from tests.metric_labels import ALARMS, QUEUES
from tests.prometheus import Prometheus, start_prometheus
from tests.services import installed

PATIENCE = 60.0
QUEUE_NAMES = ("activations.client-01", "activations.client-02", "coordinator", "offers", "inference", "dead")


class Everything:
    """All metrics with all their labels; all go up by one at every scrape."""

    def __init__(self) -> None:
        self._series = Series(DEFINITIONS)
        self._scrapes = 0

    def collect(self) -> Iterator[Metric]:
        self._scrapes += 1
        for one in DEFINITIONS:
            known = list(itertools.product(*(values or ("3", "5") for values in one.labels.values())))
            for labels in known:
                if one.kind == "histogram":
                    self._series.observe(one.name, 1.0, labels)
                elif one.kind != "gauge":
                    self._series.add(one.name, 1.0, labels)
            if one.kind == "gauge":
                self._series.put(one.name, dict.fromkeys(known, float(self._scrapes)))
        yield from self._series.collect()
        for name in QUEUES:
            family = GaugeMetricFamily(f"rabbitmq_detailed_queue_{name}", name, labels=["queue"])
            for queue in QUEUE_NAMES:
                family.add_metric([f"splitee.digits.{queue}"], self._scrapes)
            yield family
        for name in ALARMS:
            yield GaugeMetricFamily(f"rabbitmq_alarms_{name}", name, value=self._scrapes)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    registry = CollectorRegistry()
    registry.register(Everything())
    folder = tmp_path_factory.mktemp("prometheus") / "own"
    with installed(start_prometheus(folder)) as started, Exporter("127.0.0.1", 0, registry, Health("all")) as exporter:
        started.scrape(f"127.0.0.1:{exporter.port}")
        assert answer(started, "increase(splitee_round_seconds_count[1m]) > 1"), "it scrapes"
        yield started


def answer(prometheus: Prometheus, promql: str) -> list[dict[str, Any]]:
    """Return what a query gives; once more where it gives nothing, for Prometheus may have missed a scrape."""
    deadline = time.monotonic() + PATIENCE
    while not (found := prometheus.ask(promql)) and "ALERTS" not in promql and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_every_query_answers_with_the_labels_of_its_legend(prometheus: Prometheus) -> None:
    asked = {one.where: one.promql for one in expressions("1m")}
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                where = f"{name} / {panel['title']} / {target['refId']}"
                found = answer(prometheus, asked[where])
                assert found or "ALERTS" in asked[where], where
                named = {
                    re.sub(r"{{(\w+)}}", lambda label, one=one: one["metric"].get(label[1], "?"), target["legendFormat"])
                    for one in found
                }
                assert not any("?" in legend for legend in named), (where, named)
                assert len(named) == len(found) or panel["type"] == "table", f"{where}: series of one name"
