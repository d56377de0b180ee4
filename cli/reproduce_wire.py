"""What number of bits features travel as costs: accuracy by wire dtype, its difference to float32, and bytes a sample."""

from collections.abc import Mapping, Sequence

from cli.reproduce_claims import MEAN
from cli.reproduce_figure import Figure
from cli.reproduce_grid import Grid
from cli.reproduce_plan import CUTS
from cli.reproduce_plot import plot
from cli.reproduce_table import Done, Found, accuracy_grid, plain, series, servers, table_of
from workers.trained_run import TrainedRun

_NAME = "wire dtype"
_REFERENCE = "float32"
_MEASURED = "mean of cuts, messages as published"

Differences = Mapping[str, Mapping[str, Figure]]  # wire dtype -> cut, or the mean of cuts


def wire(done: Sequence[Done], title: str, odd: Sequence[str]) -> Found:
    """Compare wire dtypes. odd: the clients' mismatches. Raises LearningError if a run's folder cannot be used."""
    table = table_of(done)
    differences, sent = _differences(servers(table)), _bytes(done)
    grids = [
        accuracy_grid(table, title, _NAME),
        *([_difference_grid(differences)] if differences else []),
        Grid(
            "Bytes a sample in training",
            [_NAME, *next(iter(sent.values()))],
            [[name, *_row(by)] for name, by in sent.items()],
        ),
    ]
    under = [
        f"Differences to {_REFERENCE} are paired by seed.",
        "Bytes at a cut are those of one sample's features and label; published messages have envelopes too, and for uint8 a scale "
        "of each channel of a batch.",
    ]
    data: dict[str, object] = {
        "table": plain(table),
        f"difference_to_{_REFERENCE}": {
            name: {place: figure.plain() for place, figure in by_place.items()} for name, by_place in differences.items()
        },
        "bytes_per_sample": {name: {place: figure.plain() for place, figure in by.items()} for name, by in sent.items()},
    }
    return Found(grids, under if differences else under[1:], data, plot(list(series(table, odd)), CUTS, title))


def _differences(found: Differences) -> Differences:
    if _REFERENCE not in found:
        return {}
    reference = found[_REFERENCE]
    return {
        name: {place: figure - reference[place] for place, figure in by_place.items()}
        for name, by_place in found.items()
        if name != _REFERENCE
    }


def _difference_grid(differences: Differences) -> Grid:
    head = [_NAME, *(f"cut {cut}" for cut in CUTS), MEAN]
    rows = [[name, *(by_place[place].signed() for place in head[1:])] for name, by_place in differences.items()]
    return Grid(f"Difference in server accuracy to {_REFERENCE}", head, rows)


def _bytes(done: Sequence[Done]) -> dict[str, dict[str, Figure]]:
    """Return the bytes that a sample takes on the wire: by cut as its tensors have, and over all as were published."""
    found: dict[str, dict[str, Figure]] = {}
    for name in dict.fromkeys(one.trial.variant for one in done):
        mine = [one for one in done if one.trial.variant == name]
        run = TrainedRun.open(mine[0].trial.folder)
        found[name] = {f"cut {cut}": Figure((float(run.settings.sample_bytes(run.network, cut)),)) for cut in CUTS}
        published = tuple(one.summary["bytes_published"] / one.summary["samples_trained"] for one in mine)
        found[name][_MEASURED] = Figure(published)
    return found


def _row(by_place: Mapping[str, Figure]) -> list[str]:
    return [f"{figure.mean:,.0f}" for figure in by_place.values()]
