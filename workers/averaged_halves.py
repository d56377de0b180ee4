"""A client's way to its averaged half: it asks the coordinator until the half after a round is here."""

import secrets
import time

from broker import topology
from broker.codec import MAX_FRAMES, decode, join
from broker.errors import BrokerError, MalformedMessage
from broker.events import Emit, MessageRefused, Waiting
from broker.mailbox import Mailbox
from broker.messages import AveragedHalf, Frame, HalfRequest
from broker.transport import Delivery, Reopened, Subscription, Transport
from learning.errors import TensorError
from learning.tensors import State, unpack
from workers.link import Link
from workers.refusals import kind_of
from workers.run_settings import RunSettings

PREFETCH = 2  # frames, each up to the message limit
MOST_DOUBLINGS = 10  # of the time between two requests
SAY_ASKED = 3  # requests without an answer, after which it is worth a word


class AveragedHalves:
    """Asks for averaged halves, and puts their frames together. Belongs to one thread.

    transport: carries the answers; requests go with the link's heartbeats. most: bytes that an answer may have.
    """

    def __init__(
        self, transport: Transport, settings: RunSettings, client: str, most: int, link: Link, mailbox: Mailbox, emit: Emit
    ) -> None:
        self._transport = transport
        self._settings = settings.transport
        self._client = client
        self._most = most
        self._link = link
        self._emit = emit
        self._process = secrets.token_hex(8)
        self._request: HalfRequest | None = None
        self._number = 0
        self._frames: dict[int, Frame] = {}  # of the answer, by part
        self._found: State | None = None
        self._asked = 0  # how often,
        self._due = 0.0  # and time.monotonic at which to ask again
        self._replies = topology.replies(settings.run, client, self._process)
        transport.declare(self._replies)
        self._subscription: Subscription = transport.subscribe(self._replies.name, PREFETCH, mailbox.sink(self._receive))

    def after(self, round: int, incarnation: int, cut: int) -> State | None:
        """Return the averaged half after a round if it is here; else ask for it, if it is time.

        It may lack layers, or the exit, that nobody has trained yet.
        """
        wanted = self._request
        if wanted is None or (wanted.round, wanted.incarnation) != (round, incarnation):
            self._want(round, incarnation, cut)
        if self._found is not None:
            found, self._found, self._request, self._due = self._found, None, None, 0.0
            return found
        if time.monotonic() >= self._due and self._request is not None:
            self._ask(self._request)
        return None

    def refuse(self, error: TensorError) -> None:
        """Say that what ``after`` has returned is of no use; it is asked for again, though not at once."""
        self._due = time.monotonic() + self._settings.heartbeat_interval
        self._say_refused(error)

    def forget(self) -> None:
        """Drop what is here of an answer: the run went back, and the round's end may average anew."""
        self._request = None

    def close(self) -> None:
        """Stop listening."""
        try:
            self._subscription.close()
            self._transport.delete(self._replies.name)
        except BrokerError:
            return  # it goes by itself

    def _want(self, round: int, incarnation: int, cut: int) -> None:
        if self._request is not None:
            self._due = 0.0
        self._number += 1
        self._frames, self._found, self._asked = {}, None, 0
        self._request = HalfRequest(
            client=self._client, incarnation=incarnation, reply=self._process, round=round, cut=cut, number=self._number
        )

    def _ask(self, request: HalfRequest) -> None:
        """Ask, and again after ever longer times: a large answer takes its time, too."""
        self._link.ask(request)
        patience = min(self._settings.heartbeat_interval * 2 ** min(self._asked, MOST_DOUBLINGS), self._settings.heartbeat_timeout)
        self._asked, self._due = self._asked + 1, time.monotonic() + patience
        if self._asked == SAY_ASKED:
            self._emit(Waiting(role=self._client, what=f"the averaged half after round {request.round}"))

    def _receive(self, item: Delivery | Reopened) -> None:
        if isinstance(item, Reopened):
            return
        self._subscription.ack([item])
        request = self._request
        if request is None or self._found is not None:
            return
        try:
            self._take(decode(item.body, Frame), request)
        except (MalformedMessage, TensorError) as error:
            self._frames = {}
            self._say_refused(error)

    def _take(self, frame: Frame, request: HalfRequest) -> None:
        """Take a frame of the answer; raise MalformedMessage or TensorError if it is none."""
        if (frame.client, frame.incarnation, frame.round, frame.sequence) != (
            request.client, request.incarnation, request.round, request.number,
        ):  # fmt: skip
            return  # of an earlier request
        if any(frame.parts != other.parts for other in self._frames.values()):
            self._frames = {}  # sent again by a coordinator with another message limit
        if frame.part not in self._frames:  # another that is under way is not asked for again
            self._due = max(self._due, time.monotonic() + self._settings.heartbeat_interval)
        self._frames[frame.part] = frame
        if frame.parts > MAX_FRAMES or sum(len(part.body) for part in self._frames.values()) > self._most:
            raise TensorError(f"more than the {self._most} bytes of a client's half at cut {request.cut}")
        if len(self._frames) < frame.parts:
            return
        answer = join([self._frames[part] for part in range(frame.parts)], AveragedHalf)
        if (answer.round, answer.cut) != (request.round, request.cut):
            raise TensorError(f"the half after round {answer.round} at cut {answer.cut}, not {request.round} at cut {request.cut}")
        self._found, self._frames = unpack(answer.half), {}

    def _say_refused(self, error: Exception) -> None:
        self._emit(MessageRefused(queue=self._replies.name, reason=str(error), kind=kind_of(error)))
