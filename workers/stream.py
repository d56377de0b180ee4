"""The stream loop: consume the clients of a stream in order, train its replica, checkpoint, acknowledge, commit."""

from collections.abc import Sequence

from broker.crash_points import Between, crash_point
from broker.events import DuplicatesDropped
from coordinator.store.ledger import Claim
from coordinator.store.records import StreamClient, StreamPlan, VersionRecord
from workers.batches import bounds
from workers.caution import Caution
from workers.checkpoints import Checkpoints
from workers.context import Released, Stopped, WorkerContext
from workers.effects import Effects
from workers.inference import InferenceService
from workers.intake import Intake
from workers.lane import Lane, open_lane
from workers.position import Position
from workers.replies import Replies

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
        interleaves = context.settings.training.interleave
        self._groups = [plan.clients] if interleaves else [[client] for client in plan.clients]
        self._caution = Caution(
            claim,
            self._checkpoints,
            self._position,
            steps=max(map(self._most_unsaved, self._groups)),
            limit=context.settings.transport.poison_limit,
        )
        self._effects = Effects(context, self._position, self._checkpoints, self._caution, self._wait_for_saver)
        self._lanes: list[Lane] = []  # of the clients that are being trained, without those that were at their end before

    def run(self) -> None:
        """Train until the stream is committed.

        Raises LeaseLost if it becomes another's, Stopped if asked to stop, Released if it is idle while others wait.
        """
        try:
            for group in self._groups:
                if not all(self._has_ended(client) for client in group):
                    self._train(group)
            if self._checkpoints.record.status != "committed":
                self._commit()
        finally:
            self._checkpoints.close()
            del self._effects.half  # worker, intake and sink refer to each other: the replica would wait for the garbage collector

    def _most_unsaved(self, group: Sequence[StreamClient]) -> int:
        """Return after how many messages of a group's clients a checkpoint is due, at the latest."""
        settings, network = self._context.settings, self._context.network
        return sum(bounds(settings, network, client.cut, self._round, len(group)).prefetch // 2 for client in group)

    def _has_ended(self, client: StreamClient) -> bool:
        return self._position.of(client.id).ended

    def _train(self, group: Sequence[StreamClient]) -> None:
        """Train a group of clients, a batch of each in turn: one client alone, unless batches are interleaved."""
        if group[0] is not self._plan.clients[0] and not any(self._position.of(client.id).sequence for client in group):
            self._checkpoints.mark(self._effects.half)
        self._effects.group, self._lanes = group, []
        try:
            for client in group:
                if not self._has_ended(client):
                    lane = open_lane(self._context, client, self._position, self._replies, self._effects.take_late, len(group))
                    self._lanes.append(lane)
            before = None
            while (due := self._next_lane()) is not None:
                if due is not before:
                    due.silence.begins()
                self._turn(due)
                before = due
            self._end_group()
        finally:
            for lane in self._lanes:
                lane.intake.close()
            self._count_duplicates()
        crash_point(Between.CLIENT_AND_NEXT_CLIENT)

    def _next_lane(self) -> Lane | None:
        """Return where the next batch comes from: of those not at their end the one least far, the first of equals."""
        going = [lane for lane in self._lanes if not self._has_ended(lane.client)]
        return min(going, key=lambda lane: self._position.of(lane.client.id).sequence, default=None)

    def _end_group(self) -> None:
        """The clients' rounds have ended: what was requeued or refused before that is made durable, and the last group's all."""
        for lane in self._lanes:
            lane.intake.stop()
        while any(lane.refusals.late is not None or lane.refusals.unsettled for lane in self._lanes):
            self._turn_late()
        if self._effects.group[-1] is self._plan.clients[-1]:
            self._commit()
            crash_point(Between.NOTICE_AND_ACKS)
            for lane in self._lanes:
                lane.settle(self._position, self._checkpoints.record)
        elif self._checkpoints.is_full:
            self._wait_for_saver()
            self._checkpoint()

    def _turn(self, lane: Lane) -> None:
        context, client, intake, silence = self._context, lane.client, lane.intake, lane.silence
        self._mind()
        context.wait(0 if self._inference.waiting or self._is_ready(intake) else TICK, "client")
        self._settle()
        self._inference.serve_batch()
        self._take_requeued()
        if self._has_ended(client):
            return
        taken = intake.next() if self._is_ready(intake) else None
        if taken is not None:
            silence.ends()
            self._effects.take(lane, taken)
        elif intake.ready():  # held back
            silence.ends()
        elif self._position.of(client.id).tallies.refused > context.settings.transport.refused_limit:
            self._effects.close(client, "too many of its messages were refused")
        elif context.keeper.closing(client.id, client.incarnation) and silence.seconds > DRAIN_SECONDS:
            self._effects.close(client, "dropped out")
        elif silence.seconds > context.settings.transport.starved_seconds:
            silence.look(intake)
        wanted = silence.leaving or self._caution.is_taken or any(each.refusals.unsaved for each in self._lanes)
        if self._checkpoints.is_due(self._intakes(), silence.seconds, wanted=wanted):
            self._checkpoint()
        if silence.leaving and not self._position.unsaved and not self._checkpoints.busy:
            raise Released

    def _turn_late(self) -> None:
        self._mind()
        self._take_requeued()
        wanted = self._caution.is_taken or any(lane.refusals.unsettled for lane in self._lanes)
        if self._checkpoints.is_due(self._intakes(), 0.0, wanted=wanted):
            self._checkpoint()
        late = not self._caution.is_taken and any(lane.refusals.late is not None for lane in self._lanes)
        self._context.mailbox.handle(0 if late else TICK)
        self._settle()

    def _intakes(self) -> list[Intake]:
        return [lane.intake for lane in self._lanes]

    def _mind(self) -> None:
        """Do what every turn begins with. Raises LeaseLost or Stopped."""
        self._context.keeper.turn()
        self._context.dead.turn()
        if self._context.stop.is_set():
            raise Stopped

    def _is_ready(self, intake: Intake) -> bool:
        return intake.ready() and self._caution.allows(intake.client.id, intake.expected)

    def _take_requeued(self) -> None:
        for lane in self._lanes:
            late = lane.refusals.late
            if late is not None and self._caution.allows(lane.client.id, late):
                lane.refusals.turn(lane.intake)

    def _wait_for_saver(self) -> None:
        while self._checkpoints.busy:
            self._mind()
            self._context.mailbox.handle(TICK)

    def _checkpoint(self) -> None:
        self._effects.mend()
        self._count_duplicates()
        self._checkpoints.start(self._effects.half)

    def _settle(self) -> None:
        for record in self._checkpoints.settled():
            crash_point(Between.CHECKPOINT_AND_ACKS)
            for lane in self._lanes:
                lane.settle(self._position, record)
            crash_point(Between.ACKS_AND_ACKNOWLEDGEMENT)
            for lane in self._lanes:
                self._replies.acknowledge(lane.client)

    def _commit(self) -> None:
        context = self._context
        while context.dead.pending:  # what is refused and not safe would be refused again in the next round
            self._mind()
            context.mailbox.handle(TICK)
        context.keeper.turn()
        self._wait_for_saver()
        self._count_duplicates()
        self._checkpoints.commit(self._effects.half)
        while not self._checkpoints.committed():
            self._mind()
            context.mailbox.handle(0 if self._inference.waiting else LASTING_TICK)
            self._inference.serve_batch()
        crash_point(Between.COMMIT_AND_ACKNOWLEDGEMENT)
        self._replies.committed(self._checkpoints.record)

    def _count_duplicates(self) -> None:
        for lane in self._lanes:
            if count := lane.intake.take_duplicates():
                self._position.add_duplicates(lane.client.id, count)
                self._context.emit(DuplicatesDropped(client=lane.client.id, count=count))
