"""The way of an averaged half from the store to a client that asks for it: in parts, again, late, and hostile."""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from broker import codec, topology
from broker.client_counts import ClientCounts
from broker.codec import decode, encode
from broker.events import Event, MessageRefused, Waiting
from broker.mailbox import Mailbox
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import AveragedHalf, Frame, HalfRequest
from broker.transport import Delivery, Reopened, Settled
from coordinator.half_answers import HalfAnswers
from coordinator.store.ledger import Kept
from coordinator.store.records import VersionRecord, version_key
from learning.errors import TensorError
from learning.halves import ClientHalf
from learning.tensors import State, pack
from tests.fuzz.sitting import experiment
from tests.fuzz.sitting import network as small
from tests.hostile import Hostile, check_line
from tests.unit.test_client_averages import Run
from workers.averaged_halves import AveragedHalves
from workers.batches import bounds, check_size, half_bytes
from workers.link import Link
from workers.run_settings import RunSettings

PATIENCE = 10.0
MUTATIONS = 400
LIMIT = 1024  # bytes of a message; a half has some more


class Way:
    """A coordinator's and a client's side of one run, on one memory broker; what is asked waits until ``coordinate``."""

    def __init__(self, unconfirmed: int = 2**20, interval: float = 0.05) -> None:
        base = RunSettings.from_json(experiment().to_json())
        times = {"heartbeat_interval": interval, "heartbeat_timeout": 4 * interval}
        changes = {"message_limit": LIMIT, "unconfirmed_bytes": unconfirmed, **times}
        self.transport = base.transport.model_copy(update=changes)
        self.settings = RunSettings(base.run, base.model, base.data, base.training, self.transport, base.discards)
        self.run = Run()
        self.broker = MemoryBroker()
        self.there, self.asked = Mailbox(), list[HalfRequest]()
        self.control = MemoryTransport(self.broker)
        queue = topology.coordinator(base.run)
        self.control.declare(queue)
        self.subscription = self.control.subscribe(queue.name, 1000, self.there.sink(self._heard))
        self.answers = HalfAnswers(base.run, self.transport, self.run.ledger, self.control, self.there)
        self.here, self.said = Mailbox(), list[Event]()
        self.link = Link(base.run, "a", MemoryTransport(self.broker), self.here, self.said.append, ClientCounts)
        most = half_bytes(small(), 2)
        self.client = AveragedHalves(MemoryTransport(self.broker), self.settings, "a", most, self.link, self.here, self.said.append)

    def coordinate(self) -> None:
        """Let the coordinator take what has come to its queue."""
        self.there.handle(0)
        asked, self.asked = self.asked, []
        for request in asked:
            self.answers.ask(request)

    def after(self, round: int, meanwhile: Callable[[], None] = lambda: None) -> State:
        """Return the half after a round as the client gets it at cut 2; meanwhile: called while it waits."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = self.client.after(round, 1, 2)
            if found is not None:
                return found
            meanwhile()
            self.there.handle(0)
            self.here.handle(0.01)
        pytest.fail("no half came")

    def send(self, *bodies: bytes) -> None:
        """Put bodies into the queue of the client's process."""
        for body in bodies:
            self.control.publish(self.replies, body)

    @property
    def replies(self) -> str:
        return next(name for name in self.broker._queues if ".replies.a." in name)

    def frames(self, state: State, *, round: int = 1, cut: int = 2) -> list[bytes]:
        """Return an answer to the first request, of which the place is round 1."""
        return codec.split(AveragedHalf(round=round, cut=cut, half=pack(state)), "a", 1, 1, 1, LIMIT)

    def _heard(self, item: Delivery | Reopened) -> None:
        assert isinstance(item, Delivery)
        self.subscription.ack([item])
        self.asked.append(decode(item.body, HalfRequest))


@pytest.fixture
def way() -> Iterator[Way]:
    way = Way()
    yield way
    way.link.close()


def given(way: Way, **values: float) -> VersionRecord:
    return way.run.close(1, {name: (value, 8) for name, value in (values or {"a": 1.0, "b": 2.0, "c": 6.0}).items()})


def value_of(state: State, part: str) -> float:
    (value,) = {
        v for name, tensor in state.items() if name.startswith(part) and "num" not in name for v in tensor.flatten().tolist()
    }
    return float(value)


def test_it_comes_in_parts(way: Way) -> None:
    given(way)
    found = way.after(1, way.coordinate)
    assert {part: value_of(found, part) for part in ("layer1", "layer2", "exit")} == {"layer1": 3.0, "layer2": 1.5, "exit": 1.5}
    assert way.control.depth(way.replies) == 0
    way.client.close()
    assert not [name for name in way.broker._queues if ".replies." in name]


def test_what_nobody_has_trained_is_left_out(way: Way) -> None:
    given(way, c=6.0)
    assert {name.partition(".")[0] for name in way.after(1, way.coordinate)} == {"layer1"}


def test_a_version_that_is_not_there_yet_is_asked_for_again(way: Way) -> None:
    assert way.client.after(1, 1, 2) is None
    assert way.there.handle_until(lambda: bool(way.asked), PATIENCE)
    way.coordinate()
    given(way)
    assert value_of(way.after(1, way.coordinate), "layer1") == 3.0


def test_a_request_that_is_lost_is_repeated_and_said(way: Way) -> None:
    given(way)
    lost: list[HalfRequest] = []

    def lose_four() -> None:
        way.there.handle(0)
        while way.asked and len(lost) < 4:
            lost.append(way.asked.pop())
        way.coordinate()

    assert value_of(way.after(1, lose_four), "layer1") == 3.0
    assert {request.number for request in lost} == {1}
    assert [event.what for event in way.said if isinstance(event, Waiting)] == ["the averaged half after round 1"]


def test_answers_that_come_twice_and_late(way: Way) -> None:
    given(way)
    way.client.after(1, 1, 2)
    state = ClientHalf(small(), 2, experiment().training).state()
    frames = way.frames(state)
    assert len(frames) > 2
    way.send(*frames[1:], frames[1], *frames, *frames)  # the first part only with the second answer
    assert all(torch.equal(tensor, state[name]) for name, tensor in way.after(1).items())
    way.run.close(2, {"a": (4.0, 8)})
    late = way.frames({name: tensor * 0 for name, tensor in state.items()})
    assert value_of(way.after(2, lambda: (way.send(*late), way.coordinate())[1]), "layer2") == 4.0
    assert not [event for event in way.said if isinstance(event, MessageRefused)]


def test_a_run_that_went_back_is_asked_anew(way: Way) -> None:
    given(way)
    way.client.after(1, 1, 2)
    state = ClientHalf(small(), 2, experiment().training).state()
    way.send(*way.frames(state)[:-1])
    assert way.here.handle_until(lambda: way.control.depth(way.replies) == 0, PATIENCE)
    way.client.forget()
    assert value_of(way.after(1, lambda: (way.send(way.frames(state)[-1]), way.coordinate())[1]), "layer1") == 3.0


def test_parts_under_another_limit_replace_those_before(way: Way) -> None:
    way.client.after(1, 1, 2)
    state = ClientHalf(small(), 2, experiment().training).state()
    whole = codec.split(AveragedHalf(round=1, cut=2, half=pack(state)), "a", 1, 1, 1, 2**20)
    assert len(whole) == 1
    way.send(*way.frames(state)[:2], *whole)
    assert way.after(1).keys() == state.keys()


@pytest.mark.parametrize(
    "wrong", ["no message", "another kind", "another round", "another cut", "no tensors", "too large", "too many parts"]
)
def test_an_answer_that_is_none_is_refused_in_a_line_and_asked_for_again(wrong: str, way: Way) -> None:
    given(way)
    state = ClientHalf(small(), 2, experiment().training).state()
    place = {"client": "a", "incarnation": 1, "round": 1, "sequence": 1}
    hostile = {
        "no message": [b"no message"],
        "another kind": [encode(Frame(**place, part=0, parts=1, body=way.frames(state)[0]))],
        "another round": way.frames(state, round=2),
        "another cut": way.frames(state, cut=1),
        "no tensors": codec.split(AveragedHalf(round=1, cut=2, half=b"junk"), "a", 1, 1, 1, LIMIT),
        "too large": [encode(Frame(**place, part=part, parts=9, body=bytes(half_bytes(small(), 2) // 4))) for part in range(9)],
        "too many parts": [encode(Frame(**place, part=0, parts=10**9, body=b""))],
    }
    way.client.after(1, 1, 2)
    way.send(*hostile[wrong])
    assert way.here.handle_until(lambda: any(isinstance(event, MessageRefused) for event in way.said), PATIENCE)
    assert value_of(way.after(1, way.coordinate), "layer1") == 3.0
    reasons = [event.reason for event in way.said if isinstance(event, MessageRefused)]
    assert all("\n" not in reason and len(reason) < 600 for reason in reasons)


def test_changed_answers_are_refused_in_a_line_or_fit() -> None:
    way, hostile, half = Way(interval=3600.0), Hostile("averaged halves"), ClientHalf(small(), 2, experiment().training)
    outcomes: Counter[str] = Counter()
    for number in range(1, MUTATIONS + 1):
        way.client.forget()
        way.client.after(1, 1, 2)
        (frame,) = codec.split(AveragedHalf(round=1, cut=2, half=pack(half.state())), "a", 1, 1, number, 2**20)
        way.send(hostile.data(frame))
        way.here.handle(PATIENCE)
        found = way.client.after(1, 1, 2)
        try:
            half.load_modules(found or {})
            outcomes["loaded" if found else "none"] += 1
        except TensorError as error:
            check_line(error, "averaged half: ")
            outcomes["does not fit"] += 1
    way.link.close()
    refused = [event.reason for event in way.said if isinstance(event, MessageRefused)]
    assert all(reason.isprintable() and len(reason) < 600 for reason in refused)
    assert outcomes.keys() == {"loaded", "none", "does not fit"}, outcomes
    assert len(refused) > MUTATIONS // 10
    assert all(bool(tensor.isfinite().all()) for tensor in half.state().values())


def test_one_that_does_not_fit_is_not_asked_for_at_once() -> None:
    way = Way(interval=3600.0)
    given(way)
    for _ in range(2):
        way.after(1, way.coordinate)  # at once, each time
    way.client.refuse(TensorError("it does not fit"))
    assert way.client.after(1, 1, 2) is None
    way.link.close()
    way.there.handle(0)
    assert not way.asked
    assert [event.reason for event in way.said if isinstance(event, MessageRefused)] == ["it does not fit"]


def test_requests_of_others_come_to_nothing(way: Way) -> None:
    given(way)
    sent: list[str] = []
    way.control.publish = lambda queue, *_: sent.append(queue)  # type: ignore[method-assign, assignment]
    right = {"client": "a", "incarnation": 1, "reply": "ab", "round": 1, "cut": 2, "number": 1}
    for wrong in ({"client": "x"}, {"incarnation": 2}, {"cut": 1}, {"cut": 2**40}, {"round": 7}):
        way.answers.ask(HalfRequest(**{**right, **wrong}))
    assert not sent
    way.answers.ask(HalfRequest(**right))
    assert set(sent) == {topology.replies(way.settings.run, "a", "ab").name}


def test_answers_are_sent_as_the_broker_takes_them() -> None:
    way = Way(unconfirmed=LIMIT)
    given(way)
    sent: list[tuple[str, Callable[[Settled], None]]] = []
    way.control.publish = lambda queue, body, settled: sent.append((queue, settled))  # type: ignore[method-assign, assignment, misc]
    for _ in range(3):
        for client, cut in (("a", 2), ("b", 2), ("c", 1)):
            way.answers.ask(HalfRequest(client=client, incarnation=1, reply="ab", round=1, cut=cut, number=1))
    order = []
    while sent:
        assert len({queue for queue, _ in sent}) == 1, "more is under way than may be"
        order.append(sent[0][0].split(".")[-2])
        under_way, sent[:] = list(sent), []
        for _, settled in under_way:
            settled(Settled.CONFIRMED)
            way.there.handle(0)
    assert order == ["a", "b", "c"], "a request was answered twice, or not at all"
    way.link.close()


def test_a_version_that_a_store_has_lost_and_made_anew_is_read_anew(way: Way) -> None:
    version = given(way)
    assert value_of(way.after(1, way.coordinate), "layer1") == 3.0
    kept = way.run.ledger.version(1)
    assert kept is not None
    changed = version.model_copy(update={"client_layers": {}})
    way.run.ledger.lead(way.run.lease, [Kept(version_key(1), changed, kept.version).change(changed)])
    assert {name.partition(".")[0] for name in way.after(1, way.coordinate)} == {"exit"}


def test_every_end_of_a_round_may_bring_a_half_where_they_are_averaged() -> None:
    one = RunSettings.from_json(experiment().to_json())
    for average, expected in (("server", [False, False, True]), ("all", [True, True, True])):
        training = one.training.model_copy(update={"average": average, "rounds": 3})
        run = RunSettings(one.run, one.model, one.data, training, one.transport, one.discards)
        assert [training.carries_half(number) for number in (1, 2, 3)] == expected
        assert [bounds(run, small(), 2, number).marker > 0 for number in (1, 2, 3)] == expected
    check_size(half_bytes(small(), 2), 2, small(), one)
