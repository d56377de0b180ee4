"""`splitee profile`: what each cut asks of this device, and which one suits it. docs/profile.md says what is measured and how."""

import json as json_module
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from cli.embedded import available_cores
from cli.errors import CommandError
from cli.machine import machine
from cli.prepare import resolve_network
from cli.profile_child import OutOfMemory, measure_apart
from coordinator.experiment import Experiment
from coordinator.results import round_to
from learning.arithmetic import device_shares
from learning.halves import usable_device
from learning.layers import Network
from workers import process_memory
from workers.cut_choice import Budget, CutProfile, recommend, shortfall
from workers.profiling import WARM_UP
from workers.run_settings import RunSettings

_MB = 1e6
_COLUMNS = (
    "cut", "features", "step\nms", "range\nms", "infer\nms", "memory\nMB", "state\nMB", "sample\nbytes", "upload\nMbit/s", "share",
)  # fmt: skip


def profile(*, experiment: Experiment, budget: Budget, batches: int, json: bool, output: Path | None) -> None:
    """Measure every cut of the experiment's network on this device, print the figures, and recommend one if there is a budget.

    output: file for the JSON, whatever is printed. Raises CommandError if no cut stays within the budget, or something
    cannot be measured or written.
    """
    _check_budget(budget)
    _check_output(output)
    if not process_memory.is_readable():
        raise CommandError("profile reads memory from /proc, which only Linux has")
    with redirect_stdout(sys.stderr):  # stdout is for the figures: a model of the user's own may print
        found, rows = _figures(experiment, batches)
    chosen = recommend(rows, budget)
    found |= {"budget": asdict(budget), "recommendation": chosen.cut if chosen else None}
    _print(found, rows, chosen, budget, json)
    if output:
        _write(output, found)
    if budget.bounds() and chosen is None:
        raise CommandError(shortfall(rows, budget))


def _figures(experiment: Experiment, batches: int) -> tuple[dict[str, Any], list[CutProfile]]:
    """Return the figures as they are written, and those of the cuts."""
    resolved, data, network = resolve_network(experiment)
    usable_device(resolved.training.device)
    settings = RunSettings.from_json(resolved.to_json())
    process_bytes = process_memory.resident()
    shares = device_shares(network, settings.training.seed)
    rows, stopped = _measure(network, settings, data.classes, batches)
    found = {
        "cuts": [_row(row, shares) for row in rows],
        "stopped": stopped,
        "process_bytes": process_bytes,
        "machine": {**machine(), "gpu": torch.cuda.get_device_name() if settings.training.device == "cuda" else None},
        "settings": _settings(network, settings, batches),
    }
    return found, rows


def _measure(network: Network, settings: RunSettings, classes: int, batches: int) -> tuple[list[CutProfile], str | None]:
    """Return what the cuts need, up to the first that this device has not enough memory for, and why it ended there."""
    console = Console(stderr=True, highlight=False, emoji=False)
    rows: list[CutProfile] = []
    last, training = network.depth - 1, settings.training
    what = f"{batches} batches of {training.batch_size}, {training.precision} on {training.device}"
    console.print(f"{network.model}: cuts 1 to {last}, {what}", markup=False, soft_wrap=True)
    _warn_if_busy(console)
    with console.status("") as status:
        for cut in range(1, last + 1):
            status.update(f"cut {cut} of {last}")
            try:
                rows.append(measure_apart(settings, network.sample_shape, classes, cut, batches))
            except OutOfMemory as error:
                if not rows:
                    raise CommandError(f"{error}; try a smaller training.batch_size") from None
                stopped = f"{error}; deeper cuts are not measured"
                console.print(stopped, markup=False, soft_wrap=True)
                return rows, stopped
            console.print(_line(rows[-1], last), markup=False, soft_wrap=True)
    return rows, None


def _line(row: CutProfile, last: int) -> str:
    return (
        f"cut {row.cut} of {last}, after {row.layer}: {row.step_ms:.1f} ms a step, {row.memory_bytes / _MB:.1f} MB, "
        f"{row.upload_mbps:.1f} Mbit/s"
    )


def _warn_if_busy(console: Console) -> None:
    load, cores = os.getloadavg()[0], available_cores()
    if load > cores:
        text = f"this machine is busy (load {load:.1f} on {cores} cores): times will be longer than they would be"
        console.print(text, markup=False, soft_wrap=True)


def _row(row: CutProfile, shares: list[float] | None) -> dict[str, Any]:
    found = {name: round_to(value) if isinstance(value, float) else value for name, value in asdict(row).items()}
    share = round_to(shares[row.cut - 1]) if shares else None
    return {**found, "upload_mbps": round_to(row.upload_mbps), "arithmetic_share": share}


def _settings(network: Network, settings: RunSettings, batches: int) -> dict[str, object]:
    training = settings.training
    return {
        "experiment": settings.run,
        "model": settings.model.model_dump(mode="json"),
        "layers": network.depth,
        "sample_shape": network.sample_shape,
        "classes": network.classes,
        "batch_size": training.batch_size,
        "precision": training.precision,
        "device": training.device,
        "memory_format": training.memory_format,
        "optimizer": training.client.name,
        "wire_dtype": settings.wire_dtype,
        "threads": 1,
        "batches": batches,
        "warm_up_batches": WARM_UP,
    }


def _print(found: dict[str, Any], rows: list[CutProfile], chosen: CutProfile | None, budget: Budget, json: bool) -> None:
    if json:
        print(json_module.dumps(found, indent=2))
        return
    console = Console(highlight=False, emoji=False)
    console.print(_table(rows, found["cuts"], chosen))
    console.print(_legend(found), markup=False)
    if chosen:
        bounds = " and ".join(map(str, budget.bounds()))
        console.print(f"Recommended: cut {chosen.cut}, the deepest within {bounds}.", markup=False, soft_wrap=True)


def _table(rows: list[CutProfile], entries: list[dict[str, Any]], chosen: CutProfile | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row, entry in zip(rows, entries, strict=True):
        share = entry["arithmetic_share"]
        table.add_row(
            str(row.cut),
            "x".join(map(str, row.feature_shape)),
            _figure(row.step_ms),
            f"{_figure(row.step_ms_fastest)}-{_figure(row.step_ms_slowest)}",
            _figure(row.inference_ms),
            _figure(row.memory_bytes / _MB),
            _figure((row.parameter_bytes + row.optimizer_bytes) / _MB),
            f"{row.sample_bytes}",
            _figure(row.upload_mbps),
            "" if share is None else f"{share:.2f}",
            style="bold" if row is chosen else None,
        )
    return table


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _legend(found: dict[str, Any]) -> str:
    settings, machine = found["settings"], found["machine"]
    device = f"{settings['device']} ({machine['gpu'] or machine['processor']}), {settings['threads']} thread"
    return "; ".join(
        [
            f"{device}, {settings['precision']}, batches of {settings['batch_size']}, features sent as {settings['wire_dtype']}",
            f"step: median of {settings['batches']} batches",
            "infer: one sample",
            f"memory: of training, above the {found['process_bytes'] / _MB:.0f} MB that a process with torch has",
            "state: parameters and optimizer, a part of it",
            "upload: of training at full speed",
            "share: of the network's training arithmetic",
        ]
    )


def _check_budget(budget: Budget) -> None:
    for bound in budget.bounds():
        if not 0 < bound.limit < float("inf"):
            raise CommandError(f"{bound}: must be a number above 0")


def _check_output(output: Path | None) -> None:
    """Raise CommandError now, not after minutes of measuring, if a file cannot be written there."""
    if output and (output.is_dir() or not os.access(output if output.exists() else output.parent, os.W_OK)):
        raise CommandError(f"{output}: cannot be written; name a file in a folder that exists with --output")


def _write(output: Path, found: dict[str, Any]) -> None:
    try:
        output.write_text(json_module.dumps(found, indent=2) + "\n")
    except OSError as error:
        raise CommandError(f"{output}: cannot be written: {error.strerror}") from None
