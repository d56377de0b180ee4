"""Server side of an offloaded inference: features in, class probabilities out, several requests at a time."""

import time
from collections import deque
from dataclasses import dataclass

import torch

from broker import topology
from broker.codec import decode, encode
from broker.crash_points import Between, crash_point
from broker.errors import MalformedMessage
from broker.inference_events import InferenceAnswered, InferenceLate
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery, Reopened, Subscription
from coordinator.errors import MissingBlob
from learning.errors import LearningError, TensorError
from learning.halves import ServerHalf
from workers.batches import check_features
from workers.context import ServiceContext
from workers.features import from_wire, to_wire
from workers.run_settings import MOST_REQUEST_SAMPLES
from workers.versions import NotThere, Versions

LINGER_SECONDS = 0.02  # for which an idle worker looks for the next request before it looks at anything else


@dataclass(frozen=True, eq=False)
class _Asked:
    """A request that waits here."""

    delivery: Delivery
    request: InferenceRequest
    at: float  # time.monotonic

    @property
    def samples(self) -> int:
        return self.request.features.shape[0] if self.request.features.shape else 0

    @property
    def is_late(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.request.patience is not None and time.monotonic() - self.at > self.request.patience


class InferenceService:
    """Answers inference requests, between any two training steps or all the time.

    Requests that wait for an answer soon, for the same layers, are computed together, whatever their cuts, up to
    ``inference_batch`` samples; others one by one, so that what comes out depends on nobody else.
    """

    def __init__(self, context: ServiceContext, versions: Versions) -> None:
        self._context = context
        self._versions = versions
        self._asked: deque[_Asked] = deque()
        settings = context.settings
        queue = topology.inference(settings.run, settings.transport)
        context.transport.declare(queue)
        prefetch = settings.inference_prefetch(context.network)
        self._subscription: Subscription = context.transport.subscribe(queue.name, prefetch, context.mailbox.sink(self._receive))

    @property
    def waiting(self) -> bool:
        """Whether a request is here."""
        return bool(self._asked)

    def serve(self, seconds: float) -> None:
        """Answer the requests that are here, and those that come soon behind them, for up to so many seconds."""
        until = time.monotonic() + seconds
        while self._asked and time.monotonic() < until:
            self._fill()
            self.serve_batch()
            if not self._asked:
                self._context.mailbox.handle(LINGER_SECONDS)

    def serve_batch(self) -> bool:
        """Answer the requests whose turn it is; return whether there were any."""
        self._drop_late()
        batch = self._next_batch()
        if not batch:
            return False
        began = time.monotonic()
        answers = self._answers(batch)
        for asked in batch:
            self._asked.remove(asked)
        for asked, answer in zip(batch, answers, strict=True):
            self._context.control.publish(self._queue_of(asked.request), encode(answer), ttl=asked.request.patience)
        crash_point(Between.PREDICTION_AND_ACK)
        self._subscription.ack([asked.delivery for asked in batch])
        samples = sum(asked.samples for asked in batch)
        seconds = time.monotonic() - began
        self._context.emit(InferenceAnswered(worker=self._context.name, requests=len(batch), samples=samples, seconds=seconds))
        return True

    def close(self) -> None:
        """Stop consuming; requests not answered go to another worker."""
        self._subscription.close()

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Reopened):
            self._asked.clear()
            return
        try:
            self._asked.append(_Asked(item, decode(item.body, InferenceRequest), time.monotonic()))
        except MalformedMessage as error:
            self._context.dead.refuse(item, None, str(error), lambda: self._subscription.ack([item]))

    def _fill(self) -> None:
        """Wait for more of what can be computed together, while there is nothing else to do."""
        settings, oldest = self._context.settings.transport, self._asked[0]
        while oldest.request.patience is not None and sum(asked.samples for asked in self._asked) < settings.inference_batch:
            left = oldest.at + settings.inference_wait - time.monotonic()
            if left <= 0 or not self._asked:
                return
            self._context.mailbox.handle(left)

    def _drop_late(self) -> None:
        late = [asked for asked in self._asked if asked.is_late]
        for asked in late:
            self._asked.remove(asked)
            self._subscription.ack([asked.delivery])
            self._context.emit(InferenceLate(worker=self._context.name, client=asked.request.client))

    def _next_batch(self) -> list[_Asked]:
        """Return what is answered next: of the requests whose layers are in memory, or else of all, the oldest and its like."""
        if not self._asked:
            return []
        loaded = (asked for asked in self._asked if self._versions.has(asked.request.version, asked.request.client))
        first = next(loaded, self._asked[0])
        if first.request.patience is None:
            return [first]
        batch, samples = [first], first.samples
        for asked in self._asked:
            alike = asked.request.patience is not None and self._key(asked) == self._key(first)
            if alike and asked is not first and samples + asked.samples <= self._context.settings.transport.inference_batch:
                batch.append(asked)
                samples += asked.samples
        return batch

    def _key(self, asked: _Asked) -> object:
        return self._versions.key(asked.request.version, asked.request.client)

    def _answers(self, batch: list[_Asked]) -> list[Prediction]:
        """Return the answers to requests for the same layers, in their order."""
        features: dict[int, torch.Tensor] = {}
        answers: dict[int, Prediction] = {}
        for number, asked in enumerate(batch):
            try:
                features[number] = self._features(asked.request)
            except LearningError as error:
                answers[number] = self._answer(asked.request, error=str(error)[:2000])
        good = [batch[number].request for number in features]
        for number, answer in zip(features, self._compute(good, list(features.values())), strict=True):
            answers[number] = answer
        return [answers[number] for number in range(len(batch))]

    def _features(self, request: InferenceRequest) -> torch.Tensor:
        """Return a request's features; raise LearningError if no layers of this network can finish them."""
        network = self._context.network
        network.check_cut(request.cut)
        check_features(request.features, request.cut, network)
        if request.features.shape[0] > MOST_REQUEST_SAMPLES:
            raise TensorError(f"{request.features.shape[0]} samples, a request has at most {MOST_REQUEST_SAMPLES}")
        return from_wire(request.features)

    def _compute(self, requests: list[InferenceRequest], features: list[torch.Tensor]) -> list[Prediction]:
        if not requests:
            return []
        first = requests[0]
        try:
            half = self._versions.half(first.version, first.client, sure=first.patience is None)
        except NotThere as error:
            return [self._answer(request, gone=error.gone) for request in requests]
        except (LearningError, MissingBlob) as error:
            return [self._answer(request, error=str(error)[:2000]) for request in requests]
        known = [(batch, request.cut) for batch, request in zip(features, requests, strict=True) if self._reaches(half, request)]
        found = iter(half.predict_together(known) if known else ())
        return [
            self._answer(request, probabilities=to_wire(next(found), "float32")[0])
            if self._reaches(half, request)
            else self._answer(request, error=f"no layer {request.cut + 1} here: no client of this run cuts at {request.cut}")
            for request in requests
        ]

    def _reaches(self, half: ServerHalf, request: InferenceRequest) -> bool:
        return request.cut + 1 >= half.numbers.start

    def _answer(self, request: InferenceRequest, **found: object) -> Prediction:
        return Prediction(client=request.client, request=request.request, **found)  # type: ignore[arg-type]

    def _queue_of(self, request: InferenceRequest) -> str:
        run = self._context.settings.run
        return (topology.replies(run, request.client, request.reply) if request.reply else topology.inbox(run, request.client)).name
