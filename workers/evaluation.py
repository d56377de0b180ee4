"""A client's scores: its own exit, and the servers' answers to its features, over the test split."""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from broker import topology
from broker.codec import encode
from broker.messages import InferenceRequest, Message, Prediction, Score
from broker.transport import Settled, Transport
from learning.data import Dataset, evaluation_batches
from learning.errors import TensorError
from learning.halves import ClientHalf
from workers.features import from_wire, to_wire
from workers.run_settings import RunSettings

OUTSTANDING = 4  # requests a client has on their way
WAIT_SECONDS = 0.5
AGAIN_SECONDS = 1.0  # until a request that was not taken or cannot be answered yet is sent again


class VersionGone(Exception):
    """The servers do not keep the layers any more that were to be evaluated: the run has gone on."""


@dataclass
class _Asked:
    """A request on its way."""

    body: bytes
    labels: torch.Tensor
    at: float


class Evaluator:
    """Publishes features naming client and version, as an offloaded inference does, and counts correct answers."""

    def __init__(self, transport: Transport, settings: RunSettings, client: str, turn: Callable[[float], None]) -> None:
        self._transport = transport
        self._queue = topology.inference(settings.run, settings.transport).name
        self._client = client
        self._settings = settings
        self._turn = turn
        self._retry = settings.transport.inference_ttl
        self._asked: dict[str, _Asked] = {}
        self._correct = 0
        self._answered = 0
        self._error = ""
        self._gone = False

    def score(self, half: ClientHalf, dataset: Dataset, feature_shape: tuple[int, ...], version: int) -> Score:
        """Return a client's score after a round, over the test split; waits until every batch is answered.

        feature_shape: of one sample at the client's cut. Raises VersionGone if the round's layers are not kept any more,
        TensorError if a server worker cannot answer for another reason, and what ``turn`` raises.
        """
        self._asked.clear()
        self._error, self._gone = "", False
        self._correct = self._answered = 0
        samples = correct = 0
        for images, labels in self._batches(dataset, feature_shape, version):
            logits, features = half.evaluate(images)
            samples += len(labels)
            correct += int((logits.argmax(dim=1) == labels).sum())
            self._wait(lambda: len(self._asked) < OUTSTANDING)
            self._ask(features, labels, half.cut, version)
        self._wait(lambda: not self._asked)
        return Score(
            round=version, samples=samples, client_correct=correct, server_correct=self._correct, server_answered=self._answered
        )

    def answered(self, message: Message) -> None:
        """Take a worker's answer."""
        asked = self._asked.get(message.request) if isinstance(message, Prediction) else None
        if asked is None or not isinstance(message, Prediction):
            return
        if message.gone:
            self._gone = True
            return
        if message.probabilities is None and message.error is None:
            asked.at = time.monotonic() - self._retry + AGAIN_SECONDS
            return
        del self._asked[message.request]
        if message.probabilities is None:
            self._error = message.error or "no answer"
            return
        try:
            predicted = from_wire(message.probabilities).argmax(dim=1)
            if predicted.shape != asked.labels.shape:
                raise TensorError(f"{len(predicted)} predictions for {len(asked.labels)} samples")
            self._correct += int((predicted == asked.labels).sum())
            self._answered += len(asked.labels)
        except (TensorError, RuntimeError, IndexError) as error:
            self._error = f"an answer that does not fit its request: {error}"

    def _batches(self, dataset: Dataset, feature_shape: tuple[int, ...], round: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Return the test split, if there is one, in batches that fit a request: all of it after the last round."""
        if dataset.test is None:
            return ()
        training, most = self._settings.training, self._settings.request_samples(feature_shape)
        return evaluation_batches(dataset, self._settings.data, training.seed, most, round == training.rounds)

    def _ask(self, features: torch.Tensor, labels: torch.Tensor, cut: int, version: int) -> None:
        wire, _ = to_wire(features, self._settings.wire_dtype)
        request = secrets.token_hex(8)
        body = encode(InferenceRequest(client=self._client, request=request, version=version, cut=cut, features=wire))
        self._asked[request] = _Asked(body, labels, 0.0)
        self._publish(request)

    def _publish(self, request: str) -> None:
        asked = self._asked[request]
        asked.at = time.monotonic()

        def settled(outcome: Settled) -> None:
            if outcome is not Settled.CONFIRMED:  # try again soon, not at once
                asked.at = time.monotonic() - self._retry + AGAIN_SECONDS

        self._transport.publish(self._queue, asked.body, settled)

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done():
            self._turn(WAIT_SECONDS)
            if self._gone:
                raise VersionGone
            if self._error:
                raise TensorError(f"server worker: {self._error}")
            for request, asked in list(self._asked.items()):
                if time.monotonic() - asked.at > self._retry:
                    self._publish(request)
