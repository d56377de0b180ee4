"""Events as lines of text, for logs and terminals that cannot redraw."""

from collections.abc import Mapping
from functools import singledispatch

from broker import events


@singledispatch
def line(_event: events.Event) -> str | None:
    """Return an event as one line; None if it is too small to be told."""
    return None


@line.register
def _(event: events.Waiting) -> str:
    return f"{event.role}: waiting for {event.what}"


@line.register
def _(event: events.RunStarted) -> str:
    start = "" if event.resumed_at == 1 else f", resumed at round {event.resumed_at}"
    clients = count(event.clients, "client") if event.clients else "any clients"
    return f"run {event.run}: {event.strategy}, {clients}, {event.rounds} rounds{start}"


@line.register
def _(event: events.ClientJoined) -> str:
    return f"client {event.client} joins at cut {event.cut}, from round {event.round}"


@line.register
def _(event: events.ClientDropped) -> str:
    return f"client {event.client} is given up in round {event.round}: {event.reason}"


@line.register
def _(event: events.RoundOpened) -> str:
    if not event.streams:
        return f"round {event.round}: {count(event.clients, 'network')}"
    return f"round {event.round}: {event.clients} clients in {event.streams} streams"


@line.register
def _(event: events.RoundClosed) -> str:
    rate = event.samples / event.seconds if event.seconds else 0.0
    loss = f"{_figure(event.client_loss)} at clients, {_figure(event.server_loss)} at servers"
    if event.client_loss is None:  # of whole networks
        loss = _figure(event.server_loss)
    return f"round {event.round} closed: {event.samples} samples in {event.seconds:.1f} s ({rate:.0f}/s), loss {loss}"


@line.register
def _(event: events.StoreWentBack) -> str:
    return (
        f"the store has lost its last writes: round {event.from_closed} was closed, the last one there is {event.to_closed}; "
        "training goes on after that"
    )


@line.register
def _(event: events.RoundEvaluated) -> str:
    return f"round {event.round} accuracy{at(event.accuracy)}: {by_cut(event.accuracy)}"


@line.register
def _(event: events.StreamClaimed) -> str:
    resumed = f", {event.trained} batches are done" if event.trained else ""
    return f"{event.worker}: takes stream {event.stream} of round {event.round}{resumed}"


@line.register
def _(event: events.StreamCommitted) -> str:
    return f"{event.worker}: commits stream {event.stream} of round {event.round}, {event.samples} samples"


@line.register
def _(event: events.StreamLost) -> str:
    return f"{event.worker}: drops stream {event.stream} of round {event.round}: {event.reason}"


@line.register
def _(event: events.ClientRoundEnded) -> str:
    what = "what came before counts" if event.kept else "nothing of it counts"
    return f"round {event.round} of {event.client} ended early, {what}: {event.reason}"


@line.register
def _(event: events.MessageRefused) -> str:
    return f"refused a message in {event.queue}: {event.reason}"


def by_cut(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    """Return accuracy by cut, as client/server, or one figure where it is that of whole networks."""
    where = places(accuracy)
    return ", ".join(f"{group(cut)} {'/'.join(f'{found[place]:.3f}' for place in where)}" for cut, found in accuracy.items())


def places(accuracy: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """Return where accuracy was taken: at client and server, or of whole networks."""
    return tuple(next(iter(accuracy.values()), {"client": 0.0, "server": 0.0}))


def at(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    """Return what the figures of ``by_cut`` are, in words."""
    where = places(accuracy)
    return f" at {'/'.join(where)}" if len(where) > 1 else f" of {'/'.join(where)}s"


def group(cut: str) -> str:
    """Return what a row of accuracy is of: "cut 3", or "all" where one network is trained on all data."""
    return f"cut {cut}" if cut.isdecimal() else cut


def count(number: int, what: str) -> str:
    """Return a number of things, in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
