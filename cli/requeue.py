"""Sends dead letters again into their client's queue, where that can still have an effect."""

import sys
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from broker import topology
from broker.browse import Browser
from broker.codec import decode, encode
from broker.errors import MalformedMessage
from broker.messages import DeadLetter, Frame
from broker.settings import TransportSettings
from broker.transport import Delivery, Settled, Transport
from cli.errors import CommandError
from cli.letters import Summary, browse, chosen, group, plain, read, summarize
from coordinator.store.interface import Store
from coordinator.store.ledger import Ledger
from coordinator.store.records import RoundRecord

BODIES = 64 * 2**20  # bytes of letters in memory at a time
CONFIRM_SECONDS = 30.0

FAILED = {
    Settled.REFUSED: "its client's queue is full; try again later",
    Settled.UNROUTABLE: "its client has no queue",
    Settled.LOST: "the connection to the broker was lost; it may have been sent, try again",
}


class _Refused(Exception):
    """A letter stays; the text says why."""


def requeue_letters(run: str, transport: Transport, store: Store, names: Sequence[str] | None) -> None:
    """Requeue the letters that are named (None: all) and say so; raise CommandError if one could not be, after all others."""
    requeuing = _Requeuing(run, transport, Ledger(store))
    with browse(transport, run) as browser:
        found = group(browser.entries)
    left = list(found) if names is None else chosen(found, names, run)
    if left and requeuing.ledger.run() is None:
        raise CommandError(f"there is no run {run!r} in this store; check --run and --store")
    problems: list[str] = []
    while left:
        done = requeuing.some(left, problems)
        left = [one for one in left if one not in done]
        if not done:
            problems += [f"dead letter {one} is gone: somebody else has removed it" for one in left]
            break
    if problems:
        for problem in problems[:-1]:
            print(f"splitee: {problem}", file=sys.stderr)
        raise CommandError(problems[-1])
    if not found:
        print(f"No dead letters in run {run!r}")


@dataclass(frozen=True)
class _Requeuing:
    run: str
    transport: Transport
    ledger: Ledger

    def some(self, ids: Sequence[str], problems: list[str]) -> set[str]:
        """Requeue as many of these letters as fit in memory; return the ids of those that were, or that are refused."""
        wanted, kept, room = set(ids), dict[str, DeadLetter](), BODIES

        def look(delivery: Delivery) -> Summary:
            nonlocal room
            letter = read(delivery)
            if letter.id in wanted and letter.id not in kept and (room >= len(letter.body) or not kept):
                kept[letter.id] = letter
                room -= len(letter.body)
            return summarize(letter)

        with Browser(self.transport, topology.dead(self.run).name, look) as browser:
            found = group(browser.entries)
            for letter in kept.values():
                try:
                    frame = self._send(letter)
                    browser.remove(found[letter.id].entries)
                    print(f"Requeued {letter.id}: {frame.client}, round {frame.round}, sequence {frame.sequence}")
                except _Refused as refusal:
                    problems.append(plain(f"dead letter {letter.id} stays: {refusal}"))
        return set(kept)

    def _send(self, letter: DeadLetter) -> Frame:
        frame = self._usable(letter)
        settled: Future[Settled] = Future()
        self.transport.publish(letter.queue, encode(frame.model_copy(update={"requeued": True})), settled.set_result)
        outcome = Settled.LOST
        with suppress(TimeoutError):
            outcome = settled.result(CONFIRM_SECONDS)
        if outcome is not Settled.CONFIRMED:
            raise _Refused(FAILED[outcome])
        return frame

    def _usable(self, letter: DeadLetter) -> Frame:
        """Return the frame in a letter if its round can still take it; raise _Refused."""
        if len(letter.body) < letter.size:
            raise _Refused(f"of its {letter.size} bytes only the first {len(letter.body)} were kept")
        try:
            frame = decode(letter.body, Frame)
        except MalformedMessage as error:
            raise _Refused(f"it is no data message of a client: {error}") from None
        if letter.queue != topology.activations(self.run, frame.client, TransportSettings()).name:
            raise _Refused(f"it says that it is from client {frame.client}, but came in {letter.queue}")
        if frame.parts != 1:
            raise _Refused(f"it is part {frame.part + 1} of {frame.parts} of a message; only whole messages can be requeued")
        state = self.ledger.state().record
        kept = self.ledger.round(frame.round)
        if state.round != frame.round or kept is None or kept.record.phase != "open":
            reached = f"is closed; the run is at round {state.round}" if frame.round <= state.closed else "is not open"
            raise _Refused(f"round {frame.round} {reached}")
        self._check_place(frame, kept.record)
        return frame

    def _check_place(self, frame: Frame, round: RoundRecord) -> None:
        plan = round.plan_of(frame.client)
        member = next((one for one in plan.clients if one.id == frame.client), None) if plan else None
        if plan is None or member is None:
            raise _Refused(f"client {frame.client} takes no part in round {frame.round}")
        if member.incarnation != frame.incarnation:
            raise _Refused(f"it is from incarnation {frame.incarnation} of client {frame.client}, now {member.incarnation}")
        stream = self.ledger.stream(round.round, plan.id)
        progress = stream.record.clients.get(frame.client) if stream else None
        if stream is None or progress is None:
            return
        if stream.record.status == "committed" or progress.ended:
            raise _Refused(f"client {frame.client} has ended round {frame.round}: its stream takes no more")
        if frame.sequence < progress.sequence and all(hole.sequence != frame.sequence for hole in progress.holes):
            raise _Refused(f"sequence {frame.sequence} of round {frame.round} has been trained already")
