"""The queues of a run, declared with the same arguments everywhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from broker.settings import TransportSettings

EXCHANGE = "splitee"  # topic exchange; the routing key is the queue's name
IDLE_SECONDS = 3600.0  # after which a queue that nobody listens to goes, if all in it is repeated or of no use
REPLIES_SECONDS = 60.0  # the same for answers to one process
DEAD_BYTES = 512 * 2**20
Overflow = Literal["drop-head", "reject-publish"]


@dataclass(frozen=True)
class Queue:
    """A queue's name and arguments, in terms of any broker."""

    name: str
    kind: Literal["quorum", "classic"] = "classic"
    single_active_consumer: bool = False
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: Overflow | None = None
    message_ttl: float | None = None  # seconds
    expires: float | None = None  # seconds unused until the queue is deleted
    delivery_limit: int | None = None


def activations(run: str, client: str, settings: TransportSettings) -> Queue:
    """A client's features and end-of-round markers, in order.

    The delivery limit is huge because without one a quorum queue returns messages to its back, and with
    a small one graceful channel closes dead-letter good data.
    """
    return Queue(
        f"splitee.{run}.activations.{client}",
        kind=settings.queue_type,
        single_active_consumer=True,
        max_bytes=settings.queue_bytes,
        overflow="reject-publish",
        delivery_limit=1_000_000 if settings.queue_type == "quorum" else None,
    )


def offers(run: str) -> Queue:
    """Nudges to idle workers that there may be a stream to claim."""
    return Queue(f"splitee.{run}.offers", max_length=1000, overflow="drop-head", message_ttl=60.0, expires=IDLE_SECONDS)


def inference(run: str, settings: TransportSettings) -> Queue:
    """Offloaded features on their way to any server worker."""
    return Queue(
        f"splitee.{run}.inference",
        max_bytes=settings.queue_bytes,
        overflow="reject-publish",
        message_ttl=settings.inference_ttl,
        expires=IDLE_SECONDS,
    )


def inbox(run: str, client: str) -> Queue:
    """Everything that is said to one client."""
    return Queue(f"splitee.{run}.inbox.{client}", max_length=10_000, overflow="drop-head", expires=IDLE_SECONDS)


def replies(run: str, client: str, process: str) -> Queue:
    """Answers to what one process of a client asks the servers."""
    return Queue(f"splitee.{run}.replies.{client}.{process}", max_length=10_000, overflow="drop-head", expires=REPLIES_SECONDS)


def coordinator(run: str) -> Queue:
    """Joins, heartbeats and notices."""
    return Queue(f"splitee.{run}.coordinator", max_length=100_000, overflow="drop-head", expires=IDLE_SECONDS)


def dead(run: str) -> Queue:
    """What was refused, with why; when it is full the oldest goes."""
    return Queue(f"splitee.{run}.dead", max_length=100_000, max_bytes=DEAD_BYTES, overflow="drop-head")


def names(run: str, clients: Iterable[str]) -> list[str]:
    """Return the names of all queues that a run with these clients may have."""
    settings = TransportSettings()
    shared = [offers(run), inference(run, settings), coordinator(run), dead(run)]
    own = [queue for client in clients for queue in (activations(run, client, settings), inbox(run, client))]
    return [queue.name for queue in (*shared, *own)]
