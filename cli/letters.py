"""A run's dead letters: found in their queue without taking them out, named by their ids as git names commits."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from broker import topology
from broker.browse import Browser, Entry
from broker.codec import decode
from broker.errors import MalformedMessage, UnknownQueue
from broker.messages import DeadLetter
from broker.transport import Delivery, Transport
from cli.errors import CommandError

SHORTEST = 4  # digits of an id that are looked up


@dataclass(frozen=True)
class Summary:
    """A dead letter without its body. sequence: its place in the client's round; size: bytes of what was refused."""

    id: str
    reason: str
    sender: str | None
    client: str | None
    round: int | None
    sequence: int | None
    queue: str
    size: int


@dataclass(frozen=True)
class Found:
    """All dead letters of one id: the same message, refused so many times. summary: of the last."""

    summary: Summary
    entries: Sequence[Entry[Summary]]


def read(delivery: Delivery) -> DeadLetter:
    """Return a delivery of the dead-letter queue as what it is, or as a letter about itself where it is none."""
    try:
        return decode(delivery.body, DeadLetter)
    except MalformedMessage as error:
        return DeadLetter(
            id=hashlib.sha256(delivery.body).hexdigest()[:32],
            queue=delivery.queue,
            reason=f"no dead letter: {error}",
            sender=delivery.sender,
            client=None,
            round=None,
            sequence=None,
            size=len(delivery.body),
            body=delivery.body,
        )


def summarize(letter: DeadLetter) -> Summary:
    """Return a letter without its body."""
    return Summary(**letter.model_dump(exclude={"body"}))


def browse(transport: Transport, run: str) -> AbstractContextManager[Browser[Summary]]:
    """Return a browser of a run's dead letters."""
    return Browser(transport, topology.dead(run).name, lambda delivery: summarize(read(delivery)))


def group(entries: Iterable[Entry[Summary]]) -> dict[str, Found]:
    """Return letters by id, in the order of their first."""
    by_id: dict[str, list[Entry[Summary]]] = {}
    for entry in entries:
        by_id.setdefault(entry.value.id, []).append(entry)
    return {name: Found(same[-1].value, same) for name, same in by_id.items()}


def abbreviated(ids: Iterable[str], least: int = 8) -> Callable[[str], str]:
    """Return a function that shortens ids to so many digits, or to more where two would look alike."""
    length, known = least, set(ids)
    while len({one[:length] for one in known}) < len(known):
        length += 1
    return lambda one: one[:length]


def chosen(found: Iterable[str], named: Sequence[str], run: str) -> list[str]:
    """Return the ids that are named, in full or by their beginning; raise CommandError if one is unknown or ambiguous."""
    known = list(found)
    ids = []
    for name in named:
        matching = [name] if name in known else [one for one in known if one.startswith(name) and len(name) >= SHORTEST]
        if not matching:
            advice = f"give {SHORTEST} digits or more" if len(name) < SHORTEST else f"see splitee dead list --run {run}"
            raise CommandError(f"run {run!r} has no dead letter {name!r}; {advice}")
        if len(matching) > 1:
            raise CommandError(
                f"{name!r} begins the ids of {len(matching)} dead letters: {', '.join(matching[:3])}; give more digits"
            )
        ids.append(matching[0])
    return list(dict.fromkeys(ids))


def plain(text: str) -> str:
    """Return text that a terminal shows as it is, on one line: reasons quote what strangers have sent."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def missing_queue(run: str, error: UnknownQueue) -> CommandError:
    """Return what it means that a run has no dead-letter queue."""
    return CommandError(f"there is no run {run!r} on this broker ({error}); check --run and --broker")
