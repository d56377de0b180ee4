"""`splitee reproduce`: the paper's experiments, each a set of ordinary runs, and a table over their seeds."""

import json as json_module
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from cli.embedded import available_cores
from cli.errors import CommandError
from cli.machine import machine
from cli.prepare import check_clients_here, check_output, prepare
from cli.reproduce_grid import Grid
from cli.reproduce_notes import clients_notes, run_notes
from cli.reproduce_plan import Request, Trial, plan
from cli.reproduce_run import is_finished, train_all
from cli.reproduce_table import Done, Found, accuracies, mismatches, read
from cli.reproduce_threshold import threshold
from cli.reproduce_wire import wire
from coordinator.errors import ExperimentError
from coordinator.experiment import Experiment, resolve


def reproduce(*, request: Request, output: Path, jobs: int | None, dry_run: bool, json: bool) -> None:
    """Train what is left of an experiment and print its table. Raises the package's errors, each one line."""
    folder = output / request.trains
    trials = _trials(request, output)
    for trial in trials:
        _check_same(trial)
    if dry_run:
        _print_plan(trials, json)
        return
    first = next((trial for trial in trials if not is_finished(trial)), trials[0])
    prepared = prepare(first.experiment)
    if not is_finished(first):
        check_clients_here(prepared)
    check_output(prepared, first.folder)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            _train(trials, jobs, folder)
            _report(request, trials, output / request.experiment, json)
    except Timeout:
        raise CommandError(f"{folder} is in use by another process") from None


def _train(trials: Sequence[Trial], jobs: int | None, folder: Path) -> None:
    cuda = trials[0].experiment.training.device == "cuda"
    try:
        train_all(trials, jobs or (1 if cuda else available_cores()))
    except KeyboardInterrupt:
        Console(stderr=True).print(f"Stopped before its end; the same command goes on, from {folder}", markup=False, soft_wrap=True)
        raise


def _trials(request: Request, output: Path) -> list[Trial]:
    """Return the runs of an experiment; what was trained in another one already is taken from there."""
    trials = [_resolved(trial) for trial in plan(request, output / request.trains)]
    if request.experiment != "wire":
        return trials
    others = plan(replace(request, experiment="heterogeneous", strategies=("averaging",)), output / "heterogeneous")
    there = {
        trial.experiment.fingerprint(): trial.folder for trial in map(_resolved, others) if is_finished(trial) and _is_same(trial)
    }
    return [
        trial if is_finished(trial) else replace(trial, folder=there.get(trial.experiment.fingerprint(), trial.folder))
        for trial in trials
    ]


def _resolved(trial: Trial) -> Trial:
    return replace(trial, experiment=resolve(trial.experiment, torch.cuda.is_available()))


def _check_same(trial: Trial) -> None:
    """Raise ExperimentError if a run's folder holds another experiment's: nothing has been trained yet."""
    if _is_same(trial) is False:
        where = trial.folder.parents[1]
        raise ExperimentError(
            f"{trial.folder} holds a run with other settings; name another folder with --output, or delete {where}"
        )


def _is_same(trial: Trial) -> bool | None:
    """Return whether a run's folder holds that run; None: it holds none."""
    try:
        text = (trial.folder / "experiment.json").read_text(errors="replace")
        return Experiment.from_json(text).fingerprint() == trial.experiment.fingerprint()
    except FileNotFoundError:
        return None
    except (OSError, ExperimentError):
        return False


def _print_plan(trials: Sequence[Trial], json: bool) -> None:
    rows = [{"run": trial.name, "folder": str(trial.folder), "state": _state(trial)} for trial in trials]
    if json:
        print(json_module.dumps(rows, indent=2))
        return
    table = Table(title=f"{len(rows)} runs, {sum(row['state'] == 'finished' for row in rows)} of them finished")
    for column in ("run", "rounds", "state"):
        table.add_column(column)
    for trial, row in zip(trials, rows, strict=True):
        table.add_row(row["run"], str(trial.experiment.training.rounds), row["state"])
    Console().print(table)


def _state(trial: Trial) -> str:
    if is_finished(trial):
        return "finished"
    return "interrupted" if (trial.folder / "experiment.json").exists() else "new"


def _report(request: Request, trials: Sequence[Trial], folder: Path, json: bool) -> None:
    """Write table.md, results.json and accuracy.png, and print the table, or as JSON what results.json holds."""
    done = read(trials)
    title, odd = _title(request, done[0].trial), mismatches(done)
    found = _found(request, done, title, odd)
    results = json_module.dumps(_results(request, done, found.data, odd), indent=2, allow_nan=False) + "\n"
    under = [*found.under, *clients_notes(done, odd), *run_notes(request, done)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(results)
        (folder / "table.md").write_text(_markdown(found.grids, under), encoding="utf-8")
        (folder / "accuracy.png").write_bytes(found.picture)
    except OSError as error:
        raise CommandError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    if json:
        print(results, end="")
    else:
        _print(found.grids, under, folder)


def _found(request: Request, done: Sequence[Done], title: str, odd: Sequence[str]) -> Found:
    if request.experiment == "threshold":
        return threshold(done, title)
    return wire(done, title, odd) if request.experiment == "wire" else accuracies(done, title, odd)


def _results(request: Request, done: Sequence[Done], found: Mapping[str, object], odd: Sequence[str]) -> dict[str, object]:
    return {
        "experiment": request.experiment,
        "command": request.command,
        "scale": request.scale,
        "data": done[0].trial.experiment.data.name,
        "seeds": list(range(request.seeds)),
        **found,
        "mismatches": list(odd),
        "runs": [_run(one) for one in done],
        "machine": machine(),
    }


def _title(request: Request, trial: Trial) -> str:
    settings = trial.experiment
    data = "image folder" if settings.data.name.startswith("imagefolder:") else settings.data.name
    images = [f"{settings.data.train_limit} training images"] if settings.data.train_limit else []
    seeds = f"{request.seeds} seeds, mean ± sample standard deviation" if request.seeds > 1 else "1 seed"
    network = f"{settings.model.name} of width {settings.model.width}"
    return f"{request.experiment}: {', '.join([data, network, *images, f'{settings.training.rounds} rounds', seeds])}"


def _run(one: Done) -> dict[str, Any]:
    summary = one.summary
    kept = ("seconds", "samples_trained", "parameters_sha256", "accuracy", "accuracy_by_client", "fingerprint", "versions")
    return {
        "variant": one.trial.variant,
        "cuts": one.trial.cuts,
        "seed": one.trial.seed,
        "folder": str(one.trial.folder),
        **{key: summary.get(key) for key in kept},
        "time": dict(one.time) or None,
        "settings": json_module.loads(one.trial.experiment.to_json()),
    }


def _markdown(grids: Sequence[Grid], under: Sequence[str]) -> str:
    tables = (grid.markdown(level=1 if grid is grids[0] else 2) for grid in grids)
    return "\n".join([*tables, *(f"{note}\n" for note in under)])


def _print(grids: Sequence[Grid], under: Sequence[str], folder: Path) -> None:
    console = Console()
    for grid in grids:
        console.print(grid.rich())
    for note in under:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"Results are in {folder}: table.md, results.json, accuracy.png", markup=False, soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
