"""How a coordinator talks: it answers clients, and nudges workers."""

from broker import topology
from broker.codec import decode, encode
from broker.crash_points import Between, crash_point
from broker.dead_letters import DeadLetters
from broker.errors import MalformedMessage
from broker.events import ClientJoined, Emit, Reconnected
from broker.mailbox import Mailbox
from broker.messages import Echo, HalfRequest, Heartbeat, Join, Leave, Message, Notice, Offer, Target, Welcome
from broker.settings import TransportSettings
from broker.transport import Delivery, Reopened, Subscription, Transport
from coordinator.client_reports import ClientReports
from coordinator.half_answers import HalfAnswers
from coordinator.hearing import Hearing
from coordinator.membership import Membership
from coordinator.store.ledger import Ledger

OFFERS_MOST = 100  # nudges at once; one wakes one worker


class Reception:
    """The coordinator's queue and everything that is said to clients and workers. Nothing said here decides anything."""

    def __init__(
        self,
        run: str,
        settings: TransportSettings,
        members: Membership,
        ledger: Ledger,
        transport: Transport,
        mailbox: Mailbox,
        emit: Emit,
    ) -> None:
        self._run = run
        self._settings = settings
        self._members = members
        self._ledger = ledger
        self._transport = transport
        self._mailbox = mailbox
        self._dead = DeadLetters(transport, run, mailbox, emit, settings.message_limit)
        self._emit = emit
        self._halves = HalfAnswers(run, settings, ledger, transport, mailbox)
        self._reports = ClientReports(ledger, emit)
        self._hearing = Hearing(transport, topology.coordinator(run).name, settings.heartbeat_timeout)
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """Declare the run's queues and begin to listen."""
        run = self._run
        for queue in (topology.coordinator(run), topology.offers(run), topology.dead(run), topology.inference(run, self._settings)):
            self._transport.declare(queue)
        for client in self._ledger.roster().record.active():
            self._transport.declare(topology.activations(run, client.id, self._settings))
        self._subscription = self._transport.subscribe(topology.coordinator(run).name, 1000, self._mailbox.sink(self._receive))
        self._members.listening_again()

    def turn(self) -> None:
        """Send again what has to be, when it is time."""
        self._dead.turn()
        self._hearing.turn()

    @property
    def hears(self) -> bool:
        """Whether a client that is silent must be so by itself."""
        return self._hearing.is_up_to_date

    def close(self) -> None:
        """Stop listening."""
        self._halves.close()
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def tell_everyone(self) -> None:
        """Send every client what it must know; one that misses it asks again with its next heartbeat."""
        for client in self._ledger.roster().record.active():
            self._say(client.id, self._members.target(client))

    def offer(self, round: int, streams: int, ttl: float) -> None:
        """Nudge idle workers; an offer is worth nothing after ttl seconds, and none is added to those the broker does not take."""
        for _ in range(min(streams, OFFERS_MOST) if self.hears else 0):
            self._transport.publish(topology.offers(self._run).name, encode(Offer(round=round)), ttl=ttl)

    def remove_queues(self) -> None:
        """Delete the queues of all clients: after the last round nothing in them is of use, and another run may have the name."""
        for client in self._ledger.roster().record.clients:
            self._transport.delete(topology.activations(self._run, client, self._settings).name)
            crash_point(Between.REMOVAL_AND_REMOVAL)

    def everyone_left(self) -> bool:
        """Return whether all clients have heard that the run is finished."""
        return not self._ledger.roster().record.active()

    def _receive(self, item: Delivery | Reopened) -> None:
        if self._subscription is None:  # closed: what waited in the mailbox meanwhile comes again, to whoever leads then
            return
        if isinstance(item, Reopened):
            self._members.listening_again()
            self._emit(Reconnected(role="coordinator"))
            return
        try:
            message = decode(item.body, Join, Heartbeat, Leave, Notice, Echo, HalfRequest)
        except MalformedMessage as error:
            self._dead.refuse(item, None, str(error), lambda: self._ack(item))
            return
        self._ack(item)  # every message here is repeated by its sender
        crash_point(Between.MESSAGE_ACK_AND_ANSWER)
        if isinstance(message, Join):
            self._admit(message)
        elif isinstance(message, Heartbeat):
            answer = self._members.hear(message)
            if isinstance(answer, Target):
                self._reports.take(message)
            self._say(message.client, answer)
        elif isinstance(message, HalfRequest):
            self._halves.ask(message)
        elif isinstance(message, Leave):
            self._members.leave(message)
        elif isinstance(message, Echo) and self._hearing.hear(message):
            self._members.listening_again()

    def _admit(self, message: Join) -> None:
        known = message.client in self._ledger.roster().record.clients
        answer = self._members.join(message)
        if isinstance(answer, Welcome):
            crash_point(Between.ROSTER_AND_QUEUE)
            self._transport.declare(topology.activations(self._run, message.client, self._settings))
            crash_point(Between.QUEUE_AND_WELCOME)
            if not known:
                self._emit(ClientJoined(client=message.client, cut=message.cut, round=answer.first_round))
        self._say(message.client, answer)

    def _say(self, client: str, message: Message | None) -> None:
        if message is not None:
            self._transport.publish(topology.inbox(self._run, client).name, encode(message))

    def _ack(self, item: Delivery) -> None:
        if self._subscription is not None:
            self._subscription.ack([item])
