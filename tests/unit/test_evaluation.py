"""A client's scores: what it makes of the servers' answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from broker import topology
from broker.codec import decode
from broker.memory import MemoryBroker, MemoryTransport
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery, Reopened
from coordinator.experiment import load_experiment
from learning.data import Dataset, load_dataset
from learning.errors import TensorError
from learning.halves import ClientHalf
from learning.layers import build_network
from workers.evaluation import Evaluator, VersionGone
from workers.features import from_wire, to_wire
from workers.run_settings import RunSettings

Answer = Callable[[InferenceRequest], Prediction]
SETTINGS = (
    "model.width=4",
    "transport.wire_dtype=float32",
    "training.precision=float32",
    "training.device=cpu",
)
CUT = 3


class Asking:
    """A client's evaluator and a server that answers each request as it is told to."""

    def __init__(self, answer: Answer) -> None:
        experiment = load_experiment(Path(__file__).parents[2] / "experiments" / "digits.toml", SETTINGS, {})
        self.settings = RunSettings.from_json(experiment.to_json())
        self.dataset: Dataset = load_dataset(experiment.data, 0)
        self.network = build_network(experiment.model, self.dataset.sample_shape, self.dataset.classes, 0)
        self.half = ClientHalf(self.network, CUT, self.settings.training)
        self.requests: list[InferenceRequest] = []
        self._answer = answer
        self._transport = MemoryTransport(MemoryBroker(), "client")
        queue = topology.inference(self.settings.run, self.settings.transport)
        self._transport.declare(queue)
        self.evaluator = Evaluator(self._transport, self.settings, "client-01", self._turn)
        self._arrived: list[InferenceRequest] = []
        self._transport.subscribe(queue.name, 100, self._receive)

    def score(self):
        return self.evaluator.score(self.half, self.dataset, self.network.feature_shape(CUT), 5)

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Delivery):
            self._arrived.append(decode(item.body, InferenceRequest))

    def _turn(self, _timeout: float) -> None:
        arrived, self._arrived = self._arrived, []
        for request in arrived:
            self.requests.append(request)
            self.evaluator.answered(self._answer(request))


def right(request: InferenceRequest) -> Prediction:
    """Answer class 7 for every sample."""
    samples = from_wire(request.features).shape[0]
    probabilities = torch.eye(10)[torch.full((samples,), 7)]
    return Prediction(client=request.client, request=request.request, probabilities=to_wire(probabilities, "float32")[0])


def test_every_sample_of_the_test_split_is_asked_for_once() -> None:
    asking = Asking(right)
    score = asking.score()
    assert asking.dataset.test is not None
    samples, sevens = len(asking.dataset.test), int((asking.dataset.test.labels == 7).sum())
    assert (score.samples, score.server_answered, score.server_correct) == (samples, samples, sevens)
    assert {request.version for request in asking.requests} == {5}


def test_layers_that_are_not_kept_any_more_end_it() -> None:
    asking = Asking(lambda request: Prediction(client=request.client, request=request.request, gone=True))
    with pytest.raises(VersionGone):
        asking.score()
    asking._answer = right
    score = asking.score()
    assert score.server_answered == score.samples, "the next evaluation is not what was asked for before"


def test_an_error_of_the_servers_is_said() -> None:
    asking = Asking(lambda request: Prediction(client=request.client, request=request.request, error="no layer 4 here"))
    with pytest.raises(TensorError, match="server worker: no layer 4 here"):
        asking.score()


def test_an_answer_that_does_not_fit_its_request_is_an_error() -> None:
    few = to_wire(torch.eye(10)[:1], "float32")[0]
    asking = Asking(lambda request: Prediction(client=request.client, request=request.request, probabilities=few))
    with pytest.raises(TensorError, match="does not fit its request"):
        asking.score()
