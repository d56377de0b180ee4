"""``splitee train``: a whole run from one command, in this process or as local processes against real servers."""

import json
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from cli.embedded import train_embedded
from cli.logs import current, listener
from cli.metrics import NOWHERE, MetricsAt, exported
from cli.prepare import check_clients_here, check_has_servers, check_output, prepare
from coordinator.errors import ExperimentError
from coordinator.experiment import Experiment
from monitoring.display import results_table

SERVERS = 2


def train(
    *,
    experiment: Experiment,
    output: Path,
    broker: str | None,
    store: str | None,
    servers: int | None,
    metrics: MetricsAt = NOWHERE,
) -> None:
    """Train an experiment and print its results. Raises the package's errors, each one line."""
    current().bind(run=experiment.name)
    if (broker is None) != (store is None):
        given, missing = ("--broker", "--store") if broker else ("--store", "--broker")
        raise ExperimentError(f"{given} without {missing}: give both, or neither to train in this one process")
    if broker is None and experiment.clients.open:
        raise ExperimentError(
            "clients.open = true: clients join over a broker; give --broker and --store, or set clients.count or clients.list"
        )
    if broker is not None or servers is not None:
        check_has_servers(experiment)
    prepared = prepare(experiment)
    check_clients_here(prepared)
    if broker and store:
        from cli.processes import train_with_processes
        from cli.servers import check_servers

        check_servers(broker, store, experiment.name)
    check_output(prepared, output)
    signal.signal(signal.SIGTERM, _interrupt)
    display = listener()
    with exported(metrics, "coordinator" if broker else "train", display, display.say) as (emit, health), display:
        with suppress(KeyboardInterrupt):  # said below, unless it came when everything was done
            if broker and store:
                train_with_processes(prepared, output, broker, store, servers or SERVERS, display.say, emit, health, metrics)
            else:
                train_embedded(prepared, output, servers or SERVERS, display, emit, health)
        if not (output / "summary.json").exists():
            display.say(f"Stopped before its end; the same command goes on after the last completed round, from {output}")
            raise KeyboardInterrupt
    summary = json.loads((output / "summary.json").read_text())
    Console().print(results_table(summary))
    Console().print(f"Results are in {output}", soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
