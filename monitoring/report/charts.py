"""The figures of a report: what of the runs' files is drawn, and against what."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from monitoring.report.figure import CROSS, Axis, Figure, Panel, Point, Series, Style
from monitoring.report.folder import Bound, Line, Run, finite
from monitoring.report.units import byte_unit

ROUND = Axis("round", "round", whole=True)
ACCURACY = Axis("accuracy", "accuracy", "%", factor=100.0, most=100.0)
LOSS = Axis("loss", "mean loss", "nats", zero=True)
PLACES = {"client": "clients' exits", "server": "servers", "network": "whole network"}
ALL = "all"  # the cut of what is not divided

Found = Mapping[str, Mapping[str, float | None]]


def figures(runs: Sequence[Run]) -> list[Figure]:
    """Return the figures that there is something to draw in, in the order of a report."""
    made = (_accuracy(runs), *_sweeps(runs), _loss(runs), _bytes(runs), _throughput(runs), _clients(runs))
    return [figure for figure in made if figure.panels]


def _accuracy(runs: Sequence[Run]) -> Figure:
    return Figure(
        "accuracy",
        "Accuracy by cut",
        "Test accuracy after each evaluated round, the mean over the clients of a cut: answered by the clients' own exits, "
        "or by the servers for every sample.",
        ROUND,
        ACCURACY,
        _panels_by_cut(runs, lambda _, line: line.accuracy),
    )


def _loss(runs: Sequence[Run]) -> Figure:
    divided = any(line.loss_by_cut for run in runs for line in run.lines)
    return Figure(
        "loss",
        "Training loss",
        "Cross-entropy over the training samples of each round, "
        + ("by cut where a run tells it, else over all clients: " if divided else "over all clients: ")
        + "the clients' local loss at their exits, and the loss of the servers' layers.",
        ROUND,
        LOSS,
        _panels_by_cut(runs, lambda run, line: line.loss_by_cut or _all_loss(run, line)),
    )


def _all_loss(run: Run, line: Line) -> Found:
    return {ALL: {"network": line.server_loss} if run.whole else {"client": line.client_loss, "server": line.server_loss}}


def _panels_by_cut(runs: Sequence[Run], found: Callable[[Run, Line], Found | None]) -> tuple[Panel, ...]:
    """Return a panel for each cut. What a run has under "all" only is drawn in every panel, for comparison."""
    by_round = [[(line.round, found(run, line) or {}) for line in run.lines] for run in runs]
    cuts = cut_order(cut for lines in by_round for _, by_cut in lines for cut in by_cut)
    panels = [
        (cut, [series for index, lines in enumerate(by_round) for series in _at_places(runs, index, lines, cut)])
        for cut in [cut for cut in cuts if cut != ALL] or cuts
    ]
    return tuple(Panel(cut_title(cut) if cut != ALL else "", tuple(series)) for cut, series in panels if series)


def _at_places(runs: Sequence[Run], index: int, lines: Sequence[tuple[int, Found]], cut: str) -> Iterable[Series]:
    for place, (key, label) in enumerate(PLACES.items()):
        values = [(number, by_cut.get(cut, by_cut.get(ALL, {})).get(key)) for number, by_cut in lines]
        points = tuple(Point(number, value) for number, value in values if value is not None)
        style = Style(
            colour=index if len(runs) > 1 else (1, 0, 2)[place],
            marker=index if len(runs) > 1 else place,
            dash="dashed" if key == "client" else "solid",
            open=key == "client",
        )
        if points:
            yield Series(_label(runs, index, label), style, points)


def _sweeps(runs: Sequence[Run]) -> Iterable[Figure]:
    bounds = [bound for run in runs for found in (run.sweep.cuts or {}).values() for bound in found]
    unit, size = byte_unit(max((bound.bytes_per_sample or 0.0 for bound in bounds), default=0.0))
    share = Axis("adoption", "samples answered by the client", "%", factor=100.0, zero=True, most=100.0)
    traffic = Axis("bytes_per_sample", "sent to the servers per sample", unit, factor=1 / size, zero=True)
    marked = "Pareto-optimal"
    yield Figure(
        "sweep-adoption",
        "Accuracy against share answered locally",
        "Each point is one bound on the exit's entropy (max_entropy): below it a client answers itself, above it the servers do. "
        "Pareto-optimal: no other bound is as accurate for less traffic, or more accurate for the same.",
        share,
        ACCURACY,
        _sweep_panels(runs, lambda bound: bound.adoption),
        marked,
    )
    yield Figure(
        "sweep-bytes",
        "Accuracy against traffic",
        "The same bounds against the bytes that they send to the servers, the mean over all samples.",
        traffic,
        ACCURACY,
        _sweep_panels(runs, lambda bound: bound.bytes_per_sample),
        marked,
    )


def _sweep_panels(runs: Sequence[Run], of: Callable[[Bound], float | None]) -> tuple[Panel, ...]:
    """Return one panel with a series for each cut; of several runs a panel for each cut with a series for each run."""
    cuts = cut_order(cut for run in runs for cut in run.sweep.cuts or {})
    drawn = {
        (cut, index): tuple(_sweep_points((run.sweep.cuts or {}).get(cut, []), of))
        for cut in cuts
        for index, run in enumerate(runs)
    }
    if len(runs) == 1:
        one = tuple(Series(cut_title(cut), Style(i, i), drawn[cut, 0]) for i, cut in enumerate(cuts) if drawn[cut, 0])
        return (Panel("", one),) if one else ()
    panels = (
        Panel(cut_title(cut), tuple(Series(run.name, Style(i, i), drawn[cut, i]) for i, run in enumerate(runs) if drawn[cut, i]))
        for cut in cuts
    )
    return tuple(panel for panel in panels if panel.series)


def _sweep_points(bounds: Iterable[Bound], of: Callable[[Bound], float | None]) -> Iterable[Point]:
    for bound in bounds:
        x = of(bound)
        if x is not None and bound.accuracy is not None:
            note = "" if bound.max_entropy is None else f"max_entropy {bound.max_entropy:g}"
            yield Point(x, bound.accuracy, note, bool(bound.pareto))


def _bytes(runs: Sequence[Run]) -> Figure:
    unit, size = byte_unit(max((line.bytes or 0 for run in runs for line in run.lines), default=0))
    return Figure(
        "bytes",
        "Traffic per round",
        "Bytes of the activations that the servers trained on.",
        ROUND,
        Axis("bytes", "activations", unit, factor=1 / size, zero=True),
        _one_panel(runs, "activations", lambda line: line.bytes),
    )


def _throughput(runs: Sequence[Run]) -> Figure:
    return Figure(
        "throughput",
        "Throughput",
        "Samples that the servers trained on, over the time from the opening of a round to its close.",
        ROUND,
        Axis("samples_per_second", "throughput", "samples/s", zero=True),
        _one_panel(runs, "samples", lambda line: line.samples / line.seconds if line.samples and line.seconds else None),
    )


def _clients(runs: Sequence[Run]) -> Figure:
    (there,) = _one_panel(runs, "clients", lambda line: line.clients) or (Panel("", ()),)
    left = tuple(series for index in range(len(runs)) for series in _left(runs, index))
    return Figure(
        "clients",
        "Clients and dropouts",
        "Clients at the opening of each round; a cross is a round in which clients were given up.",
        ROUND,
        Axis("clients", "clients", zero=True, whole=True),
        (Panel("", there.series + left),) if there.series else (),
    )


def _left(runs: Sequence[Run], index: int) -> Iterable[Series]:
    run = runs[index]
    clients = {line.round: line.clients for line in run.lines}
    gone: dict[int, list[str]] = {}
    for dropout in (run.summary and run.summary.dropouts) or []:
        if dropout.round is not None:
            gone.setdefault(dropout.round, []).append(dropout.client or "a client")
    points = [
        Point(number, there, f"given up: {', '.join(names)}")
        for number, names in sorted(gone.items())
        if (there := clients.get(number)) is not None
    ]
    if points:
        style = Style(index if len(runs) > 1 else 1, CROSS, "none")
        yield Series(_label(runs, index, "dropouts"), style, tuple(points))


def _one_panel(runs: Sequence[Run], label: str, of: Callable[[Line], float | None]) -> tuple[Panel, ...]:
    series = [
        Series(runs[index].name if len(runs) > 1 else label, Style(index, index), points)
        for index, run in enumerate(runs)
        if (points := tuple(Point(line.round, y) for line in run.lines if (y := of(line)) is not None and finite(y)))
    ]
    return (Panel("", tuple(series)),) if series else ()


def cut_order(cuts: Iterable[str]) -> list[str]:
    """Return each cut once: by number, then by name, "all" last."""
    return sorted(set(cuts), key=lambda cut: (cut == ALL, not cut.isdecimal(), int(cut) if cut.isdecimal() else 0, cut))


def cut_title(cut: str) -> str:
    """Return what a cut is called."""
    return "all cuts" if cut == ALL else f"cut {cut}"


def _label(runs: Sequence[Run], index: int, what: str) -> str:
    return f"{runs[index].name}, {what}" if len(runs) > 1 else what
