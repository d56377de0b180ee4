"""Events as lines of text, and how much each matters."""

from collections.abc import Mapping
from functools import singledispatch
from typing import Literal

from broker import events, inference_events, store_events

Level = Literal["debug", "info", "warning", "error"]
"""debug: what happens many times a round. warning: something is lost, refused, or has to be waited for; the run bears it.
error: what ends a process, or is a fault of the program; no event is."""

_DETAILS = (
    events.ClientsCounted,
    events.ClientReported,
    events.Progress,
    store_events.StoreUsed,
    events.BatchTrained,
    events.NetworkStep,
    events.CheckpointSaved,
    events.DuplicatesDropped,
    events.FeaturesPublished,
    events.Acknowledged,
    events.Waited,
    inference_events.InferenceAnswered,
    inference_events.InferenceLate,
    inference_events.InferenceFinished,
)
_WARNINGS = (
    events.Waiting,
    events.ClientDropped,
    store_events.StoreWentBack,
    events.StreamLost,
    events.ClientRoundEnded,
    events.ReplicaSetBack,
    events.MessageRefused,
    events.GapFound,
)


def level(event: events.Event) -> Level:
    """Return how much an event matters."""
    if isinstance(event, _DETAILS):
        return "debug"
    return "warning" if isinstance(event, _WARNINGS) else "info"


@singledispatch
def line(event: events.Event) -> str:
    """Return an event as one line."""
    raise TypeError(f"there is no line for {type(event).__name__}")


@line.register
def _(event: events.Waiting) -> str:
    return f"{event.role}: waiting for {event.what}"


@line.register
def _(event: events.RunStarted) -> str:
    start = "" if event.resumed_at == 1 else f", resumed at round {event.resumed_at}"
    clients = count(event.clients, "client") if event.clients else "any clients"
    return f"run {event.run}: {event.strategy}, {clients}, {event.rounds} rounds{start}"


@line.register
def _(event: events.RunFinished) -> str:
    found = event.summary
    what = f": {found['rounds']} rounds, {found['samples_trained']} samples" if found else ""
    return f"the run is finished{what}"


@line.register
def _(event: events.ClientJoined) -> str:
    return f"client {event.client} joins at cut {event.cut}, from round {event.round}"


@line.register
def _(event: events.ClientDropped) -> str:
    return f"client {event.client} is given up in round {event.round}: {event.reason}"


@line.register
def _(event: events.ClientsCounted) -> str:
    return f"clients: {', '.join(f'{number} {state}' for state, number in event.states.items())}"


@line.register
def _(event: events.ClientReported) -> str:
    return f"client {event.client} has counted more: {', '.join(f'{name} {more:.6g}' for name, more in event.counts.items())}"


@line.register
def _(event: events.RoundOpened) -> str:
    if not event.streams:
        return f"round {event.round}: {count(event.clients, 'network')}"
    return f"round {event.round}: {event.clients} clients in {event.streams} streams"


@line.register
def _(event: events.Progress) -> str:
    done = f"{event.streams_committed}/{event.streams} streams committed"
    return f"round {event.round}: {done}, samples {event.client_samples} at clients, {event.server_samples} at servers"


@line.register
def _(event: events.RoundClosed) -> str:
    rate = event.samples / event.seconds if event.seconds else 0.0
    loss = f"{_figure(event.client_loss)} at clients, {_figure(event.server_loss)} at servers"
    if event.client_loss is None:  # of whole networks
        loss = _figure(event.server_loss)
    return f"round {event.round} closed: {event.samples} samples in {event.seconds:.1f} s ({rate:.0f}/s), loss {loss}"


@line.register
def _(event: store_events.StoreWentBack) -> str:
    return (
        f"the store has lost its last writes: round {event.from_closed} was closed, the last one there is {event.to_closed}; "
        "training goes on after that"
    )


@line.register
def _(event: store_events.StoreUsed) -> str:
    return f"the store uses {event.used} bytes" + (f" of {event.limit}" if event.limit else "")


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
def _(event: events.ReplicaSetBack) -> str:
    return f"a replica of stream {event.stream} of round {event.round} became non-finite and is set back"


@line.register
def _(event: events.MessageRefused) -> str:
    return f"refused a message in {event.queue}: {event.reason}"


@line.register
def _(event: events.BatchTrained) -> str:
    where = f"batch {event.sequence} of {event.client}, stream {event.stream} of round {event.round}"
    return f"trained {where}: {event.samples} samples in {event.seconds:.3f} s, loss {event.loss:.3f}"


@line.register
def _(event: events.NetworkStep) -> str:
    return f"round {event.round}: network {event.network} ({event.place}/{event.networks}), batch {event.batches} of {event.of}"


@line.register
def _(event: events.CheckpointSaved) -> str:
    what = "commit" if event.commits else "checkpoint"
    return f"saved a {what} of stream {event.stream} of round {event.round}: {event.bytes} bytes in {event.seconds:.3f} s"


@line.register
def _(event: events.DuplicatesDropped) -> str:
    return f"dropped {count(event.count, 'message')} of {event.client} that came again"


@line.register
def _(event: events.GapFound) -> str:
    return f"batch {event.sequence} of {event.client} in round {event.round} is missing: asked for again"


@line.register
def _(event: events.FeaturesPublished) -> str:
    where = f"batch {event.sequence} of {event.client}, round {event.round}"
    return f"published {where}: {event.samples} samples, {event.bytes} bytes, loss {event.loss:.3f}"


@line.register
def _(event: events.Acknowledged) -> str:
    return f"{event.by} has {count(event.messages, 'message')} of {event.client}, {event.seconds:.3f} s in all"


@line.register
def _(event: events.Waited) -> str:
    return f"{event.role}: waited {event.seconds:.3f} s for the {event.awaited}"


@line.register
def _(event: events.Reconnected) -> str:
    return f"{event.role}: connected to the broker anew"


@line.register
def _(event: inference_events.InferenceAnswered) -> str:
    return f"{event.worker}: answered {count(event.requests, 'request')}, {event.samples} samples in {event.seconds:.3f} s"


@line.register
def _(event: inference_events.InferenceLate) -> str:
    return f"{event.worker}: dropped a request of {event.client} that nobody waits for any more"


@line.register
def _(event: inference_events.InferenceFinished) -> str:
    where = ", ".join(f"{number} by {who}" for who, number in event.where.items() if number)
    return f"{event.client}: {where or 'no samples'} in {event.seconds:.3f} s"


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
