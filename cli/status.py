"""``splitee status``: where a run is, from its store and, where it is named, its broker."""

import json as json_module
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.live import Live

from broker import topology
from broker.errors import BrokerError, BrokerUnavailable, UnknownQueue
from broker.transport import Transport
from cli.servers import connect
from cli.status_waits import awaited
from coordinator.accuracy import Accuracy, by_cut
from coordinator.errors import ExperimentError
from coordinator.experiment import Experiment
from coordinator.store.interface import Holder, Store
from coordinator.store.ledger import Kept, Ledger
from coordinator.store.open import open_store
from coordinator.store.records import (
    LEADER,
    Roster,
    RoundRecord,
    RunState,
    Scores,
    Sight,
    StreamRecord,
    Tallies,
    stream_lease,
)
from learning.settings import TrainingSettings

LAST_ROUNDS = 5
PAGE_WIDTH = 160  # where it goes into a file or a pipe


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment, as plain data. Times are seconds since the epoch, by the coordinator's clock."""

    run: str
    phase: str
    reason: str
    round: int
    closed: int
    rounds: int
    opened_at: float | None  # of the open round
    last_rounds: list[dict[str, Any]]  # closed ones: round, seconds, samples, samples_per_second
    samples: int  # durably trained, those of the open round too
    coordinator: bool  # whether one leads
    coordinator_seen: float | None  # when it last wrote down what it sees
    waiting: list[str]
    clients: list[dict[str, Any]]
    streams: list[dict[str, Any]]
    dropouts: list[dict[str, Any]]
    dropouts_by_reason: dict[str, int]
    refused: int
    duplicates: int
    queues: list[dict[str, Any]] | None  # None: no broker was named, or it could not be asked
    broker_fault: str | None
    accuracy_round: int  # the last one that clients have reported scores of, 0 if there is none,
    accuracy: Accuracy  # and what they are, by cut
    store_bytes: int
    store_limit: int | None


def status(*, run: str, store: str, broker: str | None, json: bool, once: bool) -> None:
    """Print where a run is, again every second until it is over; once: only now.

    Raises ExperimentError if there is none, BrokerError and StoreError.
    """
    from cli.status_view import view

    with ExitStack() as stack:
        opened = open_store(store, run)
        stack.callback(opened.close)
        queues = Queues(run, broker)
        stack.callback(queues.close)
        found = snapshot(run, opened, queues)
        if json:
            print(json_module.dumps(asdict(found), indent=2))
        elif once or not Console().is_terminal:
            Console(width=None if Console().is_terminal else PAGE_WIDTH).print(view(found))
        else:
            looked = time.monotonic()
            with Live(view(found), refresh_per_second=4) as live:
                while found.phase not in ("finished", "failed"):
                    time.sleep(1.0)
                    before, since, looked = found, looked, time.monotonic()
                    found = snapshot(run, opened, queues)
                    live.update(view(found, (found.samples - before.samples) / (looked - since)))


class Queues:
    """The queues of a run on a broker, which may be away: all else is seen all the same.

    Raises BrokerRefused if the URL is none of RabbitMQ, or the broker does not let this user in.
    """

    def __init__(self, run: str, broker: str | None) -> None:
        self.fault: str | None = None
        self._run = run
        self._transport: Transport | None = None
        try:
            self._transport = connect(broker) if broker else None
        except BrokerUnavailable as error:
            self.fault = str(error)

    def look(self, clients: Iterable[str]) -> list[dict[str, Any]] | None:
        """Return how many messages are ready in each queue that is there, and how many consumers it has; None if nobody says."""
        if self._transport is None:
            return None
        rows = []
        for name in topology.names(self._run, clients):
            try:
                rows.append({"queue": name, "ready": self._transport.depth(name), "consumers": self._transport.consumers(name)})
            except UnknownQueue:
                continue
            except BrokerError as error:
                self.fault = str(error)
                return None
        return rows

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._transport is not None:
            self._transport.close()


def snapshot(run: str, store: Store, queues: Queues | None = None) -> Snapshot:
    """Read a run's documents, and its queues.

    Raises ExperimentError if there is no run of that name, or none that this program understands.
    """
    ledger = Ledger(store)
    record = ledger.run()
    if record is None:
        raise ExperimentError(f"there is no run {run!r} in this store; check --run and --store")
    state, roster = ledger.state().record, ledger.roster().record
    experiment = Experiment.from_json(record.experiment)
    closed = [found.record for found in map(ledger.round, range(1, state.closed + 1)) if found]
    kept = ledger.round(state.round) if state.round > state.closed else None
    written = ledger.streams(kept.record) if kept else {}
    last = kept or (ledger.round(state.round) if state.round else None)
    scores = _last_scores(ledger, experiment.training, state.closed)
    seen = ledger.sight()
    sight = seen.record if seen else Sight(at=0.0)
    totals = sum((one.tallies for one in closed), Tallies())
    totals = sum((one.record.tallies() for one in written.values()), totals)
    usage, leads = store.usage(), store.holder(LEADER) is not None
    streams = _streams(ledger, last.record, written) if last else []
    scored = set(ledger.scores(state.closed).record.clients) if state.closed == experiment.training.rounds else None
    return Snapshot(
        run=run,
        phase=state.phase,
        reason=state.reason,
        round=state.round,
        closed=state.closed,
        rounds=experiment.training.rounds,
        opened_at=kept.record.opened_at if kept else None,
        last_rounds=[_closed(one) for one in closed[-LAST_ROUNDS:]],
        samples=totals.samples,
        coordinator=leads,
        coordinator_seen=sight.at or None,
        waiting=awaited(state, kept.record if kept else None, roster, sight, streams, leads, scored),
        clients=_clients(state, roster, sight, written),
        streams=streams,
        dropouts=[gone.model_dump() for gone in roster.departures],
        dropouts_by_reason=dict(Counter(gone.reason for gone in roster.departures)),
        refused=totals.refused,
        duplicates=totals.duplicates,
        queues=queues.look(roster.clients) if queues else None,
        broker_fault=queues.fault if queues else None,
        accuracy_round=scores.round,
        accuracy=by_cut(scores, roster),
        store_bytes=usage.used,
        store_limit=usage.limit,
    )


def _closed(record: RoundRecord) -> dict[str, Any]:
    samples, seconds = record.tallies.samples, record.seconds
    rate = round(samples / seconds, 1) if seconds else None
    return {"round": record.round, "seconds": round(seconds, 3), "samples": samples, "samples_per_second": rate}


def _last_scores(ledger: Ledger, training: TrainingSettings, closed: int) -> Scores:
    """Return the scores of the last round that has any."""
    evaluated = [number for number in range(closed, 0, -1) if training.evaluates(number)][:2]  # clients may still be at the last
    found = (ledger.scores(number) for number in evaluated)
    return next((kept.record for kept in found if kept.version), Scores(round=0))


def _clients(state: RunState, roster: Roster, sight: Sight, written: dict[str, Kept[StreamRecord]]) -> list[dict[str, Any]]:
    progress = {client: of for kept in written.values() for client, of in kept.record.clients.items()}
    rows = []
    for client in sorted(roster.clients.values(), key=lambda client: client.index):
        of = progress.get(client.id)
        rows.append(
            {
                "id": client.id,
                "cut": client.cut,
                "state": client.state,
                "reason": client.reason,
                "first_round": client.first_round,
                "batches": of.sequence - (of.ended and not of.closed) if of else 0,  # of the open round, durably trained
                "ended": bool(of and of.ended) or state.round == state.closed,
                "last_heard": sight.silent.get(client.id),  # None: lately
            }
        )
    return rows


def _streams(ledger: Ledger, record: RoundRecord, written: dict[str, Kept[StreamRecord]]) -> list[dict[str, Any]]:
    rows = []
    for plan in record.streams:
        kept = written.get(plan.id)
        holder = ledger.store.holder(stream_lease(plan.id))
        rows.append(
            {
                "id": plan.id,
                "clients": len(plan.clients),
                "status": _status(record, kept, holder),
                "worker": holder.holder if holder else None,
                "batches": sum(progress.sequence for progress in kept.record.clients.values()) if kept else 0,
                "unended": [one.id for one in plan.clients if record.phase != "closed" and not _ended(kept, one.id)],
            }
        )
    return rows


def _status(record: RoundRecord, kept: Kept[StreamRecord] | None, holder: Holder | None) -> str:
    if record.phase == "closed":
        return "averaged"
    if kept is not None and kept.record.status == "committed":
        return "committed"
    return "training" if holder else "unclaimed"


def _ended(kept: Kept[StreamRecord] | None, client: str) -> bool:
    progress = kept.record.clients.get(client) if kept else None
    return progress is not None and progress.ended
