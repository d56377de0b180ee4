"""From the summaries of many runs to a table: mean and sample standard deviation over seeds, by cut, at client and server."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.errors import CommandError
from cli.reproduce_figure import Figure
from cli.reproduce_plan import CUTS, VARIANTS, Trial
from cli.reproduce_plot import plot

WHERE = ("client", "server", "network")


Cells = dict[str, Figure]  # at "client" and "server", or of the whole "network"
Table = dict[str, dict[int, Cells]]  # variant -> cut


@dataclass(frozen=True)
class Found:
    """What an experiment gives: a table as text with notes under it, as plain data, and as a PNG."""

    head: list[str]
    rows: list[list[str]]
    under: list[str]
    data: dict[str, object]
    picture: bytes


@dataclass(frozen=True)
class Done:
    """A finished run and its summary."""

    trial: Trial
    summary: Mapping[str, Any]

    def accuracy(self, cut: int) -> dict[str, float]:
        """Return its accuracy at a cut; a whole network that stands for all cuts has one for all."""
        found = self.summary["accuracy"]
        if str(cut) not in found and not VARIANTS[self.trial.variant].split:
            return dict(next(iter(found.values())))
        return dict(found[str(cut)])


def read(trials: Sequence[Trial]) -> list[Done]:
    """Return the summaries of finished runs; raise CommandError if one cannot be read."""
    return [Done(trial, _summary(trial)) for trial in trials]


def table_of(done: Sequence[Done]) -> Table:
    """Return the figures of all variants that were trained."""
    chosen = dict.fromkeys(one.trial.variant for one in done)
    return {name: {cut: _cells(done, name, cut) for cut in CUTS} for name in VARIANTS if name in chosen}


def mismatches(done: Sequence[Done]) -> list[str]:
    """Return where clients' halves that must be the same are not: they hear nothing from the servers, whatever the strategy."""
    found: list[str] = []
    first: dict[tuple[int, tuple[int, ...], str], tuple[str, float]] = {}
    for one in done:
        if not VARIANTS[one.trial.variant].split:
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
    """Return the accuracies of all variants; odd: the mismatches."""
    table = table_of(done)
    head = ["strategy", *(f"cut {cut}, {where}" for cut in CUTS for where in ("client", "server"))]
    rows = [[name, *(text for cells in by_cut.values() for text in _texts(cells))] for name, by_cut in table.items()]
    whole = any(not VARIANTS[name].split for name in table)
    under = ["A whole network has one figure, in the server's column; centralized is one run for all cuts."] if whole else []
    return Found(head, rows, under, plain(table), plot(list(_series(table, odd)), CUTS, title))


def clients_notes(done: Sequence[Done], odd: Sequence[str]) -> Iterator[str]:
    """Yield what is to be said of the clients' halves; odd: the mismatches."""
    split = [name for name in dict.fromkeys(one.trial.variant for one in done) if VARIANTS[name].split]
    if odd:
        yield f"The clients' halves differ between strategies, which must not be: {'; '.join(odd[:10])}."
    elif len(split) > 1:
        yield f"The clients' halves are the same, bit for bit, under {', '.join(split)}: their accuracies are equal."


def markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], under: Sequence[str]) -> str:
    """Return a table as Markdown with a title above and notes below."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"# {title}", "", *lines, "", *(f"{note}\n" for note in under)])


def plain(table: Table) -> dict[str, object]:
    """Return a table as plain data: variant -> cut -> where -> mean, deviation and values."""
    return {
        name: {str(cut): {where: one.plain() for where, one in cells.items()} for cut, cells in by_cut.items()}
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


def _series(table: Table, odd: Sequence[str]) -> Iterator[tuple[str, list[Figure]]]:
    """Yield what is drawn: the clients' exits once where they are the same under all strategies, then each strategy."""
    split = [name for name in table if VARIANTS[name].split]
    if split and not odd:
        yield "client exits", [cells["client"] for cells in table[split[0]].values()]
    for name, by_cut in table.items():
        if name not in split:
            yield f"{name}, whole network", [cells["network"] for cells in by_cut.values()]
            continue
        if odd:
            yield f"{name}, client", [cells["client"] for cells in by_cut.values()]
        yield f"{name}, server", [cells["server"] for cells in by_cut.values()]


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
