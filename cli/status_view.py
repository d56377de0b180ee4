"""How ``splitee status`` shows a run in a terminal."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.status_waits import seconds
from monitoring import lines

if TYPE_CHECKING:
    from cli.status import Snapshot

MIB = 2**20


def view(found: "Snapshot", rate: float | None = None) -> Group:
    """Return a run as a person reads it. rate: samples a second since the last look, None if there was none."""
    shown: list[RenderableType] = [Text(line) for line in _lines(found, rate)]
    shown.append(_table("clients", _clients(found), ("id", "cut", "state", "first_round", "batches", "last_heard", "reason")))
    shown.append(_table("streams", found.streams, ("id", "clients", "status", "worker", "batches")))
    if found.queues is None:
        why = found.broker_fault or "give --broker (or SPLITEE_BROKER_URL) to see what waits in RabbitMQ"
        shown.append(Text(f"queues: {why}"))
    else:
        shown.append(_table("queues", found.queues, ("queue", "ready", "consumers")))
    return Group(*shown)


def _lines(found: "Snapshot", rate: float | None) -> list[str]:
    now = time.time()
    reason = f" ({found.reason})" if found.reason else ""
    opened = f"round {found.round} open for {seconds(now - found.opened_at)}, " if found.opened_at else ""
    head = f"run {found.run}: {found.phase}{reason}, {opened}{found.closed} of {found.rounds} rounds closed"
    limit = f" of {found.store_limit / MIB:.1f}" if found.store_limit else ""
    shown = [f"{head}, {found.samples} samples, store {found.store_bytes / MIB:.1f}{limit} MiB"]
    shown += [f"waiting for {what}" for what in found.waiting]
    if found.last_rounds:
        shown.append(f"last rounds: {'; '.join(map(_round, found.last_rounds))}")
    if rate is not None:
        shown.append(f"now: {rate:.0f} samples/s made durable")
    if found.accuracy:
        shown.append(f"accuracy after round {found.accuracy_round} at client/server: {lines.by_cut(found.accuracy)}")
    shown.append(f"refused {found.refused} messages, dropped {found.duplicates} that came again")
    if found.dropouts:
        shown.append(f"dropouts: {', '.join(f'{count} {reason}' for reason, count in found.dropouts_by_reason.items())}")
        shown += [f"  {_dropout(gone)}" for gone in found.dropouts]
    return shown


def _clients(found: "Snapshot") -> list[dict[str, Any]]:
    now = time.time()
    return [
        {**client, "last_heard": f"{seconds(now - client['last_heard'])} ago" if client["last_heard"] else None}
        for client in found.clients
    ]


def _round(closed: dict[str, Any]) -> str:
    return f"{closed['round']}: {closed['seconds']:.1f} s, {closed['samples_per_second'] or 0:.0f} samples/s"


def _dropout(gone: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(gone["at"]).strftime("%H:%M:%S")
    return f"{gone['client']} in round {gone['round']}, at {at}: {gone['reason']}"


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    return table
