"""What is encoded comes back; what is not a message is refused, whatever it is."""

import functools

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codec import VERSION, decode, encode, join, split
from broker.errors import MalformedMessage
from broker.messages import (
    MESSAGES,
    Acknowledgement,
    Activations,
    AveragedHalf,
    DeadLetter,
    Echo,
    EndOfRound,
    Frame,
    HalfRequest,
    Heartbeat,
    InferenceRequest,
    Join,
    Leave,
    Message,
    Notice,
    Offer,
    Prediction,
    Refusal,
    Score,
    Target,
    Welcome,
    WireTensor,
)

FEATURES = WireTensor(dtype="float16", shape=(2, 3), data=bytes(range(12)))
LABELS = WireTensor(dtype="int64", shape=(2,), data=bytes(16))
WHO = {"client": "client-1", "incarnation": 2}
EXAMPLES: list[Message] = [
    Frame(**WHO, round=1, sequence=0, part=1, parts=2, body=b"\x00\xff", requeued=True),
    Activations(cut=3, digest=bytes(32), features=FEATURES, labels=LABELS),
    EndOfRound(digest=b"d" * 32, samples=64, loss=0.5, dropped_samples=1, half=None),
    Join(client="client-1", cut=3, incarnation=None, process="p", samples=60_000, run_id="0123456789abcdef"),
    Heartbeat(
        **WHO, process="p", round=3, confirmed=7, samples=2**40, bytes=2**50, loss=2.25,
        scores=(Score(round=2, samples=10, client_correct=5, server_correct=4, server_answered=6),),
    ),
    Leave(**WHO),
    Notice(round=4),
    Echo(sender="c", sent=12.5),
    HalfRequest(**WHO, reply="0123abcd", round=3, cut=4, number=7),
    Welcome(
        **WHO, process="p", cut=3, part=0, parts=4, experiment="{}", fingerprint="f", first_round=1,
        sample_shape=(3, 32, 32), classes=10,
    ),
    Refusal(client="client-1", process="p", reason="no \u00fcber-seat"),
    Target(**WHO, round=3, closed=2, durable_round=3, durable_sequence=5, recorded=2, finished=False),
    Acknowledgement(**WHO, round=1, sequence=4, loss=1.5, correct=3, samples=8, resend=True),
    Offer(round=9),
    InferenceRequest(client="client-1", request="r", version=0, cut=3, features=FEATURES),
    Prediction(client="client-1", request="r", probabilities=FEATURES, error=None),
    AveragedHalf(round=3, cut=4, half=b"\x00\xff"),
    DeadLetter(id="i", queue="q", reason="why", sender=None, client="client-1", round=1, sequence=None, size=4, body=b"body"),
]  # fmt: skip
KINDS = tuple(MESSAGES.values())

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


def envelope(message: Message) -> dict[str, object]:
    return msgpack.unpackb(encode(message))


def decoded_or_refused(data: bytes) -> Message | None:
    """Decode bytes that may be anything; any error but the promised one fails the test."""
    try:
        return decode(data, *KINDS)
    except MalformedMessage:
        return None


def test_every_kind_of_message_has_an_example() -> None:
    assert {type(example).__name__ for example in EXAMPLES} == set(MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    again = decode(encode(message), type(message))
    assert type(again) is type(message)
    assert repr(again) == repr(message)  # a loss may be NaN, which equals nothing
    assert encode(again) == encode(message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_of_another_kind_is_refused(message: Message) -> None:
    other = Offer if not isinstance(message, Offer) else Leave
    with pytest.raises(MalformedMessage, match=f"type '{type(message).__name__}', expected {other.__name__}"):
        decode(encode(message), other)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_cut_short_is_refused(message: Message) -> None:
    data = encode(message)
    for end in range(len(data)):
        with pytest.raises(MalformedMessage):
            decode(data[:end], *KINDS)
    with pytest.raises(MalformedMessage):
        decode(data + b"\x00", *KINDS)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert decoded_or_refused(data) is None


@given(values)
def test_any_other_msgpack_is_refused(value: object) -> None:
    assert decoded_or_refused(msgpack.packb(value)) is None


@given(st.sampled_from(EXAMPLES), st.data())
def test_flipped_bytes_give_a_valid_message_or_a_refusal(message: Message, data: st.DataObject) -> None:
    mutated = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    survivor = decoded_or_refused(bytes(mutated))
    if survivor is not None:
        assert repr(decode(encode(survivor), *KINDS)) == repr(survivor)


@settings(max_examples=300)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_field_of_any_value_gives_a_valid_message_or_a_refusal(message: Message, data: st.DataObject) -> None:
    mutated = envelope(message)
    fields = mutated["fields"]
    assert isinstance(fields, dict)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(values)
    decoded_or_refused(msgpack.packb(mutated))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_missing_and_unknown_fields_are_refused(message: Message) -> None:
    for name in message.model_dump():
        mutated = envelope(message)
        if not type(message).model_fields[name].is_required():
            continue
        del mutated["fields"][name]  # type: ignore[attr-defined]
        with pytest.raises(MalformedMessage, match=name):
            decode(msgpack.packb(mutated), type(message))
    mutated = envelope(message)
    mutated["fields"]["surplus"] = 1  # type: ignore[index]
    with pytest.raises(MalformedMessage, match="surplus"):
        decode(msgpack.packb(mutated), type(message))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"dtype": "float64"}, "dtype"),
        ({"dtype": "float32"}, "needs 24 bytes, got 12"),
        ({"shape": [2, 4]}, "needs 16 bytes, got 12"),
        ({"shape": [-2, -3]}, "shape"),
        ({"shape": [2**31, 2**31]}, "shape"),
        ({"shape": [1] * 9}, "shape"),
        ({"data": "text"}, "data"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(changed: dict[str, object], reason: str) -> None:
    mutated = envelope(EXAMPLES[1])
    mutated["fields"]["features"].update(changed)  # type: ignore[index]
    with pytest.raises(MalformedMessage, match=reason):
        decode(msgpack.packb(mutated), Activations)


def test_another_version_is_refused() -> None:
    mutated = envelope(Offer(round=1)) | {"v": VERSION + 1}
    with pytest.raises(MalformedMessage, match=f"version {VERSION + 1}, this program speaks {VERSION}"):
        decode(msgpack.packb(mutated), Offer)


@pytest.mark.parametrize("client", ["", "-a", "Client", "a.b", "a/b", "a" * 64, "a\n", "#", "*"])
def test_a_client_id_that_could_widen_a_permission_is_refused(client: str) -> None:
    mutated = envelope(Leave(**WHO))
    mutated["fields"]["client"] = client  # type: ignore[index]
    with pytest.raises(MalformedMessage, match="client"):
        decode(msgpack.packb(mutated), Leave)


@given(st.integers(0, 3000), st.integers(1024, 2048))
def test_parts_join_to_the_whole_and_keep_the_limit(samples: int, limit: int) -> None:
    labels = WireTensor(dtype="int64", shape=(samples,), data=bytes(range(8)) * samples)
    message = Activations(cut=3, digest=bytes(32), features=FEATURES, labels=labels)
    make_parts = functools.partial(split, message, "a" * 63, 2**63 - 1, 2**63 - 1, 2**63 - 1)
    bodies = make_parts(limit)
    frames = [decode(body, Frame) for body in bodies]
    assert all(len(body) <= limit for body in bodies)
    assert [(frame.part, frame.parts) for frame in frames] == [(part, len(frames)) for part in range(len(frames))]
    assert join(frames, Activations) == message


def test_parts_in_another_order_are_refused() -> None:
    message = Activations(
        cut=3, digest=bytes(32), features=FEATURES, labels=WireTensor(dtype="int64", shape=(999,), data=bytes(7992))
    )
    frames = [decode(body, Frame) for body in split(message, "client-1", 1, 1, 0, 2048)]
    assert len(frames) > 2
    with pytest.raises(MalformedMessage):
        join(frames[::-1], Activations)
    with pytest.raises(MalformedMessage):
        join(frames[1:], Activations)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_refused(value: float) -> None:
    message = envelope(EXAMPLES[2])
    message["fields"]["loss"] = value  # type: ignore[index]
    with pytest.raises(MalformedMessage, match="loss"):
        decode(msgpack.packb(message), EndOfRound)
