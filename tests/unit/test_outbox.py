"""A client's way out: after a refusal everything from the first hole on is published again, in order."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.mailbox import Mailbox
from broker.topology import Queue
from broker.transport import OnSettled, Settled, Sink, Subscription
from workers import outbox
from workers.outbox import Outbox


class Wire:
    """A broker that answers when the test says so: what it was sent, and what of that it took, in order."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.taken: list[bytes] = []
        self.connected = True
        self._waiting: list[tuple[bytes, OnSettled]] = []

    def publish(self, queue: str, body: bytes, on_settled: OnSettled | None = None, *, ttl: float | None = None) -> None:
        assert on_settled is not None
        self.sent.append(body)
        self._waiting.append((body, on_settled))

    def answer(self, outcome: Settled, *, taken: bool = False) -> None:
        """Settle the oldest publish; taken: the broker has it though it could not say so."""
        body, on_settled = self._waiting.pop(0)
        if taken or outcome is Settled.CONFIRMED:
            self.taken.append(body)
        on_settled(outcome)

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def wait_connected(self, timeout: float) -> bool:
        return self.connected

    def declare(self, queue: Queue) -> None: ...
    def delete(self, name: str) -> None: ...
    def close(self) -> None: ...
    def depth(self, name: str) -> int:
        raise NotImplementedError

    def subscribe(self, queue: str, prefetch: int, sink: Sink) -> Subscription:
        raise NotImplementedError


@pytest.fixture(autouse=True, scope="module")
def without_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, "RETRY_SECONDS", 0.0)
        yield


def box(limit: int = 10**6) -> tuple[Outbox, Wire, Mailbox]:
    wire, mailbox = Wire(), Mailbox()
    return Outbox(wire, "queue", limit, mailbox), wire, mailbox


def bodies(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def test_frames_go_out_at_once_and_in_order() -> None:
    out, wire, mailbox = box()
    for number in range(3):
        out.send(1, number, b"%d" % number)
    assert wire.sent == bodies(0, 1, 2)
    for _ in range(3):
        wire.answer(Settled.CONFIRMED)
    mailbox.handle(0)
    assert out.empty
    assert (out.confirmed, out.unconfirmed_bytes) == ((1, 3), 0)


def test_it_is_full_until_the_broker_has_enough() -> None:
    out, wire, mailbox = box(limit=4)
    out.send(1, 0, b"abc")
    assert not out.full
    out.send(1, 1, b"abc")
    assert out.full
    wire.answer(Settled.CONFIRMED)
    mailbox.handle(0)
    assert not out.full


@pytest.mark.parametrize("outcome", [Settled.REFUSED, Settled.LOST, Settled.UNROUTABLE])
def test_after_a_hole_nothing_goes_out_until_all_in_flight_is_settled(outcome: Settled) -> None:
    out, wire, mailbox = box()
    for number in range(4):
        out.send(1, number, b"%d" % number)
    wire.answer(Settled.CONFIRMED)
    wire.answer(outcome)
    mailbox.handle(0)
    out.send(1, 4, b"4")
    out.turn()
    assert wire.sent == bodies(0, 1, 2, 3), "it published behind a hole"
    wire.answer(Settled.CONFIRMED)
    wire.answer(Settled.CONFIRMED)
    mailbox.handle(0)
    assert out.confirmed == (1, 1), "what comes after a hole does not count as confirmed"
    out.turn()
    assert wire.sent == bodies(0, 1, 2, 3, 1, 2, 3, 4)


def test_without_a_connection_it_waits() -> None:
    out, wire, mailbox = box()
    out.send(1, 0, b"0")
    wire.answer(Settled.LOST)
    mailbox.handle(0)
    wire.connected = False
    out.turn()
    assert wire.sent == bodies(0)
    wire.connected = True
    out.turn()
    assert wire.sent == bodies(0, 0)


def test_what_is_discarded_is_not_published_again() -> None:
    out, wire, mailbox = box()
    out.send(1, 0, b"0")
    wire.answer(Settled.REFUSED)
    mailbox.handle(0)
    out.discard()
    out.turn()
    assert (wire.sent, out.empty, out.unconfirmed_bytes) == (bodies(0), True, 0)


def test_an_answer_to_what_was_discarded_does_no_harm() -> None:
    out, wire, mailbox = box()
    out.send(2, 0, b"0")
    out.discard()
    out.send(1, 0, b"1")
    wire.answer(Settled.CONFIRMED)
    mailbox.handle(0)
    assert (out.empty, out.unconfirmed_bytes) == (False, 1)
    wire.answer(Settled.CONFIRMED)
    mailbox.handle(0)
    assert (out.empty, out.confirmed) == (True, (1, 1))


def test_a_refusal_of_what_was_discarded_holds_nothing_up() -> None:
    out, wire, mailbox = box()
    out.send(2, 0, b"0")
    out.discard()
    wire.answer(Settled.LOST)
    mailbox.handle(0)
    out.send(1, 0, b"1")
    assert wire.sent == bodies(0, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.sampled_from(["send", "answer", "hear", "turn"]), st.sampled_from(Settled), st.booleans()), max_size=60),
)
def test_in_the_end_the_broker_has_everything_in_order(frames: int, happenings: list[tuple[str, Settled, bool]]) -> None:
    out, wire, mailbox = box()
    sent = 0
    for happening, outcome, taken in happenings:
        if happening == "send" and sent < frames:
            out.send(1, sent, b"%d" % sent)
            sent += 1
        elif happening == "answer" and wire.in_flight:
            wire.answer(outcome, taken=taken and outcome is Settled.LOST)
        elif happening == "hear":
            mailbox.handle(0)
        elif happening == "turn":
            out.turn()
        assert out.unconfirmed_bytes >= 0
    for number in range(sent, frames):
        out.send(1, number, b"%d" % number)
    for _ in range(100):
        while wire.in_flight:
            wire.answer(Settled.CONFIRMED)
        mailbox.handle(0)
        out.turn()
        if out.empty:
            break
    assert out.empty
    assert (out.confirmed, out.unconfirmed_bytes) == ((1, frames), 0)
    expected = iter(wire.taken)
    assert all(body in expected for body in bodies(*range(frames))), f"not in order, or not all: {wire.taken}"
