"""Messages to bytes and back: a versioned msgpack envelope, checked before use."""

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import msgpack
from pydantic import ValidationError

from broker.errors import MalformedMessage
from broker.messages import MESSAGES, Frame, Message

VERSION = 1
MAX_FRAMES = 4096
# What Python makes of a byte of msgpack may take 60: these bound everything but the tensors' bytes, which are taken as they are.
MOST_CONTAINERS = 1100  # lists and maps in a message; a heartbeat may hold 1000 scores
_MOST_ITEMS, _MOST_FIELDS, _MOST_TEXT = 1000, 32, 4_000_000
M = TypeVar("M", bound=Message)
_FRAME_OVERHEAD = 8192  # bytes that the envelopes of a frame, and of a dead letter around it, may add to its part of the body


def encode(message: Message) -> bytes:
    """Return the envelope of a message."""
    packed = msgpack.packb({"v": VERSION, "type": type(message).__name__, "fields": message.model_dump(mode="python")})
    return bytes(packed)


def decode(data: bytes, *kinds: type[M]) -> M:
    """Return the message in an envelope, which must be one of the kinds named.

    Raises MalformedMessage with the reason if it is anything else.
    """
    envelope = _unpack(data)
    if envelope.get("v") != VERSION:
        raise MalformedMessage(f"message version {_shown(envelope.get('v'))}, this program speaks {VERSION}")
    name = envelope.get("type")
    kind = MESSAGES.get(name) if isinstance(name, str) else None
    if kind is None or not issubclass(kind, kinds):
        expected = " or ".join(sorted(k.__name__ for k in kinds))
        raise MalformedMessage(f"message of type {_shown(name)}, expected {expected}")
    try:
        message = kind.model_validate(envelope.get("fields"))
    except ValidationError as error:
        raise MalformedMessage(f"{name}: {first_fault(error)}") from None
    assert isinstance(message, kinds)
    return message


def split(message: Message, client: str, incarnation: int, round: int, sequence: int, limit: int) -> list[bytes]:
    """Return a data message as encoded frames, each of at most ``limit`` bytes."""
    body, room = encode(message), _room(limit)
    pieces = [body[start : start + room] for start in range(0, len(body), room)] if len(body) > room else [body]
    return [
        encode(
            Frame(client=client, incarnation=incarnation, round=round, sequence=sequence, part=part, parts=len(pieces), body=piece)
        )
        for part, piece in enumerate(pieces)
    ]


def parts(size: int, limit: int) -> int:
    """Return in how many frames, each of at most ``limit`` bytes, a message of so many bytes travels."""
    return max(1, -(-size // _room(limit)))


def join(frames: Sequence[Frame], *kinds: type[M]) -> M:
    """Return the data message whose frames, in the order of their parts, are all here."""
    if len(frames) == 1:
        return decode(frames[0].body, *kinds)
    return decode(b"".join(frame.body for frame in frames), *kinds)


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong and where, in one line; names that a sender chose are escaped and cut short."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(part if isinstance(part, str) and part.isidentifier() else _shown(part) for part in fault["loc"])
    return f"{where[:200] or 'fields'}: {fault['msg']}"[:500]


def _room(limit: int) -> int:
    return limit - min(_FRAME_OVERHEAD, limit // 2)


def _unpack(data: bytes) -> dict[str, Any]:
    seen = itertools.count(1)

    def count(container: Any) -> Any:
        if next(seen) > MOST_CONTAINERS:
            raise ValueError(f"more than {MOST_CONTAINERS} lists and maps")
        return container

    try:
        envelope = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_hook=count,
            list_hook=count,
            max_array_len=_MOST_ITEMS,
            max_map_len=_MOST_FIELDS,
            max_str_len=_MOST_TEXT,
            max_ext_len=0,
        )
    except Exception as error:  # noqa: BLE001  msgpack raises several unrelated types
        raise MalformedMessage(f"not msgpack: {error!s:.200}") from None
    if not isinstance(envelope, dict):
        raise MalformedMessage(f"envelope is a {type(envelope).__name__}, not a map")
    return envelope


def _shown(value: object) -> str:
    """Return a sender's value on one line, short and without control characters."""
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    return repr(value[:40] if isinstance(value, str) else value)
