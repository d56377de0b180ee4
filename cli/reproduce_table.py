"""From the summaries of many runs to a table: mean and sample standard deviation over seeds, by cut, at client and server."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.errors import CommandError
from cli.reproduce_claims import MEAN, check, grid, notes
from cli.reproduce_figure import Figure, mean_of
from cli.reproduce_grid import Grid
from cli.reproduce_plan import CUTS, TIME, VARIANTS, Trial
from cli.reproduce_plot import Series, plot

WHERE = ("client", "server", "network")


Cells = dict[str, Figure]  # at "client" and "server", or of the whole "network"
Table = dict[str, dict[int, Cells]]  # variant -> cut


@dataclass(frozen=True)
class Found:
    """What an experiment gives: tables as text with notes under them, as plain data by name, and as a PNG."""

    grids: list[Grid]
    under: list[str]
    data: Mapping[str, object]
    picture: bytes


@dataclass(frozen=True)
class Done:
    """A finished run and its summary. time: its seconds and machine, empty where they are not known."""

    trial: Trial
    summary: Mapping[str, Any]
    time: Mapping[str, Any] = field(default_factory=dict)

    def accuracy(self, cut: int) -> dict[str, float]:
        """Return its accuracy at a cut; a whole network that stands for all cuts has one for all."""
        found = self.summary["accuracy"]
        if str(cut) not in found and not VARIANTS[self.trial.variant].split:
            return dict(next(iter(found.values())))
        return dict(found[str(cut)])


def read(trials: Sequence[Trial]) -> list[Done]:
    """Return the summaries of finished runs; raise CommandError if one cannot be read."""
    return [Done(trial, _summary(trial), _time(trial)) for trial in trials]


def table_of(done: Sequence[Done]) -> Table:
    """Return the figures of all variants that were trained."""
    chosen = dict.fromkeys(one.trial.variant for one in done)
    return {name: {cut: _cells(done, name, cut) for cut in CUTS} for name in VARIANTS if name in chosen}


def mismatches(done: Sequence[Done]) -> list[str]:
    """Return where clients' halves that must be the same are not: they hear nothing from servers, and of each other if averaged."""
    found: list[str] = []
    first: dict[tuple[int, tuple[int, ...], str], tuple[str, float]] = {}
    for one in done:
        if not has_same_clients(one.trial.variant):
            continue
        for client, accuracy in one.summary["accuracy_by_client"].items():
            key = (one.trial.seed, one.trial.cuts, client)
            variant, expected = first.setdefault(key, (one.trial.variant, accuracy["client"]))
            if accuracy["client"] != expected:
                found.append(
                    f"seed {one.trial.seed}, {client} at cut {'/'.join(map(str, one.trial.cuts))}: {expected} under {variant}, "
                    f"{accuracy['client']} under {one.trial.variant}"
                )
    return found


def accuracies(done: Sequence[Done], title: str, odd: Sequence[str]) -> Found:
    """Return the accuracies of all variants, and the claims tested on them; odd: the mismatches."""
    table = table_of(done)
    claims, seeds = check(servers(table)), len({one.trial.seed for one in done})
    whole = any(not VARIANTS[name].split for name in table)
    under = ["A whole network has one figure, in the server's column; centralized is one run for all cuts."] if whole else []
    data = {"table": plain(table), "claims": [one.plain() for one in claims]}
    picture = plot(list(series(table, odd)), CUTS, title)
    grids = [one for one in (accuracy_grid(table, title, "strategy"), grid(claims)) if one.rows]
    return Found(grids, [*under, *notes(claims, seeds)], data, picture)


def accuracy_grid(table: Table, title: str, name: str) -> Grid:
    """Return accuracies by variant and cut, at client and server, and the servers' mean over the cuts; name: of the variants."""
    head = [name, *(f"cut {cut}, {where}" for cut in CUTS for where in ("client", "server")), f"{MEAN}, server"]
    means = servers(table)
    rows = [
        [name, *(text for cells in by_cut.values() for text in _texts(cells)), str(means[name][MEAN])]
        for name, by_cut in table.items()
    ]
    return Grid(title, head, rows)


def servers(table: Table) -> dict[str, dict[str, Figure]]:
    """Return the accuracy of each variant's servers, or whole networks: by cut, and the mean of cuts."""
    found = {name: {f"cut {cut}": _server(cells) for cut, cells in by_cut.items()} for name, by_cut in table.items()}
    return {name: {**by_cut, MEAN: mean_of(list(by_cut.values()))} for name, by_cut in found.items()}


def has_same_clients(variant: str) -> bool:
    """Return whether the clients' halves under a variant are those of all such variants."""
    return VARIANTS[variant].split and not VARIANTS[variant].own_clients


def plain(table: Table) -> dict[str, object]:
    """Return a table as plain data: variant -> cut, or the mean of cuts -> where -> mean, deviation and values."""
    means = servers(table)
    return {
        name: {
            **{str(cut): {where: one.plain() for where, one in cells.items()} for cut, cells in by_cut.items()},
            MEAN: {"server" if VARIANTS[name].split else "network": means[name][MEAN].plain()},
        }
        for name, by_cut in table.items()
    }


def _cells(done: Sequence[Done], variant: str, cut: int) -> Cells:
    mine = [one for one in done if one.trial.variant == variant and (cut in one.trial.cuts or not VARIANTS[variant].split)]
    by_seed = [one.accuracy(cut) for one in sorted(mine, key=lambda one: one.trial.seed)]
    return {where: Figure(tuple(found[where] for found in by_seed)) for where in WHERE if where in by_seed[0]}


def _texts(cells: Cells) -> tuple[str, str]:
    """Return the figures at client and server as text."""
    if "network" in cells:
        return "", str(cells["network"])
    return str(cells["client"]), str(cells["server"])


def series(table: Table, odd: Sequence[str]) -> Iterator[Series]:
    """Yield what is drawn: the clients' exits once for all variants where they are the same, then each variant."""
    same = [name for name in table if has_same_clients(name)]
    if same and not odd:
        yield Series("client exits", [cells["client"] for cells in table[same[0]].values()], None)
    for place, (name, by_cut) in enumerate(table.items()):
        if name not in same or odd:
            clients = [cells["client"] for cells in by_cut.values() if "client" in cells]
            if clients:
                yield Series(f"{name}, client", clients, place, hatched=True)
        where = "server" if VARIANTS[name].split else "whole network"
        yield Series(f"{name}, {where}", [_server(cells) for cells in by_cut.values()], place)


def _server(cells: Cells) -> Figure:
    return cells["network"] if "network" in cells else cells["server"]


def _time(trial: Trial) -> dict[str, Any]:
    try:
        found = json.loads((trial.folder / TIME).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _summary(trial: Trial) -> Mapping[str, Any]:
    path = trial.folder / "summary.json"
    try:
        found = json.loads(path.read_text())
        if not (isinstance(found, dict) and found["accuracy"] and found["accuracy_by_client"]):
            raise ValueError("it has no accuracy")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise CommandError(f"{path} is damaged: {error}; delete its folder to train this run anew") from None
    return found
