"""Adaptive inference at a client: it answers itself where its exit is sure, and asks the servers where it is not.

with InferenceClient.open(Path("runs/digits"), max_entropy=0.5) as client:
    found = client.predict(images)
"""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

import torch

from broker.errors import BrokerUnavailable
from broker.events import Emit, ignore
from broker.inference_events import InferenceFinished
from broker.rabbitmq import RabbitTransport
from broker.transport import Transport
from learning.errors import DataError, LearningError
from learning.exit_rule import answers_itself, check_max_entropy, entropy
from workers.folder_server import FolderServer
from workers.offload import Asked, NoAnswer, Offload
from workers.trained_run import TrainedRun

PATIENCE = 5.0  # seconds that an answer of the servers may take
PATIENCE_HERE = 600.0  # the same where the servers' layers are in this process
AHEAD = 4  # batches of which ``iterate`` computes the client's half while servers answer
BATCH = 64  # samples of which the client's half is computed at once
AMQP_HEARTBEAT = 20
CONNECT_SECONDS = 10.0  # in which a broker is to answer when a client is opened, or leave it to its exit for a while


class Where(Enum):
    """Who answered for a sample."""

    CLIENT = "client"  # its exit was sure enough
    SERVER = "server"
    DEGRADED = "degraded"  # it was not, but no server answered in time: the exit's answer all the same


@dataclass(frozen=True)
class Predictions:
    """Answers for samples, in their order.

    labels: int64 (samples,). probabilities: float32 (samples, classes). where: who answered. entropy: of the client's exit, in
    nats, float32 (samples,). reason: why the servers did not answer for those that are degraded, the last one heard.
    """

    labels: torch.Tensor
    probabilities: torch.Tensor
    where: tuple[Where, ...]
    entropy: torch.Tensor
    reason: str = ""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Part:
    """Samples that were sent to the servers."""

    rows: torch.Tensor  # their places in the batch
    asked: Asked


@dataclass(frozen=True)
class _Begun:
    """A batch of which the client's half is done."""

    logits: torch.Tensor
    parts: list[_Part]
    at: float  # time.monotonic


class InferenceClient:
    """One client of a finished run, with its own layers and exit. May be used from several threads.

    max_entropy: in nats: below it the client answers itself; 0 offloads everything, infinity nothing. patience: seconds that a
    server's answer may take.
    """

    def __init__(
        self,
        run: TrainedRun,
        client: str,
        transport: Transport,
        *,
        max_entropy: float,
        patience: float = PATIENCE,
        emit: Emit = ignore,
    ) -> None:
        check_max_entropy(max_entropy)
        if not 0 < patience <= 3600:
            raise LearningError(f"patience = {patience}: give seconds, more than 0 and at most 3600")
        self.run = run
        self.client = client
        self.max_entropy = max_entropy
        self._emit = emit
        self._half = run.client_half(client)
        self._computing = threading.Lock()
        self._most = run.settings.request_samples(run.network.feature_shape(self._half.cut))
        self._offload = Offload(transport, run.settings, client, run.version, patience, emit)
        self._owned: list[FolderServer | Transport] = []

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        max_entropy: float,
        client: str | None = None,
        broker: str | None = None,
        patience: float | None = None,
        emit: Emit = ignore,
    ) -> Self:
        """Return a client of the run in a folder.

        client: one of the run's clients, the first if None. broker: AMQP URL of the RabbitMQ behind which server workers are; None:
        the servers' layers in the folder answer, in this process. emit: hears events, as a ``Metrics`` does.
        A broker that does not answer is tried again in the background, as one that is lost later is: what would be offloaded
        meanwhile is degraded. Raises LearningError if the folder cannot be used, BrokerRefused if the address is none, or the
        broker refuses login or permissions.
        """
        run = TrainedRun.open(folder)
        name = client or next(iter(run.clients))
        run.member(name)
        server = None if broker else FolderServer(run)
        transport = server.connect() if server else _connect(broker or "")
        owned: list[FolderServer | Transport] = [transport, *([server] if server else [])]
        waits = patience if patience is not None else PATIENCE if broker else PATIENCE_HERE
        try:
            opened = cls(run, name, transport, max_entropy=max_entropy, patience=waits, emit=emit)
        except BaseException:
            for one in owned:
                one.close()
            raise
        opened._owned = owned
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what this client has opened."""
        self._offload.close()
        for one in self._owned:
            with contextlib.suppress(BrokerUnavailable):
                one.close()

    def predict(self, images: torch.Tensor, *, max_entropy: float | None = None) -> Predictions:
        """Return the answers for images (samples, ...) in 0..1, as the run's data set has them before it is normalised.

        max_entropy: for this call, instead of the client's own. Raises DataError if the images have another shape than the run's.
        """
        batches = torch.split(images, BATCH) if len(images) else ()
        return _joined(list(self.iterate(batches, max_entropy=max_entropy)), self.run.network.classes)

    def iterate(self, batches: Iterable[torch.Tensor], *, max_entropy: float | None = None) -> Iterator[Predictions]:
        """Yield the answers for each batch of images, in order; the next ones are computed while servers answer."""
        bound = self.max_entropy if max_entropy is None else max_entropy
        check_max_entropy(bound)
        begun: deque[_Begun] = deque()
        for images in batches:
            begun.append(self._begin(images, bound))
            while len(begun) > AHEAD or (begun and all(part.asked.answer.done() for part in begun[0].parts)):
                yield self._finish(begun.popleft())
        while begun:
            yield self._finish(begun.popleft())

    def _begin(self, images: torch.Tensor, max_entropy: float) -> _Begun:
        expected = self.run.network.sample_shape
        if tuple(images.shape[1:]) != expected or not len(images):
            raise DataError(f"images have shape {tuple(images.shape)}, expected (samples, {', '.join(map(str, expected))})")
        at = time.monotonic()
        with self._computing:
            logits, features = self._half.evaluate(self.run.normalise(images.float()))
        unsure = (~answers_itself(logits, max_entropy)).nonzero().flatten()
        parts = [
            _Part(rows, self._offload.ask(features[rows], self._half.cut))
            for rows in (torch.split(unsure, self._most) if len(unsure) else ())
        ]
        return _Begun(logits, parts, at)

    def _finish(self, begun: _Begun) -> Predictions:
        probabilities = torch.softmax(begun.logits.float(), dim=1)
        where, reason = [Where.CLIENT] * len(probabilities), ""
        for part in begun.parts:
            by = Where.SERVER
            try:
                probabilities[part.rows] = self._answer(part, probabilities.shape[1])
            except NoAnswer as error:
                by, reason = Where.DEGRADED, str(error)
            for row in part.rows.tolist():
                where[row] = by
        counts = {place.value: count for place, count in Counter(where).items()}
        self._emit(InferenceFinished(client=self.client, where=counts, seconds=time.monotonic() - begun.at))
        return Predictions(probabilities.argmax(dim=1), probabilities, tuple(where), entropy(begun.logits), reason)

    def _answer(self, part: _Part, classes: int) -> torch.Tensor:
        found = self._offload.wait(part.asked)
        if found.shape != (len(part.rows), classes):
            raise NoAnswer(f"an answer of shape {tuple(found.shape)} for {len(part.rows)} samples of {classes} classes")
        return found


def _connect(broker: str) -> RabbitTransport:
    return RabbitTransport(
        broker, heartbeat=AMQP_HEARTBEAT, timeout=CONNECT_SECONDS, connect_timeout=CONNECT_SECONDS, may_be_away=True
    )


def _joined(found: list[Predictions], classes: int) -> Predictions:
    if not found:
        return Predictions(torch.empty(0, dtype=torch.int64), torch.empty(0, classes), (), torch.empty(0))
    return Predictions(
        labels=torch.cat([one.labels for one in found]),
        probabilities=torch.cat([one.probabilities for one in found]),
        where=tuple(where for one in found for where in one.where),
        entropy=torch.cat([one.entropy for one in found]),
        reason=next((one.reason for one in reversed(found) if one.reason), ""),
    )
