"""Events as lines of text, for logs and terminals that cannot redraw."""

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
    clients = f"{event.clients} clients" if event.clients else "any clients"
    return f"run {event.run}: {event.strategy}, {clients}, {event.rounds} rounds{start}"


@line.register
def _(event: events.ClientJoined) -> str:
    return f"client {event.client} joins at cut {event.cut}, from round {event.round}"


@line.register
def _(event: events.ClientDropped) -> str:
    return f"client {event.client} is given up in round {event.round}: {event.reason}"


@line.register
def _(event: events.RoundOpened) -> str:
    return f"round {event.round}: {event.clients} clients in {event.streams} streams"


@line.register
def _(event: events.RoundClosed) -> str:
    rate = event.samples / event.seconds if event.seconds else 0.0
    return (
        f"round {event.round} closed: {event.samples} samples in {event.seconds:.1f} s ({rate:.0f}/s), "
        f"loss {_figure(event.client_loss)} at clients, {_figure(event.server_loss)} at servers"
    )


@line.register
def _(event: events.StoreWentBack) -> str:
    return (
        f"the store has lost its last writes: round {event.from_closed} was closed, the last one there is {event.to_closed}; "
        "training goes on after that"
    )


@line.register
def _(event: events.RoundEvaluated) -> str:
    return f"round {event.round} accuracy at client/server: {by_cut(event.accuracy)}"


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


def by_cut(accuracy: dict[str, dict[str, float]]) -> str:
    """Return accuracy by cut, as client/server."""
    return ", ".join(f"cut {cut} {found['client']:.3f}/{found['server']:.3f}" for cut, found in accuracy.items())


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
