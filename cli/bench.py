"""`splitee bench`: measure this machine. docs/benchmarks.md says what and how."""

import json as json_module
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from cli import bench_inference, bench_memory, bench_metrics, bench_train
from cli.options import Precision


def train(
    *,
    json: bool,
    broker: str | None,
    store: str | None,
    precision: Precision = "auto",
    repetitions: int | None = None,
    batches: int | None = None,
    width: int | None = None,
    quick: bool = False,
    metrics: bool = False,
) -> None:
    """Measure samples a second and print them; None: as many as the scale says. metrics: with exporters against without."""
    scale = bench_train.QUICK if quick else bench_train.Scale()
    given = {"repetitions": repetitions, "batches": batches, "width": width}
    scale = replace(scale, precision=precision, **{name: value for name, value in given.items() if value is not None})
    if metrics:
        found = bench_metrics.measure_metrics(scale, broker, store, _say)
        _print(found, json, _metrics_table(found))
    else:
        found = bench_train.measure_train(scale, broker, store, _say)
        _print(found, json, _train_table(found))


def memory(*, json: bool, broker: str | None, store: str | None, quick: bool = False) -> None:
    """Measure memory against the number of clients and print it."""
    scale = bench_memory.QUICK if quick else bench_memory.Scale()
    found = bench_memory.measure_memory(scale, broker, store, _say)
    _print(found, json, _memory_table(found))


def inference(*, json: bool, broker: str | None, store: str | None, quick: bool = False) -> None:
    """Measure offloaded inference and print it."""
    scale = bench_inference.QUICK if quick else bench_inference.Scale()
    found = bench_inference.measure_inference(scale, broker, store, _say)
    _print(found, json, _inference_table(found))


def _inference_table(found: dict[str, Any]) -> Table:
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in found["samples_per_second"].items())
    table = Table("requesters", "requests computed", "p50", "p99", caption=f"samples/s: {rates}; ratio {found['ratio']:.2f}")
    for how, by_requesters in found["latency_seconds"].items():
        for requesters, waited in by_requesters.items():
            table.add_row(requesters, how, *(f"{waited[share] * 1000:.1f} ms" for share in ("p50", "p99")))
    return table


def _train_table(found: dict[str, Any]) -> Table:
    table = Table("", "samples/s", "of plain", caption=f"{found['bytes_per_sample']:.0f} bytes a sample through the broker")
    for name, rate in found["samples_per_second"].items():
        table.add_row(name, f"{rate:.1f}", f"{found['ratio'].get(name, 1.0):.2f}")
    return table


def _metrics_table(found: dict[str, Any]) -> Table:
    interval = "no interval from one" if found["interval"] is None else "{:.4f} to {:.4f}".format(*found["interval"])
    listening = f"listening: {found['listening']['share']:.4%} of a batch's time, by the events of a run"
    table = Table("exporters", "samples/s", "ratio", caption=listening)
    table.add_row("off", f"{found['samples_per_second']['off']:.1f}", "1")
    table.add_row("on", f"{found['samples_per_second']['on']:.1f}", f"{found['ratio']:.4f} ({interval})")
    return table


def _memory_table(found: dict[str, Any]) -> Table:
    table = Table("clients", "worker, peak", "store, peak", "waiting in queues, peak", caption=f"worker ratio {found['ratio']:.3f}")
    for count in found["worker_rss_bytes"]:
        sizes = (found[name][count] for name in ("worker_rss_bytes", "store_bytes", "broker_bytes"))
        table.add_row(count, *(f"{size / 2**20:.1f} MiB" for size in sizes))
    return table


def _print(found: dict[str, Any], json: bool, table: Table) -> None:
    if json:
        print(json_module.dumps(found, indent=2))
    else:
        Console().print(table)


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
