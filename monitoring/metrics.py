"""The listener that turns one process's events into metrics."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from broker import events, inference_events, store_events
from broker.client_counts import counted
from monitoring.metric_table import DEFINITIONS, STATES, Role
from monitoring.series import Definition, Series

# Of what a client counts: the counter, with its labels beside the cut; the summary, with the field of its count.
_COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "samples": ("splitee_client_samples_total", ()),
    "batches": ("splitee_client_batches_total", ()),
    "correct": ("splitee_client_correct_total", ()),
    "loss": ("splitee_client_loss_total", ()),
    "raw_bytes": ("splitee_client_raw_bytes_total", ()),
    "wire_bytes": ("splitee_client_wire_bytes_total", ()),
    "step_seconds": ("splitee_client_step_seconds_total", ()),
    "wait_broker_seconds": ("splitee_client_waiting_seconds_total", ("broker",)),
    "wait_servers_seconds": ("splitee_client_waiting_seconds_total", ("servers",)),
    "wait_round_seconds": ("splitee_client_waiting_seconds_total", ("round",)),
}
_SUMMARIES: Mapping[str, tuple[str, str]] = {
    "confirmed": ("splitee_client_confirm_seconds", "confirm_seconds"),
    "acknowledged": ("splitee_client_acknowledge_seconds", "acknowledge_seconds"),
    "batches": ("splitee_client_window_ratio", "window"),
}


class Metrics:
    """Metrics of one process. May be called from any thread.

    client: id and cut, where the process is a client: it counts its own events, all others hear of clients by their heartbeats.
    by_client: what clients count has a label ``client`` beside the cut; there are as many series as clients then.
    reachable: returns which of its servers were reached at the last try; asked at each scrape.
    """

    def __init__(
        self,
        role: Role,
        *,
        client: tuple[str, int] | None = None,
        by_client: bool = False,
        reachable: Callable[[], Mapping[str, bool]] = dict,
    ) -> None:
        self._client = client
        self._by_client = by_client
        self._reachable = reachable
        definitions = [one for one in DEFINITIONS if role in one.roles]
        self._series = Series(map(_with_client, definitions) if by_client else definitions)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        if self._client is not None:
            self._count(*self._client, counted(event))
        elif handler := _HANDLERS.get(type(event)):
            handler(self._series, event)
        elif isinstance(event, events.ClientReported):
            self._count(event.client, event.cut, event.counts)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics as they are now, for the registry."""
        self._series.put("splitee_reachable", {(server,): reached for server, reached in self._reachable().items()})
        return self._series.collect()

    def _count(self, client: str, cut: int, counts: Mapping[str, float]) -> None:
        whose = (str(cut), client) if self._by_client else (str(cut),)
        for name, value in counts.items():
            if name in _COUNTERS:
                counter, labels = _COUNTERS[name]
                self._series.add(counter, value, (*whose, *labels))
            if name in _SUMMARIES:
                summary, total = _SUMMARIES[name]
                self._series.add(summary, counts.get(total, 0.0), whose, count=value)
        if "reconnects" in counts:
            self._series.add("splitee_reconnects_total", counts["reconnects"], ("client",))


def _with_client(one: Definition) -> Definition:
    """Return a client's metric with a label for the client; any other as it is."""
    if not one.name.startswith("splitee_client_"):
        return one
    labels = {"cut": (), "client": (), **{name: values for name, values in one.labels.items() if name != "cut"}}
    return replace(one, labels=labels)


def _batch_trained(series: Series, event: events.BatchTrained) -> None:
    cut = (str(event.cut),)
    series.add("splitee_server_samples_total", event.samples, cut)
    series.add("splitee_server_correct_total", event.correct, cut)
    series.add("splitee_server_loss_total", event.loss * event.samples, cut)
    series.add("splitee_server_bytes_total", event.bytes, cut)
    series.observe("splitee_server_step_seconds", event.seconds, cut)


def _waited(series: Series, event: events.Waited) -> None:
    if event.awaited in ("client", "stream"):  # the others are clients', which are heard of by their heartbeats
        series.add("splitee_server_waiting_seconds_total", event.seconds, (event.awaited,))


def _stream_claimed(series: Series, event: events.StreamClaimed) -> None:
    series.add("splitee_streams_total", 1, ("reclaimed" if event.again else "claimed",))


def _stream_committed(series: Series, _event: events.StreamCommitted) -> None:
    series.add("splitee_streams_total", 1, ("committed",))


def _stream_lost(series: Series, _event: events.StreamLost) -> None:
    series.add("splitee_streams_total", 1, ("lost",))


def _checkpoint_saved(series: Series, event: events.CheckpointSaved) -> None:
    kind = ("commit" if event.commits else "checkpoint",)
    series.observe("splitee_checkpoint_seconds", event.seconds, kind)
    series.add("splitee_checkpoint_bytes_total", event.bytes, kind)


def _duplicates_dropped(series: Series, event: events.DuplicatesDropped) -> None:
    series.add("splitee_duplicates_total", event.count)


def _gap_found(series: Series, _event: events.GapFound) -> None:
    series.add("splitee_gaps_total", 1)


def _replica_set_back(series: Series, _event: events.ReplicaSetBack) -> None:
    series.add("splitee_replicas_set_back_total", 1)


def _message_refused(series: Series, event: events.MessageRefused) -> None:
    series.add("splitee_dead_letters_total", 1, (event.kind,))


def _reconnected(series: Series, event: events.Reconnected) -> None:
    if event.role != "client":
        series.add("splitee_reconnects_total", 1, (event.role,))


def _run_started(series: Series, event: events.RunStarted) -> None:
    series.put("splitee_run_rounds", {(): event.rounds})
    series.put("splitee_round_opened_timestamp_seconds", {(): 0})


def _round_open(series: Series, event: events.RoundOpened | events.Progress) -> None:
    series.put("splitee_round", {(): event.round})
    series.put("splitee_round_opened_timestamp_seconds", {(): event.opened_at})


def _store_used(series: Series, event: store_events.StoreUsed) -> None:
    series.put("splitee_store_bytes", {(): event.used})
    series.put("splitee_store_limit_bytes", {(): event.limit or 0})


def _round_closed(series: Series, event: events.RoundClosed) -> None:
    series.put("splitee_round_opened_timestamp_seconds", {(): 0})
    series.observe("splitee_round_seconds", event.seconds)


def _clients_counted(series: Series, event: events.ClientsCounted) -> None:
    series.put("splitee_clients", {(state,): event.states.get(state, 0) for state in STATES})


def _client_dropped(series: Series, event: events.ClientDropped) -> None:
    series.add("splitee_dropouts_total", 1, (event.kind,))


def _round_evaluated(series: Series, event: events.RoundEvaluated) -> None:
    found: dict[tuple[str, ...], float] = {
        (cut, place): share for cut, places in event.accuracy.items() for place, share in places.items()
    }
    series.put("splitee_evaluation_accuracy", found)


def _inference_answered(series: Series, event: inference_events.InferenceAnswered) -> None:
    series.observe("splitee_inference_batch_samples", event.samples)
    series.observe("splitee_inference_batch_seconds", event.seconds)


def _inference_late(series: Series, _event: inference_events.InferenceLate) -> None:
    series.add("splitee_inference_late_total", 1)


def _inference_finished(series: Series, event: inference_events.InferenceFinished) -> None:
    for where, samples in event.where.items():
        series.add("splitee_inference_samples_total", samples, (where,))
    series.observe("splitee_inference_seconds", event.seconds)


_HANDLERS: Mapping[type[events.Event], Callable[[Series, Any], None]] = {
    events.BatchTrained: _batch_trained,
    events.Waited: _waited,
    events.StreamClaimed: _stream_claimed,
    events.StreamCommitted: _stream_committed,
    events.StreamLost: _stream_lost,
    events.CheckpointSaved: _checkpoint_saved,
    events.DuplicatesDropped: _duplicates_dropped,
    events.GapFound: _gap_found,
    events.ReplicaSetBack: _replica_set_back,
    events.MessageRefused: _message_refused,
    events.Reconnected: _reconnected,
    events.RunStarted: _run_started,
    events.RoundOpened: _round_open,
    events.Progress: _round_open,  # of a round that another coordinator has opened
    events.RoundClosed: _round_closed,
    store_events.StoreUsed: _store_used,
    events.ClientsCounted: _clients_counted,
    events.ClientDropped: _client_dropped,
    events.RoundEvaluated: _round_evaluated,
    inference_events.InferenceAnswered: _inference_answered,
    inference_events.InferenceLate: _inference_late,
    inference_events.InferenceFinished: _inference_finished,
}
