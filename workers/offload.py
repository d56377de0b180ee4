"""A client's way to the servers at inference: features out, probabilities back, and nobody waits for servers that are away."""

import contextlib
import secrets
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from broker import topology
from broker.codec import decode, encode
from broker.errors import BrokerError, MalformedMessage
from broker.events import Emit, MessageRefused
from broker.messages import InferenceRequest, Prediction
from broker.transport import Delivery, Reopened, Settled, Subscription, Transport
from learning.errors import TensorError
from workers.features import from_wire, to_wire
from workers.run_settings import RunSettings

PREFETCH = 1000  # answers; each is small
BROKER_AWAY = "the broker is away"


class NoAnswer(Exception):
    """The servers did not answer a request in time, or cannot; the message says why."""


@dataclass(frozen=True)
class Asked:
    """A request on its way. answer: becomes the probabilities (batch, classes), or fails with NoAnswer."""

    answer: "Future[torch.Tensor]"
    at: float = field(default_factory=time.monotonic)


class Offload:
    """Sends batches of features to a run's servers. May be used from several threads.

    patience: seconds within which an answer is of use. A request that gets none in this time while no other does either
    shows that the servers are away: from then on requests fail at once, but one in every ``patience`` seconds is sent all the same,
    and its answer, however late, shows that they are back. While the broker is away nothing is sent.
    """

    def __init__(self, transport: Transport, settings: RunSettings, client: str, version: int, patience: float, emit: Emit) -> None:
        self._transport = transport
        self._settings = settings
        self._client = client
        self._version = version
        self._patience = patience
        self._emit = emit
        self._process = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._asked: dict[str, Asked] = {}
        self._away = False
        self._heard = 0.0  # time.monotonic of the last answer,
        self._sent = 0.0  # and of the last request
        self._replies = topology.replies(settings.run, client, self._process)
        transport.declare(self._replies)
        self._subscription: Subscription = transport.subscribe(self._replies.name, PREFETCH, self._receive)

    def ask(self, features: torch.Tensor, cut: int) -> Asked:
        """Send features (batch, ...), of at most as many samples as a request has.

        The answer fails at once where the servers are away or the broker does not take the request.
        """
        if not self._transport.wait_connected(0):
            return _failed(BROKER_AWAY)
        request, asked = secrets.token_hex(8), Asked(Future())
        with self._lock:
            away = self._away
            if away and asked.at - self._sent < self._patience:
                return _failed("the servers are away")
            self._sent = asked.at
            self._asked[request] = asked
        self._forget_late(asked.at)
        message = InferenceRequest(
            client=self._client,
            request=request,
            reply=self._process,
            patience=self._patience,
            version=self._version,
            cut=cut,
            features=to_wire(features, self._settings.wire_dtype)[0],
        )
        queue = topology.inference(self._settings.run, self._settings.transport).name
        self._transport.publish(queue, encode(message), lambda outcome: self._settled(request, outcome), ttl=self._patience)
        return _failed("the servers are away") if away else asked

    def wait(self, asked: Asked) -> torch.Tensor:
        """Return the probabilities (batch, classes) that were asked for; raise NoAnswer if they do not come in time."""
        try:
            return asked.answer.result(timeout=max(asked.at + self._patience - time.monotonic(), 0))
        except TimeoutError:
            with self._lock:
                self._away = self._away or self._heard < asked.at
            raise NoAnswer(f"no answer within {self._patience:g} s") from None

    def close(self) -> None:
        """Stop listening; what is still asked for fails."""
        with contextlib.suppress(BrokerError):
            self._subscription.close()
            if self._transport.wait_connected(0):  # else the queue goes by itself
                self._transport.delete(self._replies.name)
        for request in list(self._asked):
            self._fail(request, "closed")

    def _forget_late(self, now: float) -> None:
        for request, asked in list(self._asked.items()):
            if now - asked.at <= self._patience:
                return  # they are in the order in which they were asked
            self._fail(request, f"no answer within {self._patience:g} s")

    # The rest runs on the transport's thread.

    def _settled(self, request: str, outcome: Settled) -> None:
        if outcome is not Settled.CONFIRMED:
            reasons = {Settled.REFUSED: "the servers' queue is full", Settled.UNROUTABLE: "no server has made its queue yet"}
            self._fail(request, reasons.get(outcome, BROKER_AWAY))

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Reopened):
            return
        self._subscription.ack([item])
        try:
            answer = decode(item.body, Prediction)
        except MalformedMessage as error:
            self._emit(MessageRefused(queue=item.queue, reason=str(error), kind="malformed"))
            return
        with self._lock:
            self._heard, self._away = time.monotonic(), False
            asked = self._asked.pop(answer.request, None)
        if asked is None:
            return
        if answer.probabilities is None:
            asked.answer.set_exception(NoAnswer(answer.error or f"the servers do not have the layers after round {self._version}"))
            return
        try:
            asked.answer.set_result(from_wire(answer.probabilities))
        except TensorError as error:
            asked.answer.set_exception(NoAnswer(f"an answer of no use: {error}"))

    def _fail(self, request: str, reason: str) -> None:
        with self._lock:
            asked = self._asked.pop(request, None)
        if asked is not None:
            asked.answer.set_exception(NoAnswer(reason))


def _failed(reason: str) -> Asked:
    asked = Asked(Future())
    asked.answer.set_exception(NoAnswer(reason))
    return asked
