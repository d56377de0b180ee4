"""`splitee reproduce`: the paper's experiments, each a set of ordinary runs, and a table over their seeds."""

import json as json_module
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table as RichTable

from cli.embedded import available_cores
from cli.errors import CommandError
from cli.machine import machine
from cli.prepare import check_clients_here, check_output, prepare
from cli.reproduce_plan import Request, Trial, plan
from cli.reproduce_run import is_finished, train_all
from cli.reproduce_table import Done, Found, accuracies, clients_notes, markdown, mismatches, read
from cli.reproduce_threshold import threshold
from coordinator.errors import ExperimentError
from coordinator.experiment import Experiment, resolve


def reproduce(*, request: Request, output: Path, jobs: int | None, dry_run: bool, json: bool) -> None:
    """Train what is left of an experiment and print its table. Raises the package's errors, each one line."""
    folder = output / request.trains
    trials = [_resolved(trial) for trial in plan(request, folder)]
    for trial in trials:
        _check_same(trial)
    if dry_run:
        _print_plan(trials, json)
        return
    prepared = prepare(trials[0].experiment)
    if not all(map(is_finished, trials)):
        check_clients_here(prepared)
    check_output(prepared, trials[0].folder)
    signal.signal(signal.SIGTERM, _interrupt)
    lock = FileLock(folder / "lock")
    try:
        with lock.acquire(timeout=0):
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


def _resolved(trial: Trial) -> Trial:
    experiment = resolve(trial.experiment, torch.cuda.is_available())
    return Trial(trial.variant, trial.cuts, trial.seed, trial.folder, experiment)


def _check_same(trial: Trial) -> None:
    """Raise ExperimentError if a run's folder holds another experiment's: nothing has been trained yet."""
    path = trial.folder / "experiment.json"
    try:
        same = not path.exists() or (
            Experiment.from_json(path.read_text(errors="replace")).fingerprint() == trial.experiment.fingerprint()
        )
    except (OSError, ExperimentError):
        same = False
    if not same:
        where = trial.folder.parents[1]
        raise ExperimentError(
            f"{trial.folder} holds a run with other settings; name another folder with --output, or delete {where}"
        )


def _print_plan(trials: Sequence[Trial], json: bool) -> None:
    rows = [{"run": trial.name, "folder": str(trial.folder), "state": _state(trial)} for trial in trials]
    if json:
        print(json_module.dumps(rows, indent=2))
        return
    table = RichTable(title=f"{len(rows)} runs, {sum(row['state'] == 'finished' for row in rows)} of them finished")
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
    found = threshold(done, title) if request.experiment == "threshold" else accuracies(done, title, odd)
    results = json_module.dumps(_results(request, done, found.data, odd), indent=2, allow_nan=False) + "\n"
    under = [*found.under, *clients_notes(done, odd)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(results)
        (folder / "table.md").write_text(markdown(title, found.head, found.rows, under), encoding="utf-8")
        (folder / "accuracy.png").write_bytes(found.picture)
    except OSError as error:
        raise CommandError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    if json:
        print(results, end="")
    else:
        _print(title, found, under, folder)


def _results(request: Request, done: Sequence[Done], table: dict[str, object], odd: Sequence[str]) -> dict[str, object]:
    return {
        "experiment": request.experiment,
        "scale": request.scale,
        "data": done[0].trial.experiment.data.name,
        "seeds": list(range(request.seeds)),
        "table": table,
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
        "settings": json_module.loads(one.trial.experiment.to_json()),
    }


def _print(title: str, found: Found, under: Sequence[str], folder: Path) -> None:
    console = Console()
    shown = RichTable(title=title)
    for column in found.head:
        first = column == found.head[0]
        shown.add_column(column.replace(", ", "\n"), justify="left" if first else "right", no_wrap=first)
    for row in found.rows:
        shown.add_row(*row)
    console.print(shown)
    for note in under:
        console.print(note, markup=False, soft_wrap=True)
    console.print(f"Results are in {folder}: table.md, results.json, accuracy.png", markup=False, soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
