"""What a server worker says of a stream: to its clients how far it is, to the coordinator that it is committed."""

from broker import codec, topology
from broker.crash_points import Between, crash_point
from broker.events import StreamCommitted
from broker.messages import Acknowledgement, Notice
from coordinator.store.records import StreamClient, StreamPlan, StreamRecord
from workers.context import WorkerContext
from workers.position import Position


class Replies:
    """Sends what may be lost: it is cumulative, and is said again."""

    def __init__(self, context: WorkerContext, position: Position, plan: StreamPlan, round: int) -> None:
        self._context = context
        self._position = position
        self._plan = plan
        self._round = round

    def acknowledge(self, client: StreamClient, *, resend: bool = False) -> None:
        """Tell a client its durable position. resend: what comes there is missing, and it should look whether it is lost."""
        tallies = self._position.of(client.id).tallies
        message = Acknowledgement(
            client=client.id,
            incarnation=client.incarnation,
            round=self._round,
            sequence=self._position.durable(client.id),
            loss=tallies.loss_sum / max(tallies.samples, 1),
            correct=tallies.correct,
            samples=tallies.samples,
            resend=resend,
        )
        self._context.control.publish(topology.inbox(self._context.settings.run, client.id).name, codec.encode(message))

    def committed(self, record: StreamRecord) -> None:
        """Tell everybody of the commit."""
        for client in self._plan.clients:
            self.acknowledge(client)
        crash_point(Between.ACKNOWLEDGEMENT_AND_NOTICE)
        context = self._context
        context.control.publish(topology.coordinator(context.settings.run).name, codec.encode(Notice(round=self._round)))
        samples = record.tallies().samples
        context.emit(StreamCommitted(worker=context.name, round=self._round, stream=self._plan.id, samples=samples))
