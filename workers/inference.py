"""Server side of an offloaded inference: features in, class probabilities out."""

import time
from collections import OrderedDict, deque

from broker import topology
from broker.codec import decode, encode
from broker.crash_points import Between, crash_point
from broker.errors import MalformedMessage
from broker.events import InferenceAnswered
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery, Reopened, Subscription
from coordinator.errors import MissingBlob
from learning.errors import LearningError, TensorError
from learning.halves import ServerHalf
from learning.strategies import averaged
from workers.batches import check_features
from workers.context import WorkerContext
from workers.features import from_wire, to_wire
from workers.replica import load_version

PREFETCH = 8
REPLICAS_HELD = 2
MOST_SAMPLES = 1000  # of one request


class _NotThere(Exception):
    """The version that is asked for is not there. gone: it was, else a store that lost its last writes has gone back behind it."""

    def __init__(self, *, gone: bool) -> None:
        super().__init__()
        self.gone = gone


class InferenceService:
    """Answers inference requests between any two training steps; holds the last few versions of the layers."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._requests: deque[tuple[Delivery, InferenceRequest]] = deque()
        self._halves: OrderedDict[tuple[int, str], tuple[str | None, ServerHalf]] = OrderedDict()
        queue = topology.inference(context.settings.run, context.settings.transport)
        context.transport.declare(queue)
        self._subscription: Subscription = context.transport.subscribe(queue.name, PREFETCH, context.mailbox.sink(self._receive))

    @property
    def waiting(self) -> bool:
        """Whether a request is here."""
        return bool(self._requests)

    def serve_waiting(self) -> None:
        """Answer the requests that are here now."""
        for _ in range(len(self._requests)):
            self.serve_one()

    def serve_one(self) -> bool:
        """Answer a request whose layers are loaded, or else the oldest; return whether there was one."""
        if not self._requests:
            return False
        chosen = next((index for index, (_, request) in enumerate(self._requests) if self._key(request) in self._halves), 0)
        delivery, request = self._requests[chosen]
        began = time.monotonic()
        answer = self._answer(request)
        del self._requests[chosen]
        self._context.control.publish(topology.inbox(self._context.settings.run, request.client).name, encode(answer))
        crash_point(Between.PREDICTION_AND_ACK)
        self._subscription.ack([delivery])
        samples = request.features.shape[0] if request.features.shape else 0
        self._context.emit(
            InferenceAnswered(worker=self._context.name, client=request.client, samples=samples, seconds=time.monotonic() - began)
        )
        return True

    def close(self) -> None:
        """Stop consuming; requests not answered go to another worker."""
        self._subscription.close()

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Reopened):
            self._requests.clear()
            return
        try:
            self._requests.append((item, decode(item.body, InferenceRequest)))
        except MalformedMessage as error:
            self._context.dead.refuse(item, None, str(error), lambda: self._subscription.ack([item]))

    def _answer(self, request: InferenceRequest) -> Prediction:
        try:
            self._context.network.check_cut(request.cut)
            check_features(request.features, request.cut, self._context.network)
            if request.features.shape[0] > MOST_SAMPLES:
                raise TensorError(f"{request.features.shape[0]} samples, a request has at most {MOST_SAMPLES}")
            features = from_wire(request.features)
            half = self._half(request)
            if request.cut + 1 < half.numbers.start:
                raise TensorError(f"no layer {request.cut + 1} here: no client of this run cuts at {request.cut}")
            probabilities = half.predict(features, request.cut)
        except _NotThere as error:
            return Prediction(client=request.client, request=request.request, gone=error.gone)
        except (LearningError, MissingBlob) as error:
            return Prediction(client=request.client, request=request.request, error=str(error)[:2000])
        wire, _ = to_wire(probabilities, "float32")
        return Prediction(client=request.client, request=request.request, probabilities=wire)

    def _key(self, request: InferenceRequest) -> tuple[int, str]:
        return request.version, "" if averaged(self._context.settings.training) else request.client

    def _half(self, request: InferenceRequest) -> ServerHalf:
        """Return the layers of a version for a client: the shared ones, or its own replica's where none are shared."""
        key = self._key(request)
        kept = self._context.ledger.version(request.version)
        if kept is None:
            raise _NotThere(gone=request.version <= self._context.ledger.state().record.closed)
        if key not in self._halves or self._halves[key][0] != kept.version:  # a store that lost a version is given another
            context = self._context
            half = load_version(context.network, context.settings.training, context.ledger, kept.record, key[1])
            self._halves[key] = kept.version, half
        self._halves.move_to_end(key)
        while len(self._halves) > REPLICAS_HELD:
            self._halves.popitem(last=False)
        return self._halves[key][1]
