"""``splitee dead``: what a run has refused, looked at, dropped or sent again."""

import json as json_module
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from pydantic import BaseModel

from broker import topology
from broker.browse import Browser
from broker.codec import decode
from broker.errors import MalformedMessage, UnknownQueue
from broker.messages import DeadLetter, Frame, Message, WireTensor
from broker.rabbitmq import RabbitTransport
from broker.transport import Delivery
from cli.errors import CommandError
from cli.letters import Found, Summary, abbreviated, browse, chosen, group, missing_queue, plain, read, summarize
from cli.requeue import requeue_letters
from cli.servers import check_name, connect
from coordinator.store.open import open_store

SHOWN_BYTES = 64


def list_letters(*, run: str, broker: str, json: bool) -> None:
    """Print every dead letter of a run on a line, those of one id once."""
    with _connected(run, broker) as transport, browse(transport, run) as browser:
        found = group(browser.entries)
    if json:
        print(json_module.dumps([{**asdict(one.summary), "number": len(one.entries)} for one in found.values()], indent=2))
        return
    short = abbreviated(found)
    for one in found.values():
        print(_line(one, short(one.summary.id)))
    print(f"{len(found)} dead letters in run {run!r}" if found else f"No dead letters in run {run!r}")


def show(*, run: str, broker: str, id: str) -> None:
    """Print one letter in full. Raises CommandError if there is none of that id."""
    bodies: dict[str, DeadLetter] = {}

    def look(delivery: Delivery) -> Summary:
        letter = read(delivery)
        if letter.id == id or (letter.id.startswith(id) and not bodies):  # bodies are large: not of every id that begins so
            bodies[letter.id] = letter
        return summarize(letter)

    with _connected(run, broker) as transport, Browser(transport, topology.dead(run).name, look) as browser:
        found = group(browser.entries)
    letter = bodies[chosen(found, [id], run)[0]]
    for name, text in _details(letter, len(found[letter.id].entries)):
        print(f"{name:<9}{plain(text)}")


def drop(*, run: str, broker: str, ids: Sequence[str], everything: bool) -> None:
    """Remove letters for good. Raises CommandError if one is unknown; then all stay."""
    _check_choice(ids, everything)
    with _connected(run, broker) as transport, browse(transport, run) as browser:
        found = group(browser.entries)
        dropped = list(found) if everything else chosen(found, ids, run)
        browser.remove(entry for one in dropped for entry in found[one].entries)
    print(f"Dropped {len(dropped)} dead letters; {len(found) - len(dropped)} are left")


def requeue(*, run: str, broker: str, store: str, ids: Sequence[str], everything: bool) -> None:
    """Send letters again into their round, which must be open. Raises CommandError if one cannot be; that one stays."""
    _check_choice(ids, everything)
    check_name("--run", run)
    opened = open_store(store, run)
    try:
        with _connected(run, broker) as transport:
            requeue_letters(run, transport, opened, None if everything else ids)
    finally:
        opened.close()


@contextmanager
def _connected(run: str, broker: str) -> Iterator[RabbitTransport]:
    check_name("--run", run)
    transport = connect(broker)
    try:
        yield transport
    except UnknownQueue as error:
        raise missing_queue(run, error) from None
    finally:
        transport.close()


def _check_choice(ids: Sequence[str], everything: bool) -> None:
    if bool(ids) == everything:
        raise CommandError("name dead letters by their ids, or give --all" + (", not both" if ids else ""))


def _line(found: Found, id: str) -> str:
    summary, times = found.summary, len(found.entries)
    place = [f"{summary.client} round {summary.round} sequence {summary.sequence}"] if summary.client else []
    sender = [f"from {summary.sender}"] if summary.sender else []
    repeated = [f"{times} times"] if times > 1 else []
    queue = summary.queue.split(".", 2)[-1]
    return plain(f"{id}  {', '.join([queue, *place, *sender, f'{summary.size} bytes', *repeated])}: {summary.reason}")


def _details(letter: DeadLetter, times: int) -> Iterator[tuple[str, str]]:
    yield "id", letter.id
    yield "reason", letter.reason
    yield "refused", f"{times} times" if times > 1 else "once"
    yield "queue", letter.queue
    yield "sender", letter.sender or "not known"
    yield (
        "size",
        f"{letter.size} bytes" + (f", the first {len(letter.body)} of them kept" if len(letter.body) < letter.size else ""),
    )
    yield from _content(letter.body)


def _content(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield a message's kind and fields, tensors by dtype and shape; of what is none, why, and how it begins."""
    try:
        message = decode(body, Message)
    except MalformedMessage as error:
        yield "body", f"{error}; begins {body[:SHOWN_BYTES].hex(' ')}"
        return
    fields = [f"{name} {_value(getattr(message, name))}" for name in type(message).model_fields if name != "body"]
    yield "message", f"{type(message).__name__}: {', '.join(fields)}"
    if isinstance(message, Frame) and message.parts == 1:
        yield from _content(message.body)
    elif isinstance(message, Frame):
        yield "body", f"part {message.part + 1} of {message.parts} of a message; begins {message.body[:SHOWN_BYTES].hex(' ')}"


def _value(value: object) -> str:
    if isinstance(value, WireTensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if len(value) > 32 else value.hex()
    if isinstance(value, BaseModel):
        return ", ".join(f"{name} {_value(getattr(value, name))}" for name in type(value).model_fields)
    return str(value)[:200]
