"""A table of accuracies as a figure: a group of bars a cut, an error bar each."""

import io
import textwrap
from collections.abc import Iterator

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from cli.reproduce_table import Figure, Table

Series = tuple[str, list[Figure]]  # by cut


def plot(table: Table, title: str) -> bytes:
    """Return a PNG of a table: accuracy by cut, mean and sample standard deviation over seeds."""
    canvas = Canvas(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    cuts = list(next(iter(table.values())))
    series = list(_series(table))
    width = 0.8 / len(series)
    for place, (name, figures) in enumerate(series):
        at = [group - 0.4 + (place + 0.5) * width for group in range(len(cuts))]
        deviations = [figure.deviation for figure in figures if figure.deviation is not None]  # none of one seed
        axes.bar(
            at,
            [figure.mean for figure in figures],
            width * 0.92,
            yerr=deviations or None,
            capsize=2.5,
            label=name,
            color=f"C{place}",
        )
    axes.set_xticks(range(len(cuts)), [str(cut) for cut in cuts])
    axes.set_xlabel("cut (number of layers on the client)")
    axes.set_ylabel("accuracy on the test split (fraction of images)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    canvas.suptitle(textwrap.fill(title, 110), fontsize=9)
    canvas.legend(loc="outside right center", fontsize=9, frameon=False)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _series(table: Table) -> Iterator[Series]:
    """Yield what is drawn: the clients' exits once, since they are the same under all strategies, then each strategy."""
    clients = [
        [cells["client"] for cells in by_cut.values()] for by_cut in table.values() if "client" in next(iter(by_cut.values()))
    ]
    same = all(one == clients[0] for one in clients)
    if clients and same:
        yield "client exits", clients[0]
    for name, by_cut in table.items():
        whole = "network" in next(iter(by_cut.values()))
        if not whole and not same:
            yield f"{name}, client", [cells["client"] for cells in by_cut.values()]
        yield (
            f"{name}, {'whole network' if whole else 'server'}",
            [cells["network" if whole else "server"] for cells in by_cut.values()],
        )
