"""The sweep of the entropy bound on several runs: accuracy and what clients answer, mean and deviation over seeds."""

import math
from collections.abc import Sequence

from cli.inference_run import say
from cli.reproduce_figure import Figure
from cli.reproduce_grid import Grid
from cli.reproduce_plan import CUTS
from cli.reproduce_plot import Series, plot_bounds
from cli.reproduce_table import Done, Found
from cli.sweep import Sweep, write_sweep
from learning.sweep import ALL, BOUNDS
from workers.calibrated import shown

_IN_TABLE = (0.0, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, math.inf)
_GROUPS = {**{str(cut): f"cut {cut}" for cut in CUTS}, ALL: "all"}


def threshold(done: Sequence[Done], title: str) -> Found:
    """Sweep the bounds on finished runs, as `splitee sweep` does in each folder, and put the figures together.

    Raises LearningError if a run's layers or data cannot be used.
    """
    sweeps: dict[str, list[Sweep]] = {}
    for place, one in enumerate(sorted(done, key=lambda one: one.trial.seed), 1):
        say(f"sweep {place} of {len(done)}: {one.trial.name}")
        sweeps.setdefault(one.trial.variant, []).append(write_sweep(one.trial.folder, None)[0])
    head = ["strategy", "max_entropy", *(f"{name}, {what}" for name in _GROUPS.values() for what in ("accuracy", "clients"))]
    rows = [_row(name, found, bound) for name, found in sweeps.items() for bound in _IN_TABLE]
    under = [
        "Clients answer below max_entropy (nats), the servers otherwise: 0 offloads all, inf nothing. "
        "The column clients is the fraction of samples that clients answer."
    ]
    panels = {
        label: [
            Series(name, [_figure(found, group, bound, "accuracy") for bound in BOUNDS], place)
            for place, (name, found) in enumerate(sweeps.items())
        ]
        for group, label in _GROUPS.items()
    }
    return Found([Grid(title, head, rows)], under, {"table": _plain(sweeps)}, plot_bounds(panels, BOUNDS, title))


def _row(name: str, found: Sequence[Sweep], bound: float) -> list[str]:
    figures = (_figure(found, group, bound, what) for group in _GROUPS for what in ("accuracy", "adoption"))
    return [name, f"{bound:g}", *map(str, figures)]


def _figure(found: Sequence[Sweep], group: str, bound: float, what: str) -> Figure:
    place = BOUNDS.index(bound)
    return Figure(tuple(float(getattr(one[group][place], what)) for one in found))


def _plain(sweeps: dict[str, list[Sweep]]) -> dict[str, object]:
    """Return strategy -> cut -> points, each bound with its figures."""
    wanted = ("accuracy", "adoption", "bytes_per_sample")
    return {
        name: {
            group: [
                {"max_entropy": shown(bound), **{what: _figure(found, group, bound, what).plain() for what in wanted}}
                for bound in BOUNDS
            ]
            for group in _GROUPS
        }
        for name, found in sweeps.items()
    }
