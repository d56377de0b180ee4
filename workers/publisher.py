"""A client's data messages on their way: in order, and no further ahead of broker and servers than it may be."""

import time
from collections.abc import Callable
from typing import Literal

from broker import codec, topology
from broker.crash_points import Between, crash_point
from broker.events import Acknowledged, Awaited, Emit, Waited, Waiting
from broker.mailbox import Mailbox
from broker.messages import Message
from broker.transport import Transport
from workers.outbox import Outbox
from workers.run_settings import RunSettings
from workers.window import Position, Window

WAIT_SECONDS = 0.5
SAY_SECONDS = 1.0  # a wait that is shorter is not worth a word


class Publisher:
    """Publishes one incarnation's messages to its queue; belongs to one thread.

    turn: called with a timeout in seconds while a message has to wait; it may raise what ends that.
    """

    def __init__(
        self,
        transport: Transport,
        settings: RunSettings,
        client: str,
        incarnation: int,
        mailbox: Mailbox,
        turn: Callable[[float], None],
        emit: Emit,
    ) -> None:
        self._client = client
        self._incarnation = incarnation
        self._limit = settings.transport.message_limit
        self._turn = turn
        self._emit = emit
        self._window = Window(settings.transport.run_ahead_bytes)
        queue = topology.activations(settings.run, client, settings.transport)
        self._outbox = Outbox(transport, queue.name, settings.transport.unconfirmed_bytes, mailbox, self._confirmed)

    def publish(self, round: int, sequence: int, message: Message) -> int:
        """Send a message within both bounds, unless it is durable already; return its bytes."""
        frames = codec.split(message, self._client, self._incarnation, round, sequence, self._limit)
        size = sum(map(len, frames))
        self._turn(0)
        if (round, sequence) < self._window.durable:
            return size
        self._wait_until(lambda: self._window.has_room(size), "servers", "the servers to catch up")
        self._window.publish((round, sequence), size)
        for frame in frames:
            self._wait_until(lambda: not self._outbox.full, "broker", "the broker to take what was sent")
            self._outbox.send(round, sequence, frame)
            crash_point(Between.PART_AND_PART)
        return size

    def turn(self) -> None:
        """Publish again what has to be, when it is time."""
        self._outbox.turn()

    def confirmed(self, round: int) -> int:
        """Return how many sequences of a round the broker has."""
        of, sequences = self._outbox.confirmed
        return sequences if of == round else 0

    def now_durable(self, position: Position) -> None:
        """Everything before a position is durable."""
        self._say("server", self._window.now_durable(position))

    @property
    def window(self) -> float:
        """Share of ``transport.run_ahead_bytes`` that is published and not durable; a message may go beyond 1."""
        return self._window.fill

    def durable(self, round: int) -> int:
        """Return the sequence of a round before which everything is durable, as far as heard."""
        of, sequence = self._window.durable
        return sequence if of == round else 0

    def lacks(self, position: Position, *, ended: bool) -> bool:
        """Return whether something was sent, and is not on its way any more: if a worker waits for it, it is lost.

        ended: all of its round was sent; a worker that knows of more had it from data that are not there any more.
        """
        return self._outbox.empty and (ended or position < self._window.sent)

    def discard(self) -> None:
        """Forget what is not confirmed: the client starts again from an earlier point."""
        self._outbox.discard()

    def rewind(self, position: Position) -> None:
        """Start again from an earlier position: what was published after it is lost."""
        self._window.rewind(position)

    def _confirmed(self, seconds: float) -> None:
        self._say("broker", [seconds])

    def _say(self, by: Literal["broker", "server"], waited: list[float]) -> None:
        if waited:
            self._emit(Acknowledged(client=self._client, by=by, messages=len(waited), seconds=sum(waited)))

    def _wait_until(self, holds: Callable[[], bool], awaited: Awaited, what: str) -> None:
        since: float | None = time.monotonic()
        while not holds():
            if since is not None and time.monotonic() - since > SAY_SECONDS:
                self._emit(Waiting(role=self._client, what=what))
                since = None
            began = time.monotonic()
            self._turn(WAIT_SECONDS)
            self._emit(Waited(role=self._client, awaited=awaited, seconds=time.monotonic() - began))
