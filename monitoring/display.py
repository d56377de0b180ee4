"""What a person sees of a run in a terminal: a live view, lines above it, a table of results at the end."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker import events
from monitoring.lines import Level, count, group, level, line, places
from monitoring.redaction import Redaction

_SHOWN = (events.StreamClaimed, events.StreamCommitted, events.RoundOpened, events.RunFinished)  # as figures, or by a table
_LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


class Listener(Protocol):
    """Who hears a coordinator's events and what else there is to say; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __call__(self, event: events.Event) -> None:
        """Take an event."""

    def say(self, text: str) -> None:
        """Say a line."""


class Display:
    """A listener of a coordinator's events. Use as a context manager; may be called from any thread.

    least: what is below it is not printed. clean: takes passwords out of what is.
    """

    def __init__(self, console: Console | None = None, least: Level = "info", clean: Redaction | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._least = _LEVELS.index(least)
        self._clean = clean or Redaction()
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._rounds = 0
        self._closed = 0
        self._clients = 0
        self._samples = 0
        self._seconds = 0.0
        self._progress: events.Progress | events.NetworkStep | None = None
        self._loss: tuple[float | None, float | None] = (None, None)
        self._accuracy: dict[str, dict[str, float]] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        with self._lock:
            self._take(event)
            if self._live is not None:
                self._live.update(self._view())
            of = "debug" if self._live is not None and isinstance(event, _SHOWN) else level(event)
            if _LEVELS.index(of) >= self._least:
                self.say(line(event))

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(self._clean(text), markup=False, soft_wrap=True)

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.RunStarted):
            self._rounds, self._closed = event.rounds, event.resumed_at - 1
        elif isinstance(event, events.RoundOpened):
            self._clients = event.clients
        elif isinstance(event, events.Progress | events.NetworkStep):
            self._progress = event
        elif isinstance(event, events.RoundClosed):
            self._closed = event.round
            self._samples += event.samples
            self._seconds += event.seconds
            self._loss = (event.client_loss, event.server_loss)
        elif isinstance(event, events.RoundEvaluated):
            self._accuracy = event.accuracy

    def _view(self) -> Table:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_row("rounds", f"{_bar(self._closed, self._rounds)} {self._closed}/{self._rounds}")
        if self._progress is not None and self._progress.round > self._closed:
            table.add_row("open", f"round {self._progress.round}: {_open(self._progress)}")
        rate = f"{self._samples / self._seconds:.0f} samples/s" if self._seconds else "-"
        table.add_row("clients", f"{self._clients}, {rate}")
        table.add_row("loss", _losses(*self._loss))
        where = places(self._accuracy)
        for cut, found in self._accuracy.items():
            figures = " / ".join(f"{found[place]:.3f}" for place in where)
            table.add_row(group(cut), f"{figures} accuracy ({' / '.join(where)})")
        return table


def results_table(summary: Mapping[str, Any]) -> Table:
    """Return a summary as a table: accuracy by cut at the clients' exits and at the servers, or of whole networks."""
    title = f"{summary['run']}: {summary['strategy']}, {summary['rounds']} rounds, {count(summary['clients'], 'client')}"
    table = Table(title=title, caption=_caption(summary))
    where = places(summary["accuracy"])
    for name in ("cut", *(f"{place} accuracy" for place in where)):
        table.add_column(name, justify="right")
    for cut, found in summary["accuracy"].items():
        table.add_row(cut, *(f"{found[place]:.3f}" for place in where))
    return table


def _open(progress: events.Progress | events.NetworkStep) -> str:
    """Return how far the open round is."""
    if isinstance(progress, events.NetworkStep):
        network = f"network {progress.network} ({progress.place}/{progress.networks})"
        return f"{network}, {progress.batches}/{progress.of} batches"
    return f"{progress.streams_committed}/{progress.streams} streams committed, {progress.clients} clients"


def _losses(client: float | None, server: float | None) -> str:
    if client is None and server is not None:  # of whole networks
        return f"{server:.3f}"
    return " / ".join("-" if loss is None else f"{loss:.3f}" for loss in (client, server)) + " (client / server)"


def _caption(summary: Mapping[str, Any]) -> Text:
    rate = summary["samples_per_second"]
    text = f"{summary['samples_trained']} samples in {summary['seconds']:g} s"
    text += f" ({rate:g}/s)" if rate else ""
    if summary["dropouts"]:
        text += "; gone: " + ", ".join(f"{gone['client']} ({gone['reason']})" for gone in summary["dropouts"])
    return Text(text)


def _bar(done: int, of: int, width: int = 24) -> str:
    full = width * done // of if of else 0
    return "█" * full + "·" * (width - full)
