"""``splitee sweep``: what each entropy bound gives, as a table, as sweep.csv, sweep.json and sweep.png."""

import csv
import io
import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.inference_run import open_recorded
from cli.sweep_plot import plot
from learning.sweep import Point, sweep
from workers.calibrated import shown
from workers.inference_folder import place, write
from workers.recorded import Recorded
from workers.trained_run import TrainedRun

COUNTED = {
    "bytes_per_sample": "values of offloaded features in the wire dtype; not the message around them, nor the answer",
    "seconds_per_sample": "computation of client half and, where offloaded, server half, in batches in this process; no transport",
}
_MOST_ROWS = 6  # of a cut in the table

Sweep = dict[str, list[Point]]


def run_sweep(*, folder: Path, limit: int | None, json: bool) -> None:
    """Sweep the bounds over a run's test split, write the results and print them. Raises the package's errors, each one line."""
    points, title, text = write_sweep(folder, limit)
    if json:
        print(text, end="")
        return
    Console().print(_table(points, title))
    Console().print(f"All bounds are in {place(folder, 'sweep.csv')}, sweep.json and sweep.png beside it", soft_wrap=True)


def write_sweep(folder: Path, limit: int | None) -> tuple[Sweep, str, str]:
    """Sweep the bounds over a run's test split and write the results; return the points, a title, and sweep.json's text.

    Raises LearningError if run, data or folder cannot be used.
    """
    run, answers = open_recorded(folder, limit)
    points = sweep(answers.records, answers.costs)
    text = json_module.dumps(_found(run, answers, points), indent=2, allow_nan=False) + "\n"
    write(place(folder, "sweep.json"), text.encode())
    write(place(folder, "sweep.csv"), _csv(points).encode())
    title = f"{run.settings.run}: {len(answers.records)} samples of the test split, features as {run.settings.wire_dtype}"
    write(place(folder, "sweep.png"), plot(points, title, run.network.classes))
    return points, title, text


def _found(run: TrainedRun, answers: Recorded, points: Sweep) -> dict[str, Any]:
    return {
        "run": run.settings.run,
        "parameters_sha256": answers.parameters_sha256,
        "split": "test",
        "samples": len(answers.records),
        "wire_dtype": run.settings.wire_dtype,
        "classes": run.network.classes,
        "counted": COUNTED,
        "cuts": {name: [_row(point) for point in own] for name, own in points.items()},
    }


def _row(point: Point) -> dict[str, Any]:
    return {**asdict(point), "max_entropy": shown(point.max_entropy)}


def _csv(points: Sweep) -> str:
    file = io.StringIO()
    rows = [{"cut": name, **_row(point)} for name, own in points.items() for point in own]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "pareto": int(row["pareto"])} for row in rows)
    return file.getvalue()


def _table(points: Sweep, title: str) -> Table:
    """Return a few Pareto points of each cut, from all that is offloaded to nothing."""
    caption = f"Pareto points, at most {_MOST_ROWS} of a cut. Bytes: features only. Milliseconds: computation only."
    table = Table(title=title, caption=caption)
    for name in ("cut", "max_entropy", "accuracy", "answered by clients", "bytes a sample", "ms a sample"):
        table.add_column(name, justify="right")
    for name, own in points.items():
        for point in _selected([point for point in own if point.pareto]):
            table.add_row(
                name,
                f"{point.max_entropy:g}",
                f"{point.accuracy:.4f}",
                f"{point.adoption:.1%}",
                f"{point.bytes_per_sample:.0f}",
                f"{point.seconds_per_sample * 1000:.3f}",
            )
        table.add_section()
    return table


def _selected(points: list[Point]) -> list[Point]:
    """Return the first, the last, and some evenly between them."""
    count = min(len(points), _MOST_ROWS)
    return [points[round(index * (len(points) - 1) / max(1, count - 1))] for index in range(count)]
