"""The servers' side of an offloaded inference: what is computed together, and what is answered to whom."""

import time

import pytest
import torch

from broker import events, topology
from broker.codec import decode, encode
from broker.dead_letters import DeadLetters
from broker.inference_events import InferenceAnswered, InferenceLate
from broker.mailbox import Mailbox
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery
from coordinator.experiment import load_experiment
from learning.halves import ServerHalf
from learning.layers import build_network
from workers.context import ServiceContext
from workers.features import from_wire, to_wire
from workers.inference import InferenceService
from workers.run_settings import RunSettings
from workers.versions import NotThere

VERSION = 7
SETTINGS = (
    "model.width=4",
    "transport.wire_dtype=float32",
    "training.precision=float32",
    "training.device=cpu",
    "training.memory_format=contiguous",
)


class OneVersion:
    """Layers 4..10 after one round, for all clients; another round's are not kept any more."""

    def __init__(self, half: ServerHalf) -> None:
        self.kept = half

    def key(self, version: int, client: str) -> int:
        return version

    def has(self, version: int, client: str) -> bool:
        return version == VERSION

    def half(self, version: int, client: str, *, sure: bool) -> ServerHalf:
        if version != VERSION:
            raise NotThere(gone=version < VERSION)
        return self.kept


class Serving:
    """A service on a broker in memory, and a client that asks it."""

    def __init__(self, *overrides: str) -> None:
        experiment = load_experiment(None, [*SETTINGS, *overrides], {})
        self.settings = RunSettings.from_json(experiment.to_json())
        self.network = build_network(experiment.model, (1, 8, 8), 10, 0)
        self.half = ServerHalf(self.network, 4, self.settings.training)
        self.broker = MemoryBroker()
        self.client = MemoryTransport(self.broker, "client-01")
        self.heard: list[events.Event] = []
        self.answers: dict[str, Prediction] = {}
        self.mailbox = Mailbox()
        transport = MemoryTransport(self.broker)
        transport.declare(topology.dead(self.settings.run))
        context = ServiceContext(
            name="server",
            settings=self.settings,
            network=self.network,
            transport=transport,
            control=transport,
            mailbox=self.mailbox,
            dead=DeadLetters(transport, self.settings.run, self.mailbox, self.heard.append),
            emit=self.heard.append,
        )
        self.service = InferenceService(context, OneVersion(self.half))
        for queue in (topology.inbox(self.settings.run, "client-01"), topology.replies(self.settings.run, "client-01", "ab")):
            self.client.declare(queue)
            self.client.subscribe(queue.name, 100, self._hear)

    def ask(
        self, name: str, cut: int, samples: int = 1, *, patience: float | None = 60.0, version: int = VERSION, reply: str = "ab"
    ) -> torch.Tensor:
        """Send features; return them."""
        generator = torch.Generator().manual_seed(len(name) + cut)
        features = torch.randn(samples, *self.network.feature_shape(cut), generator=generator)
        wire = to_wire(features, "float32")[0]
        self.send(
            InferenceRequest(
                client="client-01", request=name, reply=reply, patience=patience, version=version, cut=cut, features=wire
            )
        )
        return features

    def send(self, request: InferenceRequest) -> None:
        self.client.publish(topology.inference(self.settings.run, self.settings.transport).name, encode(request))
        self.mailbox.handle(0)

    def batches(self) -> list[tuple[int, int]]:
        """Return the requests and samples of every batch that was computed."""
        return [(event.requests, event.samples) for event in self.heard if isinstance(event, InferenceAnswered)]

    def _hear(self, item: object) -> None:
        assert isinstance(item, Delivery)
        answer = decode(item.body, Prediction)
        self.answers[answer.request] = answer

    def probabilities(self, name: str) -> torch.Tensor:
        wire = self.answers[name].probabilities
        assert wire is not None, self.answers[name]
        return from_wire(wire)


def test_requests_of_unlike_cuts_are_computed_together_and_answered_as_if_alone() -> None:
    serving = Serving()
    asked = {
        name: (serving.ask(name, cut, samples), cut) for name, cut, samples in [("a", 5, 2), ("b", 3, 1), ("c", 5, 3), ("d", 9, 1)]
    }
    serving.service.serve(60.0)
    assert serving.batches() == [(4, 7)]
    for name, (features, cut) in asked.items():
        alone = serving.half.predict(features, cut)
        assert torch.allclose(serving.probabilities(name), alone, atol=1e-6)
        assert serving.probabilities(name).shape == (len(features), 10)
    queue = topology.inference(serving.settings.run, serving.settings.transport).name
    serving.service.close()
    assert serving.client.depth(queue) == 0, "answered requests are acknowledged"


def test_a_batch_has_no_more_samples_than_the_setting_says() -> None:
    serving = Serving("transport.inference_batch=5")
    for name in "abcd":
        serving.ask(name, 3, samples=2)
    serving.ask("large", 3, samples=9)
    serving.service.serve(60.0)
    assert serving.batches() == [(2, 4), (2, 4), (1, 9)]


def test_what_is_wanted_however_late_is_computed_apart() -> None:
    serving = Serving()
    serving.ask("live", 3)
    features = serving.ask("score", 3, 4, patience=None, reply="")
    serving.ask("live too", 3)
    serving.service.serve(60.0)
    assert sorted(serving.batches()) == [(1, 4), (2, 2)]
    assert torch.equal(serving.probabilities("score"), serving.half.predict(features, 3)), "bit for bit, whoever else asks"


def test_what_nobody_waits_for_any_more_is_dropped() -> None:
    serving = Serving()
    serving.ask("late", 3, patience=0.01)
    time.sleep(0.02)
    serving.ask("in time", 3)
    serving.service.serve(60.0)
    assert list(serving.answers) == ["in time"]
    assert [event.client for event in serving.heard if isinstance(event, InferenceLate)] == ["client-01"]


@pytest.mark.parametrize(
    ("cut", "samples", "message"),
    [(11, 1, "cut 11 is beyond the network"), (2, 1, "no layer 3 here"), (3, 101, "101 samples, a request has at most 100")],
)
def test_a_request_that_cannot_be_answered_leaves_the_others_in_peace(cut: int, samples: int, message: str) -> None:
    serving = Serving("transport.inference_batch=200")
    serving.ask("good", 3)
    shape = serving.network.feature_shape(min(cut, 9))
    wire = to_wire(torch.zeros(samples, *shape), "float32")[0]
    serving.send(
        InferenceRequest(client="client-01", request="bad", reply="ab", patience=60.0, version=VERSION, cut=cut, features=wire)
    )
    serving.ask("good too", 4)
    serving.service.serve(60.0)
    assert message in str(serving.answers["bad"].error)
    assert serving.probabilities("good").shape == serving.probabilities("good too").shape == (1, 10)


def test_layers_that_are_not_there_are_said_to_be_gone_or_to_come() -> None:
    serving = Serving()
    serving.ask("gone", 3, version=VERSION - 1)
    serving.ask("to come", 3, version=VERSION + 1)
    serving.service.serve(60.0)
    answers = {name: (answer.gone, answer.error, answer.probabilities) for name, answer in serving.answers.items()}
    assert answers == {"gone": (True, None, None), "to come": (False, None, None)}
