"""The key figures of each run, on a card with the colour of its lines."""

from collections.abc import Sequence
from html import escape

from monitoring.report import svg
from monitoring.report.charts import PLACES, cut_order, cut_title
from monitoring.report.figure import Style
from monitoring.report.folder import Run, Summary
from monitoring.report.units import MISSING, count, duration, in_bytes, percent


def cards(runs: Sequence[Run]) -> str:
    """Return the cards of all runs."""
    return f'<div class="cards">{"".join(_card(run, index) for index, run in enumerate(runs))}</div>'


def _card(run: Run, index: int) -> str:
    facts = (*_main_figures(run), *_rare_figures(run.summary or Summary()))
    figures = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    name = f'<h3 class="name">{svg.swatch(Style(index, index))}<span>{escape(run.name)}</span></h3>'
    return (
        f'<article class="card c{index % svg.COLOURS}">{name}'
        f'<p class="what">{_what(run)}</p><div class="parts">{_accuracy(run)}'
        f'<dl class="figures">{figures}{_provenance(run.summary or Summary())}</dl></div></article>'
    )


def _what(run: Run) -> str:
    summary = run.summary or Summary()
    done = summary.rounds if summary.rounds is not None else len(run.lines)
    clients = summary.clients if summary.clients is not None else max((line.clients or 0 for line in run.lines), default=0)
    said = [run.strategy, f"{count(clients)} client{'s' if clients > 1 else ''}" if clients else ""]
    said.append(f"{done} of {run.planned} rounds" if run.planned else f"{done} rounds")
    badge = "" if run.finished else '<span class="note">not finished</span> '
    return badge + escape(" · ".join(part for part in said if part))


def _accuracy(run: Run) -> str:
    found = run.accuracy
    if not found:
        return "<p>Nothing has been evaluated yet.</p>"
    places = [(key, label) for key, label in PLACES.items() if any(key in by_place for by_place in found.values())]
    head = "".join(f'<th scope="col" class="number">{escape(label)}</th>' for _, label in places)
    rows = "".join(
        f'<tr><th scope="row">{escape(cut_title(cut))}</th>{"".join(_cell(found[cut].get(key)) for key, _ in places)}</tr>'
        for cut in cut_order(found)
    )
    title = "Final accuracy" if run.finished else "Last accuracy"
    return f'<table><thead><tr><th scope="col">{title}</th>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _cell(value: float | None) -> str:
    bar = "" if value is None else f'<span class="bar"><i style="width:{100 * value:.1f}%"></i></span>'
    return f'<td class="number">{percent(value)}{bar}</td>'


def _main_figures(run: Run) -> list[tuple[str, str]]:
    """Return the figures that every run has; of an unfinished one the sums over its rounds so far."""
    found = run.summary or _so_far(run)
    gone = None if found.dropouts is None else len(found.dropouts)
    return [
        ("throughput", MISSING if found.samples_per_second is None else f"{count(found.samples_per_second)} samples/s"),
        ("duration of the rounds", duration(found.seconds)),
        ("samples trained", count(found.samples_trained)),
        ("activations sent", in_bytes(found.bytes_published)),
        ("dropouts", count(gone)),
        ("messages refused", count(found.refused)),
        ("duplicates dropped", count(found.duplicates_dropped)),
    ]


def _so_far(run: Run) -> Summary:
    samples, seconds = sum(line.samples or 0 for line in run.lines), sum(line.seconds or 0.0 for line in run.lines)
    return Summary(
        samples_trained=samples,
        seconds=seconds,
        samples_per_second=samples / seconds if seconds else None,
        bytes_published=sum(line.bytes or 0 for line in run.lines),
        refused=sum(line.refused or 0 for line in run.lines),
        duplicates_dropped=sum(line.duplicates_dropped or 0 for line in run.lines),
    )


def _rare_figures(summary: Summary) -> list[tuple[str, str]]:
    """Return what is only told where it happened."""
    found = (
        ("samples discarded", summary.samples_discarded),
        ("divergent replays", summary.divergent_replay),
        ("rounds lost by the store", len(summary.store_rollbacks or ())),
    )
    return [(name, count(value)) for name, value in found if value]


def _provenance(summary: Summary) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (summary.versions or {}).items())
    parts = [("versions", versions, "wide"), ("parameters_sha256", summary.parameters_sha256 or "", "wide code")]
    return "".join(f'<div class="{kind}"><dt>{name}</dt><dd>{escape(value)}</dd></div>' for name, value, kind in parts if value)
