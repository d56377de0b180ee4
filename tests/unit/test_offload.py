"""A client's way to the servers: nobody waits for servers that are away, and they are found again when they are back."""

import time
from collections.abc import Callable

import pytest
import torch

from broker import events, topology
from broker.codec import decode, encode
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery, Reopened
from coordinator.experiment import load_experiment
from workers.features import to_wire
from workers.offload import NoAnswer, Offload
from workers.run_settings import RunSettings

PATIENCE = 0.2
FEATURES = torch.ones(2, 4)
ANSWER = torch.tensor([[0.25, 0.75], [0.5, 0.5]])


class Servers:
    """A queue of requests, and a server that answers as it is told to while it is up."""

    def __init__(self) -> None:
        experiment = load_experiment(None, ["transport.wire_dtype=float32"], {})
        self.settings = RunSettings.from_json(experiment.to_json())
        self.broker = MemoryBroker()
        self.transport = MemoryTransport(self.broker)
        self.queue = topology.inference(self.settings.run, self.settings.transport)
        self.requests: list[InferenceRequest] = []
        self.heard: list[events.Event] = []
        self.up = True

    def offload(self) -> Offload:
        return Offload(MemoryTransport(self.broker), self.settings, "client-01", 3, PATIENCE, self.heard.append)

    def open(self, answer: Callable[[InferenceRequest], bytes]) -> None:
        self.transport.declare(self.queue)

        def receive(item: Delivery | Reopened) -> None:
            assert isinstance(item, Delivery)
            request = decode(item.body, InferenceRequest)
            self.requests.append(request)
            if self.up:
                replies = topology.replies(self.settings.run, request.client, request.reply)
                self.transport.publish(replies.name, answer(request))

        self.transport.subscribe(self.queue.name, 1000, receive)


def right(request: InferenceRequest) -> bytes:
    return encode(Prediction(client=request.client, request=request.request, probabilities=to_wire(ANSWER, "float32")[0]))


@pytest.fixture
def servers() -> Servers:
    return Servers()


def test_an_answer_comes_back(servers: Servers) -> None:
    servers.open(right)
    offload = servers.offload()
    assert torch.equal(offload.wait(offload.ask(FEATURES, 3)), ANSWER)
    [request] = servers.requests
    assert (request.client, request.version, request.cut, request.patience) == ("client-01", 3, 3, PATIENCE)


def test_no_queue_of_the_servers_is_said_at_once(servers: Servers) -> None:
    offload = servers.offload()
    with pytest.raises(NoAnswer, match="no server has made its queue yet"):
        offload.wait(offload.ask(FEATURES, 3))


def test_servers_that_are_away_are_waited_for_once_and_found_again(servers: Servers) -> None:
    servers.open(right)
    offload = servers.offload()
    servers.up = False
    first, second = offload.ask(FEATURES, 3), offload.ask(FEATURES, 3)
    for asked in (first, second):
        with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
            offload.wait(asked)
    sent = len(servers.requests)
    for _ in range(50):
        with pytest.raises(NoAnswer, match="the servers are away"):
            offload.wait(offload.ask(FEATURES, 3))
    assert len(servers.requests) - sent <= 2, "one in a while is sent, to see whether they are back"
    servers.up = True
    time.sleep(PATIENCE)
    with pytest.raises(NoAnswer):
        offload.wait(offload.ask(FEATURES, 3))  # this one has found them
    assert torch.equal(offload.wait(offload.ask(FEATURES, 3)), ANSWER)


def test_one_late_answer_among_others_does_not_mean_that_servers_are_away(servers: Servers) -> None:
    silent = {"next": True}

    def moody(request: InferenceRequest) -> bytes:
        return encode(Prediction(client="client-01", request="another")) if silent["next"] else right(request)

    servers.open(moody)
    offload = servers.offload()
    lost = offload.ask(FEATURES, 3)
    silent["next"] = False
    assert torch.equal(offload.wait(offload.ask(FEATURES, 3)), ANSWER)
    with pytest.raises(NoAnswer, match="no answer within"):
        offload.wait(lost)
    assert torch.equal(offload.wait(offload.ask(FEATURES, 3)), ANSWER)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda r: encode(Prediction(client=r.client, request=r.request, error="no layer 4 here")), "no layer 4 here"),
        (lambda r: encode(Prediction(client=r.client, request=r.request, gone=True)), "do not have the layers after round 3"),
        (
            lambda r: encode(
                Prediction(client=r.client, request=r.request, probabilities=to_wire(torch.tensor([[torch.nan]]), "float32")[0])
            ),
            "an answer of no use",
        ),
    ],
)
def test_an_answer_that_is_none_says_why(answer: Callable[[InferenceRequest], bytes], message: str, servers: Servers) -> None:
    servers.open(answer)
    offload = servers.offload()
    with pytest.raises(NoAnswer, match=message):
        offload.wait(offload.ask(FEATURES, 3))


def test_what_is_no_answer_is_refused_and_said(servers: Servers) -> None:
    servers.open(lambda request: b"no message")
    offload = servers.offload()
    with pytest.raises(NoAnswer):
        offload.wait(offload.ask(FEATURES, 3))
    assert any(isinstance(event, events.MessageRefused) for event in servers.heard)


def test_closing_ends_what_is_waited_for_and_leaves_no_queue(servers: Servers) -> None:
    servers.open(right)
    servers.up = False
    offload = servers.offload()
    asked = offload.ask(FEATURES, 3)
    offload.close()
    with pytest.raises(NoAnswer, match="closed"):
        offload.wait(asked)
    assert not [name for name in servers.broker._queues if ".replies." in name]
