"""The tables of a report: bounds of inference, dropouts, settings, accuracy of each client."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from monitoring.report.charts import PLACES, cut_order, cut_title
from monitoring.report.folder import Bound, Run
from monitoring.report.units import MISSING, count, in_bytes, percent

Row = tuple[str, ...]
_MOST = 2000  # rows of a table that grows with the number of clients


def pareto(runs: Sequence[Run]) -> str:
    """Return the Pareto-optimal bounds of all sweeps, folded away; nothing where there is no sweep."""
    rows = [
        (run.name, cut_title(cut), *_bound(bound))
        for run in runs
        for cut in cut_order(run.sweep.cuts or {})
        for bound in (run.sweep.cuts or {})[cut]
        if bound.pareto
    ]
    head = ("cut", "max_entropy (nats)", "accuracy", "answered by the client", "sent per sample", "seconds per sample")
    return _folded("Pareto-optimal bounds", *_by_run(runs, head, rows))


def _bound(bound: Bound) -> tuple[str, ...]:
    nats, seconds = _figure(bound.max_entropy), _figure(bound.seconds_per_sample)
    return nats, percent(bound.accuracy), percent(bound.adoption), in_bytes(bound.bytes_per_sample), seconds


def calibration(runs: Sequence[Run]) -> str:
    """Return what the entropy bounds were calibrated to, where they were."""
    rows: list[Row] = []
    said = []
    names = sorted({name for run in runs for found in (run.calibration.estimated or {}).values() for name in found})
    for run in runs:
        found, estimated = run.calibration, run.calibration.estimated or {}
        for cut in cut_order(found.max_entropy or {}):
            figures = (_figure(estimated.get(cut, {}).get(name)) for name in names)
            rows.append((run.name, cut_title(cut), _figure((found.max_entropy or {})[cut]), *figures))
        if found.max_entropy:
            promise = f"{found.target or 'target'} {_figure(found.value)} at confidence {_figure(found.confidence)}"
            said.append(f"{run.name}: {promise}, chosen on {count(found.samples)} samples, of which the figures are.")
    head = ("cut", "max_entropy (nats)", *names)
    text = "".join(f"<p>{escape(line)}</p>" for line in said)
    return _titled("Calibrated bounds", text + _table("calibrated bounds", *_by_run(runs, head, rows))) if rows else ""


def outdated(runs: Sequence[Run]) -> str:
    """Return a warning for each run whose sweep or calibration is of other layers than it holds now."""
    said = [
        f"The {what} of {run.name} is of other layers than the run's: parameters_sha256 differs."
        for run in runs
        for what, digest in (("sweep", run.sweep.parameters_sha256), ("calibration", run.calibration.parameters_sha256))
        if digest and run.summary and run.summary.parameters_sha256 not in (None, digest)
    ]
    return "".join(f'<p><strong class="note">{escape(line)}</strong></p>' for line in said)


def _figure(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4g}"


def dropouts(runs: Sequence[Run]) -> str:
    """Return who left, when and why; nothing where nobody did."""
    rows = [
        (
            run.name,
            gone.client or MISSING,
            count(gone.round),
            gone.reason or MISSING,
            MISSING if gone.batches_kept is None else count(gone.batches_kept),
            gone.at or MISSING,
        )
        for run in runs
        for gone in (run.summary and run.summary.dropouts) or []
    ]
    head = ("client", "round", "reason", "batches kept", "at")
    return _titled("Dropouts", _table("dropouts", *_by_run(runs, head, rows))) if rows else ""


def settings(runs: Sequence[Run]) -> str:
    """Return the settings: first those in which the runs differ, the rest folded away."""
    rows = _side_by_side([{key: value for key, value in run.experiment.items() if key != "name"} for run in runs])
    differing = [row for row in rows if len(set(row[1:])) > 1]
    same = [row[:2] for row in rows if len(set(row[1:])) == 1]
    if not rows:
        return ""
    parts = []
    if differing:
        parts.append(_table("settings that differ", ("setting", *(run.name for run in runs)), differing))
    elif len(runs) > 1:
        parts.append("<p>All settings are the same.</p>")
    parts.append(_folded("All settings" if len(runs) == 1 else "Settings that are the same", ("setting", "value"), same))
    return f"<section><h2>Settings</h2>{''.join(parts)}</section>"


def accuracy_by_client(runs: Sequence[Run]) -> str:
    """Return the final accuracy of each client of each run, folded away."""
    rows = []
    for run in runs:
        members = run.description.clients or {}
        for client, found in ((run.summary and run.summary.accuracy_by_client) or {}).items():
            cut = members[client].cut if client in members else None
            rows.append((run.name, client, count(cut), *(percent(found.get(place)) for place in PLACES)))
    return _folded("Final accuracy of each client", *_by_run(runs, ("client", "cut", *PLACES.values()), rows))


def _by_run(runs: Sequence[Run], head: Row, rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Return head and rows, which begin with their run's name; it is left out where there is only one run."""
    return (head, [row[1:] for row in rows]) if len(runs) == 1 else (("run", *head), list(rows))


def _side_by_side(values: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each key that one of some nested objects has, with its value in each of them."""
    flat = [dict(_flat(value)) for value in values]
    return [(key, *(found.get(key, MISSING) for found in flat)) for key in sorted({key for found in flat for key in found})]


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield the leaves of nested objects, by their path."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(label: str, head: Row, rows: Sequence[Row]) -> str:
    """Return a table that scrolls sideways on its own where it is too wide."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row" class="name">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows[:_MOST]
    )
    more = f"<p>And {count(len(rows) - _MOST)} more.</p>" if len(rows) > _MOST else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>{more}"
    )


def _titled(title: str, table: str) -> str:
    return f"<h3>{escape(title)}</h3>{table}"


def _folded(title: str, head: Row, rows: Sequence[Row]) -> str:
    return f"<details><summary>{escape(title)}</summary>{_table(title, head, rows)}</details>" if rows else ""
