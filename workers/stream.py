"""The stream loop: consume the clients of a stream in order, train its replica, checkpoint, acknowledge, commit."""

import time

from broker import codec, topology
from broker.crash_points import Between, crash_point
from broker.errors import MalformedMessage
from broker.events import BatchTrained, ClientRoundEnded
from broker.messages import Activations, EndOfRound, Frame
from coordinator.store.ledger import Claim
from coordinator.store.records import StreamClient, StreamPlan, VersionRecord
from learning.errors import TensorError
from learning.halves import Step
from workers.batches import bounds, check_activations, check_marker, check_size
from workers.caution import Caution
from workers.checkpoints import Checkpoints
from workers.context import Released, Stopped, WorkerContext
from workers.features import next_digest
from workers.inference import InferenceService
from workers.intake import Intake, Taken
from workers.position import Position
from workers.refusals import Refusals
from workers.replies import Replies
from workers.silence import Silence

TICK = 0.5  # seconds between two looks at timers while nothing arrives
LASTING_TICK = 0.1  # the same while all that is left to do is to wait for the store
DRAIN_SECONDS = 1.0  # a client being given up is closed when its queue has been silent for this long


class StreamWorker:
    """Trains one stream of a round, from its last durable position to its commit."""

    def __init__(
        self, context: WorkerContext, inference: InferenceService, plan: StreamPlan, start: VersionRecord, claim: Claim
    ) -> None:
        self._context = context
        self._inference = inference
        self._plan = plan
        self._position = Position(plan, claim.kept.record.model_copy(update={"worker": context.name}))
        self._checkpoints = Checkpoints(context, self._position, claim, start)
        self._round = claim.kept.record.round
        self._replies = Replies(context, self._position, plan, self._round)
        self._half = self._checkpoints.load()
        self._caution = Caution(
            claim,
            self._checkpoints,
            self._position,
            steps=context.settings.prefetch(context.network) // 2,
            limit=context.settings.transport.poison_limit,
        )
        self._intake: Intake | None = None
        self._refusals: Refusals  # of the client being trained,
        self._silence: Silence  # and of its queue

    def run(self) -> None:
        """Train until the stream is committed.

        Raises LeaseLost if it becomes another's, Stopped if asked to stop, Released if it is idle while others wait.
        """
        try:
            for client in self._plan.clients:
                if not self._position.of(client.id).ended:
                    self._train(client)
            if self._checkpoints.record.status != "committed":
                self._commit()
        finally:
            self._checkpoints.close()
            del self._half  # worker, intake and sink refer to each other: the replica would wait for the garbage collector

    def _train(self, client: StreamClient) -> None:
        context = self._context
        progress = self._position.of(client.id)
        if progress.sequence == 0 and client is not self._plan.clients[0]:
            self._checkpoints.mark(self._half)
        refusals = self._refusals = Refusals(client, self._position, context.dead, self._take_late)
        durable = self._position.durable(client.id)
        bound = bounds(context.settings, context.network, client.cut, self._round)
        intake = Intake(client, self._round, progress.sequence, refusals, bound, durable=durable)
        queue = topology.activations(context.settings.run, client.id, context.settings.transport)
        context.transport.declare(queue)
        self._intake = intake
        intake.subscription = context.transport.subscribe(queue.name, bound.prefetch, context.mailbox.sink(intake.receive))
        self._silence = Silence(context, self._replies, self._round)
        try:
            while not self._position.of(client.id).ended:
                self._turn(client, intake)
            intake.stop()
            while refusals.late is not None or refusals.unsettled:
                self._turn_late(intake)
            if client is self._plan.clients[-1]:
                self._commit()
                crash_point(Between.NOTICE_AND_ACKS)
                intake.settle(self._position.durable(client.id))
                refusals.settle(intake, self._checkpoints.record)
            elif self._checkpoints.is_full:
                self._wait_for_saver()
                self._checkpoint(client)
        finally:
            intake.close()
            self._count_duplicates()
        crash_point(Between.CLIENT_AND_NEXT_CLIENT)

    def _turn(self, client: StreamClient, intake: Intake) -> None:
        context = self._context
        self._mind()
        context.mailbox.handle(0 if self._inference.waiting or self._is_ready(intake) else TICK)
        self._settle(intake)
        self._inference.serve_batch()
        self._take_requeued(intake)
        taken = intake.next() if self._is_ready(intake) else None
        if taken is not None:
            self._silence.ends()
            self._take_effect(client, intake, taken)
        elif intake.ready():  # held back
            self._silence.ends()
        elif self._position.of(client.id).tallies.refused > context.settings.transport.refused_limit:
            self._close(client, "too many of its messages were refused")
        elif context.keeper.closing(client.id, client.incarnation) and self._silence.seconds > DRAIN_SECONDS:
            self._close(client, "dropped out")
        elif self._silence.seconds > context.settings.transport.starved_seconds:
            self._silence.look(intake)
        wanted = self._silence.leaving or self._refusals.unsaved or self._caution.is_taken
        if self._checkpoints.is_due(intake, self._silence.seconds, wanted=wanted):
            self._checkpoint(client)
        if self._silence.leaving and not self._position.unsaved and not self._checkpoints.busy:
            raise Released

    def _turn_late(self, intake: Intake) -> None:
        """The client's round has ended: what was requeued or refused before that is made durable."""
        self._mind()
        self._take_requeued(intake)
        if self._checkpoints.is_due(intake, self._silence.seconds, wanted=self._refusals.unsettled or self._caution.is_taken):
            self._checkpoint(intake.client)
        late = self._refusals.late is not None and not self._caution.is_taken
        self._context.mailbox.handle(0 if late else TICK)
        self._settle(intake)

    def _mind(self) -> None:
        """Do what every turn begins with. Raises LeaseLost or Stopped."""
        self._context.keeper.turn()
        self._context.dead.turn()
        if self._context.stop.is_set():
            raise Stopped

    def _is_ready(self, intake: Intake) -> bool:
        return intake.ready() and self._caution.allows(intake.client.id, intake.expected)

    def _take_requeued(self, intake: Intake) -> None:
        late = self._refusals.late
        if late is not None and self._caution.allows(intake.client.id, late):
            self._refusals.turn(intake)

    def _close(self, client: StreamClient, reason: str) -> None:
        """End a client's round before its marker, and keep or discard what came before."""
        if self._context.settings.discards or not self._half.is_finite():
            self._undo(client, reason)
        else:
            self._position.close(client.id, reason)
            self._say_ended(client, reason, kept=True)

    def _undo(self, client: StreamClient, reason: str) -> None:
        """End a client's round and let nothing of it count: the replica is what it was before that client."""
        self._wait_for_saver()
        self._half = self._checkpoints.undo()
        self._position.discard(client.id, reason)
        self._say_ended(client, reason, kept=False)

    def _say_ended(self, client: StreamClient, reason: str, *, kept: bool) -> None:
        self._context.emit(ClientRoundEnded(client=client.id, round=self._round, kept=kept, reason=reason))

    def _mend(self, client: StreamClient) -> bool:
        """Undo a client's round if it has made the replica non-finite; return whether it had."""
        if self._half.is_finite():
            return False
        rate = self._context.settings.training.server.lr
        self._undo(client, f"the replica became non-finite; if others do too, lower training.server.lr, now {rate:g}")
        return True

    def _wait_for_saver(self) -> None:
        while self._checkpoints.busy:
            self._mind()
            self._context.mailbox.handle(TICK)

    def _take_effect(self, client: StreamClient, intake: Intake, taken: Taken) -> None:
        size = sum(len(frame.body) for frame in taken.frames)
        try:
            self._caution.check()
            if taken.fault:
                raise MalformedMessage(taken.fault)
            check_size(size, client.cut, self._context.network, self._context.settings)
            message = codec.join(taken.frames, Activations, EndOfRound)
            if isinstance(message, EndOfRound):
                self._end(client, intake, message, taken)
            elif isinstance(message, Activations):
                self._step(client, message, taken.sequence, size)
        except (MalformedMessage, TensorError) as error:
            self._refusals.refuse(intake, taken, f"round {self._round} sequence {taken.sequence}: {error}")
            self._mend(client)

    def _step(self, client: StreamClient, message: Activations, sequence: int, size: int) -> None:
        step = self._train_batch(client, message, sequence)
        self._position.trained(client.id, step, size, message.digest, next_digest(message.digest, message.features, message.labels))

    def _train_batch(self, client: StreamClient, message: Activations, sequence: int) -> Step:
        """Make one step of the server half; raise TensorError if the batch cannot be trained on."""
        began = time.monotonic()
        features, labels = check_activations(message, client.cut, self._context.network, self._context.settings.training)
        step = self._half.step(features, labels, client.cut, (client.id, self._round, sequence))
        crash_point(Between.STEP_AND_CHECKPOINT)
        self._context.emit(
            BatchTrained(
                round=self._round,
                stream=self._plan.id,
                client=client.id,
                sequence=sequence,
                samples=step.samples,
                loss=step.loss,
                seconds=time.monotonic() - began,
            )
        )
        return step

    def _end(self, client: StreamClient, intake: Intake, message: EndOfRound, taken: Taken) -> None:
        try:
            self._accept(client, message, taken.sequence)
        except TensorError as error:  # nothing comes after a marker: the round ends here, without it
            self._refusals.refuse(intake, taken, f"round {self._round}, end of round: {error}")
            self._close(client, "its end of round was refused")
        else:
            self._position.end(client.id, message)
            self._mend(client)

    def _accept(self, client: StreamClient, message: EndOfRound, sequence: int) -> None:
        """Store the client's half that a marker may carry; raise TensorError if one of them is not right."""
        check_marker(message, sequence, client.cut, self._context.network, self._context.settings.training)
        if message.half is not None:
            self._position.keep_half(client.id, self._checkpoints.attach(message.half))

    def _take_late(self, client: StreamClient, frame: Frame) -> None:
        """Fill a hole with what was requeued; raise MalformedMessage or TensorError if it is still not right."""
        if self._position.of(client.id).discarded:
            raise MalformedMessage("the client was given up and its round discarded")
        self._caution.check()
        check_size(len(frame.body), client.cut, self._context.network, self._context.settings)
        message = codec.join([frame], Activations, EndOfRound)
        if isinstance(message, Activations):
            step = self._train_batch(client, message, frame.sequence)
            self._position.trained_late(client.id, frame.sequence, step, len(frame.body))
            self._mend(client)
        elif isinstance(message, EndOfRound):
            if self._position.of(client.id).sequence != frame.sequence + 1:
                raise MalformedMessage("an end of round, but batches came after it")
            self._accept(client, message, frame.sequence)
            self._position.ended_late(client.id, frame.sequence, message)

    def _checkpoint(self, client: StreamClient) -> None:
        self._mend(client)
        self._count_duplicates()
        self._checkpoints.start(self._half)

    def _settle(self, intake: Intake) -> None:
        for record in self._checkpoints.settled():
            crash_point(Between.CHECKPOINT_AND_ACKS)
            intake.settle(self._position.durable(intake.client.id))
            self._refusals.settle(intake, record)
            crash_point(Between.ACKS_AND_ACKNOWLEDGEMENT)
            self._replies.acknowledge(intake.client)

    def _commit(self) -> None:
        context = self._context
        while context.dead.pending:  # what is refused and not safe would be refused again in the next round
            self._mind()
            context.mailbox.handle(TICK)
        context.keeper.turn()
        self._wait_for_saver()
        self._count_duplicates()
        self._checkpoints.commit(self._half)
        while not self._checkpoints.committed():
            self._mind()
            context.mailbox.handle(0 if self._inference.waiting else LASTING_TICK)
            self._inference.serve_batch()
        crash_point(Between.COMMIT_AND_ACKNOWLEDGEMENT)
        self._replies.committed(self._checkpoints.record)

    def _count_duplicates(self) -> None:
        if self._intake is not None:
            self._position.add_duplicates(self._intake.client.id, self._intake.take_duplicates())
