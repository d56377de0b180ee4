"""What tests share that let a real Prometheus scrape real runs: where roles serve, and which expressions need which faults."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.dashboards import expressions
from tests.end_to_end.harness import PATIENCE, Node

ROOT = Path(__file__).parents[2]
METRICS = ("--metrics-port", "0")
INTERVAL = "10s"  # in place of Grafana's

# Expressions that give something only where something is wrong: with the fault that they are about, or with any that fires at once.
WITH_ANY_ALERT = (
    *(f"{name} / Alerts" for name in ("training", "pipeline", "inference")),
    "training / What is wrong / A",
)
IN_THE_FAULTY_RUN = (  # the other run has a broker that is away and degraded answers
    *("CoordinatorGone", "RunPaused", "ClientsDropping", "WorkerPoolEmpty", "DeadLetters", "NotFinite", "StoreGone", "RoleCutOff"),
    *("StoreNearlyFull", "BrokerAlarm", "QueuesUnseen"),
)
# What takes minutes or hours: in seconds, and in the run with faults. So the fault is there, but the threshold is another. Of
# BacklogGrowing there is none left: that all it compares is there is all that is looked at; promtool has the rest.
SCALED = {
    "NoProgress": {"> 900": "> 1", "[15m]": "[2s]"},
    "RoundOverdue": {"> 3 * sum": "> 0 * sum", ">= 3": ">= 1", "+ 300": "+ 0"},
    "BacklogGrowing": {
        "[20m:1m]": "[2s:200ms]",
        "offset 30m": "offset 2s",
        "> 100 +": "> -1e9 +",
        "[20m]": "[2s]",
        "< 0.05": "< 1e9",
    },
}


def asked() -> dict[str, str]:
    """Return all expressions of dashboards and alerts by where they are, as these tests ask them."""
    found = {one.where: one.promql for one in expressions(INTERVAL)}
    for name, changes in SCALED.items():
        for old, new in changes.items():
            assert old in found[f"alert {name}"], (name, old)
            found[f"alert {name}"] = found[f"alert {name}"].replace(old, new)
    return found


def with_faults() -> set[str]:
    """Return where the expressions are that the run with faults is for."""
    return {*WITH_ANY_ALERT, *(f"alert {name}" for name in (*IN_THE_FAULTY_RUN, *SCALED))}


def wait_for(holds: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait until something holds; fail with what is there instead."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def address_of(node: Node) -> str:
    """Return HOST:PORT of a role's metrics, which it says in a line."""

    def said() -> re.Match[str] | None:
        return re.search(r"metrics at http://(127\.0\.0\.1:\d+)/metrics\"", node.text())

    wait_for(said, node.text)
    found = said()
    assert found is not None
    return found[1]
