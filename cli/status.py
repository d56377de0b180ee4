"""``splitee status``: where a run is, from its store."""

import json as json_module
import time
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from coordinator.accuracy import Accuracy, by_cut
from coordinator.errors import ExperimentError
from coordinator.experiment import Experiment
from coordinator.store.interface import Store
from coordinator.store.ledger import Ledger
from coordinator.store.open import open_store
from coordinator.store.records import RoundRecord, Scores, Tallies, stream_lease
from learning.settings import TrainingSettings
from monitoring import lines


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment, as plain data."""

    run: str
    phase: str
    reason: str
    round: int
    closed: int
    rounds: int
    samples: int
    clients: list[dict[str, Any]]
    streams: list[dict[str, Any]]
    accuracy_round: int  # the last one that clients have reported scores of, 0 if there is none,
    accuracy: Accuracy  # and what they are, by cut
    store_bytes: int


def status(*, run: str, store: str, json: bool, once: bool) -> None:
    """Print where a run is, again every second until it is over; once: only now. Raises ExperimentError if there is none."""
    opened = open_store(store, run)
    try:
        first = snapshot(run, opened)
        if json:
            print(json_module.dumps(asdict(first), indent=2))
        elif once or not Console().is_terminal:
            Console().print(_view(first))
        else:
            with Live(_view(first), refresh_per_second=4) as live:
                while first.phase not in ("finished", "failed"):
                    time.sleep(1.0)
                    first = snapshot(run, opened)
                    live.update(_view(first))
    finally:
        opened.close()


def snapshot(run: str, store: Store) -> Snapshot:
    """Read a run's documents; raise ExperimentError if there is no run of that name, or none that this program understands."""
    ledger = Ledger(store)
    record = ledger.run()
    if record is None:
        raise ExperimentError(f"there is no run {run!r} in this store; check --run and --store")
    state = ledger.state().record
    kept = ledger.round(state.round) if state.round else None
    roster = ledger.roster().record
    training = Experiment.from_json(record.experiment).training
    scores = _last_scores(ledger, training, state.closed)
    return Snapshot(
        run=run,
        phase=state.phase,
        reason=state.reason,
        round=state.round,
        closed=state.closed,
        rounds=training.rounds,
        samples=sum((found.record.tallies for found in map(ledger.round, range(1, state.closed + 1)) if found), Tallies()).samples,
        clients=[
            {"id": client.id, "cut": client.cut, "state": client.state, "reason": client.reason, "first_round": client.first_round}
            for client in sorted(roster.clients.values(), key=lambda client: client.index)
        ],
        streams=_streams(ledger, kept.record) if kept else [],
        accuracy_round=scores.round,
        accuracy=by_cut(scores, roster),
        store_bytes=store.usage().used,
    )


def _last_scores(ledger: Ledger, training: TrainingSettings, closed: int) -> Scores:
    """Return the scores of the last round that has any."""
    evaluated = [number for number in range(closed, 0, -1) if training.evaluates(number)][:2]  # clients may still be at the last
    found = (ledger.scores(number) for number in evaluated)
    return next((kept.record for kept in found if kept.version), Scores(round=0))


def _streams(ledger: Ledger, record: RoundRecord) -> list[dict[str, Any]]:
    written = ledger.streams(record)
    rows = []
    for plan in record.streams:
        kept = written.get(plan.id)
        holder = ledger.store.holder(stream_lease(plan.id))
        closed = record.phase == "closed"
        rows.append(
            {
                "id": plan.id,
                "clients": len(plan.clients),
                "status": "averaged" if closed else kept.record.status if kept else "training" if holder else "unclaimed",
                "worker": holder.holder if holder else None,
                "batches": sum(progress.sequence for progress in kept.record.clients.values()) if kept else 0,
            }
        )
    return rows


def _view(found: Snapshot) -> Group:
    reason = f" ({found.reason})" if found.reason else ""
    opened = f"round {found.round} open, " if found.round > found.closed else ""
    head = f"run {found.run}: {found.phase}{reason}, {opened}{found.closed} of {found.rounds} rounds closed"
    head += f", {found.samples} samples, store {found.store_bytes / 2**20:.1f} MiB"
    return Group(
        head,
        *(
            [f"accuracy after round {found.accuracy_round} at client/server: {lines.by_cut(found.accuracy)}"]
            if found.accuracy
            else []
        ),
        _table("clients", found.clients, ("id", "cut", "state", "first_round", "reason")),
        _table("streams", found.streams, ("id", "clients", "status", "worker", "batches")),
    )


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    return table
