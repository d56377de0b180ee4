"""What a client's messages do to a stream's replica and position: a step, an end of round, a hole, or the way back."""

import time
from collections.abc import Callable, Sequence

from broker import codec
from broker.crash_points import Between, crash_point
from broker.errors import MalformedMessage
from broker.events import BatchTrained, ClientRoundEnded, ReplicaSetBack
from broker.messages import Activations, EndOfRound, Frame
from coordinator.store.records import StreamClient
from learning.errors import TensorError
from learning.halves import Step
from workers.batches import check_activations, check_marker, check_size
from workers.caution import Caution
from workers.checkpoints import Checkpoints
from workers.context import WorkerContext
from workers.features import next_digest
from workers.lane import Lane
from workers.parked import Taken
from workers.position import Position
from workers.refusals import kind_of


class Effects:
    """Of one stream. ``half``: its replica; ``group``: the clients that are being trained.

    wait: returns when no checkpoint is being written.
    """

    def __init__(
        self, context: WorkerContext, position: Position, checkpoints: Checkpoints, caution: Caution, wait: Callable[[], None]
    ) -> None:
        self._context = context
        self._position = position
        self._checkpoints = checkpoints
        self._caution = caution
        self._wait = wait
        self._round = checkpoints.record.round
        self.half = checkpoints.load()
        self.group: Sequence[StreamClient] = []

    def take(self, lane: Lane, taken: Taken) -> None:
        """Let the message whose turn it is have its effect: a step, an end of round, or a refusal."""
        client = lane.client
        size = sum(len(frame.body) for frame in taken.frames)
        try:
            self._caution.check()
            if taken.fault:
                raise MalformedMessage(taken.fault)
            check_size(size, client.cut, self._context.network, self._context.settings)
            message = codec.join(taken.frames, Activations, EndOfRound)
            if isinstance(message, EndOfRound):
                self._end(lane, message, taken)
            elif isinstance(message, Activations):
                self._step(client, message, taken.sequence, size)
        except (MalformedMessage, TensorError) as error:
            lane.refusals.refuse(lane.intake, taken, f"round {self._round} sequence {taken.sequence}: {error}", kind_of(error))
            self.mend()

    def _step(self, client: StreamClient, message: Activations, sequence: int, size: int) -> None:
        step = self._train_batch(client, message, sequence)
        self._position.trained(client.id, step, size, message.digest, next_digest(message.digest, message.features, message.labels))

    def _train_batch(self, client: StreamClient, message: Activations, sequence: int) -> Step:
        """Make one step of the server half; raise TensorError if the batch cannot be trained on."""
        began = time.monotonic()
        features, labels = check_activations(message, client.cut, self._context.network, self._context.settings.training)
        step = self.half.step(features, labels, client.cut, (client.id, self._round, sequence))
        crash_point(Between.STEP_AND_CHECKPOINT)
        self._context.emit(
            BatchTrained(
                round=self._round,
                stream=self._checkpoints.record.stream,
                client=client.id,
                cut=client.cut,
                sequence=sequence,
                samples=step.samples,
                correct=step.correct,
                bytes=len(message.features.data) + len(message.labels.data),
                loss=step.loss,
                seconds=time.monotonic() - began,
            )
        )
        return step

    def _end(self, lane: Lane, message: EndOfRound, taken: Taken) -> None:
        client = lane.client
        try:
            self._accept(client, message, taken.sequence)
        except TensorError as error:  # nothing comes after a marker: the round ends here, without it
            lane.refusals.refuse(lane.intake, taken, f"round {self._round}, end of round: {error}", kind_of(error))
            self.close(client, "its end of round was refused")
        else:
            self._position.end(client.id, message)
            self.mend()

    def _accept(self, client: StreamClient, message: EndOfRound, sequence: int) -> None:
        """Store the client's half that a marker may carry; raise TensorError if one of them is not right."""
        check_marker(message, sequence, client.cut, self._context.network, self._context.settings.training)
        if message.half is not None:
            self._position.keep_half(client.id, self._checkpoints.attach(message.half))

    def take_late(self, client: StreamClient, frame: Frame) -> None:
        """Fill a hole with what was requeued; raise MalformedMessage or TensorError if it is still not right."""
        if self._position.of(client.id).discarded:
            raise MalformedMessage("the client was given up and its round discarded")
        self._caution.check()
        check_size(len(frame.body), client.cut, self._context.network, self._context.settings)
        message = codec.join([frame], Activations, EndOfRound)
        if isinstance(message, Activations):
            step = self._train_batch(client, message, frame.sequence)
            self._position.trained_late(client.id, frame.sequence, step, len(frame.body))
            self.mend()
        elif isinstance(message, EndOfRound):
            if self._position.of(client.id).sequence != frame.sequence + 1:
                raise MalformedMessage("an end of round, but batches came after it")
            self._accept(client, message, frame.sequence)
            self._position.ended_late(client.id, frame.sequence, message)

    def close(self, client: StreamClient, reason: str) -> None:
        """End a client's round before its marker, and keep or discard what came before."""
        if self._context.settings.discards or not self.half.is_finite():
            self._undo(reason)
        else:
            self._position.close(client.id, reason)
            self._say_ended(client, reason, kept=True)

    def _undo(self, reason: str) -> None:
        """End the round of all that are being trained, and let nothing of it count: the replica is what it was before them."""
        if not self.half.is_finite():
            self._context.emit(ReplicaSetBack(round=self._round, stream=self._checkpoints.record.stream))
        self._wait()
        self.half = self._checkpoints.undo()
        for client in self.group:
            self._position.discard(client.id, reason)
            self._say_ended(client, reason, kept=False)

    def _say_ended(self, client: StreamClient, reason: str, *, kept: bool) -> None:
        self._context.emit(ClientRoundEnded(client=client.id, round=self._round, kept=kept, reason=reason))

    def mend(self) -> None:
        """Undo what the clients that are being trained have made non-finite, if the replica is."""
        if self.half.is_finite():
            return
        rate = self._context.settings.training.server.lr
        self._undo(f"the replica became non-finite; if others do too, lower training.server.lr, now {rate:g}")
