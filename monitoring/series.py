"""The values behind a table of metrics: added to by a listener, read by a scrape."""

import itertools
import math
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
SAMPLES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One metric of the table.

    roles: who exports it. labels: their names, and of each all its values where they are known from the start; such series begin at
    0, so that a first increase is seen. buckets: upper bounds of a histogram. A summary has no quantiles, but a mean: sum by count.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    help: str
    roles: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    buckets: tuple[float, ...] = ()


class Series:
    """The series of some metrics, by the values of their labels. Its methods may be called from any thread."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._lock = threading.Lock()
        self._definitions = {one.name: one for one in definitions}
        self._values: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in self._definitions}
        for one in self._definitions.values():
            if one.kind != "gauge" and all(one.labels.values()):
                for labels in itertools.product(*one.labels.values()):
                    self._of(one, labels)

    def add(self, name: str, value: float, labels: tuple[str, ...] = (), count: float = 1) -> None:
        """Add to a counter, or to a summary as the sum of so many observations. A metric that this role has not is passed over."""
        one = self._definitions.get(name)
        if one is not None:
            with self._lock:
                series = self._of(one, labels)
                series[0] += value
                if one.kind == "summary":
                    series[1] += count

    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Count an observation of a histogram."""
        one = self._definitions.get(name)
        if one is not None:
            with self._lock:
                series = self._of(one, labels)
                series[0] += value
                series[1 + bisect_left(one.buckets, value)] += 1

    def put(self, name: str, values: Mapping[tuple[str, ...], float]) -> None:
        """Set a gauge; of its series only those given remain."""
        if name in self._definitions:
            with self._lock:
                self._values[name] = {labels: [value] for labels, value in values.items()}

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics as they are now, for a registry."""
        with self._lock:
            values = {name: {labels: list(series) for labels, series in found.items()} for name, found in self._values.items()}
        for name, one in self._definitions.items():
            yield _family(one, values[name])

    def _of(self, one: Definition, labels: tuple[str, ...]) -> list[float]:
        found = self._values[one.name].get(labels)
        if found is None:
            sizes = {"histogram": len(one.buckets) + 2, "summary": 2}
            found = self._values[one.name][labels] = [0.0] * sizes.get(one.kind, 1)
        return found


def _family(one: Definition, found: Mapping[tuple[str, ...], Sequence[float]]) -> Metric:
    names = list(one.labels)
    if one.kind == "histogram":
        histogram = HistogramMetricFamily(one.name, one.help, labels=names)
        for labels, (total, *counts) in found.items():
            bounds = [*map(str, one.buckets), "+Inf"]
            histogram.add_metric(labels, list(zip(bounds, itertools.accumulate(counts), strict=True)), sum_value=total)
        return histogram
    if one.kind == "summary":
        summary = SummaryMetricFamily(one.name, one.help, labels=names)
        for labels, (total, count) in found.items():
            summary.add_metric(labels, count_value=math.floor(count), sum_value=total)
        return summary
    family = (CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily)(one.name, one.help, labels=names)
    for labels, (value,) in found.items():
        family.add_metric(labels, value)
    return family
