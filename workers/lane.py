"""One client's queue while a stream trains on it: what is taken from it, what is refused, and how long it has been silent."""

from collections.abc import Callable
from dataclasses import dataclass

from broker import topology
from broker.messages import Frame
from coordinator.store.records import StreamClient, StreamRecord
from workers.batches import bounds
from workers.context import WorkerContext
from workers.intake import Intake
from workers.position import Position
from workers.refusals import Refusals
from workers.replies import Replies
from workers.silence import Silence


@dataclass(frozen=True)
class Lane:
    """A client of a stream that is being trained."""

    client: StreamClient
    intake: Intake
    refusals: Refusals
    silence: Silence

    def settle(self, position: Position, record: StreamRecord) -> None:
        """A record lasts in the store: acknowledge to the broker what it holds of this client."""
        self.intake.settle(position.durable(self.client.id))
        self.refusals.settle(self.intake, record)


def open_lane(
    context: WorkerContext,
    client: StreamClient,
    position: Position,
    replies: Replies,
    late_effect: Callable[[StreamClient, Frame], None],
    lanes: int,
) -> Lane:
    """Begin to consume a client's queue, from its position on. late_effect: see Refusals; lanes: that are open at once."""
    number, sequence = position.record().round, position.of(client.id).sequence
    refusals = Refusals(client, position, context.dead, late_effect)
    bound = bounds(context.settings, context.network, client.cut, number, lanes)
    intake = Intake(client, number, sequence, refusals, bound, durable=position.durable(client.id))
    queue = topology.activations(context.settings.run, client.id, context.settings.transport)
    context.transport.declare(queue)
    intake.subscription = context.transport.subscribe(queue.name, bound.prefetch, context.mailbox.sink(intake.receive))
    return Lane(client, intake, refusals, Silence(context, replies, number))
