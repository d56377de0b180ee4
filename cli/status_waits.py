"""What a run waits for, and since when, in words."""

import time
from collections.abc import Iterator, Sequence, Set
from typing import Any

from coordinator.store.records import Roster, RoundRecord, RunState, Sight

NAMED = 5  # of what may be many


def awaited(
    state: RunState,
    opened: RoundRecord | None,
    roster: Roster,
    sight: Sight,
    streams: Sequence[dict[str, Any]],
    leads: bool,
    scored: Set[str] | None,
) -> list[str]:
    """Return all that a run waits for, a line each; nothing where it is over.

    opened: the open round, if there is one, and streams: its rows. leads: whether a coordinator does. scored: clients that
    have reported scores of the last round; None before that is closed.
    """
    if state.phase in ("finished", "failed"):
        return []
    now = time.time()
    lines = [] if leads else [f"coordinator: none leads{f', last seen {seconds(now - sight.at)} ago' if sight.at else ''}"]
    if opened is not None:
        return [*lines, *_of_round(opened, roster, sight, streams, now)]
    if scored is not None and roster.active():
        missing = [client.id for client in roster.active() if client.id not in scored]
        return [*lines, *([f"scores of the last round: {named(missing)}"] if missing else [])]
    return [*lines, *([sight.lacks] if sight.lacks and leads else [])]


def _of_round(opened: RoundRecord, roster: Roster, sight: Sight, streams: Sequence[dict[str, Any]], now: float) -> Iterator[str]:
    head = f"round {opened.round}, open for {seconds(now - opened.opened_at)}"
    left = [stream for stream in streams if stream["status"] != "committed"]
    if opened.phase == "frozen" or not left:
        yield f"{head}: its average"
        return
    unclaimed = [stream["id"] for stream in left if stream["worker"] is None]
    unended = [client for stream in left for client in stream["unended"]]
    active = {client.id for client in roster.active()}
    silent = [client for client in unended if client in sight.silent and client in active]
    for client in silent[:NAMED]:
        yield f"{head}: {client}, last heard {seconds(now - sight.silent[client])} ago"
    if len(silent) > NAMED:
        yield f"{head}: {len(silent) - NAMED} more silent clients"
    if unclaimed:
        workers = "no worker" if len(unclaimed) == len(left) else "the workers have others"
        yield f"{head}: {'stream' if len(unclaimed) == 1 else 'streams'} {named(unclaimed)} unclaimed: {workers}"
    gone = [client for client in unended if client not in active]
    if gone:
        yield f"{head}: the workers to end the part of {named(gone)}, given up"
    training = [client for client in unended if client in active and client not in sight.silent]
    if training:
        yield f"{head}: the batches of {named(training)}"


def named(names: Sequence[str]) -> str:
    """Return names, the first few where they are many."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def seconds(length: float) -> str:
    """Return a time in words; clocks of two machines may make it negative."""
    whole = max(0, round(length))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min"
