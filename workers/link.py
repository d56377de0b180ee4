"""A client's control connection: it joins, sends heartbeats, and hears what it must know."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from broker import topology
from broker.client_counts import ClientCounts
from broker.codec import decode, encode
from broker.errors import MalformedMessage
from broker.events import Emit, MessageRefused, Reconnected, Waiting
from broker.mailbox import Mailbox
from broker.messages import (
    Acknowledgement,
    HalfRequest,
    Heartbeat,
    Join,
    Leave,
    Message,
    Prediction,
    Refusal,
    Score,
    Target,
    Welcome,
)
from broker.transport import Delivery, OnSettled, Reopened, Subscription, Transport
from workers.context import Stopped

JOIN_SECONDS = 1.0
HEARTBEATS_UNDER_WAY = 5  # at most: what a broker does not take piles up here


@dataclass(frozen=True)
class Status:
    """What the next heartbeat says."""

    incarnation: int
    process: str
    round: int = 0
    confirmed: int = 0
    samples: int = 0
    bytes: int = 0
    loss: float = 0.0
    scores: tuple[Score, ...] = field(default=())


class Link:
    """Talks to the coordinator on a connection of its own, so that bulk data delays no heartbeat."""

    def __init__(
        self,
        run: str,
        client: str,
        transport: Transport,
        mailbox: Mailbox,
        emit: Emit,
        counts: Callable[[], ClientCounts],
    ) -> None:
        self._run = run
        self._client = client
        self._transport = transport
        self._mailbox = mailbox
        self._emit = emit
        self._counts = counts
        self._process = ""
        self._status: Status | None = None
        self._interval = JOIN_SECONDS
        self._wake = threading.Event()
        self._room = threading.Semaphore(HEARTBEATS_UNDER_WAY)
        self._closed = False
        self._joining = False
        self._answer: Welcome | Refusal | None = None
        self._thread: threading.Thread | None = None
        self.number = 0  # of the last heartbeat
        self.handlers: dict[type[Message], Callable[[Message], None]] = {}
        inbox = topology.inbox(run, client)
        transport.declare(inbox)
        self._subscription: Subscription = transport.subscribe(inbox.name, 100, mailbox.sink(self._receive))

    def join(self, message: Join, stop: threading.Event) -> Welcome | Refusal:
        """Ask to take part until the coordinator answers; raise Stopped if asked to stop.

        Answers to a message of another process are not for this one.
        """
        self._status, self._process = None, message.process
        asked, self._answer, self._joining = 0, None, True
        while not stop.is_set():
            self._say(message)
            if self._mailbox.handle_until(lambda: self._answer is not None or stop.is_set(), JOIN_SECONDS) and self._answer:
                self._joining = False
                return self._answer
            asked += 1
            if asked == 3:
                self._emit(Waiting(role=self._client, what=f"the coordinator of run {self._run!r} to admit this client"))
        raise Stopped

    def start(self, incarnation: int, interval: float) -> None:
        """Begin to send heartbeats, or go on with them as another incarnation."""
        self._status, self._interval = Status(incarnation, self._process), interval
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._beat, name=f"{self._client}-heartbeat", daemon=True)
        self._thread.start()

    def update(self, *, now: bool = False, **changes: object) -> None:
        """Change what heartbeats say; ``now`` sends one at once."""
        if self._status is not None:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        if now:
            self._wake.set()

    def ask(self, request: HalfRequest) -> None:
        """Ask the coordinator for an averaged half."""
        self._say(request)

    def leave(self) -> None:
        """Tell the coordinator that the end of the run has been heard."""
        if self._status is not None:
            self._say(Leave(client=self._client, incarnation=self._status.incarnation))

    def close(self) -> None:
        """Stop heartbeats and listening."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._subscription.close()

    def _beat(self) -> None:
        while not self._closed:
            status = self._status
            if status is not None and self._room.acquire(blocking=False):
                self.number += 1
                self._say(
                    Heartbeat(
                        client=self._client,
                        process=status.process,
                        incarnation=status.incarnation,
                        round=status.round,
                        confirmed=status.confirmed,
                        samples=status.samples,
                        bytes=status.bytes,
                        loss=status.loss,
                        scores=status.scores,
                        number=self.number,
                        counts=self._counts(),
                    ),
                    lambda _: self._room.release(),
                )
            self._wake.wait(self._interval)
            self._wake.clear()

    def _say(self, message: Message, on_settled: OnSettled | None = None) -> None:
        queue, ttl = topology.coordinator(self._run).name, max(self._interval * 10, 10.0)
        self._transport.publish(queue, encode(message), on_settled, ttl=ttl)

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Reopened):
            self._emit(Reconnected(role="client"))
            return
        self._subscription.ack([item])
        try:
            message = decode(item.body, Welcome, Refusal, Target, Acknowledgement, Prediction)
        except MalformedMessage as error:
            self._emit(MessageRefused(queue=item.queue, reason=str(error), kind="malformed"))
            return
        if isinstance(message, Welcome | Refusal) and message.process != self._process:
            return
        if isinstance(message, Welcome | Refusal) and self._joining:
            self._answer = message
        elif not self._joining and (handler := self.handlers.get(type(message))):
            handler(message)
